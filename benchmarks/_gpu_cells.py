"""The grid of the GPU benchmarks: every cell is an op at a shape with its contestants, or a training step.

Convolutions are timed on every path of ours (SDGAN_CONV), so that `auto` can be held against the fastest one. Of the
baselines, "eager" is what a user gets who sets nothing; "eager channels_last" has `torch.backends.cudnn.benchmark` too,
as have ours; "compile" is torch.compile of the latter.
"""

import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from _gpu import Machine
from _harness import GpuTimer, graphed, kernels_launched

from sdgan_ext.bench import cases as suite
from sdgan_ext.bench.cases import functions, in_format, kernels_of, tensors_of
from sdgan_ext.bench.timing import closure_of
from sdgan_ext.bench.work import Conv, Work, elementwise

BASELINE = "eager channels_last"
DTYPES = {"bf16": (torch.bfloat16, 2), "tf32": (torch.float32, 4), "float32": (torch.float32, 4)}

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


@dataclass
class Context:
    """``budget``: seconds for the samples of one comparison. ``notes``: what a reader must know of a missing number."""

    machine: Machine
    timer: GpuTimer
    rehearse: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def device(self) -> str:
        return self.machine.device

    @property
    def budget(self) -> float:
        return 0.02 if self.rehearse else 1.0

    def compiled(self, function: Callable, mode: str) -> Callable:
        how = {"backend": "aot_eager"} if self.rehearse else {"mode": mode}
        return torch.compile(function, dynamic=False, **how)


@dataclass(frozen=True)
class Cell:
    """``measure`` gives rows of ops.csv or step.csv, as ``table`` says."""

    key: str
    measure: Callable[[Context], list[dict]]
    table: str = "ops"


# ------------------------------------------------------------------------------------------------------ measuring
def compare(
    context: Context,
    labels: dict[str, object],
    contestants: dict[str, Callable[[], object]],
    work: Work | None,
    precision: str,
    baseline: str,
    taken: str = "",
    count: bool = True,
) -> list[dict]:
    """Rows of all contestants that run; one that raises is left out, with a note.

    ``taken``: the path that `auto` takes. ``count``: also count the kernels.
    """
    able = {}
    for name, closure in contestants.items():
        try:
            for _ in range(1 if context.rehearse else 3):
                closure()
            context.timer.synchronize()
            able[name] = closure
        except Exception as error:
            if "CUDA error" in str(error):  # nothing more can run in this process
                raise
            context.notes.append(f"{' '.join(map(str, labels.values()))}: {name} did not run: {first_line(error)}")
    busy = context.timer.busy(able, context.budget)
    call = context.timer.call(able, context.budget / 4)
    rows = []
    peaks = context.machine.peaks
    for name in able:
        median = statistics.median(busy[name])
        base = statistics.median(busy[baseline]) if baseline in able else None
        floor = work.seconds(peaks, precision) if work and peaks else None
        rows.append(
            labels
            | {
                "contestant": name,
                "busy_us": us(median),
                "busy_min_us": us(busy[name][0]),
                "busy_p80_us": us(busy[name][int(0.8 * (len(busy[name]) - 1))]),
                "call_us": us(statistics.median(call[name])),
                "samples": len(busy[name]),
                "launches": (kernels_launched(able[name], context.device) if count else None) or "",
                "tflops": f"{work.flop / median * 1e-12:.1f}" if work and work.flop else "",
                "gbps": f"{work.bytes / median * 1e-9:.0f}" if work else "",
                "floor_us": us(floor) if floor else "",
                "floor_share": f"{floor / median:.3f}" if floor else "",
                "speedup": f"{base / median:.3f}" if base else "",
                "baseline": baseline,
                "taken": taken if name == "sdgan_ext" else "",
            }
        )
    return rows


def us(seconds: float) -> str:
    return f"{seconds * 1e6:.2f}"


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


def under(closure: Callable[[], object], *, search: bool, path: str = "auto") -> Callable[[], object]:
    """``closure`` with cuDNN's search for the fastest algorithm on or off, on one path of ours."""

    def run() -> object:
        torch.backends.cudnn.benchmark = search
        os.environ["SDGAN_CONV"] = path
        return closure()

    return run


