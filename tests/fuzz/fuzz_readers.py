"""All readers of what somebody else wrote. A new one is an entry in a list."""

import fuzz_configs
import fuzz_user_files
from fuzz_harness import Reader

READERS: list[Reader] = [*fuzz_configs.READERS, *fuzz_user_files.READERS]
