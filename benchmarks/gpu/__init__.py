"""`make gpu-check`: builds, tests, measures and trains on this machine's NVIDIA GPU; docs/cuda.md says what and how.

Run with this folder's parent on the path: `PYTHONPATH=benchmarks python -m gpu.check`. A file imports only from those
that stand below it:

    check                           the command
    parts                           what it does: tests, bench, train
    bench  train                    the programs that parts starts; likewise journal_plugin, a plugin of pytest
    cells                           the grid of bench
    convolutions  elements  steps   the cells of one kind
    measure                         how the contestants of a cell are compared
    summary                         one page from the results
    timer  machine  tables  supervise
"""
