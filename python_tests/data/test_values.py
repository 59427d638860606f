import pytest
import torch

from sdgan_ext.data.values import VALUE_RANGE, to_float, to_uint8

BYTES = torch.arange(256, dtype=torch.uint8)


def test_every_byte_survives_the_round_trip():
    assert torch.equal(to_uint8(to_float(BYTES)), BYTES)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_every_byte_survives_in_other_precisions(dtype):
    assert torch.equal(to_uint8(to_float(BYTES).to(dtype)), BYTES)


def test_floats_fill_the_range_exactly():
    floats = to_float(BYTES)
    assert floats.dtype == torch.float32
    assert (floats[0].item(), floats[255].item()) == VALUE_RANGE
    assert (floats.diff() > 0).all()


def test_out_of_range_clamps():
    values = torch.tensor([-torch.inf, -3.0, -1.0, 1.0, 1.5, torch.inf])
    assert to_uint8(values).tolist() == [0, 0, 0, 255, 255, 255]


def test_rounds_to_nearest_and_0_to_128():
    values = torch.tensor([0.4, 0.6, 127.5, 254.4, 254.6], dtype=torch.float64) / 127.5 - 1
    assert to_uint8(values).tolist() == [0, 1, 128, 254, 255]
    assert to_uint8(torch.tensor([-0.0, 0.0])).tolist() == [128, 128]


def test_input_is_left_alone():
    values = torch.tensor([2.0, -0.5], requires_grad=True)
    assert not to_uint8(values).requires_grad
    assert values.tolist() == [2.0, -0.5]
    bytes_ = BYTES.clone()
    to_float(bytes_)
    assert torch.equal(bytes_, BYTES)


def test_shapes_and_empty():
    assert to_uint8(torch.zeros(2, 3, 4, 5)).shape == (2, 3, 4, 5)
    assert to_float(torch.zeros(0, 1, 4, 4, dtype=torch.uint8)).shape == (0, 1, 4, 4)
    assert to_uint8(torch.zeros(0)).shape == (0,)


def test_nan_has_no_byte(refused):
    with refused("NaN", "2 of 1,000"):
        values = torch.zeros(1000)
        values[3:5] = torch.nan
        to_uint8(values)


def test_wrong_dtypes(refused):
    with refused("uint8", "float32"):
        to_float(torch.zeros(2))
    with refused("floating-point", "uint8"):
        to_uint8(BYTES)
