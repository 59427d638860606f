import importlib.util
import os
import sys

import pytest
import torch

if path := os.environ.get("SDGAN_TEST_NATIVE"):  # another build of sdgan_ext._C, see csrc/tests/cuda_on_host
    spec = importlib.util.spec_from_file_location("sdgan_ext._C", path)
    sys.modules["sdgan_ext._C"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["sdgan_ext._C"])

torch.backends.cudnn.allow_tf32 = False  # float32 is float32 here; the tests of tf32 ask for it


@pytest.fixture(scope="module")
def one_thread():
    """For tiny tensors: threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
