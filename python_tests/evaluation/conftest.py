import os
from pathlib import Path

import pytest
import torch

from sdgan_ext.data import load_idx_folder


@pytest.fixture(scope="session")
def mnist():
    """MNIST's test split."""
    folder = Path(os.environ.get("SDGAN_TEST_DATA", "")) / "mnist"
    if not os.environ.get("SDGAN_TEST_DATA") or not folder.is_dir():
        pytest.skip("needs MNIST: SDGAN_TEST_DATA names a folder that holds mnist/*.gz")
    return load_idx_folder(folder, "test")


@pytest.fixture(scope="session")
def noise():
    return torch.randint(0, 256, (300, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
