"""benchmarks/bench_autoencoder.py: rows with right errors; who cannot compete is said, and so is bad input."""

import json
import os
import signal
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import _autoencoders  # noqa: E402
import _goals  # noqa: E402
import bench_autoencoder as bench  # noqa: E402
from _contestants import PRECISIONS  # noqa: E402
from _workers import Failed, First, Job, Worker  # noqa: E402

from sdgan_ext.bench.timing import Timing  # noqa: E402

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.usefixtures("one_thread")

WIDTHS = (32, 64)
SMALL = {
    "AutoencoderKL": _autoencoders._kl(*WIDTHS) | {"layers_per_block": 1, "norm_num_groups": 8},
    "AutoencoderTiny": {
        "encoder_block_out_channels": (32, 32), "decoder_block_out_channels": (32, 32),
        "num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1),
    },
    "UNet2DModel": _autoencoders._UNET | {"block_out_channels": WIDTHS, "norm_num_groups": 8},
}  # fmt: skip


def small(kind):
    torch.manual_seed(0)
    return getattr(diffusers, kind)(**SMALL[kind])


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Folders by class."""
    folder = tmp_path_factory.mktemp("weights")
    for kind in SMALL:
        small(kind).save_pretrained(folder / kind)
    return folder


def run(weights, csv, *options, model="sd15-decoder"):
    words = ["--models", model, "--pixels", "32", "--threads", "1", "--rounds", "2", "--csv", str(csv)]
    kind = _autoencoders.MODELS[model].kind
    assert bench.main([*words, "--weights", str(weights / kind), *options]) == 0
    return bench.read_csv(csv)


# ---------------------------------------------------------------------------------------------------------- the rows
CONTESTANTS = ("eager", "eager channels_last", "ncnn", "onnxruntime", "sdgan_ext")


@pytest.fixture(scope="module")
def rows(weights, tmp_path_factory):
    """ncnn's converter is not installed here, and onnxruntime never has bfloat16."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(bench.RUNTIMES, "ncnn", "no_such_package")
        csv = tmp_path_factory.mktemp("results") / "bench_autoencoder.csv"
        options = ["--precision", "highest", "bfloat16", "--contestants", *CONTESTANTS]
        found = run(weights, csv, *options)
    assert _goals.read_results(csv.parent)["bench_autoencoder"] == [row for row in found if row["median_us"]]
    assert [path.name for path in csv.parent.iterdir()] == [csv.name]
    return {(row["contestant"], row["dtype"]): row for row in found}


def test_a_row_for_every_contestant(rows):
    assert set(rows) == {(name, dtype) for name in CONTESTANTS for dtype in ("float32", "bfloat16")}
    for row in rows.values():
        assert (row["op"], row["shape"], row["passes"]) == ("autoencoder", "sd15-decoder 32 px, batch 1", "forward")
        assert row["threads"] == "1" and row["torch"] == torch.__version__ and row["commit"]
        assert bool(row["median_us"]) == bool(row["settings"]) == (not row["note"])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_who_cannot_compete_is_said(rows, dtype):
    assert rows["ncnn", dtype]["note"] == "no_such_package is not installed"
    refused = rows["onnxruntime", dtype]["note"]
    assert refused == ("onnxruntime has no bfloat16 convolution on the CPU" if dtype == "bfloat16" else "")


def test_ratios_are_those_of_the_medians(rows):
    medians = {key: float(row["median_us"]) for key, row in rows.items() if row["median_us"]}
    for (name, dtype), median in medians.items():
        others = [medians.get((other, dtype)) or medians.get((other, "float32")) for other in CONTESTANTS[:-1]]
        fastest = min(filter(None, others))  # with onnxruntime's float32 in bfloat16's place
        row, stock = rows[name, dtype], medians["eager channels_last", dtype]
        assert float(row["over_channels_last"]) == pytest.approx(stock / median, rel=0.01, abs=6e-4)
        assert float(row["over_best_other"]) == pytest.approx(fastest / median, rel=0.01, abs=6e-4)


