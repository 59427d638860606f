"""The cases of ../contract/cases.py on a GPU, and what the tests of this folder share.

The tests run on the GPU, and skip without one; with SDGAN_TEST_DEVICE=cpu those that make sense there run on the CPU,
to test the tests.
"""

import dataclasses
import os
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from contract import cases  # noqa: E402
from contract.cases import (  # noqa: E402
    FORMATS,
    Spec,
    assert_all_near,
    assert_near,
    backend,
    same_bits,
    widened,
)

import sdgan_ext  # noqa: E402
from sdgan_ext import ops  # noqa: E402
from sdgan_ext.ops import reference  # noqa: E402

DEVICE = os.environ.get("SDGAN_TEST_DEVICE", "cuda")
ON_CUDA = DEVICE == "cuda"
DTYPES = [torch.float32, torch.bfloat16, torch.float64] + ([torch.float16] if ON_CUDA else [])
#: Relative errors, in the norm of the tensor for the half precisions and of every element, against the largest one.
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3, torch.float64: 1e-11}

needs_cuda = pytest.mark.skipif(not ON_CUDA, reason="only a GPU has this")


def require_device():
    """Called by every test file as it is imported."""
    if ON_CUDA and not (torch.cuda.is_available() and sdgan_ext.build_info()["cuda"]):
        pytest.skip("needs a GPU and a build for it, see docs/cuda.md", allow_module_level=True)


CASES = [dataclasses.replace(case, device=DEVICE) for case in cases.CASES]
SHORT = [case for case in CASES if case.short]
IMAGES = [case for case in CASES if len(case.specs[0].shape) == 4]


def each(cases):
    """Runs a test for every case."""
    return pytest.mark.parametrize("case", cases, ids=[case.name.replace(" ", "_") for case in cases])


@pytest.fixture
def full_precision(monkeypatch):
    """Without TF32: the flag is torch's, and so is the error that comes with it."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


__all__ = [
    "CASES", "FORMATS", "IMAGES", "SHORT", "Spec", "assert_all_near", "assert_near", "backend", "ops", "reference",
    "same_bits", "widened",
]  # fmt: skip
