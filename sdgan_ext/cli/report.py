"""``sdgan-ext report``: a page about a run."""

from __future__ import annotations

import argparse

from ._common import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", metavar="RUN", help="a run folder; one that is still being trained, or broke off, too")
    parser.add_argument("--out", metavar="FILE", help="the page; RUN/report.html unless given")


def run(arguments: argparse.Namespace) -> int:
    from ..report import write_report

    say(f"written to {write_report(arguments.run, arguments.out)}")
    return 0
