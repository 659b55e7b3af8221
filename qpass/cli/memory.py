"""What a command may do about the memory of its own process."""

import ctypes
import platform

_M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
_LARGE = 2**20


def return_freed() -> bool:
    """Let large arrays that are freed go back to the system at once; whether that can be had.

    The GNU C library begins so, but after the first large array is freed it keeps all of up to that
    size, so that later ones of other sizes come on top (mallopt(3)). It does not once it is told.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    return bool(ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE))
