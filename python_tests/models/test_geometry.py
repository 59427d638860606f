"""Sizes and margins against the layers' own arithmetic, and Keras's "same"."""

import pytest

from sdgan_ext.models.geometry import level_sizes, margins, same_margins


def test_levels_halve_and_round_up():
    assert level_sizes((28, 28), 3) == [(28, 28), (14, 14), (7, 7), (4, 4)]
    assert level_sizes((33, 47), 2) == [(33, 47), (17, 24), (9, 12)]


@pytest.mark.parametrize("kernel", range(2, 8))
@pytest.mark.parametrize("large", [(28, 28), (33, 47), (2, 3), (64, 1)])
def test_margins_meet_the_sizes_exactly(large, kernel):
    small = level_sizes(large, 1)[1]
    top, bottom, left, right = margins(large, small, kernel)
    assert min(top, bottom, left, right) >= 0
    for many, few, before, after in ((large[0], small[0], top, bottom), (large[1], small[1], left, right)):
        assert after - before in (0, 1)
        assert (many + before + after - kernel) // 2 + 1 == few  # the convolution
        assert (few - 1) * 2 + kernel - before - after == many  # its transpose


def test_margins_of_keras():
    assert margins((28, 28), (14, 14), 5) == (1, 2, 1, 2)
    assert margins((28, 28), (14, 14), 4) == (1, 1, 1, 1)
    assert same_margins(5) == (2, 2, 2, 2)
    assert same_margins(4) == (1, 2, 1, 2)
