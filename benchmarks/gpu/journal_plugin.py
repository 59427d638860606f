"""A plugin that lets pytest keep a journal (supervise.py): `pytest -p gpu.journal_plugin --journal FILE [--few N]`.

Tests that stand in the journal are not run again. A kernel that reads where it must not leaves every later call of the
process with an error, so the first error of CUDA ends the session. --few keeps the first N cases of each test.
"""

from collections import Counter
from pathlib import Path

import pytest

from .supervise import Journal


def pytest_addoption(parser):
    parser.addoption("--journal", type=Path)
    parser.addoption("--few", type=int, default=0)


def pytest_collection_modifyitems(config, items):
    known = Journal(config.getoption("journal")).records()
    few, seen = config.getoption("few"), Counter()
    kept, dropped = [], []
    for item in items:
        function = item.nodeid.split("[")[0]
        seen[function] += 1
        (dropped if item.nodeid in known or few and seen[function] > few else kept).append(item)
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = kept


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    Journal(item.config.getoption("journal")).write(item.nodeid, "begin")
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.when == "call" or not report.passed:
        journal = Journal(item.config.getoption("journal"))
        journal.write(item.nodeid, report.outcome, seconds=round(report.duration, 3), message=_last_words(report))
        if report.failed and "CUDA error" in report.longreprtext:
            item.session.shouldstop = "CUDA does not answer any more in this process"
    return report


def pytest_collectreport(report):
    """A file whose import skips has no test that could say so."""
    if report.skipped:
        print(f"{report.nodeid} skipped: {report.longrepr[2]}")


def _last_words(report):
    if report.passed:
        return ""
    if report.skipped:
        return str(report.longrepr[2] if isinstance(report.longrepr, tuple) else "expected to fail")
    lines = [line[2:].strip() for line in report.longreprtext.splitlines() if line.startswith("E ")]
    return " ".join(lines)[:300]
