"""`make gpu-check` without a GPU: rehearsed from end to end, and its parts held to what they promise."""

import ast
import csv
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import gpu  # noqa: E402
from gpu import check, convolutions, machine, parts, summary, tables  # noqa: E402
from gpu.supervise import OUT_OF_TIME, Journal, supervise  # noqa: E402

from sdgan_ext.bench import cases  # noqa: E402

GPU_CHECK = [sys.executable, "-m", "gpu.check"]
PATH = os.pathsep.join([str(ROOT / "benchmarks"), str(ROOT), os.environ.get("PYTHONPATH", "")])
CONDITIONS = {"gpu": "NVIDIA H200", "torch": "2.11", "cuda": "13.0", "driver": "580", "commit": "abc", "dirty": "False"}


def test_a_file_imports_from_those_below_it_alone():
    """The package has no import circle; the order is that of the table in its docstring."""
    folder = ROOT / "benchmarks" / "gpu"
    table = [line.strip() for line in gpu.__doc__.splitlines() if line.startswith("    ")]
    layers = {}
    for depth, line in enumerate(table):
        names = re.split(r" {3,}", line)[0] if depth < len(table) - 1 else line
        layers |= dict.fromkeys(names.split(), depth)
    layers["journal_plugin"] = layers["bench"]
    files = {path.stem: path for path in folder.glob("*.py") if path.stem != "__init__"}
    assert layers.keys() == files.keys()
    for name, path in files.items():
        tree = ast.parse(path.read_text())
        below = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level == 1]
        assert not [other for other in below if layers[other] <= layers[name]], name


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_rehearsal(tmp_path):
    """All parts, on the CPU: every process, file and table, with numbers that mean nothing."""
    command = [*GPU_CHECK, "--rehearse", "--results", tmp_path]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": PATH}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-2000:]
    tables = {name: rows_of(tmp_path / f"rehearsal-{name}.csv") for name in summary.TABLES}
    assert all(row.keys() >= CONDITIONS.keys() for name in ("tests", "ops", "step", "train") for row in tables[name])
    assert sum(int(row["passed"]) for row in tables["tests"]) > 10
    paths = {row["contestant"] for row in tables["ops"] if row["op"] == "conv_transpose2d"}
    assert paths > {
        "eager",
        "eager channels_last",
        "compile",
        "sdgan_ext",
        "sdgan_ext library",
    }
    assert {row["contestant"] for row in tables["step"]} > {"eager", "compile reduce-overhead", "sdgan_ext"}
    assert {"cpu", "cpu, other kernels", "gpu"} <= {row["run"] for row in tables["train"]}
    notes = " ".join(row["note"] for row in tables["notes"])
    assert "data: rendered digits, MNIST was not there" in notes and "did not run" not in notes
    page = (tmp_path / "rehearsal-summary.md").read_text()
    for title in ("Tests", "Goals", "Steps", "Training", "What `auto` should take", "Notes"):
        assert f"\n## {title}\n" in page
    assert "mnist-small, gpu | 4 | 0.00%" in page


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_one_sentence_and_exit_code_2():
    command = ["make", "-s", "gpu-check", f"PYTHON={sys.executable}"]
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    }
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ran.returncode == 2 and ran.stdout == ""
    sentence, *rest = ran.stderr.splitlines()
    assert sentence.startswith("gpu-check needs an NVIDIA GPU")
    assert all(line.startswith("make: ") for line in rest)


