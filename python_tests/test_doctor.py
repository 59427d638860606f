"""The doctor: every operation is examined, and what is broken is a line, not a traceback."""

import pytest
import torch

from sdgan_ext import doctor, ops
from sdgan_ext.cli import main

NOT_OPERATIONS = {
    "conv_backend",
    "explain_conv",
    "get_conv_backend",
    "kept_filters",
    "no_weight_gradients",
    "reference",
}


def test_all_is_well(capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "all is well" in out and "FAIL" not in out
    for words in (torch.__version__.partition("+")[0], "SDGAN_CPU_ISA", "CUDA kernels", "training step"):
        assert words in out


def test_every_operation_is_examined():
    assert {name for name, _, _ in doctor._cases()} == set(ops.__all__) - NOT_OPERATIONS


def test_a_wrong_operation_fails(monkeypatch, capsys):
    monkeypatch.setattr(ops, "conv2d", lambda *args, **options: ops.reference.conv2d(*args, **options) * 1.001)
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if "FAIL" in line and "conv2d" in line]
    assert "AssertionError" in line and "something is wrong" in out


def test_a_wrong_gradient_fails():
    function = ops.reference.gaussian_kl
    name, case, inputs = next(case for case in doctor._cases() if case[0] == "gaussian_kl")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops, "gaussian_kl", lambda mean, logvar: function(mean, logvar.detach()) + 0 * logvar.sum())
        with pytest.raises(AssertionError):
            doctor._compare(case, inputs, "cpu")


def test_a_compiled_part_that_does_not_load_is_a_line_with_its_mending(monkeypatch, capsys):
    def fail():
        raise ImportError("sdgan_ext cannot run: its compiled part is not there; rebuild it with `pip install .`")

    monkeypatch.setattr(doctor, "_load", fail)
    assert main(["doctor"]) == 1
    assert "rebuild it with" in capsys.readouterr().out


def test_variables_that_are_not_read_are_named(monkeypatch, capsys):
    monkeypatch.setenv("SDGAN_CNV", "winograd")
    assert main(["doctor"]) == 0
    assert "SDGAN_CNV" in capsys.readouterr().out
