"""``sdgan-ext report``: one page that needs nothing else, of whole, running, foreign and broken runs."""

import base64
import contextlib
import html
import html.parser
import io
import json
import re
import shlex
import shutil

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

import sdgan_ext as sd
from sdgan_ext._errors import CheckpointError
from sdgan_ext.cli import main
from sdgan_ext.data import ImageDataset
from sdgan_ext.report import write_report
from sdgan_ext.report.command import train_command
from sdgan_ext.report.curves import curve
from sdgan_ext.report.facts import read_facts
from sdgan_ext.training.runs import Run

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = [
    *("--steps", "6", "--batch-size", "4", "--latent-dim", "4", "--encoder-channels", "4,", "--log-every", "2"),
    *("--generator-channels", "4", "--discriminator-channels", "4,", "--checkpoint-every", "2", "--feature-layer", "0"),
    *("--sample-every", "2", "--validation-images", "4"),
]
VOID = {"meta", "img", "br", "circle", "path", "polyline"}


class Page(html.parser.HTMLParser):
    """A page read strictly: every tag that opens is closed by its own, in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert tag not in VOID and self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    def all(self, tag, key=None):
        return [attrs if key is None else attrs.get(key) for name, attrs in self.tags if name == tag]


def read(folder, out=None):
    return Page(write_report(folder, out).read_text())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "dots & <b>.npz"
    np.savez(path, np.random.default_rng(0).integers(0, 256, (24, 8, 10, 3), dtype=np.uint8))
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory, data):
    out = tmp_path_factory.mktemp("runs")
    for mode in ("gan", "vae", "vae-gan"):
        judged = [] if mode == "gan" else ["--evaluate-every", "2", "--evaluate-images", "4"]
        assert main(["train", "--data", str(data), "--out", str(out), "--mode", mode, *TINY, *judged]) == 0
    return {path.name.split("-")[1]: path for path in sorted(out.iterdir())}


@pytest.fixture
def run(runs, tmp_path):
    """A copy of the VAE-GAN's, to damage."""
    return shutil.copytree(runs["vaegan"], tmp_path / "00007-vaegan-dots")


# ------------------------------------------------------------------------------------------------ what it says
@pytest.mark.parametrize("kind", ["gan", "vae", "vaegan"])
def test_a_page_has_what_a_reader_looks_for(runs, kind, capsys):
    folder = runs[kind]
    assert main(["report", str(folder)]) == 0
    assert capsys.readouterr().out == f"written to {folder / 'report.html'}\n"
    page = Page((folder / "report.html").read_text())
    names = {"gan": "GAN", "vae": "VAE", "vaegan": "VAE-GAN"}
    assert f"A {names[kind]}, trained on 20 colour images of 8x10: dots & <b>.npz." in page.text
    assert f"{folder.name} finished" in page.text and "6 of 6" in page.text and " 24 " in page.text
    for heading in ("What it makes", "How good it is", "How it went", "On what", "How it is set", "How to repeat it"):
        assert heading in page.text
    assert "default-src 'none'" in page.all("meta", "content")[1]
    logged = {name for line in open(folder / "log.jsonl") for name in json.loads(line)} - {"step", "images", "seconds"}
    assert len(page.all("svg")) == len(logged) > 10
    captions = [image["alt"] for image in page.all("img")]
    assert "Samples, step 6" in captions and "step 2" in captions and "Walks through the latent space" in captions
    assert any("Reconstructions" in caption for caption in captions) == (kind != "gan")
    if kind == "gan":
        assert "It has not been evaluated yet: sdgan-ext evaluate " in page.text
        return
    best = json.loads((folder / "best" / "best.json").read_text())
    assert f"The best {best['metric']} on held-out images" in page.text and f"at step {best['step']}" in page.text


