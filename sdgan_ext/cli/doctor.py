"""``sdgan-ext doctor``: whether this installation works."""

from __future__ import annotations

import argparse

from ._common import add_threads, say, set_threads


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_threads(parser)


def run(arguments: argparse.Namespace) -> int:
    from ..doctor import examine

    set_threads(arguments)
    return 0 if examine(say) else 1
