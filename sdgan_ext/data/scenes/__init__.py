"""Scenes of one to three coloured digits with captions in English and Chinese, endless and deterministic."""

from sdgan_ext.data.scenes.compose import ATTRIBUTES, Spot
from sdgan_ext.data.scenes.dataset import DigitScenes
from sdgan_ext.data.scenes.grammar import LANGUAGES, describe, parse
from sdgan_ext.data.scenes.pool import SPLITS
from sdgan_ext.data.scenes.scene import (
    COLOURS,
    GROUNDS,
    PLACES,
    RELATIONS,
    SIZES,
    Scene,
    SceneObject,
    held_out_pairs,
)

__all__ = [
    "ATTRIBUTES",
    "COLOURS",
    "GROUNDS",
    "LANGUAGES",
    "PLACES",
    "RELATIONS",
    "SIZES",
    "SPLITS",
    "DigitScenes",
    "Scene",
    "SceneObject",
    "Spot",
    "describe",
    "held_out_pairs",
    "parse",
]
