"""diffusers' train_autoencoderkl.py, as it is, without the packages that it imports and the comparison does not need.

The script is run by its path, in a process of its own. What it imports beside torch, accelerate, transformers and
diffusers stands in a folder that is made for the run, in a few lines each:

- ``datasets``: ``load_dataset("imagefolder", ...)`` of a folder's PNG files, decoded when they are asked for;
- ``torchvision.transforms``: bytes to [-1, 1]; resizing and cropping leave images of the right size as they are, and
  refuse others;
- ``lpips``: 0, the perceptual term is off on both sides;
- ``taming``: this package's PatchGAN and hinge loss, so that both sides have the same; and a clock at the optimizers.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

STAND_INS = {
    "datasets.py": '''
from pathlib import Path
from PIL import Image

class Images:
    column_names = ["image"]
    def __init__(self, paths, transform=None):
        self.paths, self.transform = paths, transform
    def with_transform(self, transform):
        return Images(self.paths, transform)
    def __len__(self):
        return len(self.paths)
    def __getitem__(self, index):
        with Image.open(self.paths[index]) as image:
            return {name: values[0] for name, values in self.transform({"image": [image]}).items()}

def load_dataset(kind, data_files, cache_dir=None):
    return {"train": Images(sorted(Path(data_files["train"]).parent.glob("*.png")))}
''',
    "torchvision/__init__.py": "from . import transforms\n",
    "torchvision/transforms.py": '''
import numpy
import torch

class InterpolationMode:
    BILINEAR = None

class Compose:
    def __init__(self, steps):
        self.steps = steps
    def __call__(self, x):
        for step in self.steps:
            x = step(x)
        return x

class Resize:
    def __init__(self, size, interpolation=None):
        self.size = size
    def __call__(self, image):
        assert image.size == (self.size, self.size), image.size
        return image

CenterCrop = Resize

class ToTensor:
    def __call__(self, image):
        return torch.from_numpy(numpy.array(image)).permute(2, 0, 1).float() / 255

class Normalize:
    def __init__(self, mean, std):
        self.mean, self.std = mean[0], std[0]
    def __call__(self, x):
        return (x - self.mean) / self.std
''',
    "lpips.py": '''
import torch

class LPIPS(torch.nn.Module):
    def __init__(self, net):
        super().__init__()
    def forward(self, a, b):
        return a.new_zeros(len(a), 1, 1, 1)
''',
    "taming/modules/losses/vqperceptual.py": '''
import atexit, json, os, time
from pathlib import Path
from torch.optim.optimizer import register_optimizer_step_post_hook
import sdgan_ext as sd
from sdgan_ext.training.autoencoder_config import AutoencoderConfig

given = json.loads(os.environ["SDGAN_KL_SCRIPT"])
moments = []  # after each step of an optimizer: the script takes one a step
register_optimizer_step_post_hook(lambda *_: moments.append(time.perf_counter()))
atexit.register(lambda: Path(given["moments"]).write_text(json.dumps(moments)))

class NLayerDiscriminator(sd.models.Discriminator):
    def __init__(self, input_nc, n_layers, use_actnorm):
        super().__init__(AutoencoderConfig.from_dict(given["model"]).for_discriminator())

def hinge_d_loss(real, fake):
    return sd.ops.discriminator_loss(real, fake, "hinge")

def weights_init(module):
    """They are as the network's own class draws them."""

vanilla_d_loss = None  # --disc_loss hinge
''',
}  # fmt: skip

#: diffusers and transformers are imported first: they look for torchvision themselves, and find none. No tracker: the
#: script gives it the list of validation images as a setting, which TensorBoard refuses, and cannot do without a list.
LAUNCH = """
import runpy, sys
import accelerate, diffusers.training_utils, transformers
from diffusers import AutoencoderKL
stand_ins, script, *flags = sys.argv[1:]
sys.path.insert(0, stand_ins)
sys.argv = [script, *flags]
accelerate.Accelerator.init_trackers = lambda *_, **__: None
runpy.run_path(script, run_name="__main__")
"""


def run(script, flags, model, folder, threads):
    """Runs the script to its end.

    Args:
        script: its path.
        flags: of its command line, names to values.
        model: the ``AutoencoderConfig`` that the discriminator is of.
        folder: where the stand-ins, its output and ``output.txt`` go.
        threads: of torch.

    Returns:
        Seconds between the first optimizer step and the last, and the number of steps.
    """
    for name, text in STAND_INS.items():
        path = folder / "stand-ins" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.lstrip())
    moments = folder / "moments.json"
    here = Path(__file__).resolve().parents[1]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join((str(here), os.environ.get("PYTHONPATH", ""))),
        "SDGAN_KL_SCRIPT": json.dumps({"moments": str(moments), "model": model.to_dict()}),
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "ACCELERATE_USE_CPU": "true",
    }
    words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-c", LAUNCH, str(folder / "stand-ins"), str(script), *words]
    with (folder / "output.txt").open("w") as output:
        ran = subprocess.run(command, env=environment, stdout=output, stderr=output)
    if ran.returncode or not moments.exists():
        last = (folder / "output.txt").read_text().strip().splitlines()[-1:]
        raise SystemExit(
            f"{script} ended with exit code {ran.returncode}: {''.join(last)}; all it said is in {output.name}"
        )
    times = json.loads(moments.read_text())
    return times[-1] - times[0], len(times)
