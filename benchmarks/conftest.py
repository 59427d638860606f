"""pytest's part of `make bench`: the options of _harness.py, a test for every contestant, a CSV of the results."""

import pytest
from _harness import Session, add_options

SESSION = pytest.StashKey[Session]()
EXPECTED = pytest.StashKey[dict[str, int]]()  # rows of each bench file


def pytest_addoption(parser):
    add_options(parser.getgroup("sdgan_ext").addoption)


def pytest_configure(config):
    config.stash[SESSION] = Session(config.option, lambda line: print(line, flush=True))
    config.stash[EXPECTED] = {}


@pytest.fixture(scope="session")
def session(pytestconfig) -> Session:
    return pytestconfig.stash[SESSION]


def pytest_generate_tests(metafunc):
    if "comparison" not in metafunc.fixturenames:
        return
    name, cases = metafunc.function.bench_file
    session, entries = metafunc.config.stash[SESSION], []
    for comparison in session.comparisons(cases):
        threads, case, passes = comparison
        for contestant in case.names_with(session.compile):
            label = f"{case.op} {case.shape} {case.dtype}, {passes}, {threads} threads, {contestant}"
            entries.append(pytest.param(comparison, contestant, id=label))
    metafunc.config.stash[EXPECTED][name] = len(entries)
    metafunc.parametrize(("comparison", "contestant"), entries)


def pytest_runtestloop(session):
    if session.items and not session.config.option.collectonly:
        session.config.stash[SESSION].begin()


def pytest_sessionfinish(session):
    """A bench file of which only a part was asked for, or failed, leaves its CSV as it is."""
    run = session.config.stash[SESSION]
    for name, rows in run.rows.items():
        if len(rows) == session.config.stash[EXPECTED][name]:
            run.finish(name)
