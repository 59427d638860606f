"""A negative_slope below 0 is refused: the sign of the output would not be that of what it was made from."""

import pytest
import torch

from sdgan_ext import nn, ops

X = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
CALLS = {
    "conv2d": lambda value: ops.conv2d(X, torch.ones(3, 4, 3, 3), activation="leaky_relu", negative_slope=value),
    "conv_transpose2d": lambda value: ops.conv_transpose2d(
        X, torch.ones(4, 3, 4, 4), stride=2, activation="leaky_relu", negative_slope=value
    ),
    "upsample_conv2d": lambda value: ops.upsample_conv2d(
        X, torch.ones(3, 4, 3, 3), activation="leaky_relu", negative_slope=value
    ),
    "batch_norm": lambda value: ops.batch_norm(
        X, None, None, training=True, activation="leaky_relu", negative_slope=value
    ),
    "group_norm": lambda value: ops.group_norm(X, 2, activation="leaky_relu", negative_slope=value),
    "Conv2d": lambda value: nn.Conv2d(4, 3, 3, activation="leaky_relu", negative_slope=value),
    "GroupNorm": lambda value: nn.GroupNorm(2, 4, activation="leaky_relu", negative_slope=value),
    "BatchNorm2d": lambda value: nn.BatchNorm2d(4, activation="leaky_relu", negative_slope=value),
}


@pytest.mark.parametrize("value", [-0.5, float("nan"), float("inf"), "0.2"])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_refused(call, value):
    with pytest.raises(ValueError, match="negative_slope is .*; it must be a finite number of at least 0"):
        call(value)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_zero_and_whole_numbers_are_taken(call):
    for value in (0, 1, 0.0):
        call(value)


def test_a_layer_that_was_changed_refuses():
    layer = nn.Conv2d(4, 3, 3, activation="leaky_relu")
    layer.negative_slope = -1.0
    with pytest.raises(ValueError, match="negative_slope is -1.0"):
        layer(X)
