"""Training: the steps as pure functions (``steps``), and the ``trainer`` over them.

Nothing is imported here: ``models.presets`` needs ``config``, and ``trainer`` needs ``models``.
"""
