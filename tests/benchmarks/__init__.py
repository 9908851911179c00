"""The figures of the design, one line each: ``name value``. Never part of the test run.

What is compared runs side by side in one run, interleaved, and the median counts. `make bench BENCH=ssh_bulk` runs the
figures that begin so.
"""
