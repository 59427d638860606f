"""What the GPU benchmarks know of the machine: its name, its architecture, and how fast it could be at best."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass

import torch
from _harness import conditions

#: What a card does at best, in FLOP/s and bytes/s. H200: measured, 8192^3 products of random bfloat16 and a copy of
#: 8.6 GB, read and written; TF32 taken as half. H100: the same processor; bandwidth from its data sheet.
PEAKS = {
    "h200": {"bf16": 790e12, "tf32": 395e12, "bytes": 4.3e12},
    "h100": {"bf16": 790e12, "tf32": 395e12, "bytes": 3.35e12},
}


@dataclass(frozen=True)
class Machine:
    """
    Attributes:
        device: "cuda", or "cpu" in a rehearsal.
        slug: what its results are called after: "h200".
        arch: for TORCH_CUDA_ARCH_LIST: "9.0a".
    """

    device: str
    name: str
    slug: str
    arch: str

    @property
    def peaks(self) -> dict[str, float] | None:
        return PEAKS.get(self.slug)


def find_machine(rehearse: bool) -> Machine | None:
    """None where there is no GPU and none is pretended."""
    if rehearse:
        return Machine("cpu", "no GPU: a rehearsal", "rehearsal", "")
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    return Machine("cuda", name, slug_of(name), arch_of(torch.cuda.get_device_capability()))


def slug_of(name: str) -> str:
    """ "NVIDIA H100 80GB HBM3" -> "h100", "NVIDIA GeForce RTX 4090" -> "rtx-4090"."""
    words = [w for w in re.findall(r"[a-z0-9]+", name.lower()) if w not in ("nvidia", "geforce", "tesla", "graphics")]
    if words and re.fullmatch(r"[a-z]+\d+", words[0]):
        return words[0]
    return "-".join(words[:2]) or "gpu"


def arch_of(capability: tuple[int, int]) -> str:
    """With ``a`` where wgmma and TMA are an architecture's own."""
    major, minor = capability
    return f"{major}.{minor}" + ("a" if capability == (9, 0) else "")


def gpu_conditions(machine: Machine) -> dict[str, str]:
    """The columns that end every row. COMMIT stands for git's where the sources lie without it."""
    here = conditions()
    return {
        "gpu": machine.name,
        "torch": here["torch"],
        "cuda": torch.version.cuda or "none",
        "driver": _driver(),
        "commit": os.environ.get("COMMIT") or here["commit"],
        "dirty": here["dirty"],
    }


def _driver() -> str:
    if shutil.which("nvidia-smi") is None:
        return "none"
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    lines = subprocess.run(command, capture_output=True, text=True).stdout.split()
    return lines[0] if lines else "unknown"
