"""A wheel's smoke test, run by the Python that it is installed in: python smoke.py

Every operator against its reference (``sdgan_ext doctor``), then two steps of a training and a page
about it; prints which torch it was.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import torch

import sdgan_ext as sd

TRAIN = "train --preset mnist-small --data digits --steps 2 --out runs"


def command(arguments: str, folder: str) -> None:
    subprocess.run([sys.executable, "-m", "sdgan_ext", *arguments.split()], cwd=folder, check=True)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        command("doctor", folder)
        command(TRAIN, folder)
        (run,) = Path(folder, "runs").iterdir()
        command(f"report {run}", folder)
        assert "2 of 2" in (run / "report.html").read_text()
        images = sd.VAEGAN.from_pretrained(run / "model").sample(4, seed=0)
        assert images.shape == (4, 1, 28, 28) and images.isfinite().all()
    info = sd.build_info()
    print(f"sdgan_ext {info['version']} works with torch {torch.__version__}; CUDA: {info['cuda_reason']}")


if __name__ == "__main__":
    main()
