"""Mistakes in latent diffusion, planted by benchmarks/correctness_diffusion.py: each is caught by a number."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import correctness_diffusion as benchmark  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

#: What the right way keeps to: of each number the lowest and the highest.
LIMITS = {
    "latent_std": (0.95, 1.05),
    "distance": (0.0, 0.06),
    "class_std": (0.93, 1.07),
    "agreement": (0.92, 0.96),
    "agreement_guided": (0.995, 1.0),
    "distance_null": (0.0, 0.25),
}
#: The numbers that a mistake must break.
CAUGHT_BY = {
    "latents not scaled in training": ("latent_std", "distance", "class_std"),
    "latents never scaled": ("latent_std",),
    "t reversed": ("distance", "agreement"),
    "null class never trained": ("agreement_guided", "distance_null"),
    "guidance with the wrong sign": ("agreement_guided",),
    "posterior noise lost in the cache": ("latent_std", "distance", "class_std"),
}


def broken(recipe):
    row = benchmark.judge(benchmark.train(recipe, steps=400), recipe)
    assert set(row) == set(LIMITS)
    return {name for name, (low, high) in LIMITS.items() if not low <= row[name] <= high}


def test_the_right_way():
    assert broken(benchmark.RIGHT) == set()


@pytest.mark.parametrize("recipe", benchmark.MISTAKES, ids=lambda recipe: recipe.name)
def test_caught(recipe):
    assert set(CAUGHT_BY[recipe.name]) <= broken(recipe)
