"""One HTML page about a run: what was trained, on what, how it went, how good it is, how to repeat it.

A run folder is read as it is, by any process, while it is being trained too; nothing in it is changed, and no weights
are loaded. What is missing or damaged there is said on the page.
"""

from __future__ import annotations

from pathlib import Path

from .._files import replacing, user_path
from .facts import read_facts
from .page import page

__all__ = ["write_report"]


def write_report(run: str | Path, out: str | Path | None = None) -> Path:
    """Writes the page, complete or not at all; it needs no other file and no network.

    Args:
        run: the run folder.
        out: the file; ``RUN/report.html`` unless given.

    Returns:
        The file.

    Raises:
        CheckpointError: ``run`` is no run folder, or the file cannot be written.
    """
    facts = read_facts(run)
    target = facts.folder / "report.html" if out is None else user_path(out)
    with replacing(target) as file:
        file.write(page(facts).encode(errors="backslashreplace"))
    return target
