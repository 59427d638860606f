"""What the tests of conv2d and conv_transpose2d share: tensors, layouts and the checks that both must pass."""

import os

import torch

from sdgan_ext import ops

ACTIVATIONS = [None, "relu", "leaky_relu", "tanh", "sigmoid", "silu", "elu"]
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 3e-2, torch.float64: 1e-11}
#: implicit_gemm is CUDA's; where its kernels run on the host, so does this one.
BACKENDS = [
    "small_channel",
    "library",
    *(["implicit_gemm"] if "cuda_on_host" in os.environ.get("SDGAN_TEST_NATIVE", "") else []),
]
FORMATS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}


def rand(*shape, dtype=torch.float64, format=torch.contiguous_format, seed=0):
    generator = torch.Generator().manual_seed(seed)
    t = torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)
    if format is torch.channels_last:  # also where the strides would leave it open
        n, c, h, w = shape
        t = torch.empty_strided(shape, (h * w * c, 1, w * c, c), dtype=dtype).copy_(t)
    return t.requires_grad_()


def backend(name):
    """The backend where it can run, else the library."""
    return ops.conv_backend(*([name] if name == "auto" else [name, "library"]))


def check_against_reference(op, reference, tensors, **options):
    """Values, layout and first derivative of ``op(*tensors, **options)``, with a gradient that is not one.

    Where a library rounds to half precision before the bias is added, the sum may end on the other side of a kink: no
    gradient is read near one.
    """
    dtype = tensors[0].dtype
    wide = [t.detach().double().requires_grad_() for t in tensors]
    output = op(*tensors, **options)
    expected = reference(*wide, **options)
    assert output.dtype == dtype and output.shape == expected.shape
    upstream = rand(*expected.shape, seed=9).detach()
    if dtype.itemsize == 2:
        argument = reference(*wide, **{**options, "activation": None})
        upstream[argument.detach().abs() < TOLERANCE[dtype]] = 0
    grads = torch.autograd.grad(output, tensors, upstream.to(dtype))
    expected_grads = torch.autograd.grad(expected, wide, upstream.to(dtype).double())
    for got, want in zip((output, *grads), (expected, *expected_grads), strict=True):
        tolerance = TOLERANCE[dtype] * max(1.0, want.abs().max().item() if want.numel() else 1.0)
        torch.testing.assert_close(got.double(), want, rtol=TOLERANCE[dtype], atol=tolerance)
    return output


def check_strides_of_fake_kernels(op, tensors, **options):
    """The fake kernel promises the strides of the output and of every gradient."""

    def strides(*tensors):
        output = op(*tensors, **options)
        grads = torch.autograd.grad(output, tensors, torch.ones_like(output))
        return [t.stride() for t in (output, *grads)]

    real = strides(*tensors)
    with torch._subclasses.FakeTensorMode() as mode:
        fake = strides(*(mode.from_tensor(t) for t in tensors))
    assert real == fake


def check_threads(run):
    """The same bits for any number of threads."""
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(run())
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
