"""The library's convolution: the activation inside it where it keeps a NaN, and no case that it refuses."""

import convolution_cases as cases
import pytest
import torch

from sdgan_ext.ops import conv2d, conv_transpose2d, reference

OPS = {"conv2d": (conv2d, reference.conv2d), "conv_transpose2d": (conv_transpose2d, reference.conv_transpose2d)}
both = pytest.mark.parametrize("name", OPS)


@both
@pytest.mark.parametrize("activation", cases.ACTIVATIONS)
@pytest.mark.parametrize("dtype", cases.TOLERANCE, ids=str)
@pytest.mark.parametrize("path", [*cases.BACKENDS, "winograd"])
def test_a_nan_comes_out(path, dtype, activation, name):
    """Else a training that has diverged goes on unseen."""
    x, w = cases.rand(2, 16, 8, 8, dtype=dtype).detach(), cases.rand(16, 16, 4, 4, dtype=dtype).detach()
    x[1] = torch.nan
    if path == "small_channel":
        w = w[:, :1] if name == "conv_transpose2d" else w[:1]
    with cases.backend(path):
        y = OPS[name][0](x, w, None, 2, 1, activation=activation)
        negative = OPS[name][0](-x, w, None, 2, 1, activation=activation)
    assert y[1].isnan().all() and y[0].isfinite().all() and negative[1].isnan().all()


@both
@pytest.mark.parametrize("activation", ["leaky_relu", "tanh", "relu", None])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("format", cases.FORMATS)
@pytest.mark.parametrize(("stride", "dilation", "groups"), [(1, 1, 1), (2, 1, 2), (2, 2, 1), (3, 1, 1)])
def test_the_activation_inside_the_library(stride, dilation, groups, format, dtype, activation, name):
    x = cases.rand(2, 8, 9, 7, dtype=dtype, format=cases.FORMATS[format])
    w = cases.rand(8, 8 // groups, 3, 3, dtype=dtype, format=cases.FORMATS[format])
    with torch.no_grad():  # outputs of about 1: without AVX-512 torch rounds each product of a bfloat16 kernel
        w.div_(8)
    b = cases.rand(8, dtype=dtype)
    options = dict(stride=stride, padding=1, dilation=dilation, groups=groups, activation=activation)
    if activation == "leaky_relu":
        options["negative_slope"] = 0.1
    with cases.backend("library"):
        cases.check_against_reference(*OPS[name], (x, w, b), **options)


@pytest.mark.parametrize(("stride", "dilation"), [(1, 2), (2, 3)])
def test_output_padding_that_the_library_takes_for_its_dilation(stride, dilation):
    """oneDNN's own call refuses an output_padding of the stride or more."""
    x = cases.rand(2, 8, 5, 5, dtype=torch.bfloat16)
    w = cases.rand(8, 4, 3, 3, dtype=torch.bfloat16)
    options = dict(stride=stride, dilation=dilation, output_padding=stride, activation="leaky_relu")
    cases.check_against_reference(conv_transpose2d, reference.conv_transpose2d, (x, w), **options)
