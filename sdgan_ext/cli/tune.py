"""``sdgan-ext tune``: a search over how a preset is trained."""

from __future__ import annotations

import argparse

from .. import tuning
from .._errors import ConfigError
from ..presets import PRESETS, preset
from ..training.config import MODES
from ..tuning import SCORES, SPACE
from ._common import SIGNAL_CODES, add_threads, integer, say, set_threads


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", required=True, help="as in train")
    parser.add_argument("--preset", default="mnist-small", help=f"{', '.join(PRESETS)}; mnist-small unless given")
    parser.add_argument("--mode", help=f"{', '.join(MODES)}; the preset's unless given")
    parser.add_argument("--metric", help=f"{', '.join(SCORES)}; elbo unless given, fd in mode gan")
    parser.add_argument("--steps", type=integer, help="of training in each trial; the preset's unless given")
    parser.add_argument(
        "--trials", type=integer, default=20, help="in all, those of an earlier call too; 20 unless given"
    )
    parser.add_argument(
        "--space",
        action="append",
        default=[],
        metavar="NAME=LOW:HIGH[:log]",
        help="a field of the training configuration and its range, again for each; in place of the default: "
        + ", ".join(f"{name}={low:g}:{high:g}{':log' * log}" for name, ((low, high, log), _) in SPACE.items()),
    )
    parser.add_argument("--n", type=integer, default=2000, help="images that a trial is scored on; 2000 unless given")
    parser.add_argument(
        "--split",
        default="validation",
        help="validation: the n are training images that no trial is trained on, a tenth of all at most, and the test "
        "split stays unseen; or test; validation unless given",
    )
    parser.add_argument("--seed", type=integer, default=0, help="of the search and of every training; 0 unless given")
    parser.add_argument("--out", default="study", help="the study's folder, gone on with if there; study unless given")
    add_threads(parser)


def run(arguments: argparse.Namespace) -> int:
    set_threads(arguments)
    tuning.check_installed()
    for name in ("trials", "n"):
        if getattr(arguments, name) < 1:
            raise ConfigError(f"--{name} is {getattr(arguments, name)}; it must be at least 1")
    if arguments.split not in ("validation", "test"):
        raise ConfigError(f"--split is {arguments.split!r}; it must be validation or test")
    tuning.check_preset(arguments.preset)
    base = preset(arguments.preset).train
    mode = base.mode if arguments.mode is None else arguments.mode
    steps = base.steps if arguments.steps is None else arguments.steps
    base = base.replace(mode=mode, steps=steps, seed=arguments.seed)
    metric = arguments.metric or ("fd" if mode == "gan" else "elbo")
    tuning.check_metric(metric)
    search = tuning.Search(
        data=arguments.data,
        preset=arguments.preset,
        mode=mode,
        metric=metric,
        steps=steps,
        space=tuning.read_space(arguments.space, base),
        seed=arguments.seed,
        n=arguments.n,
        split=arguments.split,
    )
    stopped_by = tuning.tune(search, trials=arguments.trials, out=arguments.out, write=say)
    return SIGNAL_CODES[stopped_by]
