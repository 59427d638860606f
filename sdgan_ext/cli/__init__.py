"""``sdgan-ext``, a file a command: :data:`COMMANDS` lists them.

The file of a command has two functions: ``add_arguments(parser)`` and ``run(arguments)``, which returns the exit code.
It is imported when its command is given, and imports torch where it needs it: ``sdgan-ext --help`` waits for neither.

A user's mistake ends in one sentence on stderr and exit code 2. Flags come from the fields of the configuration
dataclasses by way of argparse; tyro would make them too, but reports a mistake in a box of many lines.
"""

from __future__ import annotations

import importlib
import os
import sys
import warnings
from collections.abc import Sequence

from .._console import guarded_console, open_standard_descriptors
from .._errors import ConfigError, DivergedError, PeerLostError, SdganError, nearest, sentence
from ._common import SIGNAL_CODES, Parser, Version, check_environment, memory_sentence

__all__ = ["COMMANDS", "main"]

#: Every command, a file of this folder, and what it does.
COMMANDS = {
    "train": "Train a model on a dataset, or go on with a run.",
    "sample": "Write an image for every seed, and a grid of them.",
    "reconstruct": "Write a grid of images, each above what the model makes of it.",
    "interpolate": (
        "Write a walk through the latent space, from seed to seed, as a GIF and as a PNG with a row for each stretch."
    ),
    "evaluate": (
        "Measure a model on held-out images: likelihood, feature distances, classes; print a table and write JSON."
    ),
    "report": "Write a page about a run: what was trained, on what, how it went, how good it is, how to repeat it.",
    "pack": "Put a folder of images into tar shards: a few large files in the place of many small ones.",
    "tune": "Search learning rates, batch size and loss weights of a preset with Optuna, or go on with a search.",
    "export": (
        "Write encoder, generator and discriminator as ONNX or torch.export files, which need no sdgan_ext to run."
    ),
    "bench": "Time an operation at a shape of yours on the CPU, against stock PyTorch.",
    "doctor": "Print what is installed, compiled in and usable here, and test it; exit code 1 when a test fails.",
}

_EXAMPLES = """\
examples:
  sdgan-ext train --data digits --preset mnist-small --steps 2000
  sdgan-ext train --data mnist --preset seed --mode gan --batch-size 128 --dry-run
  sdgan-ext train --config runs/00000-vaegan-digits/config.yaml --seed 1
  sdgan-ext train --resume runs/00000-vaegan-digits --steps 4000
  sdgan-ext train --data photos --init stable-diffusion/vae --train decoder --image-size 256
  torchrun --nproc-per-node 2 -m sdgan_ext train --data digits --sync-batch-norm true
  sdgan-ext sample runs/00000-vaegan-digits --seeds 0-31
  sdgan-ext reconstruct runs/00000-vaegan-digits --data digits
  sdgan-ext interpolate runs/00000-vaegan-digits --seeds 1,5,7
  sdgan-ext evaluate runs/00000-vaegan-mnist --data mnist --metrics elbo,fd,prdc
  sdgan-ext evaluate stable-diffusion/vae --data photos --image-size 256 --sheet sheet.png
  sdgan-ext report runs/00000-vaegan-mnist
  sdgan-ext pack photos --out shards
  sdgan-ext train --data shards --image-size 64 --crop random --flip --workers 2
  sdgan-ext tune --data mnist --mode vae --steps 500 --trials 30 --out study
  sdgan-ext export runs/00000-vaegan-digits --format onnx
  sdgan-ext bench conv_transpose2d --shape 16 256 16 16 --out 128 --kernel 4 --stride 2 --padding 1 --activation relu

exit codes: 0 done, 1 the training diverged or this installation does not work, 2 a mistake in what was asked for,
130 stopped by Ctrl-C, 143 by SIGTERM and 129 by SIGHUP, all after saving
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line ``argv`` (``sys.argv`` without the program's name by default); returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    open_standard_descriptors()
    with guarded_console() as console:
        code = _main(argv)
        sys.stdout.flush()
        lost = console.out.broken if console.out.raw is not None and not console.kept else ""
        if lost and code == 0:  # what a training prints is in its folder, what other commands print is nowhere else
            code = _fail(f"stdout cannot be written: {lost}", 2)
        console.drop_unwritten()
    return code


def _main(argv: list[str]) -> int:
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: print(f"sdgan-ext: {sentence(message)}", file=sys.stderr)
            return _run(argv)
    except SystemExit:  # argparse's, after --help and --version
        return 0
    except (DivergedError, PeerLostError, ImportError) as error:
        return _fail(error, 1)
    except SdganError as error:
        return _fail(error, 2)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}", 2)
    except (MemoryError, RuntimeError) as error:
        words = memory_sentence(error)
        if words is None:
            raise
        return _fail(words, 2)
    except KeyboardInterrupt:
        return _fail("stopped", SIGNAL_CODES["SIGINT"])


def _fail(message: object, code: int) -> int:
    rank = os.environ.get("RANK", "0")  # torchrun's
    who = "sdgan-ext" if rank == "0" else f"sdgan-ext, rank {rank}"
    print(f"{who}: {sentence(message)}", file=sys.stderr)
    return code


def _run(argv: list[str]) -> int:
    if not argv or argv[0].startswith("-"):
        _program_parser().parse(argv or ["--help"])
        raise ConfigError(f"a command is missing; there are {', '.join(COMMANDS)}")
    name, *flags = argv
    check_environment()
    if name not in COMMANDS:
        raise ConfigError(f"{name!r} is not a command{nearest(name, COMMANDS)}; there are {', '.join(COMMANDS)}")
    command = importlib.import_module(f".{name}", __name__)
    parser = Parser(f"sdgan-ext {name}", COMMANDS[name])
    command.add_arguments(parser)
    code: int = command.run(parser.parse(flags))
    return code


def _program_parser() -> Parser:
    width = max(map(len, COMMANDS))
    commands = "".join(f"  {name:{width}}  {purpose}\n" for name, purpose in COMMANDS.items())
    parser = Parser(
        "sdgan-ext",
        "Train convolutional GANs, VAEs and VAE-GANs.",
        usage="sdgan-ext COMMAND [--help] [...]",
        epilog=f"commands:\n{commands}\n{_EXAMPLES}",
    )
    parser.add_argument("--version", action=Version)
    return parser
