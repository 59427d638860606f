"""A log of the tests for `make gpu-check`: what ran is not run again, and a broken GPU ends the process.

SDGAN_TEST_LOG names a file of lines {"key": test id, "state": "begin" | "passed" | "failed" | "skipped", ...}. A kernel
that reads where it must not leaves every later call of the process with an error, so the first error of CUDA ends it;
whoever started it starts another one, which goes on behind the last line. SDGAN_TEST_FEW=N keeps the first N cases of
each test.
"""

import json
import os
from collections import Counter
from pathlib import Path

import pytest

LOG = os.environ.get("SDGAN_TEST_LOG")


def write(**record):
    with open(LOG, "a") as file:
        file.write(json.dumps(record) + "\n")


def pytest_collection_modifyitems(config, items):
    known = set()
    if LOG and Path(LOG).exists():
        known = {json.loads(line)["key"] for line in Path(LOG).read_text().splitlines()}
    few, seen = int(os.environ.get("SDGAN_TEST_FEW", 0)), Counter()
    kept, dropped = [], []
    for item in items:
        function = item.nodeid.split("[")[0]
        seen[function] += 1
        (dropped if item.nodeid in known or (few and seen[function] > few) else kept).append(item)
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = kept


if LOG:

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(item):
        write(key=item.nodeid, state="begin")
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(item, call):
        report = yield
        if report.when == "call" or (report.when == "setup" and not report.passed):
            message = "" if report.passed else _last_words(report)
            write(key=item.nodeid, state=report.outcome, seconds=round(report.duration, 3), message=message)
            if report.failed and "CUDA error" in report.longreprtext:
                item.session.shouldstop = "CUDA does not answer any more in this process"
        return report


def _last_words(report):
    if report.skipped:
        return str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
    lines = [line[2:].strip() for line in report.longreprtext.splitlines() if line.startswith("E ")]
    return " ".join(lines)[:300]
