"""``sdgan-ext export``: the networks as files that need no sdgan_ext to run."""

from __future__ import annotations

import argparse
from pathlib import Path

from .._files import user_path
from ._common import say
from ._models import add_model, without_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    parser.add_argument("--format", default="onnx", help="onnx, or torch for torch.export.load; onnx unless given")
    parser.add_argument("--out", help="the folder for the files; exported in RUN unless given")


def run(arguments: argparse.Namespace) -> int:
    from ..export import check_format, export_networks
    from ..training.runs import load_model

    check_format(arguments.format)
    out = user_path(arguments.out or Path(arguments.model) / "exported")
    files = export_networks(without_text(load_model(arguments.model), arguments.model), out, arguments.format)
    say(f"{', '.join(file.name for file in files)}: {out}")
    return 0
