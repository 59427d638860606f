"""Reads mutations, with limits of time and memory: ``python -m fuzz.worker FORMAT FIRST STOP [--keep FOLDER]``.

Run it in python_tests. Each fault is a line of JSON on stdout; the file that it comes from is kept in FOLDER.
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import mmap
import os
import resource
import shutil
import signal
import struct
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import Any

import torch

import sdgan_ext
from sdgan_ext._errors import SdganError

from .formats import FORMATS, Format

SECONDS, WALL_SECONDS, BYTES = 5, 60, 2**30  # of the CPU's time, as the machine may do other work; of memory
NAME = "\x1b[31mred\nline"  # of a folder, which every message that names it must escape
PACKAGE = str(Path(sdgan_ext.__file__).parent)


def contents(value: Any) -> Any:
    """Nested tuples with the bits of every tensor in them."""
    if isinstance(value, torch.Tensor):
        if value.is_meta or value.layout is not torch.strided:
            raise AssertionError(f"a tensor that has no values, {value.layout} on {value.device}, is taken")
        return str(value.dtype), tuple(value.shape), value.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    if isinstance(value, dict):
        return tuple((key, contents(value[key])) for key in value)
    return tuple(map(contents, value)) if isinstance(value, (list, tuple)) else value


def one_line(text: str) -> bool:
    return text.isprintable() and 0 < len(text) <= 1000


class Reader:
    """Reads the mutations of a format in a folder of its own."""

    def __init__(self, format: Format, place: Path):
        self.format = format
        self.folders = [place / f"{n}" for n in range(len(format.seeds))]
        self.values = []
        for seed, folder in zip(format.seeds, self.folders, strict=True):
            for name, content in seed.files.items():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(content)
            self.values.append(contents(format.read(folder)))

    def file(self, number: int) -> Path:
        which, data, _ = self.format.mutation(number)
        path = self.folders[which] / self.format.seeds[which].target
        path.write_bytes(data)
        return path

    def fault(self, number: int) -> tuple[str, str] | None:
        """What is wrong with how a mutation is read: a line that is the same for the same fault, and all about it."""
        which, data, rewritten = self.format.mutation(number)
        folder = self.folders[which]
        (folder / self.format.seeds[which].target).write_bytes(data)
        value = None
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                value = contents(self.format.read(folder))
            except SdganError as error:
                if not one_line(str(error)):
                    return "a message that is not one printable line", repr(str(error))
            except BaseException as error:
                frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(PACKAGE)]
                place = f"{Path(frames[-1].filename).relative_to(PACKAGE)}, {frames[-1].name}" if frames else "the test"
                return f"{type(error).__name__} in {place}", traceback.format_exc()
        for warning in said:
            if not one_line(str(warning.message)):
                return "a warning that is not one printable line", repr(str(warning.message))
        warned = any(issubclass(warning.category, UserWarning) for warning in said)
        if rewritten and (not self.format.signed or warned):
            return None
        if value is not None and self.format.checked and value not in self.values:
            return "changed contents are read without a word", ""
        return None


def limit_memory() -> None:
    """:data:`BYTES` more than the process has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * mmap.PAGESIZE + BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("format", choices=FORMATS)
    parser.add_argument("first", type=int)
    parser.add_argument("stop", type=int)
    parser.add_argument("--keep", type=Path, default=Path("build/fuzz"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    format = FORMATS[arguments.format]
    at = mmap.mmap(-1, 8)  # the number that a process which has died was reading

    with tempfile.TemporaryDirectory() as place, tempfile.TemporaryFile("w+") as log:
        reader = Reader(format, Path(place) / NAME)

        def report(number: int, fault: str, about: str) -> None:
            arguments.keep.mkdir(parents=True, exist_ok=True)
            kept = arguments.keep / f"{format.name.split(',')[0].split()[-1].strip('-')}-{number}"
            shutil.copy(reader.file(number), kept)
            print(json.dumps({"number": number, "fault": fault, "about": about[-3000:], "file": str(kept)}), flush=True)

        first = arguments.first
        while first < arguments.stop:
            child = os.fork()
            if not child:
                faulthandler.enable(log)
                faulthandler.register(signal.SIGPROF, log, chain=True)  # after which it ends the process
                limit_memory()
                for number in range(first, arguments.stop):
                    at[:] = struct.pack("<q", number)
                    signal.setitimer(signal.ITIMER_PROF, SECONDS)
                    faulthandler.dump_traceback_later(WALL_SECONDS, exit=True, file=log)
                    found = reader.fault(number)
                    faulthandler.cancel_dump_traceback_later()
                    signal.setitimer(signal.ITIMER_PROF, 0)
                    if found:
                        report(number, *found)
                os._exit(0)
            _, status = os.waitpid(child, 0)
            if not status:
                break
            number = struct.unpack("<q", at[:])[0]
            log.seek(0)
            slow = not os.WIFSIGNALED(status) or os.WTERMSIG(status) == signal.SIGPROF
            how = f"takes more than {SECONDS} s" if slow else f"dies of signal {os.WTERMSIG(status)}"
            report(number, how, log.read())
            log.seek(0)
            log.truncate()
            first = number + 1


if __name__ == "__main__":
    main()
