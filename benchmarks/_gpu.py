"""What the GPU benchmarks know of the machine: its name, its architecture, and how fast it could be at best."""

import csv
import fcntl
import math
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch
from _harness import ROOT, conditions

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
        "dirty": _dirty() if here["commit"] != "unknown" else "",
    }


def _dirty() -> str:
    """Results do not count: an earlier part may just have written them."""
    command = ["git", "-C", ROOT, "status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results"]
    return str(bool(subprocess.run(command, capture_output=True, text=True).stdout.strip()))


def _driver() -> str:
    if shutil.which("nvidia-smi") is None:
        return "none"
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    lines = subprocess.run(command, capture_output=True, text=True).stdout.split()
    return lines[0] if lines else "unknown"


def append_rows(path: Path, rows: list[dict]) -> None:
    """To a CSV whose header is the first row's keys; other processes may do the same."""
    if not rows:
        return
    with path.open("a", newline="") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        if file.seek(0, os.SEEK_END) == 0:
            writer.writeheader()
        writer.writerows(rows)


def read_rows(path: Path) -> list[dict]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# ------------------------------------------------------------------------------------------------------- arithmetic
@dataclass(frozen=True)
class Work:
    """The least a pass must do: ``flop`` on tensor cores (0 for passes of memory alone) and ``bytes`` of traffic."""

    flop: float
    bytes: float

    def __add__(self, other: "Work") -> "Work":
        return Work(self.flop + other.flop, self.bytes + other.bytes)

    def seconds(self, peaks: dict[str, float], precision: str) -> float:
        return max(self.flop / peaks.get(precision, math.inf), self.bytes / peaks["bytes"])


@dataclass(frozen=True)
class Conv:
    """A convolution with bias and activation on square images; ``size`` and ``into`` are those of its input."""

    transposed: bool
    into: int
    out: int
    size: int
    kernel: int
    stride: int
    padding: int
    activation: str
    output_padding: int = 0

    @property
    def out_size(self) -> int:
        if self.transposed:
            return (self.size - 1) * self.stride - 2 * self.padding + self.kernel + self.output_padding
        return (self.size + 2 * self.padding - self.kernel) // self.stride + 1

    @property
    def op(self) -> str:
        return "conv_transpose2d" if self.transposed else "conv2d"

    def pairs(self) -> int:
        """(input, output) pairs that meet, along one side: taps that fall on the border's zeros are no work."""
        small, large = (self.size, self.out_size) if self.transposed else (self.out_size, self.size)
        places = range(small), range(self.kernel)
        return sum(0 <= i * self.stride - self.padding + t < large for i in places[0] for t in places[1])

    def elements(self, batch: int) -> tuple[int, int, int]:
        """Of x, w and y."""
        return (
            batch * self.size**2 * self.into,
            self.kernel**2 * self.into * self.out,
            batch * self.out_size**2 * self.out,
        )

    def forward(self, batch: int, bytes: int) -> Work:
        """2 FLOP for each pair of pixels and pair of channels; x and w read once, y written once."""
        return Work(2 * batch * self.pairs() ** 2 * self.into * self.out, sum(self.elements(batch)) * bytes)

    def backward(self, batch: int, bytes: int) -> Work:
        """As many FLOP for x as for w; dy, y, x and w read, dx written, dw written in float32."""
        x, w, y = self.elements(batch)
        return Work(2 * self.forward(batch, bytes).flop, (2 * y + 2 * x + w) * bytes + 4 * w)


#: Elements that a loss or a norm must move for one of its input, forward and backward together.
TRAFFIC = {
    "discriminator_loss": 2.0,  # of the two inputs together: each logit read, its gradient written
    "generator_loss": 2.0,
    "binary_cross_entropy_with_logits": 5.0,  # forward input, target; backward the same again, and the gradient
    "binary_cross_entropy": 5.0,
    "reconstruction_loss": 5.0,
    "sample_gaussian": 9.0,  # forward mean, logvar, z; backward mean, logvar, z, dz, and two gradients
    "batch_norm": 8.0,  # forward x for the sums, x again, y; backward x and dy for the sums, again, and dx
}


def elementwise(op: str, elements: int, bytes: int) -> Work:
    return Work(0, TRAFFIC[op] * elements * bytes)
