"""A whole training step on the GPU: ours eager and as a CUDA graph, against the stock step of bench_train_step.py.

All have torch's default precision: TF32 in convolutions, float32 elsewhere. The batch lies on the GPU. Ours and the
stock step leave out R1; the graphed one includes the average of the weights, which the others do not make.
"""

import functools
import itertools
import statistics
from collections.abc import Callable

import torch
from bench_train_step import Stock

import sdgan_ext.training.steps as steps
from sdgan_ext.models.vae_gan import VAEGAN
from sdgan_ext.presets import preset
from sdgan_ext.training.ema import make_ema
from sdgan_ext.training.optimizers import make_optimizers

from .measure import BASELINE, Cell, Context, first_line, under
from .timer import kernels_launched

COMPILED = "compile reduce-overhead"


class CompiledStock(Stock):
    """Its networks compiled. The step itself is not: it takes gradients and steps optimizers between the networks."""

    def compile(self, context: Context) -> None:
        self.networks = [context.compiled(network, "reduce-overhead") for network in self.networks]

    def step(self, x: torch.Tensor) -> None:
        torch.compiler.cudagraph_mark_step_begin()
        super().step(x)


def stock_step(context: Context, config, train, x, *, last: bool, compiled: bool = False) -> Callable[[], object]:
    layout = torch.channels_last if last else torch.contiguous_format
    kind = CompiledStock if compiled else Stock
    fused = True if last else None
    with torch.device(context.device):
        stock = kind(config, train, layout, fused, True)
    if compiled:
        stock.compile(context)
    images = x.contiguous(memory_format=layout)
    return under(lambda: stock.step(images), search=last)


def our_step(context: Context, config, train, x) -> Callable[[], object]:
    model = VAEGAN(config).to(context.device)
    optimizers = make_optimizers(model, train)
    images = x.contiguous(memory_format=torch.channels_last)
    return under(lambda: steps.train_step(model, optimizers, images, train, step=0), search=True)


def our_graphed_step(context: Context, config, train, x) -> Callable[[], object] | None:
    """None, with a note, where this version has none."""
    try:
        from sdgan_ext.training.graph import GraphedStep, graphs_of
    except ImportError:
        context.notes.append("the step as a CUDA graph: not in this version")
        return None
    graphs = graphs_of(torch.device(context.device))
    if graphs is None:  # a rehearsal
        return our_step(context, config, train, x)
    model = VAEGAN(config).to(context.device)
    optimizers = make_optimizers(model, train)
    take = GraphedStep(model, optimizers, make_ema(model, train), train, graphs, context.notes.append)
    images, count = x.contiguous(memory_format=torch.channels_last), itertools.count()
    closure = under(lambda: take(images, step=next(count)), search=True)
    for _ in range(6):  # it warms up, then captures
        closure()
    return closure


def compare_steps(name: str, batch: int, contestants: dict[str, Callable], context: Context) -> list[dict]:
    config, train = preset(name)
    train = train.replace(r1_gamma=0.0, batch_size=batch)
    x = torch.rand(batch, config.channels, *config.image_size, device=context.device) * 2 - 1
    able = {}
    for contestant, make in contestants.items():
        try:
            step = make(context, config, train, x)
            for _ in range(1 if context.rehearse else 5):
                if step is not None:
                    step()
            context.timer.synchronize()
        except Exception as error:
            if "CUDA error" in str(error):
                raise
            context.notes.append(f"{name} step, batch {batch}: {contestant} did not run: {first_line(error)}")
            continue
        if step is not None:
            able[contestant] = step
    seconds = context.timer.call(able, context.budget * 4, 3 if context.rehearse else 9)
    rows = []
    for contestant, times in seconds.items():
        median = statistics.median(times)
        base = statistics.median(seconds["eager"]) if "eager" in seconds else None
        rows.append(
            {
                "preset": name,
                "batch": batch,
                "contestant": contestant,
                "step_us": f"{median * 1e6:.1f}",
                "min_us": f"{times[0] * 1e6:.1f}",
                "p80_us": f"{times[int(0.8 * (len(times) - 1))] * 1e6:.1f}",
                "samples": len(times),
                "launches": kernels_launched(able[contestant], context.device) or "",
                "images_per_second": f"{batch / median:.0f}",
                "speedup": f"{base / median:.3f}" if base else "",
            }
        )
    return rows


def makers(compiled: bool) -> dict[str, Callable]:
    """``compiled`` compares with the others again: ratios are taken in one run."""

    def stock(**how):
        return lambda context, config, train, x: stock_step(context, config, train, x, **how)

    last = f"{BASELINE}, fused Adam"
    contestants = {"eager": stock(last=False), last: stock(last=True)}
    if compiled:
        contestants[COMPILED] = stock(last=True, compiled=True)
    return contestants | {"sdgan_ext": our_step, "sdgan_ext graphed": our_graphed_step}


def step_cell(name: str, batch: int) -> Cell:
    return Cell(f"step {name} {batch}", functools.partial(compare_steps, name, batch, makers(False)), "step")


def compiled_step_cell(name: str, batch: int) -> Cell:
    return Cell(f"compile step {name} {batch}", functools.partial(compare_steps, name, batch, makers(True)), "step")
