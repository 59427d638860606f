"""What the benchmarks must show, and whether they do: ratios of medians over stock PyTorch."""

import csv
import math
import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Goal:
    """``shape`` is a regular expression; every comparison that it matches must reach ``ratio`` over ``over``."""

    name: str
    op: str
    shape: str
    passes: str
    ratio: float
    over: str = "channels_last"
    dtype: str = "float32"


FORWARD, BOTH, STEP = "forward", "forward + backward", "step"
CONV_T_4 = r"(16|32) x (512->256 4x4 s2 @8|256->128 4x4 s2 @16|128->64 4x4 s2 @32) relu"
CONVS = r"(16|32|64) x (64->128|128->256|256->512) [45]x[45] s2 .*|64 x 128->128 5x5 s2 @14 relu"
SD_DECODER = r"sd15-decoder (256|512) px, batch 1"
UPSAMPLED = r"1 x (512->512 3x3 s1 @64|256->256 3x3 s1 @128)"
GOALS = [
    Goal("ConvT 4x4 s2, 512-256-128-64", "conv_transpose2d", CONV_T_4, FORWARD, 1.5),
    Goal("ConvT 4x4 s2, 512-256-128-64", "conv_transpose2d", CONV_T_4, BOTH, 1.35),
    Goal("ConvT 5x5 s2, 128-128 @7", "conv_transpose2d", r"64 x 128->128 5x5 s2 @7 relu", FORWARD, 1.3),
    Goal("ConvT 5x5 s2, 128-128 @7", "conv_transpose2d", r"64 x 128->128 5x5 s2 @7 relu", BOTH, 1.25),
    Goal("ConvT 5x5 s2, 128-128 @14", "conv_transpose2d", r"64 x 128->128 5x5 s2 @14 relu", FORWARD, 1.7),
    Goal("ConvT 5x5 s2, 128-128 @14", "conv_transpose2d", r"64 x 128->128 5x5 s2 @14 relu", BOTH, 1.45),
    Goal("Conv s2 of discriminators, 64-512", "conv2d", CONVS, BOTH, 1.25),
    Goal("Conv 5x5, 128-1", "conv2d", r"64 x 128->1 5x5 .*", BOTH, 4),
    Goal("ConvT 4x4 s2, 64-3, tanh", "conv_transpose2d", r"\d+ x 64->3 4x4 .*", BOTH, 4),
    Goal("Upsampling + conv 3x3, 512 @64, 256 @128", "upsample_conv2d", UPSAMPLED, FORWARD, 3.3),
    Goal("Upsampling + conv 3x3, 512 @64, 256 @128", "upsample_conv2d", UPSAMPLED, BOTH, 2.2),
    Goal("D loss, n 64 and 512", "discriminator_loss", r"(64|512)x1 non_saturating", BOTH, 2.7, "eager"),
    Goal("D loss, n 4M", "discriminator_loss", r"4194304x1 non_saturating", BOTH, 4.5, "eager"),
    Goal("D loss, n 64 and 512", "discriminator_loss", r"(64|512)x1 non_saturating", BOTH, 3.8, "compile"),
    Goal("D loss, n 4M", "discriminator_loss", r"4194304x1 non_saturating", BOTH, 2.0, "compile"),
    Goal("sample_gaussian, 65536x128", "sample_gaussian", r"65536x128", BOTH, 6, "eager"),
    Goal("VAE-GAN step, seed, batch 64", "train_step", r"seed, batch 64", STEP, 1.5, "eager"),
    Goal("VAE-GAN step, seed, batch 64", "train_step", r"seed, batch 64", STEP, 1.4),
    Goal("VAE-GAN step, dcgan-64, batch 16", "train_step", r"dcgan-64, batch 16", STEP, 1.3),
    Goal("Critic step, R1 or WGAN-GP", "penalty", r".*", STEP, 1.0, "eager"),
    Goal("Critic step, R1 or WGAN-GP", "penalty", r".*", STEP, 1.0),
    Goal("SD decoder, 256 and 512 px", "autoencoder", SD_DECODER, FORWARD, 2.2),
    Goal("SD decoder, 256 and 512 px", "autoencoder", SD_DECODER, FORWARD, 1.9, "best_other"),
    Goal("SD decoder, high", "autoencoder", SD_DECODER, FORWARD, 2.8, dtype="float32 high"),
    Goal("SD decoder, high", "autoencoder", SD_DECODER, FORWARD, 2.4, "best_other", "float32 high"),
    Goal("SD decoder, bfloat16", "autoencoder", SD_DECODER, FORWARD, 1.25, dtype="bfloat16"),
    Goal("SD decoder, bfloat16", "autoencoder", SD_DECODER, FORWARD, 1.15, "best_other", "bfloat16"),
    Goal("TAESD decoder, 512 px", "autoencoder", r"taesd-decoder 512 px, batch 1", FORWARD, 1.8),
    Goal("TAESD decoder, 512 px", "autoencoder", r"taesd-decoder 512 px, batch 1", FORWARD, 1.4, "best_other"),
    Goal("AutoencoderKL step, 128 px", "autoencoder", r"kl-step 128 px, batch 2", STEP, 1.9),
    Goal("diffusers' U-Net step, 64-128", "autoencoder", r"unet-step 16 px, batch (8|64)", STEP, 1.45),
]


