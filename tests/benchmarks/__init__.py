"""The figures of the design, one line each: ``name value``. Never part of the test run.

What is compared runs side by side in one run, interleaved, and the median counts. `make bench BENCH=ssh_bulk` runs the
figures that begin so. `make bench BENCH=ssh_exact` is for whether, not how fast: a gigabyte by every way there and
back, and a hundred thousand files, each held against what was sent. So is `make bench BENCH=ssh_soak`: five hundred
live sessions that type for ten minutes. These run only when they are named.
"""
