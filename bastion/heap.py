"""The C library's heap: what each read of bulk takes is kept for the next one.

glibc maps large pieces one by one, and gives the top of its heap back when a little of it is free. Each read then asks
the kernel for zeroed pages again: 180,000 for the first gigabyte, 0.4 s of the bastion's time, before it adapts.
"""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Of mallopt(3)."""

MAPPED = 2**20
"""Bytes from which a piece is mapped by itself; a read and what is made of it are smaller."""

KEPT = 16 * 2**20
"""Bytes that may be free at the top of the heap."""


def keep() -> None:
    """Set both; elsewhere than in glibc nothing is done."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, MAPPED)
        mallopt(_TRIM_THRESHOLD, KEPT)
