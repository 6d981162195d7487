"""Memory that stays with the process."""

from __future__ import annotations

import ctypes
import platform

# Of malloc.h; mallopt takes plain ints.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_LARGEST_INT = 2**31 - 1


def keep_freed_memory() -> bool:
    """Ask the C library to keep freed memory for the next array instead of giving it back; whether it will.

    A training step allocates and frees hundreds of megabytes. glibc maps each large block afresh, and touching fresh
    pages costs more than the arithmetic on them. Elsewhere than on Linux with glibc nothing is changed.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _LARGEST_INT), (_TOP_PAD, 256 * 2**20))
    return all([mallopt(name, value) == 1 for name, value in settings])
