"""First and second derivatives in float64 on the GPU, against finite differences."""

import matrix
import pytest
import torch
from matrix import CASES, each

matrix.require_device()
pytestmark = pytest.mark.usefixtures("full_precision")
full_precision = matrix.full_precision


def check(test, case):
    leaves = case.tensors(torch.float64)

    def run(*tensors):
        with matrix.backend(case.backend):
            outputs = case.call(matrix.ops, *tensors)
        outputs = (outputs,) if isinstance(outputs, torch.Tensor) else outputs
        return tuple(output for output in outputs if output.requires_grad)

    # The library's gradient of the weights may be summed by atomics.
    assert test(run, leaves, fast_mode=True, nondet_tol=0.0 if case.exact else 1e-9)


@each(CASES)
def test_first(case):
    check(torch.autograd.gradcheck, case)


@each(CASES)
def test_second(case):
    check(torch.autograd.gradgradcheck, case)
