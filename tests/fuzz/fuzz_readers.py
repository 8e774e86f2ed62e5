"""All readers of what somebody else wrote. A new one is an entry in a list."""

import fuzz_arrays
import fuzz_configs
import fuzz_jobs
import fuzz_user_files
import fuzz_weights
from fuzz_harness import Reader

READERS: list[Reader] = [
    *fuzz_configs.READERS,
    *fuzz_weights.READERS,
    *fuzz_user_files.READERS,
    *fuzz_jobs.READERS,
    *fuzz_arrays.READERS,
]
