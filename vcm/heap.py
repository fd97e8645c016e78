"""Memory that the process has freed and the C library keeps: given back to the system.

Knows the C library; nothing of what the memory held.
"""

from __future__ import annotations

import ctypes
import os

_MALLOC_TRIM = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None


def trim_heap() -> None:
    """Give the memory of finished work back to the system, where the C library is glibc.

    It keeps freed blocks below 32 MiB and often finds no room for an aligned block (torch asks for
    no others) where one of the same size was freed: piece by piece, the heap can grow by a gigabyte.
    """
    if _MALLOC_TRIM is not None:
        _MALLOC_TRIM(0)
