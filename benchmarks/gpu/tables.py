"""Results as CSV files."""

import csv
import fcntl
import os
from pathlib import Path


def append_rows(path: Path, rows: list[dict]) -> None:
    """To a CSV whose header is the first row's keys; other processes may do the same."""
    if not rows:
        return
    with path.open("a", newline="") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        if file.seek(0, os.SEEK_END) == 0:
            writer.writeheader()
        writer.writerows(rows)


def read_rows(path: Path) -> list[dict]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