@pytest.mark.parametrize(("dtype", "at_most"), [("float32", 1e-5), ("bfloat16", 0.1)])
def test_errors_are_those_against_float64(rows, dtype, at_most):
    network = small("AutoencoderKL").eval()
    (z,) = _autoencoders.Decode(network).inputs(1, 32)
    with torch.no_grad():
        y = network.to(getattr(torch, dtype)).decode(z.to(getattr(torch, dtype))).sample.double()
        right = small("AutoencoderKL").eval().double().decode(z.double()).sample
    error = ((y - right).norm() / right.norm()).item()
    steps = [((image / 2 + 0.5).clamp(0, 1) * 255).round() for image in (y, right)]
    row = rows["eager", dtype]
    assert float(row["relative_error"]) == pytest.approx(error, rel=0.05) and 0 < error < at_most
    assert int(row["max_bytes"]) == (steps[0] - steps[1]).abs().max().item()
    for name in ("eager channels_last", "sdgan_ext"):
        assert 0 < float(rows[name, dtype]["relative_error"]) < at_most


def test_what_is_printed_and_documented(rows):
    printed = "\n".join(bench.lines(list(rows.values())))
    table = bench.docs_table(list(rows.values()))
    for row in rows.values():
        assert f"{row['contestant']}, {row['dtype']}" in printed and row["settings"] in printed
        assert (row["note"] or row["relative_error"]) in printed and (row["note"] or row["relative_error"]) in table
    assert "**sdgan_ext**" in table and rows["eager", "float32"]["cpu"] in table


def test_a_training_step_is_judged_by_its_gradients(weights, tmp_path):
    contestants = ["eager channels_last", "openvino", "sdgan_ext"]
    options = ["--precision", "highest", "--batch", "2", "--contestants", *contestants]
    stock, openvino, ours = run(weights, tmp_path / "a.csv", *options, model="kl-step")
    for row in (stock, ours):
        assert row["passes"] == "step" and row["max_bytes"] == "" and 0 < float(row["relative_error"]) < 1e-3
    assert openvino["note"] in ("openvino does not train", "openvino is not installed")


TASKS = [
    (_autoencoders.Decode, "AutoencoderKL", (2, 3, 16, 16)),
    (_autoencoders.Decode, "AutoencoderTiny", (2, 3, 16, 16)),
    (_autoencoders.Encode, "AutoencoderKL", (2, 8, 8, 8)),
    (_autoencoders.TrainDecoder, "AutoencoderKL", ()),
    (_autoencoders.TrainAutoencoder, "AutoencoderKL", ()),
    (_autoencoders.TrainUNet, "UNet2DModel", ()),
]


@pytest.mark.parametrize(("kind", "network", "shape"), TASKS)
def test_tasks(kind, network, shape):
    task = kind(small(network))
    given = task.inputs(2, 16)
    output = task(*given)
    assert output.shape == shape
    assert all(torch.equal(a, b) for a, b in zip(given, task.inputs(2, 16), strict=True))
    if task.trains:
        output.backward()
        trained = [name for name, p in task.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0]
        encoder = any("encoder" in name for name in trained)
        assert trained and encoder == (kind is _autoencoders.TrainAutoencoder)


@pytest.mark.parametrize("name", _autoencoders.MODELS)
def test_models_are_diffusers(name):
    model = _autoencoders.MODELS[name]
    with torch.device("meta"):
        network = getattr(diffusers, model.kind)(**model.config)
    assert model.task(network).sizes(3, model.pixels[0])[0][0] == 3


# --------------------------------------------------------------------------------------------------------- who competes
def test_precisions_that_compete():
    timing = {name: Timing([float(seconds)]) for seconds, name in enumerate("abcd", start=1)}
    timings = {("x", "highest"): timing["a"], ("y", "highest"): timing["b"], ("y", "high"): timing["c"]}
    timings["x", "bfloat16"] = timing["d"]
    assert bench.comparable(timings, "highest") == {"x": timing["a"], "y": timing["b"]}
    assert bench.comparable(timings, "high") == {"x": timing["a"], "y": timing["c"]}
    assert bench.comparable(timings, "bfloat16") == {"x": timing["d"], "y": timing["c"]}


def test_defaults():
    every = bench.comparisons(["sd15-decoder", "kl-step"], precisions=list(PRECISIONS))
    assert [comparison.shape for comparison in every] == [
        "sd15-decoder 256 px, batch 1", "sd15-decoder 512 px, batch 1", "kl-step 128 px, batch 2"
    ]  # fmt: skip
    assert ("compile", "highest") in every[0].entries and ("compile", "highest") not in every[1].entries
    assert ("openvino", "highest") in every[1].entries
    assert not {"openvino", "onnxruntime", "ncnn"} & {contestant for contestant, _ in every[2].entries}
    (asked,) = bench.comparisons(["sd15-decoder"], [512], [4], ["high"], ["compile"])
    assert asked.entries == (("compile", "high"),) and asked.shape == "sd15-decoder 512 px, batch 4"


