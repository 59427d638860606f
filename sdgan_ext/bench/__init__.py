"""Times this package against stock PyTorch: what ``sdgan-ext bench`` and the files in benchmarks/ share.

:mod:`.timing` interleaves contestants, :mod:`.machine` says what the machine can do, :mod:`.work` what an operation
must do at least, :mod:`.cases` who competes, and :mod:`.table` makes rows of it.
"""
