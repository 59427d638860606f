"""The compiled extension, csrc/module.cpp. Importing it registers ``torch.ops.sdgan_ext``."""

from collections.abc import Callable, Sequence
from typing import Any

def build_info() -> dict[str, Any]: ...
def set_conv_backend(names: Sequence[str]) -> None: ...
def conv_backend() -> list[str]: ...
def conv_backend_names() -> list[str]: ...
def forget_measured_convolutions() -> None: ...
def measured_convolutions() -> list[tuple[list[int], str, str, list[tuple[str, str, float]]]]:
    """``(key, first, weight, [(first, weight, milliseconds), ...])`` of each shape that was measured."""

def add_measured_convolution(
    key: Sequence[int], first: str, weight: str, times: Sequence[tuple[str, str, float]]
) -> None: ...
def explain_convolution(
    transposed: bool,
    batch: int,
    x_channels: int,
    y_channels: int,
    groups: int,
    vertical: Sequence[int],
    horizontal: Sequence[int],
    dtype: int,
    cuda: bool,
    channels_last: bool,
    stage: int,
    both_gradients: bool,
    residual_or_scale: bool,
) -> tuple[str, str, float, float]:
    """Backend, reason, estimated speed-up over the library or 0, multiplications. Enumerations travel as integers."""

def ask_tf32(question: Callable[[], bool]) -> None:
    """``question`` is called from any thread, when a float32 convolution runs on CUDA."""

def ask_reduced_precision(question: Callable[[], bool]) -> None:
    """Likewise when one of 3x3 and stride 1 runs on the CPU."""

def offer_weight(address: int) -> None:
    """The next convolution of this thread may keep what it makes of the weight at this address."""

def forget_filters(address: int) -> None: ...
def limit_kept_filters(bytes: int) -> None: ...
def kept_filters_limit() -> int: ...
def kept_filters() -> tuple[int, int, int]:
    """Bytes, filters, calls that took one."""
