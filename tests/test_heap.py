"""What is freed after a read is there for the next one."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import resource, sys
from bastion import heap
if sys.argv[1] == "kept":
    heap.keep()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(300):
    pieces = [bytes(250_000) for _ in range(4)]  # zeroed, so each page is touched
    del pieces
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(heap: str) -> int:
    """Pages that the kernel had to give for three hundred times a megabyte."""
    ran = subprocess.run([sys.executable, "-c", SCRIPT, heap], capture_output=True, check=True, text=True)
    return int(ran.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="it is glibc that is told")
def test_pieces_of_a_read_come_from_the_heap_and_not_from_the_kernel() -> None:
    assert faults("kept") < 1_000
    assert faults("as it is") > 10_000  # or there is nothing left to be told
