"""The cells of losses, noise and norms."""

from collections.abc import Callable, Iterator

import torch

from sdgan_ext.bench import cases
from sdgan_ext.bench.cases import Case
from sdgan_ext.bench.timing import closure_of
from sdgan_ext.bench.work import elementwise

from .measure import BASELINE, DTYPES, Cell, Context, compare
from .timer import graphed


def element_cell(case: Case, elements: int, dtype: str = "float32") -> Cell:
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
        yield element_cell(cases.discriminator_loss_case((n, 1)), 2 * n)
    for n in (64,) if rehearse else (64, many):
        yield element_cell(cases.generator_loss_case((n, 1)), n)
    for shape in ((64, 100),) if rehearse else ((64, 100), (512, 128), (65536, 128)):
        yield element_cell(cases.gaussian_case(shape), torch.Size(shape).numel())
    for shape in ((64, 1, 28, 28),) if rehearse else ((64, 1, 28, 28), (128, 3, 64, 64)):
        elements = torch.Size(shape).numel()
        yield element_cell(cases.reconstruction_loss_case(shape), elements)
        for name in ("binary_cross_entropy_with_logits", "binary_cross_entropy"):
            yield element_cell(cases.bce_case(name, shape), elements)
    shapes = [(4, 8, 4, 4)] if rehearse else [(128, 256, 8, 8), (128, 128, 16, 16), (128, 64, 32, 32)]
    for shape in shapes:
        for dtype in ("bfloat16", "float32"):
            case = cases.batch_norm_case(shape, dtype=dtype, nchw=False)
            yield element_cell(case, torch.Size(shape).numel(), {"bfloat16": "bf16"}.get(dtype, dtype))
