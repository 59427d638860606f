"""Binary cross-entropy, with logits and on probabilities, with its gradient, against torch.nn.functional."""

import torch
import torch.nn.functional as F
from _harness import Case, entry_points

from sdgan_ext import ops


def case(name, shape):
    def build():
        input = torch.randn(shape) if name.endswith("logits") else torch.rand(shape)
        inputs = (input.requires_grad_(), torch.rand(shape))
        return {"eager": (getattr(F, name), inputs), "sdgan_ext": (getattr(ops, name), inputs)}

    return Case(name, "x".join(map(str, shape)), build)


SHAPES = [(64, 1), (1024, 1), (64, 1, 28, 28), (128, 3, 64, 64), (2**22,)]
NAMES = ["binary_cross_entropy_with_logits", "binary_cross_entropy"]
CASES = [case(name, shape) for name in NAMES for shape in SHAPES]

test_speed, main = entry_points("bench_bce", CASES)

if __name__ == "__main__":
    main()
