"""Generators whose numbers follow from what they are for, and from nothing that was drawn before."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

__all__ = ["hashed", "seeded", "uniforms"]


def hashed(*key: int | str) -> int:
    """32 bits of the key. Hashed, for torch's CPU generator keeps no more of its seed, and ``seed + n`` would meet
    another seed's numbers."""
    return int.from_bytes(hashlib.sha256(" ".join(map(str, key)).encode()).digest()[:4], "little")


def seeded(*key: int | str) -> torch.Generator:
    return torch.Generator().manual_seed(hashed(*key))


def uniforms(seed: int, indices: np.ndarray, count: int) -> np.ndarray:
    """float64 [count, B] in [0, 1): SplitMix64 (Steele, Lea, Flood 2014) of (seed, index, k)."""
    start = _mix(indices * np.uint64(0x9E3779B97F4A7C15) + _mix(np.array([seed & (2**64 - 1)], np.uint64)))
    step = np.arange(1, count + 1, dtype=np.uint64)[:, None] * np.uint64(0x9E3779B97F4A7C15)
    drawn: np.ndarray = (_mix(start[None] + step) >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return drawn


def _mix(bits: np.ndarray) -> np.ndarray:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    bits = bits ^ (bits >> np.uint64(31))
    return bits
