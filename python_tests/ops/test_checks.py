"""What every op checks of its tensors: device and dtype, on a build with and without CUDA kernels, without a GPU."""

import pytest
import torch
from torch._subclasses import FakeTensorMode

from sdgan_ext import ops
from sdgan_ext.ops import _checks

WITHOUT = dict(cuda=False, cuda_reason="no nvcc on PATH", cuda_version="", cuda_architectures=[])
WITH = dict(cuda=True, cuda_reason="nvcc 13.0.88", cuda_version="13.0", cuda_architectures=["80-real", "90-real"])
HOST = dict(cuda=True, cuda_reason="a test's build", cuda_version="", cuda_architectures=["host"])
REBUILD = "pip install --no-build-isolation --force-reinstall --no-deps ."


@pytest.fixture
def fake_cuda():
    """In it, tensors of any device are shapes without memory."""
    with FakeTensorMode():
        yield


def calls(**options):
    """One call of each op of elements, all arguments ``torch.zeros(2, 3, **options)``."""
    x = torch.zeros(2, 3, **options)
    return {
        "real_logits": lambda: ops.discriminator_loss(x, x),
        "fake_logits": lambda: ops.generator_loss(x),
        "input": lambda: ops.binary_cross_entropy_with_logits(x, x),
        "mean": lambda: ops.sample_gaussian(x, x, seed=1),
        "x_hat": lambda: ops.reconstruction_loss(x, x),
    }


def test_a_build_with_cuda_kernels_takes_cuda_tensors():
    for running in ("13.0", "13.2", None):
        assert _checks.cuda_obstacle(WITH, running) is None


@pytest.mark.parametrize("build", [WITHOUT, HOST])
def test_a_build_without_cuda_kernels_says_why_and_how_to_rebuild(build):
    assert _checks.cuda_obstacle(build, "13.0") == (
        f"this build of sdgan_ext has no CUDA kernels ({build['cuda_reason']}); rebuild it with "
        f"`SDGAN_CUDA=ON {REBUILD}`"
    )


def test_another_major_version_of_cuda_says_which_nvcc_to_rebuild_with():
    assert _checks.cuda_obstacle(WITH, "12.6") == (
        f"this build of sdgan_ext was compiled with CUDA 13, torch {torch.__version__} runs CUDA 12.6; rebuild it with "
        f"the nvcc of CUDA 12 (`CUDACXX=/usr/local/cuda-12/bin/nvcc SDGAN_CUDA=ON {REBUILD}`)"
    )


@pytest.mark.parametrize("name", calls())
def test_a_cuda_tensor_on_a_build_without_cuda_kernels(name, fake_cuda, monkeypatch):
    monkeypatch.setattr(_checks, "CUDA_OBSTACLE", _checks.cuda_obstacle(WITHOUT))
    with pytest.raises(ValueError, match=f"^{name} is on cuda:0, but this build of sdgan_ext has no CUDA kernels"):
        calls(device="cuda")[name]()


@pytest.mark.parametrize("dtype", _checks.FLOATS + _checks.HALVES, ids=str)
@pytest.mark.parametrize("name", calls())
def test_shapes_of_cuda_tensors(name, dtype, fake_cuda, monkeypatch):
    monkeypatch.setattr(_checks, "CUDA_OBSTACLE", None)
    outputs = calls(device="cuda", dtype=dtype)[name]()
    for output in outputs if isinstance(outputs, tuple) else (outputs,):
        assert output.device == torch.device("cuda:0") and output.dtype == dtype


@pytest.mark.parametrize("name", calls())
def test_other_devices(name, fake_cuda):
    assert calls(device="meta")[name]() is not None
    with pytest.raises(ValueError, match=f"^{name} is on xpu:0; allowed are cpu and cuda$"):
        calls(device="xpu")[name]()


@pytest.mark.parametrize("dtype", [torch.float16, torch.int32], ids=str)
@pytest.mark.parametrize("name", calls())
def test_other_dtypes(name, dtype):
    words = f"^{name} has dtype {dtype}; allowed are float32, bfloat16, float64, and float16 on CUDA$"
    with pytest.raises(TypeError, match=words):
        calls(dtype=dtype)[name]()


