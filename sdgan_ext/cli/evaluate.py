"""``sdgan-ext evaluate``: a table on the screen, and the same as JSON in the run folder."""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from .._errors import ConfigError
from .._files import replacing, to_json, user_path
from ..data import Opened
from ..evaluation import METRICS, NETS, choose_net, evaluate, refusals
from ..evaluation.units import unit_of
from ..training.runs import load_model
from ._common import add_threads, integer, say, set_threads
from ._models import add_data, add_model, open_split, pad_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    optional = [name for name, metric in METRICS.items() if not metric.default]
    add_model(parser)
    parser.add_argument("--split", help="train or test; unless given, test where there is one")
    parser.add_argument(
        "--metrics",
        help=f"a list such as elbo,fd of {', '.join(METRICS)}; all but {', '.join(optional)} unless given",
    )
    parser.add_argument("--n", type=integer, help="images, real and generated; 10000 or all there are unless given")
    parser.add_argument(
        "--k", type=integer, default=200, help="draws of nll's importance-weighted bound; 200 unless given"
    )
    parser.add_argument("--seed", type=integer, default=0, help="of every random choice; 0 unless given")
    parser.add_argument("--net", help="feature net, lenet or photos; by the images unless given")
    parser.add_argument("--json", metavar="FILE", help="where to; the next RUN/evaluation-NNNNN.json unless given")
    add_data(parser)
    add_threads(parser)


def run(arguments: argparse.Namespace) -> int:
    set_threads(arguments)
    model = load_model(arguments.model)
    file = _evaluate(model, open_split(arguments, model.config), arguments)
    say(f"written to {file}")
    return 0


def _evaluate(model: Any, dataset: Opened, arguments: argparse.Namespace) -> Path:
    """Takes the metrics, writes the table and the file; returns the file."""
    wanted = None if arguments.metrics is None else [name for name in arguments.metrics.split(",") if name]
    target = user_path(arguments.json) if arguments.json else None
    if target is not None and not target.parent.is_dir():
        raise ConfigError(f"--json is {arguments.json}; the folder {target.parent} does not exist")
    pad = pad_of(arguments, model.config)
    if wanted is None:
        for name, reason in refusals(model, dataset, n=arguments.n, net=arguments.net, pad=pad).items():
            if METRICS[name].default:
                say(f"{name} is left out: {reason}")
    began = time.perf_counter()
    values = evaluate(
        model, dataset, metrics=wanted, n=arguments.n, seed=arguments.seed, k=arguments.k, net=arguments.net, pad=pad
    )
    print(table(values, arguments.k))
    target = target or _next_file(user_path(arguments.model))
    content = {"metrics": values, "settings": _settings(dataset, arguments, began, pad)}
    with replacing(target) as file:
        file.write((to_json(content, indent=2) + "\n").encode())
    return target


def _next_file(folder: Path) -> Path:
    taken = [
        int(match[1]) for path in folder.iterdir() if (match := re.fullmatch(r"evaluation-(\d+)\.json", path.name))
    ]
    return folder / f"evaluation-{max(taken, default=-1) + 1:05d}.json"


def _settings(dataset: Opened, arguments: argparse.Namespace, began: float, pad: int) -> dict[str, Any]:
    height, width = dataset.image_size
    net = arguments.net or choose_net(dataset.channels, (height - 2 * pad, width - 2 * pad))
    return {
        "model": str(user_path(arguments.model).resolve()),
        "data": arguments.data,
        "split": arguments.split,
        "images": len(dataset),
        "n": arguments.n or min(len(dataset), 10_000),
        "k": arguments.k,
        "pad": pad,
        "seed": arguments.seed,
        "feature_net": {"name": net, "sha256": NETS[net].sha256},
        "seconds": round(time.perf_counter() - began, 1),
        "threads": torch.get_num_threads(),
        "versions": {"sdgan_ext": __version__, "torch": torch.__version__},
    }


def table(values: dict[str, float], k: int) -> str:
    """A line for each metric: its name, its value, what it is."""
    width = max(map(len, values))
    lines = []
    for name, value in values.items():
        lines.append(f"{name:{width}}  {value:>11.4f}  {unit_of(name, k)}".rstrip())
    return "\n".join(lines)
