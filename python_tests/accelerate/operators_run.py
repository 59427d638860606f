"""Which operators of ours a call runs."""

from collections import Counter

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sdgan_ext.ops._enums import ACTIVATIONS

NAMES = {code: name for name, code in ACTIVATIONS.items()}


class _Watch(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "sdgan_ext":
            name = func._schema.name.partition("::")[2]
            # which of the two upsamples is for ops.upsample_conv2d to choose
            self.seen[name.replace("upsample_conv2d", "conv_transpose2d"), NAMES[args[-2]]] += 1
        return func(*args, **(kwargs or {}))


def operators(call, *inputs):
    """``(name, activation)`` to how often, without gradients."""
    with torch.no_grad(), _Watch() as watch:
        call(*inputs)
    return watch.seen
