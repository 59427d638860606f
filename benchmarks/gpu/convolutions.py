"""The cells of convolutions, each on every backend that can run it: `auto` is compared with the fastest one."""

import torch

from sdgan_ext.bench.cases import functions, in_format, kernels_of, tensors_of
from sdgan_ext.bench.timing import closure_of
from sdgan_ext.bench.work import Conv

from .measure import BASELINE, DTYPES, Cell, Context, compare, under

SEED_G = [
    Conv(True, 128, 128, 7, 5, 2, 2, "relu", 1),
    Conv(True, 128, 128, 14, 5, 2, 2, "relu", 1),
    Conv(False, 128, 1, 28, 5, 1, 2, "tanh"),
]
DCGAN_64_G = [
    Conv(True, 512, 256, 4, 4, 2, 1, "relu"),
    Conv(True, 256, 128, 8, 4, 2, 1, "relu"),
    Conv(True, 128, 64, 16, 4, 2, 1, "relu"),
    Conv(True, 64, 3, 32, 4, 2, 1, "tanh"),
]
DISCRIMINATORS = [
    Conv(False, 1, 128, 28, 5, 2, 2, "leaky_relu"),
    Conv(False, 128, 128, 14, 5, 2, 2, "leaky_relu"),
    Conv(False, 3, 64, 64, 4, 2, 1, "leaky_relu"),
    Conv(False, 64, 128, 32, 4, 2, 1, "leaky_relu"),
    Conv(False, 128, 256, 16, 4, 2, 1, "leaky_relu"),
    Conv(False, 256, 512, 8, 4, 2, 1, "leaky_relu"),
]
GENERATORS = SEED_G + DCGAN_64_G
PASSES = ("forward", "backward", "forward + backward")


def conv_labels(conv: Conv, batch: int, precision: str, passes: str) -> dict[str, object]:
    shape = f"{conv.into}->{conv.out} {conv.kernel}x{conv.kernel} s{conv.stride} @{conv.size}"
    return {"op": conv.op, "shape": shape, "batch": batch, "dtype": precision, "passes": passes}


def taken_by_auto(conv: Conv, inputs: tuple[torch.Tensor, ...], passes: str) -> str:
    parts = {"forward": ["forward"], "backward": ["grad_input", "grad_weight"]}.get(passes, [])
    taken = kernels_of(conv, *inputs[:2])
    return ", ".join(dict.fromkeys(taken[part].split(":")[0] for part in parts))


def conv_cell(conv: Conv, batch: int, precision: str) -> Cell:
    dtype, item_bytes = DTYPES[precision]
    few_channels = min(conv.into, conv.out) <= 4
    backends = ["implicit_gemm", "library"]
    if few_channels:
        backends.insert(1, "small_channel")

    def measure(context: Context) -> list[dict]:
        stock, ours = functions(conv)
        tensors = tensors_of(conv, batch, dtype, context.device)
        nchw, last = (in_format(f, tensors) for f in (torch.contiguous_format, torch.channels_last))
        rows = []
        able = [backend for backend in backends if backend != "implicit_gemm" or context.device != "cpu"]
        for passes in PASSES:
            contestants = {
                "eager": under(closure_of(stock, nchw, passes), search=False),
                BASELINE: under(closure_of(stock, last, passes), search=True),
                "sdgan_ext": under(closure_of(ours, last, passes), search=True),
            }
            if passes != PASSES[-1]:
                for backend in able:
                    closure = closure_of(ours, last, passes)
                    contestants[f"sdgan_ext {backend}"] = under(closure, search=True, backend=backend)
            taken = taken_by_auto(conv, last, passes)
            labels = conv_labels(conv, batch, precision, passes)
            work = conv.work(batch, item_bytes, passes)
            count = passes == PASSES[-1]
            rows += compare(context, labels, contestants, work, precision, BASELINE, taken, count)
        return rows

    return Cell(" ".join(map(str, conv_labels(conv, batch, precision, "").values())).strip(), measure)


def compiled_conv_cell(conv: Conv, batch: int, precision: str) -> Cell:
    """Without CUDA graphs, which copy their inputs: what is timed is the kernels that max-autotune found."""
    dtype, item_bytes = DTYPES[precision]

    def measure(context: Context) -> list[dict]:
        stock, ours = functions(conv)
        last = in_format(torch.channels_last, tensors_of(conv, batch, dtype, context.device))
        torch.compiler.reset()
        compiled = context.compiled(stock, "max-autotune-no-cudagraphs")
        rows = []
        for passes in ("forward", "forward + backward"):
            contestants = {
                BASELINE: under(closure_of(stock, last, passes), search=True),
                "compile": under(closure_of(compiled, last, passes), search=True),
                "sdgan_ext": under(closure_of(ours, last, passes), search=True),
            }
            labels = conv_labels(conv, batch, precision, passes)
            work = conv.work(batch, item_bytes, passes)
            rows += compare(context, labels, contestants, work, precision, "compile")
        return rows

    return Cell("compile " + " ".join(map(str, conv_labels(conv, batch, precision, "").values())).strip(), measure)
