"""``sdgan-ext evaluate``: a table on the screen, and the same as JSON in the run folder."""

from __future__ import annotations

import argparse
import os
import re
import time
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from .._errors import ConfigError
from .._files import replacing, to_json, user_path
from ..data import Opened
from ..evaluation import METRICS, NETS, choose_net, refusals
from ..evaluation.evaluate import default_metrics, images_taken, prepare, take
from ..evaluation.units import unit_of
from ._common import add_threads, integer, say, set_threads
from ._models import add_autoencoder, add_data, add_model, folder_of, load, open_split, pad_of
from ._sheet import TIMES, save_sheet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    optional = [name for name, metric in METRICS.items() if not metric.default]
    add_model(parser)
    parser.add_argument("--split", help="train or test; unless given, test where there is one")
    parser.add_argument(
        "--metrics",
        help=f"a list such as elbo,fd of {', '.join(METRICS)}; all but {', '.join(optional)} unless given, of an "
        "AutoencoderKL errors,rfd,latents",
    )
    parser.add_argument(
        "--n", type=integer, help="images, real and generated; 10000, fewer of large ones, or all unless given"
    )
    parser.add_argument(
        "--k", type=integer, default=200, help="draws of nll's importance-weighted bound; 200 unless given"
    )
    parser.add_argument("--seed", type=integer, default=0, help="of every random choice; 0 unless given")
    parser.add_argument("--net", help="feature net, lenet or photos; by the images unless given")
    parser.add_argument("--json", metavar="FILE", help="where to; the next RUN/evaluation-NNNNN.json unless given")
    parser.add_argument(
        "--sheet",
        metavar="FILE.png",
        help=f"a picture of images, their reconstructions and the differences times {TIMES}: those of the lowest "
        "PSNR, those about the median, and others",
    )
    add_data(parser)
    add_autoencoder(parser)
    add_threads(parser)


def run(arguments: argparse.Namespace) -> int:
    set_threads(arguments)
    model = load(arguments)
    file = _evaluate(model, open_split(arguments, model.config), arguments)
    say(f"written to {file}")
    return 0


def _evaluate(model: Any, dataset: Opened, arguments: argparse.Namespace) -> Path:
    """Takes the metrics, writes the table and the files; returns that of the numbers."""
    wanted = None if arguments.metrics is None else [name for name in arguments.metrics.split(",") if name]
    target = _named(arguments.json, "--json")
    sheet = _named(arguments.sheet, "--sheet")
    if sheet is not None and model.encoder is None:
        raise ConfigError(f"the model in {arguments.model} has no encoder, so there is nothing for --sheet")
    folder = folder_of(arguments)
    if target is None and not os.access(folder, os.W_OK):
        raise ConfigError(f"{folder} cannot be written to; --json FILE says where the numbers go")
    pad = pad_of(arguments, model.config)
    if wanted is None:
        refused = refusals(model, dataset, n=arguments.n, net=arguments.net, pad=pad)
        for name in default_metrics(model):
            if name in refused:
                say(f"{name} is left out: {refused[name]}")
    began = time.perf_counter()
    settings = {"n": arguments.n, "seed": arguments.seed, "k": arguments.k, "net": arguments.net, "pad": pad}
    context, names = prepare(model, dataset, metrics=wanted, **settings)
    values = take(context, names)
    print(table(values, arguments.k))
    target = target or _next_file(folder)
    content = {"metrics": values, "settings": _settings(dataset, arguments, began, pad)}
    with replacing(target) as file:
        file.write((to_json(content, indent=2) + "\n").encode())
    if sheet is not None:
        say(save_sheet(sheet, context.real, context.reconstructions))
    return target


def _named(path: str | None, flag: str) -> Path | None:
    """The file that a flag names, in a folder that is there."""
    if path is None:
        return None
    target = user_path(path)
    if not target.parent.is_dir():
        raise ConfigError(f"{flag} is {path}; the folder {target.parent} does not exist")
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
        "n": images_taken(dataset, arguments.n),
        "k": arguments.k,
        "pad": pad,
        "seed": arguments.seed,
        "feature_net": {"name": net, "sha256": NETS[net].sha256},
        "seconds": round(time.perf_counter() - began, 1),
        "threads": torch.get_num_threads(),
        "versions": {"sdgan_ext": __version__, "torch": torch.__version__},
    }


def table(values: dict[str, float], k: int) -> str:
    """A line for each metric: its name, its value, what it is; the channels of one in a line."""
    width = max(map(len, values))
    lines: list[str] = []
    channels: dict[str, list[str]] = {}
    for name, value in values.items():
        if match := re.fullmatch(r"(latent_[a-z]+)_\d+", name):
            channels.setdefault(match[1], []).append(f"{value:.4g}")
        else:
            lines.append(f"{name:{width}}  {value:>11.4f}  {unit_of(name, k)}".rstrip())
    lines += [f"{name:{width}}  by channel: {'  '.join(numbers)}" for name, numbers in channels.items()]
    return "\n".join(lines)
