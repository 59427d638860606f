"""`auto` follows csrc/kernels/conv/cost_table.h, and that is what the command makes of the committed measurements."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from sdgan_ext import _C, build_info, ops

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import _cost_model as cost_model  # noqa: E402
import cost_errors  # noqa: E402
import tune_convolutions as tune  # noqa: E402

ISA = build_info()["cpu_isa"]
needs_table = pytest.mark.skipif(ISA not in tune.ISAS, reason="the table is for AVX2 and AVX-512")


@pytest.fixture(autouse=True)
def auto():
    before = _C.conv_backend()
    _C.set_conv_backend(["auto"])
    yield
    _C.set_conv_backend(before)


@pytest.fixture(scope="module")
def rows():
    return tune.read_csv()[1]


@pytest.fixture(scope="module")
def estimates(rows):
    return cost_errors.Estimates(rows, ISA)


# ------------------------------------------------------------------------------------------------------ the files
def test_the_table_is_made_from_the_measurements():
    assert tune.table(*tune.read_csv()) == tune.TABLE.read_text()


def test_every_cell_is_measured(rows):
    assert set(tune.percent(rows)) == {(isa, *cell) for isa in tune.ISAS for cell in tune.cells(quick=False)}


# ------------------------------------------------------------------------------------------------------ measuring
@pytest.mark.parametrize("name", tune.PASSES)
@pytest.mark.parametrize("layout", tune.LAYOUTS)
def test_a_cell_is_measured_by_both_backends(name, layout):
    bench = tune.Bench()
    closure = bench.closure(layout, name, 5, 2, 16, 32, 64, 7)
    results = []
    for backend in tune.BACKENDS:
        _C.set_conv_backend([backend])
        output = closure()
        results.append(next(t for t in output if t.numel()) if isinstance(output, (list, tuple)) else output)
    sizes = {"dgrad": (0, 32, 14, 14), "fprop": (0, 16, 7, 7), "wgrad": (16, 32, 5, 5)}[name]
    assert results[0].shape[1:] == sizes[1:] and results[0].abs().max() > 0
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)
    library, speedup, pairs = bench.pairs(closure, 0.0)
    assert library > 0 and speedup > 0 and pairs >= 3


# ------------------------------------------------------------------------------------------------------ the fit
def test_the_fit_finds_the_constants_of_a_made_up_machine(rows):
    machine = cost_model.Machine(60.0, 20.0, 150.0, 0.5, 20.0, 4.0, 7.0, 40.0)
    problems = tune.problems(rows)
    library, winograd = cost_model.library_us(problems, machine, 16), cost_model.winograd_us(problems, machine)
    assert cost_model.fit(problems, library, winograd, 16) == machine


@pytest.mark.parametrize("isa", tune.ISAS)
def test_the_model_is_as_near_as_its_document_says(rows, isa):
    e = cost_errors.Estimates(rows, isa)
    errors = np.abs([e.error(cell) for cell in e.measured])
    assert np.median(errors) < np.log(1.13) and np.quantile(errors, 0.8) < np.log(1.27)
    held_out = np.abs(list(cost_errors.held_out(e, (16, 64, 256, 512), (8, 512))))
    ratios, alone, with_errors = np.median(held_out, axis=0)
    assert with_errors < ratios < alone


# ------------------------------------------------------------------------------------------------------ the choice
def picks(shape: cost_errors.Shape) -> dict[str, tuple[str, float]]:
    """Backend and estimate of each pass, by both ops, for the sizes and channels of ``shape``."""
    format = torch.channels_last if shape.layout == "channels_last" else torch.contiguous_format
    y = torch.empty(shape.batch, shape.y_channels, shape.y, shape.y, device="meta").to(memory_format=format)
    x = torch.empty(shape.batch, shape.x_channels, shape.x, shape.x, device="meta").to(memory_format=format)
    w = torch.empty(shape.y_channels, shape.x_channels, shape.taps, shape.taps, device="meta").to(memory_format=format)
    end = (shape.y - 1) * shape.stride + shape.taps - shape.pad - shape.x
    up = ops.explain_conv(y, w, transposed=True, stride=shape.stride, sides=(shape.pad, end) * 2)
    down = ops.explain_conv(x, w, stride=shape.stride, sides=(shape.pad, max(end, 0)) * 2)
    found = {}
    for name, ways in {
        "dgrad": (up["forward"], down["grad_input"]),
        "fprop": (down["forward"], up["grad_input"]),
        "wgrad": (up["grad_weight"], down["grad_weight"]),
    }.items():
        assert ways[0] == ways[1]
        estimate = re.search(r"estimated at ([\d.]+)", ways[0])
        found[name] = ways[0].split(":")[0], float(estimate[1]) if estimate else 0.0
    return found


def shape_of(layout, taps, stride, y_channels, x_channels, batch, y, x=None) -> cost_errors.Shape:
    pad = tune.pad_of(taps, stride)
    return cost_errors.Shape(layout, "", taps, stride, pad, batch, y, x or stride * y, y_channels, x_channels)


def check(estimates, shape) -> None:
    for name, (backend, estimate) in picks(shape).items():
        here = shape._replace(name=name)
        known = estimates.speedup(here)
        assert abs(estimate - known) < 0.006, (here, estimate, known)
        padded = (-(-n // 16) * 16 for n in (here.y_channels, here.x_channels))
        least = cost_errors.least(name, *padded, here.tiles, here.y)
        if abs(known - least) > 1e-6:
            assert backend == ("winograd" if known > least else "library"), (here, known, least)


@needs_table
@pytest.mark.parametrize("taps, stride", tune.SCHEMES)
@pytest.mark.parametrize("layout", tune.LAYOUTS)
def test_at_the_cells_the_estimate_is_measured(estimates, layout, taps, stride):
    for y_channels in tune.CHANNELS:
        for x_channels in tune.CHANNELS:
            for tiles in tune.TILES:
                side = tune.side_of(tiles)
                shape = shape_of(layout, taps, stride, y_channels, x_channels, tiles // (side // 2) ** 2, side)
                check(estimates, shape)
                if not tune.measured(y_channels, x_channels, tiles):
                    continue
                for name in tune.PASSES:
                    cell = cost_errors.Cell(layout, name, taps, stride, y_channels, x_channels, tiles, side)
                    filter_bytes = 4 * cost_model.SCHEMES[taps, stride][0] * y_channels * x_channels
                    known = estimates.speedup(shape._replace(name=name))
                    if name == "wgrad" or filter_bytes <= cost_model.CACHED:
                        assert known == pytest.approx(estimates.measured[cell], rel=1e-9)
                    else:
                        assert known < estimates.measured[cell]


BESIDE = {
    "fewer tiles than the table has": (4, 2, 64, 64, 1, 4),
    "between its tiles": (4, 2, 64, 64, 16, 8),
    "beyond its tiles": (4, 2, 64, 64, 1024, 8),
    "beyond its channels": (3, 1, 1024, 16, 4, 8),
    "channels that pad a vector": (4, 2, 24, 60, 4, 8),
    "between its channels": (5, 2, 96, 48, 16, 14),
    "small images": (4, 2, 64, 64, 128, 4),
    "a size between small and large": (5, 2, 128, 32, 64, 6),
    "tiles across the edge": (5, 2, 128, 128, 64, 7),
    "x of an odd size": (3, 2, 64, 32, 8, 9, 17),
    "one pixel": (4, 2, 512, 64, 64, 1, 2),
}


@needs_table
@pytest.mark.parametrize("shape", BESIDE.values(), ids=BESIDE.keys())
@pytest.mark.parametrize("layout", tune.LAYOUTS)
def test_beside_the_cells(estimates, layout, shape):
    check(estimates, shape_of(layout, *shape))


@needs_table
def test_an_even_padding_shares_more_planes(estimates):
    """4x4 taps: dgrad reads 9 planes in place of 25."""
    shape = shape_of("channels_last", 4, 2, 64, 64, 32, 9, 18)._replace(pad=2)
    check(estimates, shape)
    dgrad = shape._replace(name="dgrad")
    assert estimates.speedup(dgrad) > 1.02 * estimates.speedup(dgrad._replace(pad=1))


def test_where_there_is_no_estimate():
    for backend, estimate in picks(shape_of("nchw", 4, 2, 8, 64, 16, 8)).values():
        assert (backend, estimate) == ("library", 0.0)
