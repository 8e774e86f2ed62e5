"""Files: written whole, and read without trust in who wrote them.

* :mod:`jaxinv.files.atomic`: files that are never half written.
* :mod:`jaxinv.files.json_fields`: JSON that somebody else wrote.
* :mod:`jaxinv.files.folders`: folders that somebody else made, and links in them.
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
