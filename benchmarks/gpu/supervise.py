"""Runs a command that may crash or hang, and starts it again behind what broke it.

The command keeps a journal, a file of lines {"key": ..., "state": "begin"} and {"key": ..., "state": "passed",
"failed" or "skipped", "message": ...}; started anew, it leaves out the keys that it finds there. So one kernel that
breaks the GPU's context costs one key.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

RUNNING: set[subprocess.Popen] = set()
OUT_OF_TIME = "its time was up"
ENDED = ("passed", "failed", "skipped", "crashed")


class Journal:
    def __init__(self, path: Path):
        self.path = path

    def write(self, key: str, state: str, **more) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps({"key": key, "state": state, **more}) + "\n")

    def records(self) -> dict[str, dict]:
        """The last one of each key; a line that a kill cut short does not count."""
        records = {}
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        for line in lines:
            try:
                record = json.loads(line)
            except ValueError:
                continue
            records[record["key"]] = record
        return records

    def open_keys(self) -> list[str]:
        return [key for key, record in self.records().items() if record["state"] not in ENDED]

    def count(self, state: str) -> int:
        return sum(record["state"] == state for record in self.records().values())


@dataclass
class Outcome:
    """``finished``: the command came to its own end, with ``code``. ``why`` not, in words."""

    finished: bool
    why: str = ""
    code: int = -1
    seconds: float = 0.0
    restarts: int = 0
    crashed: list[str] = field(default_factory=list)


def supervise(
    command: list,
    journal: Journal,
    log: Path,
    *,
    deadline: float,
    stall: float = 90.0,
    fine: Iterable[int] = (0,),
    env: dict | None = None,
    restarts: int = 6,
) -> Outcome:
    """Runs ``command`` until it ends with a code in ``fine``, or ``time.monotonic()`` passes ``deadline``.

    Args:
        log: receives what it prints.
        stall: seconds after which a journal that does not grow means that it hangs.
        restarts: how often it is started again after a crash or a hang.
    """
    start = time.monotonic()
    outcome = Outcome(False)
    while True:
        before = len(journal.records())
        code, why = _run(command, journal, log, deadline, stall, env)
        outcome.code, outcome.seconds = code, time.monotonic() - start
        left = journal.open_keys()
        if why != "time":
            for key in left:
                last = _last_line(log)
                journal.write(key, "crashed", message=f"{why or f'exit code {code}'}; {last}"[:300])
            outcome.crashed += left
        if why == "time":
            for key in left:
                journal.write(key, "skipped", message="the time was up")
            outcome.why = OUT_OF_TIME
        elif code in fine:
            outcome.finished = True
        elif len(journal.records()) == before:
            outcome.why = f"exit code {code}: {_last_line(log)}"
        elif outcome.restarts == restarts:
            outcome.why = f"it was started {restarts + 1} times"
        else:
            outcome.restarts += 1
            continue
        return outcome


def _run(command, journal, log, deadline, stall, env) -> tuple[int, str]:
    grown = time.monotonic()
    size = -1
    with log.open("ab") as file:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdout=file,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **(env or {})},
            **({"process_group": 0} if sys.version_info >= (3, 11) else {"start_new_session": True}),
        )
        RUNNING.add(process)
        try:
            while process.poll() is None:
                time.sleep(0.1)
                now = time.monotonic()
                current = journal.path.stat().st_size if journal.path.exists() else 0
                if current != size:
                    size, grown = current, now
                if now > deadline:
                    return -1, "time"
                if now - grown > stall:
                    return -1, f"nothing happened for {stall:.0f} s"
        finally:
            _end(process)
            RUNNING.discard(process)
    return process.returncode, ""


def _end(process: subprocess.Popen) -> None:
    """It and what it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def end_all() -> None:
    """Whatever runs; for a process that must go itself."""
    for process in list(RUNNING):
        _end(process)


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:200] if lines else ""
