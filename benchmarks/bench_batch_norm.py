"""batch_norm with its activation, training, forward and backward, against stock batch norm and relu."""

import torch
import torch.nn.functional as F
from _harness import Case, entry_points

from sdgan_ext import ops

SHAPES = [(64, 64, 14, 14), (64, 128, 14, 14), (16, 128, 32, 32), (64, 128, 7, 7), (64, 6272)]
LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}


def case(shape, layout, dtype=torch.float32, activation="relu"):
    def stock(x, weight, bias):
        y = F.batch_norm(x, torch.zeros_like(mean), torch.ones_like(mean), weight, bias, True)
        return getattr(F, activation)(y)

    def ours(x, weight, bias):
        return ops.batch_norm(
            x, torch.zeros_like(mean), torch.ones_like(mean), weight, bias, True, activation=activation
        )

    mean = torch.zeros(shape[1])

    def build():
        x = torch.randn(shape).to(dtype, memory_format=LAYOUTS[layout]).requires_grad_()
        inputs = (x, torch.ones(shape[1], requires_grad=True), torch.zeros(shape[1], requires_grad=True))
        return {"eager": (stock, inputs), "sdgan_ext": (ours, inputs)}

    sizes = "x".join(map(str, shape))
    return Case("batch_norm", f"{sizes} {layout} {activation} {str(dtype)[6:]}", build)


CASES = [case(shape, layout) for shape in SHAPES for layout in LAYOUTS if len(shape) == 4 or layout == "nchw"]
CASES += [
    case((64, 128, 14, 14), "channels_last", torch.bfloat16),
    case((64, 128, 14, 14), "channels_last", activation="silu"),
    case((64, 3, 32, 32), "channels_last"),
    case((64, 512, 2, 2), "nchw"),
]

test_speed, main = entry_points("bench_batch_norm", CASES)

if __name__ == "__main__":
    main()
