"""benchmarks/: one measurement behind pytest-benchmark's tables and the CSV, a plot of every row, goals in the grid."""

import csv
import importlib
import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import _goals  # noqa: E402
import _harness  # noqa: E402
import _sd_kl  # noqa: E402
import bench_autoencoder  # noqa: E402
import plot  # noqa: E402
from _autoencoders import MODELS  # noqa: E402
from _contestants import PRECISIONS  # noqa: E402
from _harness import Session, write_rows  # noqa: E402

FILES = [p.stem for p in sorted((ROOT / "benchmarks").glob("bench_*.py")) if "entry_points" in p.read_text()]


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def cases_of(name):
    return importlib.import_module(name).CASES


# ------------------------------------------------------------------------------------------------------------ running
def test_pytest_benchmark_and_the_csv_hold_the_same_samples(tmp_path):
    """Of a file that was run as a whole; one that was run in part leaves its CSV alone."""
    files = [ROOT / "benchmarks" / name for name in ("bench_bce.py", "bench_gaussian.py")]
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", *files]
    options = ["--quick", "--threads", "1", "--out", tmp_path / "out", "--benchmark-json", tmp_path / "report.json"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    environment.pop("PYTEST_XDIST_WORKER", None)  # in whose processes pytest-benchmark measures nothing
    chosen = ["-k", "bench_bce or 64x100"]
    ran = subprocess.run([*command, *options, *chosen], env=environment, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-2000:]
    entries = json.loads((tmp_path / "report.json").read_text())["benchmarks"]
    assert any(entry["group"].startswith("sample_gaussian 64x100") for entry in entries)
    entries = [entry for entry in entries if not entry["group"].startswith("sample_gaussian")]
    (file,) = (tmp_path / "out").iterdir()
    rows = rows_of(file)
    assert file.name == "bench_bce.csv" and len(rows) == len(entries) == 8
    for entry, row in zip(entries, rows, strict=True):
        assert entry["name"] == row["contestant"] and entry["group"].startswith(f"{row['op']} {row['shape']}, ")
        assert abs(entry["stats"]["median"] * 1e6 - float(row["median_us"])) < 0.06
        assert entry["stats"]["rounds"] == int(row["samples"])
    for name in ("torch", "cpu", "isa", "threads", "commit", "dirty"):
        assert all(row[name] for row in rows)


@pytest.mark.parametrize(("quick", "only", "writes"), [(False, "", True), (True, "", False), (False, "loss", False)])
def test_a_quick_look_writes_nothing_unless_asked(quick, only, writes, tmp_path):
    options = dict(quick=quick, only=only, compile=False, threads=[1])
    assert (Session(type("Options", (), options | {"out": None})).out is not None) == writes
    assert Session(type("Options", (), options | {"out": tmp_path})).out == tmp_path


def test_a_quick_look_ends(monkeypatch, capsys):
    monkeypatch.setattr(_harness, "QUICK_END", -1.0)
    _harness.run("bench_bce", cases_of("bench_bce"), ["--quick", "--threads", "1"])
    assert capsys.readouterr().out.endswith("the time of --quick is up\n")


# ----------------------------------------------------------------------------------------------------------- the grid
@pytest.mark.parametrize("name", FILES)
def test_cases_are_told_apart(name):
    labels = [(case.op, case.shape, case.dtype) for case in cases_of(name)]
    assert len(set(labels)) == len(labels)
    assert any(case.quick for case in cases_of(name))


@pytest.mark.parametrize("goal", _goals.GOALS, ids=lambda goal: f"{goal.name} {goal.passes} {goal.over}")
def test_every_goal_is_measured(goal):
    grid = [(case, case.dtype, case.names) for name in FILES for case in cases_of(name)]
    for case in bench_autoencoder.comparisons(MODELS, precisions=list(PRECISIONS)):
        for precision, dtype in PRECISIONS.items():
            grid.append((case, dtype, [contestant for contestant, at in case.entries if at == precision]))
    fitting = [entry for entry in grid if (entry[0].op, entry[1]) == (goal.op, goal.dtype)]
    fitting = [
        (case, names)
        for case, _, names in fitting
        if goal.passes in case.passes and re.fullmatch(goal.shape, case.shape)
    ]
    assert fitting
    base = {"channels_last": "eager channels_last", "best_other": "eager channels_last"}.get(goal.over, "eager")
    for _, names in fitting:
        assert base in names


def test_both_sides_of_the_autoencoder_are_the_same_networks():
    torch.manual_seed(0)
    x, latent = torch.rand(2, 3, 64, 64), torch.randn(2, 4, 16, 16)
    for make, input in ((_sd_kl.encoder, x), (_sd_kl.decoder, latent), (_sd_kl.discriminator, x)):
        stock, ours = make(_sd_kl.StockLayers), make(_sd_kl.OurLayers)
        theirs = list(stock.parameters())
        for parameter, value in zip(ours.parameters(), theirs, strict=True):
            parameter.data.copy_(value.data)
        torch.testing.assert_close(ours(input), stock(input), rtol=1e-3, atol=1e-4)


def test_a_step_of_the_autoencoder_trains_all_three():
    torch.manual_seed(0)
    for layers in (_sd_kl.StockLayers, _sd_kl.OurLayers):
        model = _sd_kl.Autoencoder(layers, torch.channels_last, True)
        before = [parameter.clone() for parameters in model.parameters for parameter in parameters]
        model.step(torch.rand(2, 3, 64, 64) * 2 - 1)
        after = [parameter for parameters in model.parameters for parameter in parameters]
        assert all(p.requires_grad and p.isfinite().all() for p in after)
        still = [tuple(b.shape) for b, a in zip(before, after, strict=True) if torch.equal(a, b)]
        assert set(still) <= {(1,)}  # D's last bias, which both halves of the hinge loss push equally far


# -------------------------------------------------------------------------------------------------------------- plots
def row(contestant, us, *, over_eager="", over_channels_last="", **values):
    line = {"op": "conv2d", "shape": "64 x 128->1 5x5 s1 @28 tanh", "dtype": "float32", "passes": "forward + backward"}
    line |= {"contestant": contestant, "kernel": "", "threads": 2, "median_us": us, "samples": 15, "disturbed": False}
    line |= {"over_eager": over_eager, "over_channels_last": over_channels_last, "over_compile": ""}
    line |= {"torch": "2.13", "cpu": "2 x A & B <CPU>", "isa": "avx512", "commit": "abc", "dirty": "False"}
    return line | values


def some_rows():
    rows = []
    for passes, ours in (("forward", 500), ("forward + backward", 2500)):
        times = {"eager": 2000, "eager channels_last": 1000, "sdgan_ext": ours, "sdgan_ext NCHW": ours + 1}
        for name, us in times.items():
            ratios = {"over_eager": 2000 / us, "over_channels_last": 1000 / us}
            rows.append(row(name, us, passes=passes, **ratios))
    return rows


def words_of(svg):
    return [element.text for element in ET.parse(svg).iter() if element.text and element.text.strip()]


def test_plots_hold_every_row(tmp_path, capsys):
    write_rows(tmp_path / "bench_conv2d.csv", some_rows())
    (tmp_path / "bench_old.csv").write_text("op,shape,contestant,speedup\nconv2d,1,eager,1\n")
    assert plot.main(["--results", str(tmp_path)]) == 0
    assert {path.name for path in tmp_path.glob("*.svg")} == {"bench_conv2d.svg", "overview.svg"}
    words = words_of(tmp_path / "bench_conv2d.svg")
    for name in ("eager", "eager channels_last", "sdgan_ext", "sdgan_ext NCHW"):
        assert len([word for word in words if word.startswith(f"{name}: ")]) == 2
    assert "sdgan_ext: 2.00x, 500 us (15 samples)" in words and "sdgan_ext: 0.40x, 2.5 ms (15 samples)" in words
    assert any("A & B <CPU>" in word and "2 threads" in word and "commit abc" in word for word in words)
    for element in ET.parse(tmp_path / "bench_conv2d.svg").iter():
        if element.tag.endswith("rect") and "x" in element.attrib:
            width = float(ET.parse(tmp_path / "bench_conv2d.svg").getroot().get("width"))
            assert float(element.get("x")) + float(element.get("width")) <= width
    out = capsys.readouterr().out
    assert re.search(r"Conv 5x5, 128-1, forward \+ backward, over channels last +4 +0\.40 +missed", out)
    assert "below 1.0: 0.40 sdgan_ext, conv2d" in out and "below 1.0: 0.80 sdgan_ext NCHW" in out


def test_the_overview_has_the_goals_that_were_measured(tmp_path):
    rows = some_rows() + [row("sdgan_ext", 100, shape="64 x 128->1 5x5 s1 @28 relu", over_channels_last=5)]
    write_rows(tmp_path / "bench_conv2d.csv", rows)
    assert plot.main(["--results", str(tmp_path)]) == 0
    words = words_of(tmp_path / "overview.svg")
    assert "Conv 5x5, 128-1" in words and "goal 4" in words and "1.41" in words  # sqrt(0.4 * 5)
    assert "D loss, n 4M" not in words


def test_nothing_to_draw_is_a_sentence(tmp_path, capsys):
    assert plot.main(["--results", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("plot.py: there is no bench_*.csv")


@pytest.mark.parametrize(("ratios", "met"), [([1.5, 1.6], True), ([1.4, 9.0], False)])
def test_a_goal_is_met_by_every_shape(ratios, met):
    goal = next(goal for goal in _goals.GOALS if goal.ratio == 1.5 and goal.op == "conv_transpose2d")
    shapes = ("16 x 512->256 4x4 s2 @8 relu", "32 x 128->64 4x4 s2 @32 relu")
    rows = [
        row("sdgan_ext", 1, op=goal.op, shape=shape, passes="forward", over_channels_last=ratio)
        for shape, ratio in zip(shapes, ratios, strict=True)
    ]
    (verdict,) = _goals.judge(rows, [goal])
    assert verdict.ratios == ratios and verdict.met == met
