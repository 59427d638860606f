"""Generators whose numbers follow from what they are for, and from nothing that was drawn before."""

from __future__ import annotations

import hashlib

import torch

__all__ = ["hashed", "seeded"]


def hashed(*key: int | str) -> int:
    """32 bits of the key. Hashed, for torch's CPU generator keeps no more of its seed, and ``seed + n`` would meet
    another seed's numbers."""
    return int.from_bytes(hashlib.sha256(" ".join(map(str, key)).encode()).digest()[:4], "little")


def seeded(*key: int | str) -> torch.Generator:
    return torch.Generator().manual_seed(hashed(*key))
