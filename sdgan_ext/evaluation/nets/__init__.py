"""The feature nets: see ``sdgan_ext.evaluation.features``."""
