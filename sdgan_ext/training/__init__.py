"""Training: the steps as pure functions (``steps``), and the ``trainer`` over them.

Nothing is imported here: ``presets`` needs ``config``, and ``trainer`` needs ``models``.
"""