def test_nothing_is_asked_of_any_other_place(runs):
    page = read(runs["vaegan"])
    assert not {"script", "link", "iframe", "object", "use"} & {tag for tag, _ in page.tags}
    assert all(source.startswith("data:image/") for source in page.all("img", "src"))
    text = (runs["vaegan"] / "report.html").read_text()
    assert "url(" not in text and "@import" not in text and "http" not in text.replace("http-equiv", "")


def test_the_pictures_are_those_of_the_run(runs):
    page = read(runs["vaegan"])
    (image,) = [image for image in page.all("img") if image["alt"] == "Samples, step 6"]
    shown = Image.open(io.BytesIO(base64.b64decode(image["src"].partition(",")[2])))
    with Image.open(runs["vaegan"] / "samples" / "samples-00000006.png") as kept:
        assert np.array_equal(np.asarray(shown), np.asarray(kept))
        assert (image["width"], image["height"]) == tuple(map(str, kept.size))


@pytest.mark.parametrize("kind", ["gan", "vae", "vaegan"])
def test_the_command_trains_the_run_again(runs, kind):
    """What it would train has the configuration of the run, to the last field."""
    text = re.search(r"<pre>(sdgan-ext train --data.*?)</pre>", write_report(runs[kind]).read_text())[1]
    command = shlex.split(html.unescape(text))
    assert command == shlex.split(train_command(Run(runs[kind]).read_config()))
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main([*command[1:], "--dry-run"]) == 0
    asked, was = yaml.safe_load(out.getvalue()), Run(runs[kind]).read_config()
    assert {name: asked[name] for name in ("model", "train", "data")} == {
        name: was[name] for name in ("model", "train", "data")
    }


def test_every_preset_is_named_by_its_own_command():
    from sdgan_ext.presets import PRESETS

    for name, (model, train) in PRESETS.items():
        config = {"model": model.for_mode(train.mode).to_dict(), "train": train.to_dict(), "data": {"source": "mnist"}}
        assert train_command(config).endswith(f"--channels {model.channels} --preset {name}")


def test_evaluations_have_their_numbers_and_what_they_mean(run, data):
    assert main(["evaluate", str(run), "--data", str(data), "--split", "train", "--metrics", "elbo,errors"]) == 0
    values = json.loads((run / "evaluation-00000.json").read_text())["metrics"]
    page = read(run)
    assert f"neg_elbo {values['neg_elbo']:.4g} nats, lower is better" in page.text
    assert "evaluation-00000.json: data " in page.text and "split train, n 24, seed 0" in page.text


def test_what_went_wrong_in_health_is_said(run):
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines() if "health" in line]
    collapsed = {"health/diversity": 0.05}
    records = [{**lines[0], **(collapsed if step >= 500 else {}), "step": step} for step in range(100, 1000, 100)]
    (run / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    assert "In 5 of 8 intervals, last at step 900: the samples have collapsed: they differ 5% " in read(run).text
    few = [record | ({"health/diversity": 1.0} if record["step"] > 600 else {}) for record in records]
    (run / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in few))
    assert "No lasting sign of" in read(run).text


# --------------------------------------------------------------------------------------------- how a run ended
def test_a_run_that_is_being_trained_says_so_and_is_left_alone(run):
    log = run / "log.jsonl"
    log.write_text(log.read_text() + '{"step": 7, "enco')
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*") if path.is_file()}
    with Run(run).locked():
        page = read(run, run.parent / "page.html")
    assert "still being trained" in page.text and "damaged" not in page.text
    assert before == {path: path.stat().st_mtime_ns for path in before}
    page = read(run)
    assert "still being trained" not in page.text and f"damaged lines of {log} are left out: 1" in page.text


@pytest.mark.parametrize(
    ("steps", "model", "words"),
    [(6, True, "finished"), (9, True, "stopped at step 6"), (9, False, "broke off after step 6")],
)
def test_how_a_run_ended(run, steps, model, words):
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["train"]["steps"] = steps
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    if not model:
        shutil.rmtree(run / "model")
    assert f"{run.name} {words}" in read(run).text