@dataclass(frozen=True)
class Verdict:
    goal: Goal
    ratios: list[float]

    @property
    def mean(self) -> float:
        return math.exp(sum(map(math.log, self.ratios)) / len(self.ratios))

    @property
    def met(self) -> bool:
        return min(self.ratios) >= self.goal.ratio

    def __str__(self) -> str:
        goal = self.goal
        name = f"{goal.name}, {goal.passes}, over {goal.over.replace('_', ' ')}"
        if not self.ratios:
            return f"{name:78}{goal.ratio:5}   not measured"
        low, high = min(self.ratios), max(self.ratios)
        got = f"{low:.2f}" + (f" to {high:.2f}" if len(self.ratios) > 1 else "")
        return f"{name:78}{goal.ratio:5}   {got:14}{'met' if self.met else 'missed'}"


def read_results(folder: Path) -> dict[str, list[dict[str, str]]]:
    """The rows of every bench_*.csv with the columns of _harness.py, but for contestants that have no figures."""
    tables = {}
    for path in sorted(folder.glob("bench_*.csv")):
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        if rows and {"passes", "over_channels_last", "threads"} <= rows[0].keys():
            tables[path.stem] = [row for row in rows if row["median_us"]]
    return tables


def judge(rows: list[dict[str, str]], goals: list[Goal] = GOALS) -> list[Verdict]:
    """With the most threads that were measured."""
    most = max((int(row["threads"]) for row in rows), default=0)
    rows = [row for row in rows if row["contestant"] == "sdgan_ext" and int(row["threads"]) == most]
    verdicts = []
    for goal in goals:
        key = (goal.op, goal.passes, goal.dtype)
        fitting = [row for row in rows if (row["op"], row["passes"], row["dtype"]) == key]
        ratios = [row[f"over_{goal.over}"] for row in fitting if re.fullmatch(goal.shape, row["shape"])]
        verdicts.append(Verdict(goal, [float(ratio) for ratio in ratios if ratio]))
    return verdicts


def ratio_of(row: dict[str, str]) -> float | None:
    """Of a contestant of ours over the stock one that a user would have instead; None for others."""
    if not row["contestant"].startswith("sdgan_ext"):
        return None
    over = row["over_eager"] if row["contestant"].endswith("NCHW") else row["over_channels_last"] or row["over_eager"]
    return float(over)


def slower(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """The rows of ours that stock PyTorch is faster than, the slowest first."""
    below = [row for row in rows if (ratio_of(row) or 1) < 1]
    return sorted(below, key=ratio_of)
