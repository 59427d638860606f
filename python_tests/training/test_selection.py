"""Metrics during a training: the best model is kept, patience ends it, a resumed run judges like a whole one."""

import json

import pytest
import torch
from tiny import make_config, make_dataset, make_model

from sdgan_ext._errors import ConfigError, DataError
from sdgan_ext.data import hold_out, to_uint8
from sdgan_ext.models import VAEGAN
from sdgan_ext.training import selection
from sdgan_ext.training.trainer import Trainer


def start(out, mode="vae", **changes):
    config = make_config(mode=mode, **{"evaluate_every": 2, "evaluate_images": 8, **changes})
    return Trainer(make_model(mode), config, out=out, progress=False)


def judged(monkeypatch, values):
    """Evaluations that give these numbers, one after another."""
    given = iter(values)
    monkeypatch.setattr(selection, "evaluate", lambda *_, **__: {"neg_elbo": next(given), "kl": 1.0})


def weights(model):
    return torch.cat([p.flatten() for p in model.state_dict().values()])


def test_the_best_model_is_kept(tmp_path, monkeypatch):
    judged(monkeypatch, [5.0, 3.0, 4.0, 3.5])
    trainer, seen = start(tmp_path, steps=8), []
    keep = selection.Selection._keep
    monkeypatch.setattr(selection.Selection, "_keep", lambda s, m: (seen.append(weights(m).clone()), keep(s, m)))
    run = trainer.fit(make_dataset(), held_out=make_dataset())
    best = json.loads((run.folder / "best/best.json").read_text())
    assert best == {"metric": "neg_elbo", "value": 3.0, "step": 4, "images": 8, "since": 0}
    assert len(seen) == 2 and torch.equal(weights(VAEGAN.from_pretrained(run.folder / "best")), seen[-1])
    records = [json.loads(line) for line in run.log_file.open()]
    assert [r["evaluation/neg_elbo"] for r in records if "evaluation/neg_elbo" in r] == [5.0, 3.0, 4.0, 3.5]


@pytest.mark.parametrize(("patience", "end"), [(2, 8), (0, 20)])
def test_patience(tmp_path, monkeypatch, capsys, patience, end):
    judged(monkeypatch, [5.0, 3.0, 4.0, 3.0, 2.0, 1.0, 0.9, 0.8, 0.7, 0.6])
    trainer = start(tmp_path, steps=20, patience=patience)
    trainer.progress = True
    run = trainer.fit(make_dataset(), held_out=make_dataset())
    assert run.step == end and run.stopped_by is None
    said = "neg_elbo has not improved in 2 evaluations: the training ends; its best, 3, is that of step 4"
    assert (said in capsys.readouterr().out) == (end == 8)


def test_resumed_it_judges_as_if_it_had_gone_on(tmp_path):
    whole = start(tmp_path / "whole", steps=8).fit(make_dataset(), held_out=make_dataset())
    half = start(tmp_path / "half", steps=4).fit(make_dataset(), held_out=make_dataset())
    run = Trainer.resume(half.folder, steps=8, progress=False).fit(make_dataset(), held_out=make_dataset())
    assert run.best == whole.best and run.best["metric"] == "neg_elbo"
    files = [(r.folder / "best/model.safetensors").read_bytes() for r in (run, whole)]
    assert files[0] == files[1]


def test_evaluating_leaves_the_training_as_it_was(tmp_path):
    runs = [start(tmp_path / str(n), evaluate_every=n).fit(make_dataset(), held_out=make_dataset()) for n in (2, 0)]
    assert runs[0].best and not runs[1].best
    assert len({(run.model / "model.safetensors").read_bytes() for run in runs}) == 1


@pytest.mark.parametrize(("mode", "metric"), [("gan", "fd"), ("vae", "rfd")])
def test_judged_by_features(tmp_path, monkeypatch, mode, metric):
    asked = []
    monkeypatch.setattr(selection, "refusals", lambda *_, **__: {})
    monkeypatch.setattr(
        selection, "evaluate", lambda *_, metrics, **__: asked.append(metrics) or {f"lenet-{metric}": 1.0}
    )
    run = start(tmp_path, mode, evaluate_metric=metric).fit(make_dataset(), held_out=make_dataset())
    assert run.best["metric"] == f"lenet-{metric}" and asked == [[metric]] * 3


def test_bad_settings(tmp_path):
    with pytest.raises(ConfigError, match="evaluate_metric is 'adversarial'; allowed .*depends on the other network"):
        make_config(evaluate_metric="adversarial")
    with pytest.raises(ConfigError, match="in mode 'gan' there is no encoder; use 'fd'"):
        make_config(mode="gan", evaluate_every=10)
    with pytest.raises(ConfigError, match="evaluate_metric is 'rfd', but in mode 'gan' there is no encoder"):
        make_config(mode="gan", evaluate_every=10, evaluate_metric="rfd")
    with pytest.raises(ConfigError, match="patience is 3, but evaluate_every is 0"):
        make_config(patience=3)
    with pytest.raises(ConfigError, match="evaluate_every needs held-out images; give fit"):
        start(tmp_path).fit(make_dataset())
    with pytest.raises(ConfigError, match="evaluate_metric 'fd' cannot be taken: images of 8x8 are too small"):
        start(tmp_path, evaluate_metric="fd").fit(make_dataset(), held_out=make_dataset())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("resumed", [False, True])
def test_validation_images_are_judged_and_not_trained_on(tmp_path, monkeypatch, resumed):
    """Of 16 images with their number for a label, six."""
    data, trained, judged_by = make_dataset(classes=16), set(), []
    evaluate = selection.evaluate

    def looked_at(model, images, **options):
        judged_by.append(set(images.indices.tolist()))
        return evaluate(model, images, **options)

    def noted(self, images, **options):
        trained.update(int((data.images == image).flatten(1).all(1).nonzero()) for image in to_uint8(images))
        return step(self, images, **options)

    step = Trainer._step
    trainer = start(tmp_path, steps=12, validation_images=6)
    if resumed:
        start(tmp_path, steps=2, validation_images=6).fit(data)
        trainer = Trainer.resume(tmp_path / "00000-vae-dots", steps=12, progress=False)
    monkeypatch.setattr(Trainer, "_step", noted)
    monkeypatch.setattr(selection, "evaluate", looked_at)
    trainer.fit(data)
    held = set(hold_out(data, 6)[1].indices.tolist())
    assert trained == set(range(16)) - held
    assert judged_by == [held] * (5 if resumed else 6)


def test_validation_images_that_cannot_be(tmp_path):
    with pytest.raises(ConfigError, match="validation_images is 16, but .* of the 16 of dots"):
        start(tmp_path, validation_images=16).fit(make_dataset())
    with pytest.raises(ConfigError, match="validation_images is 4, but held_out is given too"):
        start(tmp_path, validation_images=4).fit(make_dataset(), held_out=make_dataset())
    with pytest.raises(DataError, match="holds 3 images, fewer than one batch of 4"):
        start(tmp_path, validation_images=13).describe(make_dataset())
    assert not list(tmp_path.iterdir())