def test_a_run_that_was_killed_between_checkpoints_broke_off(run):
    with open(run / "log.jsonl", "a") as log:
        log.write('{"step": 8, "images": 32, "seconds": 1.5, "s_per_kimg": 2.0}\n')
    assert "broke off after step 8" in read(run).text


def test_a_run_of_no_step_yet(run):
    for name in ("log.jsonl", "samples", "model", "best"):
        path = run / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in (run / "checkpoints").iterdir():
        path.unlink()
    page = read(run)
    assert "No picture has been drawn yet." in page.text and "Nothing has been logged yet." in page.text
    assert "holds no checkpoint" in page.text and "It has not been evaluated yet" in page.text


def test_a_run_of_ones_own_networks_says_that_its_program_is_needed(tmp_path):
    generator = nn.Sequential(nn.Linear(4, 64), nn.Unflatten(1, (1, 8, 8)), nn.Tanh())
    discriminator = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    model = sd.Networks(encoder=None, generator=generator, discriminator=discriminator, latent_shape=(4,))
    dataset = ImageDataset(torch.randint(0, 256, (16, 1, 8, 8), dtype=torch.uint8), name="dots")
    config = sd.TrainConfig(mode="gan", steps=2, batch_size=4, log_every=1)
    page = read(sd.Trainer(model, config, out=tmp_path, progress=False).fit(dataset).folder)
    assert "A GAN of a program's own networks, trained on 16 grey images of 8x8: dots." in page.text
    assert "only that program can train it again" in page.text and "sdgan-ext train" not in page.text


# --------------------------------------------------------------------------------------------- what is damaged
def damaged(run, what):
    """Damages a part of a run; what the page must say of it."""
    if what == "log":
        (run / "log.jsonl").write_bytes(b'\xff\n[1]\n{"step": 2, "a/b": 1e999, "images": 8}\n{"step": -1}\n')
        return f"damaged lines of {run / 'log.jsonl'} are left out: 3"
    if what == "no log":
        (run / "log.jsonl").unlink()
        return f"cannot read {run / 'log.jsonl'}: No such file or directory"
    if what == "config":
        (run / "config.yaml").write_text("model: [")
        return f"cannot read {run / 'config.yaml'}: "
    if what == "pictures":
        file = run / "samples" / "samples-00000006.png"
        file.write_bytes(file.read_bytes()[:100])
        (run / "samples" / "interpolation.gif").write_bytes(b"GIF8")
        return f"{file} is not shown: "
    if what == "a picture of another kind":
        file = run / "samples" / "samples-00000006.png"
        file.write_text("<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>")
        return f"{file} is not shown: "
    if what == "evaluation":
        (run / "evaluation-00000.json").write_text("{")
        return f"cannot read {run / 'evaluation-00000.json'}: it is no JSON"
    (run / "best" / "best.json").unlink()
    (run / "best" / "best.json").mkdir()
    return f"cannot read {run / 'best' / 'best.json'}: "


@pytest.mark.parametrize(
    "what", ["log", "no log", "config", "pictures", "a picture of another kind", "evaluation", "best"]
)
def test_what_is_damaged_is_named_and_the_rest_is_there(run, what):
    words = damaged(run, what)
    page = read(run)
    assert words in page.text
    assert "step 4" in [image["alt"] for image in page.all("img")]
    assert ("VAE-GAN" in page.text) == (what != "config")


HOSTILE = "<script>alert(1)</script>\"'&\x1b[2J\n</style>"


