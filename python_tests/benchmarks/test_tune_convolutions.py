"""`auto` follows csrc/kernels/conv/cost_table.h, and that is what the command makes of the committed measurements."""

import math
import re
import sys
from pathlib import Path

import pytest
import torch

from sdgan_ext import build_info, ops

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import tune_convolutions as tune  # noqa: E402

ISA = build_info()["cpu_isa"]
needs_table = pytest.mark.skipif(ISA not in tune.ISAS, reason="the table is for AVX2 and AVX-512")


@pytest.fixture(autouse=True)
def auto(monkeypatch):
    monkeypatch.setenv("SDGAN_CONV", "auto")


@pytest.fixture(scope="module")
def measured():
    return tune.percent(tune.read_csv()[1])


def test_the_table_is_made_from_the_measurements():
    assert tune.table(*tune.read_csv()) == tune.TABLE.read_text()


def test_every_cell_is_measured(measured):
    assert set(measured) == {(isa, *cell) for isa in tune.ISAS for cell in tune.cells(quick=False)}


def worthwhile(product, coarse, fine, tiles):
    few = 0.0 if product == "wgrad" else min(1.0, max(0.0, 1 - math.log(tiles / 64, 8)))
    return max(1.15 if min(coarse, fine) <= 32 else 1.05, 1.05 + 0.2 * few)


def with_cold_filter(speedup, product, taps, stride, coarse, fine, batch, size):
    """What is left of it where the transformed filter outgrows the caches."""
    if product == "wgrad":
        return speedup
    products = 16 if stride == 1 else {3: 25, 4: 36, 5: 49}[taps]
    seconds = max(0.0, 4 * products * coarse * fine - 2**21) / (16e9 if product == "to_fine" else 8e9)
    return 1 / (1 / speedup + seconds / (2 * batch * size**2 * taps**2 * coarse * fine / 165e9))


def picks(layout, taps, stride, coarse, fine, batch, size) -> dict[str, tuple[str, float]]:
    """Kernel and estimate of each product, by both ops; images are ``size`` coarse pixels wide."""
    format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    x = torch.empty(batch, coarse, size, size, device="meta").to(memory_format=format)
    y = torch.empty(batch, fine, stride * size, stride * size, device="meta").to(memory_format=format)
    w = torch.empty(coarse, fine, taps, taps, device="meta").to(memory_format=format)
    crop = 2 if taps == 5 else 1
    end = (size - 1) * stride + taps - crop - stride * size
    up = ops.explain_conv(x, w, transposed=True, stride=stride, sides=(crop, end) * 2)
    down = ops.explain_conv(y, w, stride=stride, sides=(crop,) * 4)
    found = {}
    for product, ways in {
        "to_fine": (up["forward"], down["grad_input"]),
        "to_coarse": (down["forward"], up["grad_input"]),
        "wgrad": (up["grad_weight"], down["grad_weight"]),
    }.items():
        assert ways[0] == ways[1]
        estimate = re.search(r"estimated at ([\d.]+)", ways[0])
        found[product] = ways[0].split(":")[0], float(estimate[1]) if estimate else 0.0
    return found


@needs_table
@pytest.mark.parametrize("taps, stride", tune.SCHEMES)
@pytest.mark.parametrize("layout", tune.LAYOUTS)
def test_the_pick_follows_the_table(measured, layout, taps, stride):
    for coarse in tune.CHANNELS:
        for fine in tune.CHANNELS:
            for batch, size, tiles in ((2, 4, 8), (4, 8, 64), (32, 8, 512), (256, 8, 4096)):
                there = tiles if tune.measured(coarse, fine, tiles) else 512
                for product, (kernel, estimate) in picks(layout, taps, stride, coarse, fine, batch, size).items():
                    place = (ISA, layout, product, taps, stride, coarse, fine, there, tune.side_of(there))
                    known = measured[place] / 100
                    if product == "wgrad" and coarse <= 32 and fine <= 16:
                        known /= 2  # one slice
                    known = with_cold_filter(known, product, taps, stride, coarse, fine, batch, size)
                    assert abs(estimate - known) < 0.006
                    least = worthwhile(product, coarse, fine, tiles)
                    if abs(known - least) > 1e-6:
                        assert kernel == ("winograd" if known > least else "library")


def estimates(*geometry):
    return [(product, estimate) for product, (_, estimate) in picks("channels_last", 4, 2, *geometry).items()]


@needs_table
def test_beside_the_cells(measured):
    def known(product, coarse, fine, tiles, side=None):
        place = (ISA, "channels_last", product, 4, 2, coarse, fine, tiles, side or tune.side_of(tiles))
        return measured[place] / 100

    def image(product, side):
        return known(product, 64, 64, 512, side) / known(product, 64, 64, 512)

    for product, estimate in estimates(24, 64, 4, 8):  # computed as 32 channels
        assert abs(estimate - known(product, 32, 64, 64) * (24 / 32) ** 0.5) < 0.006
    for product, estimate in estimates(64, 64, 16, 8):  # 256 tiles: 2/3 of the way
        assert abs(estimate - (known(product, 64, 64, 64) + 2 * known(product, 64, 64, 512)) / 3) < 0.006
    for product, estimate in estimates(64, 64, 1024, 8):  # beyond the last
        assert abs(estimate - known(product, 64, 64, 4096)) < 0.006
    for product, estimate in estimates(1024, 16, 4, 8):
        there = with_cold_filter(known(product, 512, 16, 64), product, 4, 2, 1024, 16, 4, 8)
        assert abs(estimate - there) < 0.006
    for product, estimate in estimates(64, 64, 1, 4):  # 4 tiles
        assert abs(estimate - known(product, 64, 64, 8) / 4) < 0.006
    for product, estimate in estimates(64, 64, 128, 4):  # small images
        assert abs(estimate - known(product, 64, 64, 512) * image(product, 4)) < 0.02
    for product, estimate in estimates(64, 64, 32, 7):  # 4 x 4 tiles cover 7 x 7
        cost = min(image(product, 7), image(product, 4) ** math.log2(8 / 7))
        assert abs(estimate - known(product, 64, 64, 512) * cost) < 0.02


def test_where_there_is_no_estimate():
    for kernel, estimate in picks("nchw", 4, 2, 8, 64, 16, 8).values():
        assert (kernel, estimate) == ("library", 0.0)
