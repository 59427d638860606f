"""Models for other programs: ``torch.export`` files and ONNX files that need no sdgan_ext to run.

A model that :func:`torch.export.export` traces keeps ``torch.ops.sdgan_ext``, for running it here. For elsewhere,
``program.run_decompositions(decompositions())`` puts stock operators in their place; the writers below do all of it.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast

import torch
from torch import Tensor

from ._errors import ConfigError
from ._files import replacing
from ._torch_internals import OpOverload
from .models.vae_gan import VAEGAN
from .ops.reference import DECOMPOSITIONS

if TYPE_CHECKING:
    from .training.autoencoder import Autoencoder

__all__ = ["FORMATS", "decompositions", "export_networks", "stock_program", "write_onnx", "write_torch"]


def decompositions() -> dict[OpOverload, Callable[..., Any]]:
    """Torch's default decompositions, and every ``torch.ops.sdgan_ext`` operator in stock torch.

    For ``program.run_decompositions(decompositions())``. Gradients beside a loss are left out.
    """
    own = {getattr(torch.ops.sdgan_ext, name).default: function for name, function in DECOMPOSITIONS.items()}
    return {**torch.export.default_decompositions(), **own}


def stock_program(
    model: torch.nn.Module, inputs: Sequence[Tensor], *, dynamic_batch: bool = True
) -> torch.export.ExportedProgram:
    """``model`` traced by :func:`torch.export.export`, in stock operators alone.

    Args:
        model: in evaluation mode; from tensors to a tensor or a tuple of tensors.
        inputs: its arguments. Their sizes are fixed but for the first one, the batch, with ``dynamic_batch``; a batch
            of two or more then, since torch takes one for a constant.
        dynamic_batch: whether the batch may have any size.

    Returns:
        A :class:`torch.export.ExportedProgram`.

    Raises:
        ValueError: the model is in training mode, or a batch is too small to be dynamic.
    """
    if model.training:
        raise ValueError("model is in training mode; call model.eval(): batch norm would take the batch's statistics")
    for i, x in enumerate(inputs):
        if dynamic_batch and (x.dim() == 0 or x.shape[0] < 2):
            raise ValueError(f"inputs[{i}] has shape {tuple(x.shape)}; a dynamic batch needs an example of two or more")
    batch = {0: torch.export.Dim("batch", min=1)} if dynamic_batch else None
    with _quiet(), torch.no_grad():
        program = torch.export.export(model, tuple(inputs), dynamic_shapes=(batch,) * len(inputs))
        return program.run_decompositions(decompositions())


def write_torch(
    model: torch.nn.Module, inputs: Sequence[Tensor], file: str | Path, *, dynamic_batch: bool = True
) -> None:
    """Writes :func:`stock_program` of the arguments to ``file``, for :func:`torch.export.load`.

    Raises:
        ValueError: as :func:`stock_program`.
        CheckpointError: the file cannot be written; what it was before is still there.
    """
    program = stock_program(model, inputs, dynamic_batch=dynamic_batch)
    with _quiet(), replacing(Path(file)) as opened:
        torch.export.save(program, opened)


def write_onnx(
    model: torch.nn.Module,
    inputs: Sequence[Tensor],
    file: str | Path,
    *,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    opset: int | None = None,
    dynamic_batch: bool = True,
) -> None:
    """Writes :func:`stock_program` of the arguments to ``file`` as ONNX, with the weights inside.

    Args:
        model, inputs, dynamic_batch: as for :func:`stock_program`.
        input_names, output_names: in the file; torch's choice unless given.
        opset: version of ONNX's operators; the current one of torch's exporter unless given.

    Raises:
        ImportError: onnx or onnxscript are not installed.
        ValueError: as :func:`stock_program`.
        CheckpointError: the file cannot be written; what it was before is still there.
    """
    _require_onnx()
    program = stock_program(model, inputs, dynamic_batch=dynamic_batch)
    with _quiet():
        onnx = torch.onnx.export(
            program,
            dynamo=True,
            verbose=False,
            input_names=input_names,
            output_names=output_names,
            opset_version=opset,
            dynamic_shapes=({0: "batch"},) * len(inputs) if dynamic_batch else None,
        )
        assert onnx is not None  # it is with dynamo
        content = onnx.model_proto.SerializeToString()
    with replacing(Path(file)) as opened:
        opened.write(content)


def _require_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(f"writing ONNX needs {error.name}; run `pip install 'sdgan_ext[onnx]'`") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' remarks on their own insides and on torchvision, which this package never needs."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.filterwarnings("ignore", "No complete tensor found", UserWarning)  # views of their storage
            yield
    finally:
        logger.setLevel(level)


# ---------------------------------------------------------------------------------------------------- a model's
class _Encoder(torch.nn.Module):
    """The posterior as two tensors."""

    def __init__(self, encoder: torch.nn.Module):
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        posterior = self.encoder(x)
        return posterior.mean, posterior.logvar


ExportFormat = Literal["onnx", "torch"]

#: The ending of a file's name.
FORMATS: dict[ExportFormat, str] = {"onnx": ".onnx", "torch": ".pt2"}


class _Network(NamedTuple):
    """A network with an input for its trace and the names of both its ends in a file."""

    module: torch.nn.Module
    example: Tensor
    input_names: list[str]
    output_names: list[str]


def check_format(format: str) -> None:
    """Whether files of it can be written here; raises as :func:`export_networks` does."""
    if format not in FORMATS:
        raise ConfigError(f"format is {format!r}; allowed are {', '.join(FORMATS)}")
    if format == "onnx":
        _require_onnx()


def export_networks(model: VAEGAN | Autoencoder, folder: str | Path, format: ExportFormat = "onnx") -> list[Path]:
    """Writes every network of ``model`` to a file of its own, each complete or not at all, in evaluation mode.

    ``encoder``: x ``[N, channels, H, W]`` to mean and logvar ``[N, latent_dim]``. ``generator``: z ``[N, latent_dim]``
    to images in [-1, 1]. ``discriminator``: x to logits ``[N, 1]``. N may be any number.

    Args:
        folder: made where it is not there.
        format: ``onnx``, or ``torch`` for :func:`torch.export.load`.

    Returns:
        The files written.

    Raises:
        ConfigError: the format is neither, or the networks are conditioned on classes or diffusers'.
        ImportError: onnx or onnxscript are not installed.
        CheckpointError: a file cannot be written.
    """
    check_format(format)
    if not isinstance(model, VAEGAN):
        raise ConfigError(
            "the networks are those of diffusers' AutoencoderKL, which do other things with 64 images and more; export "
            "what AutoencoderKL.from_pretrained reads, for the batch that you need"
        )
    if model.config.classes:
        raise ConfigError(
            f"the model is conditioned on {model.config.classes} classes; one that takes labels is not exported"
        )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    weight = model.generator.last_weight
    height, width = cast(tuple[int, int], model.config.image_size)
    images = weight.new_zeros(2, model.config.channels, height, width)
    latents = weight.new_zeros(2, model.config.latent_dim)
    networks = {}
    if model.encoder is not None:
        networks["encoder"] = _Network(_Encoder(model.encoder), images, ["x"], ["mean", "logvar"])
    networks["generator"] = _Network(model.generator, latents, ["z"], ["images"])
    if model.discriminator is not None:
        networks["discriminator"] = _Network(model.discriminator, images, ["x"], ["logits"])
    files = {name: folder / f"{name}{FORMATS[format]}" for name in networks}
    with model._evaluating():
        for name, (module, example, input_names, output_names) in networks.items():
            if format == "onnx":
                write_onnx(module.eval(), (example,), files[name], input_names=input_names, output_names=output_names)
            else:
                write_torch(module.eval(), (example,), files[name])
    return list(files.values())