def test_names_from_files_are_words(run):
    """In a log, a configuration, an evaluation and the folder's own name."""
    folder = run.rename(run.parent / "0 <img src=x onerror=alert(1)>")
    with open(folder / "log.jsonl", "a") as log:
        log.write(json.dumps({"step": 8, f"a/{HOSTILE}": 1.0, f"health/{HOSTILE}": 1e308, HOSTILE: -1e308}) + "\n")
        log.write(
            json.dumps({"step": 9, HOSTILE: 1e308, "health/accuracy_real": 1.0, "health/accuracy_fake": 1}) + "\n"
        )
    config = yaml.safe_load((folder / "config.yaml").read_text())
    for part in ("data", "versions", "train", "model"):
        config[part] = {**config[part], HOSTILE: HOSTILE, "name": HOSTILE}
    config["data"] |= {"image_size": [HOSTILE], "images": HOSTILE, "source": HOSTILE}
    config["train"] |= {"patience": HOSTILE, "steps": HOSTILE, "batch_size": HOSTILE, "validation_images": HOSTILE}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    metrics = {HOSTILE: 1.0, "kl": HOSTILE, "mse": None, "fd": 10**400, "kid": float("inf")}
    content = {"metrics": metrics, "settings": {"data": HOSTILE, "k": HOSTILE}}
    (folder / "evaluation-00000.json").write_text(json.dumps(content))
    (folder / "best" / "best.json").write_text(json.dumps({"metric": HOSTILE, "value": 1, "step": HOSTILE, "since": 3}))
    path = write_report(folder)
    assert not any(character in path.read_text() for character in "\x1b")
    page = Page(path.read_text())
    assert not {tag for tag, _ in page.tags} & {"script"} and len(page.all("style")) == 1
    assert not [attrs for _, attrs in page.tags if any(name.startswith("on") for name in attrs)]
    assert "<script>alert(1)</script>" in page.text
    assert not re.search(r"\b(nan|inf)\b", re.sub(r"base64,[^\"]*", "", path.read_text()))


def test_what_is_no_run_is_refused(tmp_path, capsys):
    with pytest.raises(CheckpointError, match="is no run folder"):
        write_report(tmp_path)
    assert main(["report", str(tmp_path / "gone")]) == 2
    assert capsys.readouterr().err == f"sdgan-ext: there is no run {tmp_path / 'gone'}\n"
    assert not list(tmp_path.iterdir())


def test_a_page_that_cannot_be_written_leaves_the_old_one(run, monkeypatch):
    old = write_report(run).read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(CheckpointError, match="report.html: No space left on device"):
        write_report(run)
    assert (run / "report.html").read_bytes() == old and not list(run.glob(".*.tmp"))


# ------------------------------------------------------------------------------------------------------- curves
def points(text):
    return [tuple(map(float, pair.split(","))) for pair in re.search(r'points="([^"]*)"', text)[1].split()]


def test_a_curve_goes_where_its_values_go():
    drawn = points(curve("a", [(0, 1.0), (50, 3.0), (100, 2.0)]))
    (x0, y0), (x1, y1), (x2, y2) = drawn
    assert x1 - x0 == pytest.approx(x2 - x1, abs=0.15) and y1 < y2 < y0  # downwards is larger in an SVG
    assert y2 == pytest.approx((y0 + y1) / 2, abs=0.15)


def test_a_long_curve_keeps_its_peaks():
    series = [(step, 0.0) for step in range(100_000)]
    series[31_417], series[77_777] = (31_417, 5.0), (77_777, -5.0)
    drawn = points(curve("a", series))
    assert len(drawn) < 400
    heights = [y for _, y in drawn]
    assert heights.count(min(heights)) == heights.count(max(heights)) == 1
    assert drawn[-1][0] == max(x for x, _ in drawn)


def test_facts_of_a_whole_run(runs):
    facts = read_facts(runs["vaegan"])
    assert (facts.step, facts.steps, facts.ended, facts.running, facts.notices) == (6, 6, True, False, [])
    assert [step for step, _ in facts.history["encoder_generator/kl"]] == [2, 4, 6]
    assert [step for step, _ in facts.pictures["samples"]] == [2, 4, 6]
