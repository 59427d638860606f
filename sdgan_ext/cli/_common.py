"""What every command has in common: its parser, its exit code, the environment, --threads."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from .. import _env
from .._errors import ConfigError, nearest, printable, shown

__all__ = ["SIGNAL_CODES", "Parser", "Version", "add_threads", "check_environment", "integer"]
__all__ += ["memory_sentence", "say", "set_threads"]

_MOST_THREADS = 1024

#: The exit code by the signal that ended a command early, None: no signal did.
SIGNAL_CODES = {None: 0, "SIGHUP": 129, "SIGINT": 130, "SIGTERM": 143}


class Parser(argparse.ArgumentParser):
    """argparse whose complaints are a ConfigError, with the nearest name of a flag that is not there."""

    def __init__(self, prog: str, description: str, **options: Any):
        super().__init__(
            prog=prog,
            description=description,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **options,
        )

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        arguments, unknown = self.parse_known_args(argv)
        flags = [word for word in unknown if word.startswith("-")]
        if flags:
            name = flags[0].partition("=")[0]
            raise ConfigError(f"{name} is not a flag of {self.prog}{nearest(name, self._option_string_actions)}")
        if unknown:
            raise ConfigError(f"{unknown[0]!r} is one argument too many; see {self.prog} --help")
        return arguments

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help")


class Version(argparse.Action):
    """Reads the version only when it is asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str):
        super().__init__(option_strings, dest, nargs=0, help="print the version and leave")

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        import sdgan_ext

        print(f"sdgan_ext {sdgan_ext.__version__}")
        parser.exit()


def check_environment() -> None:
    """A variable with a value that is not allowed is a user's mistake too; read later, it would be a traceback."""
    for read in (
        _env.conv_backend,
        _env.cpu_isa,
        _env.peer_timeout,
    ):  # the folder of data is looked for where it is needed
        try:
            read()
        except ValueError as error:
            raise ConfigError(str(error)) from None


def add_threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=integer, metavar="N", help="CPU threads; torch's choice unless given")


def set_threads(arguments: argparse.Namespace) -> None:
    if arguments.threads is None:
        return
    if not 1 <= arguments.threads <= _MOST_THREADS:
        raise ConfigError(
            f"--threads is {shown(arguments.threads)}; it must be at least 1, and at most {_MOST_THREADS:,}"
        )
    import torch

    torch.set_num_threads(arguments.threads)


def integer(text: str) -> int:
    """The value of a flag that takes an integer, of 64 bits, as torch and numpy take it."""
    try:
        value = int(text)
    except ValueError:  # no integer, or one of more digits than Python reads
        raise argparse.ArgumentTypeError(f"invalid int value: {shown(text)}") from None
    if abs(value) >= 2**63:
        raise argparse.ArgumentTypeError(f"{shown(value)} is too large; it must be below 2^63")
    return value


def memory_sentence(error: Exception) -> str | None:
    """What to say of an error for want of memory, Python's or torch's, on the CPU or a GPU; None: of another error."""
    asked = re.search(r"tried to allocate ([\d.]+ \w+)", str(error), re.IGNORECASE)
    if asked is None and not isinstance(error, MemoryError):
        return None
    amount = f", {asked[1]} were asked for at once" if asked else ""
    return f"there is not enough memory{amount}; a smaller model, batch or image takes less"


def say(line: str) -> None:
    """Prints a line at once, also where stdout is a file or a pipe; a name in it does not end it."""
    print(printable(line), flush=True)
