import re

import pytest
import torch


def assert_equal_to_stock(printed: str) -> None:
    assert float(re.search(r"largest difference: (\S+),", printed)[1]) < 1e-3
    assert "the state dict has the same names: True" in printed
    assert "restored, the outputs are stock's bit for bit: True" in printed


def test_unet_is_trained_once_and_then_loaded(run_example, tmp_path):
    flags = ("--checkpoint", "unet.pt", "--steps", "1", "--image-size", "16")
    assert_equal_to_stock(run_example("accelerate_pretrained.py", *flags))
    made = torch.load(tmp_path / "unet.pt", weights_only=True)
    assert_equal_to_stock(run_example("accelerate_pretrained.py", *flags))
    again = torch.load(tmp_path / "unet.pt", weights_only=True)
    assert all(torch.equal(made[name], again[name]) for name in made)


def test_autoencoder_of_diffusers(run_example, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    diffusers.AutoencoderKL(block_out_channels=(16, 32), norm_num_groups=8, **blocks).save_pretrained(tmp_path / "vae")
    flags = ("--model", "autoencoder-kl", "--checkpoint", "vae", "--image-size", "64")
    assert_equal_to_stock(run_example("accelerate_pretrained.py", *flags))