# -------------------------------------------------------------------------------------------------- convolutions
PASSES = ("forward", "backward", "forward + backward")


def conv_labels(conv: Conv, batch: int, precision: str, passes: str) -> dict[str, object]:
    shape = f"{conv.into}->{conv.out} {conv.kernel}x{conv.kernel} s{conv.stride} @{conv.size}"
    return {"op": conv.op, "shape": shape, "batch": batch, "dtype": precision, "passes": passes}


def taken_by_auto(conv: Conv, inputs: tuple[torch.Tensor, ...], passes: str) -> str:
    parts = {"forward": ["forward"], "backward": ["grad_input", "grad_weight"]}.get(passes, [])
    taken = kernels_of(conv, *inputs[:2])
    return ", ".join(dict.fromkeys(taken[part].split(":")[0] for part in parts))


def conv_cell(conv: Conv, batch: int, precision: str) -> Cell:
    dtype, bytes = DTYPES[precision]
    thin = min(conv.into, conv.out) <= 4

    def measure(context: Context) -> list[dict]:
        stock, ours = functions(conv)
        tensors = tensors_of(conv, batch, dtype, context.device)
        nchw, last = (in_format(f, tensors) for f in (torch.contiguous_format, torch.channels_last))
        rows = []
        for passes in PASSES:
            contestants = {
                "eager": under(closure_of(stock, nchw, passes), search=False),
                BASELINE: under(closure_of(stock, last, passes), search=True),
                "sdgan_ext": under(closure_of(ours, last, passes), search=True),
            }
            if passes != PASSES[-1]:
                for path in ["gemm", "direct", "library"] if thin else ["gemm", "library"]:
                    closure = closure_of(ours, last, passes)
                    contestants[f"sdgan_ext {path}"] = under(closure, search=True, path=path)
            os.environ["SDGAN_CONV"] = "auto"
            taken = taken_by_auto(conv, last, passes)
            labels = conv_labels(conv, batch, precision, passes)
            work = conv.work(batch, bytes, passes)
            count = passes == PASSES[-1]
            rows += compare(context, labels, contestants, work, precision, BASELINE, taken, count)
        return rows

    return Cell(" ".join(map(str, conv_labels(conv, batch, precision, "").values())).strip(), measure)


def compiled_conv_cell(conv: Conv, batch: int, precision: str) -> Cell:
    """Without CUDA graphs, which copy their inputs: what is timed is the kernels that max-autotune found."""
    dtype, bytes = DTYPES[precision]

    def measure(context: Context) -> list[dict]:
        stock, ours = functions(conv)
        last = in_format(torch.channels_last, tensors_of(conv, batch, dtype, context.device))
        torch._dynamo.reset()
        compiled = context.compiled(stock, "max-autotune-no-cudagraphs")
        rows = []
        for passes in ("forward", "forward + backward"):
            contestants = {
                BASELINE: under(closure_of(stock, last, passes), search=True),
                "compile": under(closure_of(compiled, last, passes), search=True),
                "sdgan_ext": under(closure_of(ours, last, passes), search=True),
            }
            labels = conv_labels(conv, batch, precision, passes)
            work = conv.work(batch, bytes, passes)
            rows += compare(context, labels, contestants, work, precision, "compile")
        return rows

    return Cell("compile " + " ".join(map(str, conv_labels(conv, batch, precision, "").values())).strip(), measure)


# ------------------------------------------------------------------------------------------- losses, noise, norm
def element_cell(case, elements: int, dtype: str = "float32", device_build: Callable | None = None) -> Cell:
    """A case of another bench file, its tensors made on the GPU; each contestant also as a CUDA graph."""

    def measure(context: Context) -> list[dict]:
        with torch.device(context.device):
            contestants = {name: closure_of(*contestant) for name, contestant in case.build().items()}
        baseline = BASELINE if BASELINE in contestants else "eager"
        for name in (baseline, "sdgan_ext"):
            contestants[f"{name}, in a graph"] = lazily_graphed(contestants[name], context.device)
        labels = {"op": case.op, "shape": case.shape, "batch": "", "dtype": dtype, "passes": "forward + backward"}
        work = elementwise(case.op, elements, DTYPES[dtype][1])
        return compare(context, labels, contestants, work, dtype, baseline)

    return Cell(f"{case.op} {case.shape} {dtype}", measure)