class Running:
    """A worker without a process, which fails when it is called for the second time, or never."""

    def __init__(self, fails):
        self.first, self.failed, self.calls, self.fails = First("", 0.001), False, 0, fails

    def seconds(self, calls):
        self.calls += 1
        if self.fails and self.calls == 2:
            self.failed = True
            raise Failed("b ended")
        return 0.001 * calls


def test_the_others_go_on_without_one_that_fails():
    workers, notes = {name: Running(fails=name == "b") for name in "abc"}, {}
    assert set(bench._timings(workers, notes, rounds=5)) == {"a", "c"}
    assert notes == {"b": "b ended"} and workers["c"].calls >= 3


def job(weights, tmp_path, contestant="eager", **changes):
    values = dict(model="sd15-decoder", pixels=16, batch=1, threads=1, weights=weights / "AutoencoderKL")
    return Job(contestant, "highest", **values | changes, judge=tmp_path / "judge.pt")


def test_a_process_that_is_killed_is_a_sentence(weights, tmp_path):
    worker = Worker(job(weights, tmp_path), limit=60)
    assert worker.seconds(2) > 0
    os.kill(worker.process.pid, signal.SIGKILL)
    with pytest.raises(Failed, match="the process of eager ended with exit code -9"):
        worker.seconds(1)
    assert worker.failed
    worker.close()


def test_one_that_takes_too_long_is_a_sentence(weights, tmp_path):
    with pytest.raises(Failed, match="eager took more than 0.01 s"):
        Worker(job(weights, tmp_path), limit=0.01)


# ------------------------------------------------------------------------------------------------------------ bad input
def damaged(folder, weights, how):
    folder.mkdir()
    config = (weights / "AutoencoderKL" / "config.json").read_text()
    if how == "no json":
        (folder / "config.json").write_text("{")
    elif how == "no class":
        (folder / "config.json").write_text(json.dumps({"block_out_channels": [1]}))
    elif how != "empty":
        (folder / "config.json").write_text(config)
    if how == "no numbers":
        (folder / "diffusion_pytorch_model.safetensors").write_bytes(b"not a tensor")
    return folder


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("empty", "has no config.json of a diffusers model, give the folder that save_pretrained wrote"),
        ("no json", "has no config.json of a diffusers model"),
        ("no class", "has no config.json of a diffusers model"),
        ("no weights", "has a config.json and no diffusion_pytorch_model file beside it"),
        ("no numbers", "diffusion_pytorch_model.safetensors"),
    ],
)
def test_a_folder_without_weights_is_a_sentence(how, sentence, weights, tmp_path, capsys):
    folder = damaged(tmp_path / "folder", weights, how)
    assert bench.main(["--weights", str(folder), "--models", "sd15-decoder", "--csv", str(tmp_path / "a.csv")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("bench_autoencoder.py: ") and said.count("\n") == 1 and sentence in said
    assert not [path for path in tmp_path.glob("a.*") if path.stat().st_size]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--models", "taesd-decoder"], "holds AutoencoderKL, taesd-decoder needs AutoencoderTiny"),
        (["--models", "sd15-decoder", "--pixels", "17"], "--pixels is 17, must divide by 2 for this network"),
        (["--batch", "0"], "--batch is 0, must be at least 1"),
        (["--rounds", "0"], "--rounds is 0, must be at least 1"),
        (["--csv", "/dev/null/a.csv"], "/dev/null"),
        (["--docs", "--csv", "no_such.csv"], "no_such.csv"),
    ],
)
def test_what_does_not_fit_the_weights_is_a_sentence(options, sentence, weights, capsys):
    assert bench.main(["--weights", str(weights / "AutoencoderKL"), *options]) == 2
    said = capsys.readouterr().err
    assert said.startswith("bench_autoencoder.py: ") and said.count("\n") == 1 and sentence in said


def test_without_diffusers(monkeypatch, capsys):
    find = bench.importlib.util.find_spec
    monkeypatch.setattr(bench.importlib.util, "find_spec", lambda name: None if name == "diffusers" else find(name))
    assert bench.main([]) == 2
    assert capsys.readouterr().err.startswith("bench_autoencoder.py: diffusers is not installed")


# --------------------------------------------------------------------------------------------------------- the document
def test_the_document_has_the_table_of_the_csv():
    text = bench.PAGE.read_text()
    assert bench.page(bench.read_csv(bench.CSV), text) == text, "run `python benchmarks/bench_autoencoder.py --docs`"
