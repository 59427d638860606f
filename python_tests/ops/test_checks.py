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
