"""Damaged and hostile files: read, or refused in a printable line; within 5 s and 1 GB, never with changed contents.

``python -m pytest python_tests/fuzz --mutations 50000`` reads more than CI does.
"""

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from random import Random

import pytest

from .formats import FORMATS
from .mutations import STRANGE, changed_tree

TESTS = Path(__file__).parents[1]


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of memory is Linux's")
@pytest.mark.parametrize("name", FORMATS)
def test_mutations(name, pytestconfig, tmp_path):
    count = pytestconfig.getoption("mutations", 2000)  # the option is known where this folder is named
    keep = tmp_path / "kept"
    command = [sys.executable, "-m", "fuzz.worker", name, "0", str(count), "--keep", str(keep)]
    ran = subprocess.run(command, cwd=TESTS, stdout=subprocess.PIPE, text=True)
    assert ran.returncode == 0, "the unchanged files are not read"
    faults = defaultdict(list)
    for line in ran.stdout.splitlines():
        fault = json.loads(line)
        faults[fault["fault"]].append(fault)
    lines = [
        f"{len(alike)} of {count}: {kind}; the first is mutation {alike[0]['number']}, {alike[0]['file']}:\n"
        f"{alike[0]['about']}"
        for kind, alike in faults.items()
    ]
    assert not lines, "\n".join(lines)


def test_a_mutation_is_always_the_same():
    """Its number finds it again, in another process and after others too."""
    for format in FORMATS.values():
        first = [format.mutation(number) for number in range(20)]
        for number in range(500):
            format.mutation(number)
        assert first == [format.mutation(number) for number in range(20)]
        assert len({data for _, data, _ in first}) > 10


def test_changes_leave_the_table_of_strange_values():
    before = repr(STRANGE)
    for number in range(2000):
        changed_tree(Random(number), {"a": {"b": [1, 2]}, "c": [3]}, lambda rng: STRANGE[rng.randrange(len(STRANGE))])
    assert repr(STRANGE) == before
