"""The integers of Python's enumerations are those of the kernels' headers."""

import re
from pathlib import Path

import pytest
import torch

from sdgan_ext.ops import _enums

KERNELS = Path(__file__).parents[2] / "csrc/kernels"
DTYPES = {"f32": torch.float32, "f64": torch.float64, "bf16": torch.bfloat16, "f16": torch.float16}


def native(name: str) -> dict[str, int]:
    """The enumerators of ``enum class <name>``, by the order in which they stand; it must be in one header."""
    pattern = re.compile(rf"enum class {name} : int32_t {{([\w\s,]*)}};")
    (body,) = (body for header in sorted(KERNELS.rglob("*.h")) for body in pattern.findall(header.read_text()))
    return {word: i for i, word in enumerate(body.replace(",", " ").split())}


@pytest.mark.parametrize(
    "name, ours",
    [
        ("Activation", {name or "none": i for name, i in _enums.ACTIVATIONS.items()}),
        ("Reduction", _enums.REDUCTIONS),
        ("Objective", _enums.OBJECTIVES),
        ("Reconstruction", _enums.RECONSTRUCTIONS),
        ("Role", {"discriminator": _enums.DISCRIMINATOR, "generator": _enums.GENERATOR}),
    ],
)
def test_names_and_integers(name, ours):
    assert native(name) == ours


def test_dtypes():
    assert {DTYPES[word]: i for word, i in native("DType").items()} == _enums.DTYPES


def test_names_of_integers():
    for numbers, names in [
        (_enums.ACTIVATIONS, _enums.ACTIVATION_NAMES),
        (_enums.REDUCTIONS, _enums.REDUCTION_NAMES),
        (_enums.OBJECTIVES, _enums.OBJECTIVE_NAMES),
        (_enums.RECONSTRUCTIONS, _enums.RECONSTRUCTION_NAMES),
    ]:
        assert all(names[number] == name for name, number in numbers.items())
