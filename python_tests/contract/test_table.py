"""The documents' tables are those of the registry, and every test that they name is there."""

import os
import re
import subprocess
import sys

from sdgan_ext import ops
from sdgan_ext.ops.reference import DECOMPOSITIONS

from . import peers, table
from .registry import LAYERS, OPERATIONS


def test_the_documents_are_those_of_the_registry():
    assert not table.stale(), f"run `{table.COMMAND}`"


def test_every_op_and_layer_is_in_the_registry():
    others = ("conv_backend", "explain_conv", "get_conv_backend", "kept_filters", "no_weight_gradients", "reference")
    functions = {name for name in ops.__all__ if name not in others}
    assert functions == {op.name for op in OPERATIONS}
    import sdgan_ext.nn as sdnn

    assert set(sdnn.__all__) == {op.name for op in LAYERS}


def test_every_operator_has_a_decomposition():
    """For torch.func and export; gaussian_out writes to a tensor, of which programs have none."""
    schemas = (table.ROOT / "csrc/ops/library.cpp").read_text()
    assert set(re.findall(r'"(\w+)\(', schemas)) == {*DECOMPOSITIONS, "gaussian_out"}


def test_every_named_test_exists():
    named = table.tests()
    files = sorted({test.split("::")[0] for test in named})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "--no-header", "-p", "no:cacheprovider", *files]
    environment = os.environ | {"SDGAN_TEST_DEVICE": "cpu"}  # so that the tests of a GPU are listed where there is none
    ran = subprocess.run(command, cwd=table.ROOT, capture_output=True, text=True, env=environment)
    there = ran.stdout.splitlines()
    assert ran.returncode == 0 and len(there) > 1000, ran.stdout[-2000:] + ran.stderr[-2000:]
    known = {*there, *(test.split("[")[0] for test in there)}
    assert not [test for test in named if test not in known]


def test_every_test_beside_other_projects_exists():
    assert not peers.missing_tests()


def test_every_mark_of_a_peer_rests_on_a_file():
    for row in (row for group in peers.GROUPS.values() for row in group):
        assert row.keys() <= {"what", "ours", *peers.PEERS}, row["what"]
        for name in peers.PEERS.keys() & row.keys():
            assert len(row[name]) in (2, 3) and all(isinstance(word, str) and word for word in row[name]), (row, name)
