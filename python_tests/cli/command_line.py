"""What the tests of the commands have in common."""

import os

from sdgan_ext import cli
from sdgan_ext.cli import main

TINY = [
    *("--steps", "4", "--batch-size", "4", "--latent-dim", "4", "--encoder-channels", "4", "--log-every", "2"),
    *("--generator-channels", "4", "--discriminator-channels", "4,", "--feature-layer", "0", "--checkpoint-every", "2"),
]
#: The folder that holds the package.
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(cli.__file__))))


def refused(capsys, *argv, code=2):
    """The one sentence that the command line ``argv`` is refused with."""
    capsys.readouterr()
    assert main([str(word) for word in argv]) == code
    streams = capsys.readouterr()
    (line,) = streams.err.splitlines()
    assert line.startswith("sdgan-ext: ")
    return line


def weights(run):
    return (run / "model" / "model.safetensors").read_bytes()
