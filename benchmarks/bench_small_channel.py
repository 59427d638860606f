"""Convolutions with 1 to 4 channels on one side, against stock torch: the table of docs/ops/conv.md.

    python benchmarks/bench_small_channel.py [--batch 64] [--dtype float32] [--only 128-1]

Contestants take turns in one process with one thread. A sample is the CPU time of the process, which other processes
on the machine disturb less than they do the clock; the lower quartile is reported.
"""

import argparse
import time

import torch
import torch.nn.functional as F

from sdgan_ext import ops

ACTIVATIONS = {None: lambda x: x, "tanh": torch.tanh, "leaky_relu": lambda x: F.leaky_relu(x, 0.2)}
# transposed, in, out, kernel, stride, padding, size, activation
CASES = [
    (False, 128, 1, 5, 1, 2, 28, None),
    (False, 64, 1, 5, 1, 2, 28, None),
    (False, 32, 1, 5, 1, 2, 28, None),
    (False, 16, 1, 5, 1, 2, 28, None),
    (True, 64, 3, 4, 2, 1, 32, "tanh"),
    (True, 64, 1, 4, 2, 1, 14, "tanh"),
    (True, 32, 1, 4, 2, 1, 14, "tanh"),
    (True, 16, 1, 4, 2, 1, 14, "tanh"),
    (False, 1, 128, 5, 2, (1, 2, 1, 2), 28, "leaky_relu"),
    (False, 1, 64, 4, 2, 1, 28, "leaky_relu"),
    (False, 1, 32, 4, 2, 1, 28, "leaky_relu"),
    (False, 3, 64, 4, 2, 1, 64, "leaky_relu"),
]


def interleave(contestants: dict, seconds: float = 1.5) -> dict:
    """Milliseconds of CPU time of each."""
    samples = {name: [] for name in contestants}
    for run in contestants.values():
        run()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(next(iter(samples.values()))) < 8:
        for name, run in contestants.items():
            start = time.process_time()
            run()
            samples[name].append(time.process_time() - start)
    return {name: sorted(times)[len(times) // 4] * 1e3 for name, times in samples.items()}


def contestants(case, batch: int, dtype: torch.dtype, passes: str) -> dict:
    transposed, inputs, outputs, kernel, stride, padding, size, activation = case
    weight_shape = (inputs, outputs, kernel, kernel) if transposed else (outputs, inputs, kernel, kernel)

    def stock(x, w, b):
        if transposed:
            return ACTIVATIONS[activation](F.conv_transpose2d(x, w, b, stride, padding))
        if isinstance(padding, tuple):
            top, bottom, left, right = padding
            return ACTIVATIONS[activation](F.conv2d(F.pad(x, (left, right, top, bottom)), w, b, stride))
        return ACTIVATIONS[activation](F.conv2d(x, w, b, stride, padding))

    def ours(x, w, b):
        op = ops.conv_transpose2d if transposed else ops.conv2d
        return op(x, w, b, stride, padding, activation=activation)

    def run_of(function, layout):
        torch.manual_seed(0)
        x = torch.randn(batch, inputs, size, size, dtype=dtype).to(memory_format=layout)
        w = (torch.randn(weight_shape) / 10).to(dtype).to(memory_format=layout)
        b = torch.randn(outputs, dtype=dtype)
        wanted = {"forward": (), "forward + backward": (x, w, b), "the same, weights only": (w, b)}[passes]
        for t in wanted:
            t.requires_grad_()
        upstream = torch.randn_like(function(x, w, b))

        def run():
            y = function(x, w, b)
            if wanted:
                torch.autograd.grad(y, wanted, upstream)

        return run

    layouts = {"channels_last": torch.channels_last, "NCHW": torch.contiguous_format}
    functions = {"stock": stock, "ours": ours}
    return {(who, name): run_of(f, layout) for name, layout in layouts.items() for who, f in functions.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float64"], default="float32")
    parser.add_argument("--only", default="", help="in-out channels, such as 128-1")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    for case in CASES:
        name = f"{case[1]}-{case[2]}"
        if arguments.only not in ("", name):
            continue
        print(f"{'conv_transpose2d' if case[0] else 'conv2d'} {name} {case[3]}x{case[3]} stride {case[4]} @ {case[6]}")
        for passes in ("forward", "forward + backward", "the same, weights only"):
            times = interleave(contestants(case, arguments.batch, getattr(torch, arguments.dtype), passes))
            for layout in ("channels_last", "NCHW"):
                stock, ours = times["stock", layout], times["ours", layout]
                print(
                    f"  {passes:24s}{layout:15s}stock {stock:8.2f} ms  ours {ours:8.2f} ms  {stock / ours:5.2f}x",
                    flush=True,
                )


if __name__ == "__main__":
    main()
