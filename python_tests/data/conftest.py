import os
from contextlib import contextmanager
from pathlib import Path

import pytest

from sdgan_ext._errors import DataError

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def refused():
    """``with refused("a", "b"):`` expects one DataError of one sentence that holds each of these words."""

    @contextmanager
    def check(*words):
        with pytest.raises(DataError) as caught:
            yield
        message = str(caught.value)
        assert "\n" not in message and not message.endswith(".") and ". " not in message.replace("...", ""), message
        assert caught.value.__cause__ is None
        for word in words:
            assert str(word) in message, message

    return check


@pytest.fixture(scope="session")
def real_data():
    """The folder of real data (see its README.md)."""
    folder = Path(os.environ.get("SDGAN_TEST_DATA") or REPOSITORY.parent / "shared" / "data")
    if not (folder / "mnist").is_dir():
        pytest.skip(f"no real data in {folder}: set SDGAN_TEST_DATA to a folder that holds mnist/*.gz")
    return folder