def lazily_graphed(closure: Callable[[], object], device: str) -> Callable[[], object]:
    """Captured by the first call, so that a capture that fails is this contestant's failure."""
    captured: list[Callable] = []

    def run() -> object:
        if not captured:
            captured.append(graphed(closure, device))
        return captured[0]()

    return run


def element_cells(rehearse: bool) -> Iterator[Cell]:
    many = 2**22
    for n in (64,) if rehearse else (64, 512, 4096, 65536, many):
        yield element_cell(suite.discriminator_loss_case((n, 1)), 2 * n)
    for n in (64,) if rehearse else (64, many):
        yield element_cell(suite.generator_loss_case((n, 1)), n)
    for shape in ((64, 100),) if rehearse else ((64, 100), (512, 128), (65536, 128)):
        yield element_cell(suite.gaussian_case(shape), torch.Size(shape).numel())
    for shape in ((64, 1, 28, 28),) if rehearse else ((64, 1, 28, 28), (128, 3, 64, 64)):
        elements = torch.Size(shape).numel()
        yield element_cell(suite.reconstruction_loss_case(shape), elements)
        for name in ("binary_cross_entropy_with_logits", "binary_cross_entropy"):
            yield element_cell(suite.bce_case(name, shape), elements)
    shapes = [(4, 8, 4, 4)] if rehearse else [(128, 256, 8, 8), (128, 128, 16, 16), (128, 64, 32, 32)]
    for shape in shapes:
        for dtype in ("bfloat16", "float32"):
            case = suite.batch_norm_case(shape, dtype=dtype, nchw=False)
            yield element_cell(case, torch.Size(shape).numel(), {"bfloat16": "bf16"}.get(dtype, dtype))


# ---------------------------------------------------------------------------------------------------------- all
def cells(rehearse: bool) -> Iterator[Cell]:
    """In the order of their weight: time may end before the list does."""
    from _gpu_steps import step_cell

    if rehearse:
        yield conv_cell(Conv(True, 64, 3, 4, 4, 2, 1, "tanh"), 2, "bf16")
        yield conv_cell(Conv(False, 16, 8, 6, 4, 2, 1, "leaky_relu"), 2, "tf32")
        yield from element_cells(True)
        yield step_cell("mnist-small", 4)
        return
    for precision in ("bf16", "tf32"):
        for conv in GENERATORS:
            yield conv_cell(conv, 128, precision)
    yield from element_cells(False)
    yield step_cell("seed", 128)
    yield step_cell("dcgan-64", 128)
    for batch in (512, 64):
        for precision in ("bf16", "tf32"):
            for conv in GENERATORS:
                yield conv_cell(conv, batch, precision)
    for precision in ("bf16", "tf32"):
        for conv in DISCRIMINATORS:
            yield conv_cell(conv, 128, precision)
    yield step_cell("seed", 64)
    yield step_cell("mnist-small", 64)


def compiled_cells(rehearse: bool) -> Iterator[Cell]:
    """Last of all, for torch.compile takes minutes to warm up."""
    from _gpu_steps import compiled_step_cell

    if rehearse:
        yield compiled_step_cell("mnist-small", 4)
        yield compiled_conv_cell(Conv(True, 8, 8, 4, 4, 2, 1, "relu"), 2, "bf16")
        return
    yield compiled_step_cell("dcgan-64", 128)
    yield compiled_conv_cell(DCGAN_64_G[2], 128, "bf16")
    yield compiled_conv_cell(SEED_G[1], 128, "bf16")
    yield compiled_step_cell("seed", 128)
    for conv in (DCGAN_64_G[1], DCGAN_64_G[0], SEED_G[0], DCGAN_64_G[3], SEED_G[2]):
        yield compiled_conv_cell(conv, 128, "bf16")


def warm_up(context: Context) -> None:
    """Brings the clocks up, and the profiler: it must not come up after the first CUDA graph."""
    kernels_launched(lambda: torch.zeros(1, device=context.device), context.device)
    a = torch.randn(64, 64) if context.rehearse else torch.randn(4096, 4096, device=context.device)
    end = time.perf_counter() + (0 if context.rehearse else 0.5)
    while time.perf_counter() < end:
        a @ a
        context.timer.synchronize()
