"""``sdgan-ext``: train, sample, reconstruct, interpolate, evaluate, tune, export, bench, doctor.

A user's mistake ends in one sentence on stderr and exit code 2. Flags come from the fields of the configuration
dataclasses by way of argparse; tyro would make them too, but reports a mistake in a box of many lines.
"""

from __future__ import annotations

import argparse
import importlib
import math
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from sdgan_ext import _env
from sdgan_ext._errors import ConfigError, DataError, DivergedError, PeerLostError, SdganError, nearest

__all__ = ["main"]

_EPILOG = """\
examples:
  sdgan-ext train --data digits --preset mnist-small --steps 2000
  sdgan-ext train --data mnist --preset seed --mode gan --batch-size 128 --dry-run
  sdgan-ext train --config runs/00000-vaegan-digits/config.yaml --seed 1
  sdgan-ext train --resume runs/00000-vaegan-digits --steps 4000
  torchrun --nproc-per-node 2 -m sdgan_ext train --data digits --sync-batch-norm true
  sdgan-ext sample runs/00000-vaegan-digits --seeds 0-31
  sdgan-ext reconstruct runs/00000-vaegan-digits --data digits
  sdgan-ext interpolate runs/00000-vaegan-digits --seeds 1,5,7
  sdgan-ext evaluate runs/00000-vaegan-mnist --data mnist --metrics elbo,fd,prdc
  sdgan-ext tune --data mnist --mode vae --steps 500 --trials 30 --out study
  sdgan-ext export runs/00000-vaegan-digits --format onnx
  sdgan-ext bench conv_transpose2d --shape 16 256 16 16 --out 128 --kernel 4 --stride 2 --padding 1 --activation relu

exit codes: 0 done, 1 the training diverged or this installation does not work, 2 a mistake in what was asked for,
130 stopped by Ctrl-C and 143 by SIGTERM, both after saving
"""
_SIGNAL_CODES = {None: 0, "SIGINT": 130, "SIGTERM": 143}
_BATCH = 64


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line ``argv`` (``sys.argv`` without the program's name by default); returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: print(f"sdgan-ext: {message}", file=sys.stderr)
            return _run(argv)
    except SystemExit as finished:  # argparse's, after --help and --version
        return finished.code or 0
    except (DivergedError, PeerLostError) as error:
        return _fail(error, 1)
    except ImportError as error:
        return _fail(error, 1)
    except SdganError as error:
        return _fail(error, 2)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", 2)
    except KeyboardInterrupt:
        return _fail("stopped", _SIGNAL_CODES["SIGINT"])


def _fail(sentence, code: int) -> int:
    rank = os.environ.get("RANK", "0")  # torchrun's
    who = "sdgan-ext" if rank == "0" else f"sdgan-ext, rank {rank}"
    print(f"{who}: {sentence}", file=sys.stderr)
    return code


def _run(argv: list[str]) -> int:
    if not argv or argv[0].startswith("-"):
        width = max(map(len, _COMMANDS))
        commands = "".join(f"  {name:{width}}  {run.__doc__}\n" for name, (_, run) in _COMMANDS.items())
        parser = _Parser(
            "sdgan-ext",
            "Train convolutional GANs, VAEs and VAE-GANs.",
            usage="sdgan-ext COMMAND [--help] [...]",
            epilog=f"commands:\n{commands}\n{_EPILOG}",
        )
        parser.add_argument("--version", action=_Version)
        parser.parse(argv or ["--help"])
        raise ConfigError(f"a command is missing; there are {', '.join(_COMMANDS)}")
    _check_environment()
    if argv[0] not in _COMMANDS:
        hint = nearest(argv[0], _COMMANDS)
        raise ConfigError(f"{argv[0]!r} is not a command{hint}; there are {', '.join(_COMMANDS)}")
    add_arguments, command = _COMMANDS[argv[0]]
    usage = "sdgan-ext train --data DATA | --resume RUN [flag ...]" if command is train else None
    parser = _Parser(f"sdgan-ext {argv[0]}", command.__doc__, usage=usage)
    add_arguments(parser)
    return command(parser.parse(argv[1:]))


def _check_environment() -> None:
    """A variable with a value that is not allowed is a user's mistake too; read later, it would be a traceback."""
    for name in _env.__all__:
        try:
            getattr(_env, name)()
        except ValueError as error:
            raise ConfigError(str(error)) from None


class _Parser(argparse.ArgumentParser):
    """argparse whose complaints are a ConfigError, with the nearest name of a flag that is not there."""

    def __init__(self, prog: str, description: str, **options):
        super().__init__(
            prog=prog,
            description=description,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **options,
        )

    def parse(self, argv: list[str]) -> argparse.Namespace:
        arguments, unknown = self.parse_known_args(argv)
        flags = [word for word in unknown if word.startswith("-")]
        if flags:
            name = flags[0].partition("=")[0]
            raise ConfigError(f"{name} is not a flag of {self.prog}{nearest(name, self._option_string_actions)}")
        if unknown:
            raise ConfigError(f"{unknown[0]!r} is one argument too many; see {self.prog} --help")
        return arguments

    def error(self, message: str):
        raise ConfigError(f"{message}; see {self.prog} --help")


class _Version(argparse.Action):
    """Reads the version only when it is asked for."""

    def __init__(self, option_strings, dest):
        super().__init__(option_strings, dest, nargs=0, help="print the version and leave")

    def __call__(self, parser, *_):
        import sdgan_ext

        print(f"sdgan_ext {sdgan_ext.__version__}")
        parser.exit()


# ------------------------------------------------------------------------------------------------------- train
def _train_arguments(parser: _Parser) -> None:
    from sdgan_ext.training import command

    command.add_arguments(parser)
    _threads_argument(parser)


def train(arguments: argparse.Namespace) -> int:
    """Train a model on a dataset, or go on with a run."""
    from sdgan_ext.training import command

    with command.flushed_denormals():
        command.read_config(arguments)
        _set_threads(arguments)
        return _SIGNAL_CODES[command.train(arguments)]


# ------------------------------------------------------------------------------ sample, reconstruct, interpolate
def _model_arguments(parser: _Parser, seeds: str | None) -> None:
    parser.add_argument("model", metavar="RUN", help="a run folder, or a model folder that save_pretrained wrote")
    if seeds:
        parser.add_argument("--seeds", default=seeds, help=f"such as 0-31 or 1,5,7; {seeds} unless given")
        parser.add_argument("--labels", help="of a conditional model: classes in turn, as 3 or 0-9; all unless given")
    parser.add_argument("--out", help="the folder for the pictures; generated in RUN unless given")
    _threads_argument(parser)


def _sample_arguments(parser: _Parser) -> None:
    _model_arguments(parser, "0-31")


def sample(arguments: argparse.Namespace) -> int:
    """Write an image for every seed, and a grid of them."""
    seeds = _seeds(arguments.seeds)
    model, out = _open(arguments)
    from sdgan_ext.pictures import columns_of, image_grid, save_png, seeded_latents

    labels = _labels(arguments, model, len(seeds))
    images = _in_parts(model.decode, model.latents(seeded_latents(seeds, model.config.latent_dim)), labels)
    for seed, image in zip(seeds, images, strict=True):
        save_png(out / f"seed{seed:04d}.png", image_grid(image[None], 1))
    save_png(out / "grid.png", image_grid(images, columns_of(len(images))))
    print(f"{len(images)} images and grid.png: {out}")
    return 0


def _reconstruct_arguments(parser: _Parser) -> None:
    _model_arguments(parser, None)
    parser.add_argument("--data", required=True, help="as in train")
    parser.add_argument("--split", help="train or test; unless given, test where there is one")
    parser.add_argument("--count", type=int, default=32, help="how many images; 32 unless given")


def reconstruct(arguments: argparse.Namespace) -> int:
    """Write a grid of images, each above what the model makes of it."""
    if arguments.count < 1:
        raise ConfigError(f"--count is {arguments.count}; it must be at least 1")
    model, out = _open(arguments)
    from sdgan_ext.data import batches
    from sdgan_ext.pictures import columns_of, pairs_grid, save_png

    if model.encoder is None:
        raise ConfigError(f"the model in {arguments.model} has no encoder (mode 'gan'), so it cannot reconstruct")
    dataset = _open_split(arguments, model.config)
    images, labels = next(batches(dataset, min(arguments.count, len(dataset)), seed=0))
    if model.config.classes and not 0 <= labels.min() <= labels.max() < model.config.classes:
        raise ConfigError(f"--data is {arguments.data}; the model needs its labels, 0 to {model.config.classes - 1}")
    outputs = _in_parts(model.reconstruct, images, labels if model.config.classes else None)
    file = out / "reconstructions.png"
    save_png(file, pairs_grid(images, outputs, columns_of(2 * len(images))))
    error = (images - outputs).square().mean().item() / 4  # of pixels in [0, 1]
    print(f"{len(images)} images above their reconstructions, PSNR {-10 * math.log10(error):.1f} dB: {file}")
    return 0


def _open_split(arguments: argparse.Namespace, config):
    from sdgan_ext.data import open_dataset

    def opened(split: str):
        return open_dataset(arguments.data, split=split, image_size=config.image_size, channels=config.channels)

    if arguments.split is not None:
        return opened(arguments.split)
    try:
        return opened("test")
    except DataError:
        return opened("train")


def _interpolate_arguments(parser: _Parser) -> None:
    _model_arguments(parser, "0-3")
    parser.add_argument("--steps", type=int, default=9, help="images from one seed to the next; 9 unless given")


def interpolate(arguments: argparse.Namespace) -> int:
    """Write a walk through the latent space, from seed to seed, as a GIF and as a PNG with a row for each stretch."""
    seeds = _seeds(arguments.seeds)
    if len(seeds) < 2:
        raise ConfigError(f"--seeds is {arguments.seeds}; a walk needs two seeds or more")
    if arguments.steps < 2:
        raise ConfigError(f"--steps is {arguments.steps}; it must be at least 2")
    model, out = _open(arguments)
    import torch

    from sdgan_ext.pictures import image_grid, save_gif, save_png, seeded_latents

    latents = model.latents(seeded_latents(seeds, model.config.latent_dim))
    labels = _labels(arguments, model, len(seeds) - 1)
    stretches = [
        model.interpolate(latents[i], latents[i + 1], arguments.steps, None if labels is None else labels[i])
        for i in range(len(seeds) - 1)
    ]
    save_png(out / "interpolation.png", image_grid(torch.cat(stretches), arguments.steps))
    walk = torch.cat([stretches[0][:1], *(stretch[1:] for stretch in stretches)])
    frames = [image_grid(image[None], 1) for image in walk]
    save_gif(out / "interpolation.gif", frames + frames[-2:0:-1])
    print(f"{len(walk)} images from seed to seed: {out / 'interpolation.png'} and {out / 'interpolation.gif'}")
    return 0


def _open(arguments: argparse.Namespace):
    """The model, and the folder to write to."""
    _set_threads(arguments)
    from sdgan_ext.training.runs import load_model

    model = load_model(arguments.model)
    out = Path(arguments.out or Path(arguments.model) / "generated").expanduser()
    out.mkdir(parents=True, exist_ok=True)
    return model, out


def _export_arguments(parser: _Parser) -> None:
    parser.add_argument("model", metavar="RUN", help="a run folder, or a model folder that save_pretrained wrote")
    parser.add_argument("--format", default="onnx", help="onnx, or torch for torch.export.load; onnx unless given")
    parser.add_argument("--out", help="the folder for the files; exported in RUN unless given")


def export(arguments: argparse.Namespace) -> int:
    """Write encoder, generator and discriminator as ONNX or torch.export files, which need no sdgan_ext to run."""
    from sdgan_ext.export import check_format, export_networks
    from sdgan_ext.training.runs import load_model

    check_format(arguments.format)
    out = Path(arguments.out or Path(arguments.model) / "exported").expanduser()
    files = export_networks(load_model(arguments.model), out, arguments.format)
    print(f"{', '.join(file.name for file in files)}: {out}")
    return 0


def _in_parts(function, inputs, labels=None):
    """``function(inputs)`` in batches that fit the memory, or ``function(inputs, labels)``."""
    import torch

    given = [tensor.split(_BATCH) for tensor in (inputs, labels) if tensor is not None]
    with torch.no_grad():
        return torch.cat([function(*part) for part in zip(*given, strict=True)])


def _labels(arguments: argparse.Namespace, model, n: int):
    """What ``--labels`` means for n images, [n]; None for a model without classes."""
    from sdgan_ext.models.labels import as_labels

    classes = model.config.classes
    if arguments.labels is None and not classes:
        return None
    listed = list(range(classes)) if arguments.labels is None else _seeds(arguments.labels, "--labels")
    try:
        return as_labels([listed[i % len(listed)] for i in range(n)], n, model.config)
    except ValueError as error:
        raise ConfigError(f"--{error}") from None


def _seeds(text: str, flag: str = "--seeds") -> list[int]:
    """The numbers that ``0-3,7`` means: 0, 1, 2, 3 and 7."""
    seeds: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        last = last if dash else first
        if not (first.isdecimal() and last.isdecimal() and int(first) <= int(last)):
            raise ConfigError(f"{flag} is {text!r}; it must be like 0-31 or 1,5,7")
        seeds += range(int(first), int(last) + 1)
    return seeds


# ---------------------------------------------------------------------------------------------------- evaluate
def _evaluate_arguments(parser: _Parser) -> None:
    from sdgan_ext.evaluation import command

    command.add_arguments(parser)
    parser.add_argument("--data", required=True, help="as in train")
    _threads_argument(parser)


def evaluate(arguments: argparse.Namespace) -> int:
    """Measure a model on held-out images: likelihood, feature distances, classes; print a table and write JSON."""
    from sdgan_ext.evaluation import command
    from sdgan_ext.training.runs import load_model

    _set_threads(arguments)
    model = load_model(arguments.model)
    file = command.evaluate_run(model, _held_out(arguments, model.config), arguments, print)
    print(f"written to {file}")
    return 0


def _held_out(arguments: argparse.Namespace, config):
    """The split that was asked for, else test, else, and it is said, train; ``arguments.split`` becomes its name."""
    if arguments.split is None:
        arguments.split = "test"
        try:
            return _open_split(arguments, config)
        except DataError as error:
            arguments.split = "train"
            dataset = _open_split(arguments, config)
            print(f"{error}: the training images are taken, from which the model may have learnt")
            return dataset
    return _open_split(arguments, config)


# ------------------------------------------------------------------------------------------------- tune, bench
def _module_arguments(parser: _Parser, module: str) -> None:
    importlib.import_module(module).add_arguments(parser)
    _threads_argument(parser)


def tune(arguments: argparse.Namespace) -> int:
    """Search learning rates, batch size and loss weights of a preset with Optuna, or go on with a search."""
    from sdgan_ext import tuning

    _set_threads(arguments)
    return _SIGNAL_CODES[tuning.command(arguments, lambda line: print(line, flush=True))]


def bench(arguments: argparse.Namespace) -> int:
    """Time an operation at a shape of yours on the CPU, against stock PyTorch."""
    from sdgan_ext.bench import command

    _set_threads(arguments)
    command.bench(arguments, lambda line: print(line, flush=True))
    return 0


# ------------------------------------------------------------------------------------------------------ doctor
def doctor(arguments: argparse.Namespace) -> int:
    """Print what is installed, compiled in and usable here, and test it; exit code 1 when a test fails."""
    from sdgan_ext.doctor import examine

    _set_threads(arguments)
    return 0 if examine(print) else 1


def _threads_argument(parser: _Parser) -> None:
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads; torch's choice unless given")


def _set_threads(arguments: argparse.Namespace) -> None:
    if arguments.threads is not None:
        if arguments.threads < 1:
            raise ConfigError(f"--threads is {arguments.threads}; it must be at least 1")
        import torch

        torch.set_num_threads(arguments.threads)


_COMMANDS = {
    "train": (_train_arguments, train),
    "sample": (_sample_arguments, sample),
    "reconstruct": (_reconstruct_arguments, reconstruct),
    "interpolate": (_interpolate_arguments, interpolate),
    "evaluate": (_evaluate_arguments, evaluate),
    "tune": (lambda parser: _module_arguments(parser, "sdgan_ext.tuning"), tune),
    "export": (_export_arguments, export),
    "bench": (lambda parser: _module_arguments(parser, "sdgan_ext.bench.command"), bench),
    "doctor": (_threads_argument, doctor),
}
