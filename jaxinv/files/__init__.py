"""Files: written atomically, and read without trusting their contents.

* :mod:`jaxinv.files.atomic`: files that are written completely or not at all.
* :mod:`jaxinv.files.json_fields`: untrusted JSON.
* :mod:`jaxinv.files.folders`: untrusted folders, and links in them.
"""

from jaxinv.files.atomic import (
    check_writable_file,
    check_writable_folder,
    open_atomically,
    read_array,
    to_json,
    write_array,
    write_json,
)

__all__ = [
    "check_writable_file",
    "check_writable_folder",
    "open_atomically",
    "read_array",
    "to_json",
    "write_array",
    "write_json",
]
