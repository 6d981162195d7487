"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path
from typing import Union

from .errors import OutputError


def write_atomically(path: Union[str, Path], data: bytes) -> None:
    """Write ``data`` to ``path`` so that the file is never seen half-written: an old one stays until the new is whole.

    Raises
    ------
    OutputError
        If the folder is missing or not writable, or the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with temporary.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise OutputError(f"'{path}' cannot be written ({reason}); choose another folder or disk.") from error
    finally:
        # It exists only after a failure; where it cannot even be looked for, there is none.
        with contextlib.suppress(OSError):
            temporary.unlink()