def test_a_kill_ends_the_processes_and_keeps_what_is_written(tmp_path):
    command = [*GPU_CHECK, "--rehearse", "--results", tmp_path, "--part", "bench"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": PATH})
    journal = Journal(tmp_path / "gpu-check" / "bench" / "main.jsonl")
    end = time.monotonic() + 120
    while journal.count("passed") < 2 and time.monotonic() < end:
        time.sleep(0.05)
    process.terminate()
    assert process.wait(30) == 128 + signal.SIGTERM
    time.sleep(0.5)
    written = len(rows_of(tmp_path / "rehearsal-ops.csv"))
    time.sleep(1)
    assert written and len(rows_of(tmp_path / "rehearsal-ops.csv")) == written


def test_data_that_is_missing_is_replaced(tmp_path):
    assert check.data_source(str(tmp_path)) == "digits" and check.data_source("auto") == "digits"
    (tmp_path / "train-images-idx3-ubyte.gz").touch()
    assert check.data_source(str(tmp_path)) == str(tmp_path)


@pytest.mark.parametrize(
    ("name", "slug"),
    [("NVIDIA H200", "h200"), ("NVIDIA H100 80GB HBM3", "h100"), ("NVIDIA GeForce RTX 4090", "rtx-4090")],
)
def test_slug(name, slug):
    assert machine.slug_of(name) == slug


def test_arch():
    assert [machine.arch_of(c) for c in [(7, 5), (9, 0), (12, 0)]] == ["7.5", "9.0a", "12.0"]


# ---------------------------------------------------------------------------------------------------------- floors
@pytest.mark.parametrize(
    ("network", "batch", "forward", "both"),
    [  # us in bfloat16 on an H200, computed independently
        (convolutions.SEED_G, 64, 18, 53),
        (convolutions.SEED_G, 128, 35, 106),
        (convolutions.SEED_G, 512, 141, 423),
        (convolutions.DCGAN_64_G, 64, 16, 49),
        (convolutions.DCGAN_64_G, 128, 33, 98),
        (convolutions.DCGAN_64_G, 512, 131, 393),
    ],
)
def test_floors(network, batch, forward, both):
    peaks = machine.PEAKS["h200"]
    there = sum(conv.forward(batch, 2).seconds(peaks, "bf16") for conv in network)
    back = sum(conv.backward(batch, 2).seconds(peaks, "bf16") for conv in network)
    assert round(there * 1e6) == forward and round((there + back) * 1e6) == both


@pytest.mark.parametrize("conv", [*convolutions.GENERATORS, *convolutions.DISCRIMINATORS], ids=str)
def test_work_is_that_of_the_op(conv):
    stock, ours = cases.functions(conv)
    x, weight, bias = cases.tensors_of(conv, 1, torch.float32, "cpu")
    y = ours(x, weight, bias)
    assert y.shape[2:] == conv.out_size
    assert (x.numel(), weight.numel(), y.numel()) == conv.elements(1)
    torch.testing.assert_close(y, stock(x, weight, bias), rtol=1e-4, atol=1e-4)
    # Every pair of pixels that meets adds 1 where all is 1.
    linear = getattr(torch.nn.functional, conv.op)
    sides = (conv.output_padding,) if conv.transposed else ()
    ones = torch.ones_like(x[:, :1]), torch.ones_like(weight[:1, :1])
    assert linear(*ones, None, conv.stride, conv.padding, *sides).sum() == conv.pairs()


# ------------------------------------------------------------------------------------------------------- supervise
PROGRAM = """
import os, sys, time
sys.path.insert(0, {benchmarks!r})
from gpu.supervise import Journal
from pathlib import Path
journal = Journal(Path({path!r}))
known = journal.records()
for key in "abcd":
    if key in known:
        continue
    journal.write(key, "begin")
    if key == {bad!r}:
        {deed}
    journal.write(key, "passed")
"""


def run(tmp_path, bad="", deed="pass", **options):
    journal = Journal(tmp_path / "journal")
    code = PROGRAM.format(benchmarks=str(ROOT / "benchmarks"), path=str(journal.path), bad=bad, deed=deed)
    options = {"deadline": time.monotonic() + 60, "stall": 30} | options
    outcome = supervise([sys.executable, "-c", code], journal, tmp_path / "log", **options)
    return outcome, {key: record["state"] for key, record in journal.records().items()}


def test_supervise_goes_on_behind_a_crash(tmp_path):
    outcome, states = run(tmp_path, "b", "os.abort()")
    assert outcome.finished and outcome.crashed == ["b"]
    assert states == {"a": "passed", "b": "crashed", "c": "passed", "d": "passed"}


def test_supervise_goes_on_behind_a_hang(tmp_path):
    outcome, states = run(tmp_path, "c", "time.sleep(100)", stall=3)
    assert outcome.finished and states["c"] == "crashed" and states["d"] == "passed"


def test_supervise_keeps_to_the_time(tmp_path):
    outcome, states = run(tmp_path, "b", "time.sleep(100)", deadline=time.monotonic() + 3)
    assert not outcome.finished and outcome.why == OUT_OF_TIME
    assert states == {"a": "passed", "b": "skipped"}


def test_supervise_does_not_repeat_what_cannot_begin(tmp_path):
    journal = Journal(tmp_path / "journal")
    command = [sys.executable, "-c", "raise SystemExit('no such module')"]
    outcome = supervise(command, journal, tmp_path / "log", deadline=time.monotonic() + 60)
    assert not outcome.finished and outcome.restarts == 0 and "no such module" in outcome.why


def test_a_test_that_breaks_the_gpu_costs_one_test(tmp_path):
    (tmp_path / "test_it.py").write_text(
        "broken = False\n"
        "def test_a(): pass\n"
        "def test_b():\n"
        "    global broken\n"
        "    broken = True\n"
        "    raise RuntimeError('CUDA error: an illegal memory access was encountered')\n"
        "def test_c(): assert not broken\n"
    )
    journal = Journal(tmp_path / "journal")
    plugins = ["-p", "no:cacheprovider", "-p", "gpu.journal_plugin", "--journal", journal.path]
    command = [sys.executable, "-m", "pytest", "-q", *plugins, "--rootdir", tmp_path, tmp_path / "test_it.py"]
    outcome = supervise(
        command,
        journal,
        tmp_path / "log",
        deadline=time.monotonic() + 60,
        fine=(0, 1, 5),
        env={"PYTHONPATH": str(ROOT / "benchmarks")},
    )
    assert outcome.finished and outcome.restarts == 1
    assert [record["state"] for record in journal.records().values()] == ["passed", "failed", "passed"]


# --------------------------------------------------------------------------------------------------------- summary
def op_row(contestant, us, **values):
    row = {"op": "conv_transpose2d", "shape": "512->256 4x4 s2 @4", "batch": "128", "dtype": "bf16"}
    row |= {"passes": "forward + backward", "contestant": contestant, "busy_us": us, "launches": 2, "tflops": 300}
    row |= {"gbps": 1, "floor_us": 9, "floor_share": 0.3, "speedup": 1, "baseline": "eager channels_last", "taken": ""}
    return row | values | CONDITIONS


def page_of(tmp_path, table, rows):
    tables.append_rows(tmp_path / f"h200-{table}.csv", rows)
    return summary.write_summary(tmp_path, "h200").read_text()


def test_goals_are_met_and_missed_by_the_ratio_of_one_comparison(tmp_path):
    rows = [op_row("eager channels_last", 30), op_row("sdgan_ext", 20)]  # 1.5
    rows += [op_row(name, us, shape="x->y") for name, us in (("eager channels_last", 30), ("sdgan_ext", 25))]  # 1.2
    rows += [op_row(name, us, baseline="compile") for name, us in (("compile", 40), ("sdgan_ext", 20))]  # 2
    page = page_of(tmp_path, "ops", rows)
    assert "| the same, forward + backward | 1.3 | 1.20 (conv_transpose2d x->y" in page
    assert "**missed**, 1 of 2 reach it" in page
    line = next(line for line in page.splitlines() if line.startswith("| the same over torch.compile"))
    assert line.endswith("| 2.00 (conv_transpose2d 512->256 4x4 s2 @4 128 bf16 forward + backward) | 2.00 | met |")
    assert "| tf32 ConvT block, batch >= 128, forward + backward | 1.25 | | | not measured |" in page


def test_paths_that_auto_should_take(tmp_path):
    times = {"sdgan_ext": 20, "sdgan_ext implicit_gemm": 10, "sdgan_ext library": 20}
    rows = [op_row(name, us, passes="forward", taken="library" * (name == "sdgan_ext")) for name, us in times.items()]
    near = {"sdgan_ext": 10, "sdgan_ext implicit_gemm": 10.2, "sdgan_ext library": 10}
    rows += [
        op_row(name, us, passes="backward", taken="implicit_gemm" * (name == "sdgan_ext")) for name, us in near.items()
    ]
    page = page_of(tmp_path, "ops", rows)
    assert "one within 3%, in 1 of 2 cases" in page
    assert "bf16 forward | 10.0 |  | 20.0 |  | implicit_gemm | library |" in page
    written = rows_of(tmp_path / "h200-paths.csv")
    assert [(row["fastest"], row["taken"], row["loss"]) for row in written] == [
        ("implicit_gemm", "library", "2.000"),
        ("library", "implicit_gemm", "1.020"),
    ]


def curve(run, start=1.0, late=0.0):
    losses = [{name: start + step % 7 + (late if step > 100 else 0) for name in summary.JUDGED} for step in range(200)]
    return [{"preset": "seed", "run": run, "batch": 64, "step": step} | row for step, row in enumerate(losses)]


@pytest.mark.parametrize(("changes", "near"), [({}, True), ({"start": 1.2}, False), ({"late": 5.0}, False)])
def test_curves(changes, near, tmp_path):
    rows = [row | CONDITIONS for row in curve("cpu") + curve("gpu", **changes)]
    verdicts = summary.judge_curves(rows)
    assert len(verdicts) == 3 and all(verdict["near"] == near for verdict in verdicts)
    assert ("| near |" if near else "| **apart** |") in page_of(tmp_path, "train", rows)


def test_what_rounding_does_on_the_cpu_is_allowed_on_the_gpu():
    curves = curve("cpu") + curve("cpu, other kernels", 1.05) + curve("gpu", 1.1)
    assert all(verdict["near"] for verdict in summary.judge_curves(curves) if verdict["run"] == "gpu")


def test_a_failed_test_is_on_the_page(tmp_path):
    row = parts.test_row("cuda/test_values", "test_values.py::test_x", failed=1, message="off by 3") | CONDITIONS
    page = page_of(tmp_path, "tests", [row])
    assert "0 passed, 1 failed" in page and "| cuda/test_values test_values.py::test_x | 0 | 1 | 0 | off by 3 |" in page
    assert "- tests: NVIDIA H200, torch 2.11, CUDA 13.0, driver 580, commit abc" in page


def test_notes_of_other_parts_stay(tmp_path):
    h200 = machine.Machine("cuda", "NVIDIA H200", "h200", "9.0a")
    for part in ("tests", "bench", "tests"):
        ran = parts.Check(h200, tmp_path, tmp_path / "work", "digits", None, False, CONDITIONS)
        ran.begin(part)
        ran.note(part, f"{part} said this")
        ran.save()
    assert [row["part"] for row in rows_of(tmp_path / "h200-notes.csv")] == ["bench", "tests"]
