"""Deprecated: :mod:`sdgan_ext.presets` has them. This file goes with the next release."""

import warnings

from ..presets import OWN_SIZE, PRESETS, Preset, preset

__all__ = ["OWN_SIZE", "PRESETS", "Preset", "preset"]

warnings.warn("sdgan_ext.models.presets has moved to sdgan_ext.presets", DeprecationWarning, stacklevel=2)