def test_mixed_devices_are_refused(fake_cuda, monkeypatch):
    monkeypatch.setattr(_checks, "CUDA_OBSTACLE", None)
    x, y = torch.zeros(2, 3, device="cuda"), torch.zeros(2, 3)
    seed = torch.zeros((), dtype=torch.int64)
    for call, words in [
        (lambda: ops.reconstruction_loss(x, y), "x is on cpu, x_hat on cuda:0; they must be the same"),
        (lambda: ops.sample_gaussian(x, x, eps=y), "eps is on cpu, mean on cuda:0"),
        (lambda: ops.sample_gaussian(x, x, seed=seed), "seed is on cpu, mean on cuda:0"),
        (lambda: ops.discriminator_loss(x, y), "fake_logits is on cpu, real_logits on cuda:0"),
    ]:
        with pytest.raises(ValueError, match=words):
            call()


def raw_calls():
    """By what is wrong: a call of torch.ops.sdgan_ext whose kernel would read or write beside a tensor, or overflow."""
    op, x, image = torch.ops.sdgan_ext, torch.zeros(3, 2), torch.zeros(1, 2, 4, 4)
    weight, none = torch.zeros(2, 2, 3, 3), torch.zeros(0)
    ones, sides = [1, 1], [0, 0, 0, 0]

    def conv2d(stride=ones, sides=sides, dilation=ones, groups=1, activation=0, weight=weight):
        return op.conv2d(image, weight, None, stride, sides, dilation, groups, activation, 0.2)

    def transposed(stride=ones, dilation=ones):
        return op.conv_transpose2d(image, weight, None, stride, sides, dilation, 1, 0, 0.2)

    return {
        "a loss' gradient of fewer elements": lambda: op.adversarial_loss_backward(x[:1], x, x, none, x, 0, 0, 1.0, 0),
        "a loss' gradient of another dtype": lambda: op.adversarial_loss_backward(
            torch.zeros(()), x, x, x.double(), x, 0, 0, 1.0, 1
        ),
        "no real logits": lambda: op.adversarial_loss(None, x, 0, 0, 1.0, 1, False, False),
        "no real logits of a pair": lambda: op.adversarial_loss(None, x, 5, 1, 1.0, 1, False, False),
        "fewer real logits": lambda: op.adversarial_loss(x[:1], x, 5, 0, 1.0, 1, False, False),
        "an objective that is none": lambda: op.adversarial_loss(x, x, 6, 0, 1.0, 1, False, False),
        "a role that is none": lambda: op.adversarial_loss(x, x, 0, -1, 1.0, 1, False, False),
        "a reduction that is none": lambda: op.bce(x, x, None, None, True, 4, False, False),
        "a kind that is none": lambda: op.reconstruction_loss(x, x, 4, 1, False, False),
        "an activation that is none": lambda: op.batch_norm(x, None, None, None, None, 1e-5, 7, 0.2),
        "a batch norm's gradient of fewer rows": lambda: op.batch_norm_backward(
            x[:1], x, None, None, torch.zeros(2), torch.zeros(2), True, 1e-5, 0, 0.2
        ),
        "a batch norm's gradient of one dimension": lambda: op.batch_norm_backward(
            x[0], x[0], None, None, none, none, True, 1e-5, 0, 0.2
        ),
        "a convolution's activation": lambda: conv2d(activation=7),
        "groups that do not divide": lambda: conv2d(groups=2, weight=torch.zeros(3, 1, 3, 3)),
        "a kernel of no size": lambda: conv2d(weight=torch.zeros(2, 2, 0, 3)),
        "padding that overflows": lambda: conv2d(sides=[2**62, 2**62, 0, 0]),
        "dilation that overflows": lambda: conv2d(dilation=[2**62, 1]),
        "a stride that overflows": lambda: transposed(stride=[2**62, 1]),
        "an output that overflows": lambda: transposed(stride=[2**29, 2**29], dilation=[2**29, 2**29]),
    }


@pytest.mark.parametrize("what", raw_calls())
def test_operators_refuse_what_a_kernel_would_trust(what):
    with pytest.raises(RuntimeError, match="sdgan_ext: "):
        raw_calls()[what]()


@pytest.mark.parametrize("name", ["stride", "padding", "dilation", "groups"])
def test_integers_of_a_convolution_are_bounded(name):
    with pytest.raises(ValueError, match=f"^{name} is {2**70}; it must be below 2\\^30$"):
        ops.conv2d(torch.zeros(1, 2, 4, 4), torch.zeros(2, 2, 3, 3), **{name: 2**70})
