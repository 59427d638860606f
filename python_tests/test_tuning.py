"""``sdgan-ext tune``: what it searches, that it resumes, and what it refuses."""

import builtins
import xml.etree.ElementTree

import numpy as np
import pytest

from sdgan_ext import tuning
from sdgan_ext._errors import CheckpointError, ConfigError, DivergedError, EvaluationError
from sdgan_ext._tuning_plot import draw_trials
from sdgan_ext.cli import main
from sdgan_ext.presets import preset
from sdgan_ext.training.config import MODES
from sdgan_ext.tuning import SPACE, Range, Search, read_space, tune

optuna = pytest.importorskip("optuna")
pytestmark = pytest.mark.usefixtures("one_thread")

SPAN = {"lr_generator": Range(1e-3, 1e-2, True), "batch_size": Range(4, 8)}
SEARCH = Search("digits", "mnist-small", "vae", "elbo", steps=1, space=SPAN, n=8)
FLAGS = ["--data", "digits", "--mode", "vae", "--steps", "1", "--n", "8", "--space", "lr-generator=1e-3:1e-2:log"]


@pytest.fixture
def pretend(monkeypatch):
    """Puts a function of the values in the place of training and scoring."""

    def put(function):
        monkeypatch.setattr(tuning._Objective, "__call__", lambda self, values: function(values))

    return put


def trials_of(folder):
    return optuna.load_study(storage=f"sqlite:///{folder}/study.db", study_name="tune").trials


def scores(folder):
    return [(trial.params, trial.value) for trial in trials_of(folder) if trial.value is not None]


def test_a_score_is_that_of_the_trained_average_on_images_held_out(tmp_path, capsys):
    """The flags that are printed train the model whose score is in the study."""
    from sdgan_ext.data import hold_out, open_dataset
    from sdgan_ext.evaluation import evaluate
    from sdgan_ext.training.runs import load_model

    assert main(["tune", *FLAGS, "--trials", "2", "--out", str(tmp_path / "study")]) == 0
    printed = capsys.readouterr().out.splitlines()[-1].split("sdgan-ext ")[1].split()
    assert main([*printed, "--out", str(tmp_path / "runs")]) == 0
    model = load_model(tmp_path / "runs" / "00000-vae-digits")
    _, held_out = hold_out(open_dataset("digits"), 8)
    best = min(value for _, value in scores(tmp_path / "study"))
    assert evaluate(model, held_out, metrics=["elbo"], n=8)["neg_elbo"] == pytest.approx(best, rel=1e-6)


def test_the_test_split_is_for_the_asking():
    objective = tuning._Objective(Search(**(vars(SEARCH) | {"split": "test"})))
    assert objective.held_out.first_index == 2**40 and objective.base.validation_images == 0
    assert "--validation-images" not in objective.command({})


def test_a_tenth_of_the_images_at_most_is_held_out(tmp_path):
    np.savez(tmp_path / "few.npz", np.zeros((50, 28, 28), np.uint8))
    objective = tuning._Objective(Search(**(vars(SEARCH) | {"data": str(tmp_path / "few.npz"), "n": 2000})))
    assert objective.n == len(objective.held_out) == objective.base.validation_images == 5


def test_a_search_resumed_is_one_that_was_not_interrupted(tmp_path, pretend):
    pretend(lambda values: values["lr_generator"] * values["batch_size"])
    tune(SEARCH, trials=14, out=tmp_path / "whole", write=lambda line: None)  # TPE begins to use earlier trials at 10
    for count in (3, 12, 14):
        tune(SEARCH, trials=count, out=tmp_path / "parts", write=lambda line: None)
    assert len(trials_of(tmp_path / "parts")) == 14
    assert scores(tmp_path / "parts") == scores(tmp_path / "whole")
    assert len({values["lr_generator"] for values, _ in scores(tmp_path / "whole")}) == 14


@pytest.mark.parametrize("stop", [KeyboardInterrupt, tuning._Stopped("SIGTERM")])
def test_an_interrupted_trial_is_not_counted(tmp_path, capsys, pretend, stop):
    def objective(values):
        nonlocal calls
        calls += 1
        if calls == 2:
            raise stop
        return values["lr_generator"]

    calls = 0
    pretend(objective)
    argv = ["tune", *FLAGS, "--trials", "3", "--out", str(tmp_path / "study")]
    assert main(argv) in (130, 143)
    assert len(scores(tmp_path / "study")) == 1
    assert main(argv) == 0
    assert len(scores(tmp_path / "study")) == 3
    lines = capsys.readouterr().out.splitlines()
    assert sorted(line.split()[0] for line in lines[-5:-2]) == ["1", "2", "3"]
    pretend(lambda values: values["lr_generator"])
    assert main([*argv[:-1], str(tmp_path / "whole")]) == 0
    assert scores(tmp_path / "study") == scores(tmp_path / "whole")


def test_a_trial_that_diverges_is_recorded_with_the_reason(tmp_path, capsys):
    """By learning rates that do diverge."""
    space = ["--space", "lr-generator=1e-3:1e20:log"]
    argv = [*FLAGS[:-2], *space, "--steps", "3", "--trials", "6", "--out", str(tmp_path)]
    assert main(["tune", *argv]) == 0
    trials = trials_of(tmp_path)
    failed = [trial for trial in trials if trial.value is None]
    assert 0 < len(failed) < len(trials) == 6
    assert all("diverged" in trial.user_attrs["failed"] or "NaN" in trial.user_attrs["failed"] for trial in failed)
    printed = capsys.readouterr().out
    assert f"6 trials, {len(failed)} of them failed" in printed
    assert (tmp_path / "trials.svg").read_text().count("l6 6m0 -6") == 2 * len(failed)


def test_a_search_in_which_all_fails_says_so(tmp_path, pretend):
    def objective(values):
        raise DivergedError("a loss is NaN")

    pretend(objective)
    with pytest.raises(DivergedError, match="all 2 trials failed, the last one: a loss is NaN"):
        tune(SEARCH, trials=2, out=tmp_path, write=lambda line: None)


def test_more_is_better_where_it_is(tmp_path, pretend):
    pretend(lambda values: values["lr_generator"])
    lines = []
    tune(Search(**(vars(SEARCH) | {"metric": "psnr"})), trials=4, out=tmp_path, write=lines.append)
    best = max(trials_of(tmp_path), key=lambda trial: trial.value)
    assert lines[-1].endswith(f"--lr-generator {best.value} --batch-size {best.params['batch_size']}")


def test_the_plot_is_well_formed(tmp_path):
    points = [(3.0, {"a": 1, "<b>": 0.1}), (None, {"a": 1, "<b>": 0.2}), (300.0, {"a": 1, "<b>": 0.3})]
    draw_trials(tmp_path / "plot.svg", "score & more", points, {"a": False, "<b>": True}, lower=True)
    root = xml.etree.ElementTree.parse(tmp_path / "plot.svg").getroot()
    names = [element.tag.rpartition("}")[2] for element in root.iter()]
    assert names.count("circle") == 6 and names.count("polyline") == 1
    assert "nan" not in (tmp_path / "plot.svg").read_text()
    assert [file.name for file in tmp_path.iterdir()] == ["plot.svg"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["seed", "mnist-small", "dcgan-64"])
def test_the_default_space_is_allowed(name, mode):
    base = preset(name).train.replace(mode=mode)
    space = read_space([], base)
    assert {"lr_generator", "batch_size"} <= space.keys() <= SPACE.keys()
    assert ("lr_discriminator" in space) == (mode != "vae")
    for end in (0, 1):
        base.replace(**{key: span[end] for key, span in space.items()})


@pytest.mark.parametrize(
    "text, words",
    [
        ("lr_generater=1e-4:1e-2", "did you mean 'lr_generator'"),
        ("steps=1:2", "the same in every trial"),
        ("objective=1:2", "not a number of TrainConfig"),
        ("lr_generator", "must be NAME=LOW:HIGH"),
        ("lr_generator=1e-2:x", "with numbers"),
        ("batch_size=4:8.5", "with integers"),
        ("lr_generator=1e-2:1e-3", "LOW must be below HIGH"),
        ("lr_generator=1e-2:nan", "LOW must be below HIGH"),
        ("kl_weight=0:1:log", "LOW must be above 0"),
        ("kl_weight=0.1:1:lag", "'lag' came"),
        ("lr_generator=-1:1", "lr_generator is -1.0; it must be"),
        ("r1_gamma=0.1:1", "does nothing in mode 'vae'"),
    ],
)
def test_a_bad_range_is_refused(text, words):
    with pytest.raises(ConfigError, match=r"^--space is .*" + words):
        read_space([text], preset("mnist-small").train.replace(mode="vae"))
    with pytest.raises(ConfigError, match="has a range already"):
        read_space(["gamma=0:1", "gamma=0:2"], preset("mnist-small").train)


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--metric", "generator_loss"], "an adversarial loss says which of two networks is ahead"),
        (["--metric", "elbow"], "did you mean 'elbo'"),
        (["--split", "train"], "--split is 'train'; it must be validation or test"),
        (["--mode", "gan", "--metric", "elbo", "--space", "gamma=0:1"], "gamma does nothing in mode 'gan'"),
        (["--mode", "gan", "--metric", "elbo", "--space", "betas=0:1"], "not a number of TrainConfig"),
        (["--metric", "fd"], "it needs more images than that"),
        (["--trials", "0"], "--trials is 0"),
        (["--space", "batch_size=8:70000"], "a batch may have 70000 images"),
        (["--preset", "mnist-smal"], "did you mean 'mnist-small'"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path, capsys, flags, words):
    assert main(["tune", *FLAGS, "--out", str(tmp_path / "study"), *flags]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert not (tmp_path / "study").exists()


def test_a_bound_needs_an_encoder(tmp_path):
    with pytest.raises(EvaluationError, match="no encoder"):
        tune(Search(**(vars(SEARCH) | {"mode": "gan"})), trials=1, out=tmp_path)


def test_data_without_a_test_split_is_refused(tmp_path, capsys):
    np.savez(tmp_path / "dots.npz", np.zeros((16, 28, 28), np.uint8))
    argv = [*FLAGS, "--data", str(tmp_path / "dots.npz"), "--space", "batch_size=4:8", "--out", str(tmp_path / "study")]
    assert main(["tune", *argv, "--split", "test"]) == 2
    assert "test" in capsys.readouterr().err


def test_another_search_does_not_go_on_with_a_study(tmp_path, pretend):
    pretend(lambda values: values["lr_generator"])
    tune(SEARCH, trials=1, out=tmp_path, write=lambda line: None)
    before = scores(tmp_path)
    for change in ({"steps": 2}, {"seed": 1}, {"space": {"gamma": Range(0, 1)}}, {"metric": "psnr"}, {"split": "test"}):
        with pytest.raises(ConfigError, match=f"^--{next(iter(change))} is .*, but the study in .* has"):
            tune(Search(**(vars(SEARCH) | change)), trials=2, out=tmp_path)
    assert scores(tmp_path) == before


def test_any_name_of_a_folder_will_do(tmp_path, pretend, monkeypatch):
    pretend(lambda values: values["lr_generator"])
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "a?b%41#c {d}"
    for count in (1, 2):
        tune(SEARCH, trials=count, out=out, write=lambda line: None)
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    assert {path.name for path in out.iterdir()} == {"study.db", "trials.svg", ".lock"}


def test_a_file_that_is_no_study_is_left_alone(tmp_path):
    (tmp_path / "study.db").write_bytes(b"x" * 5000)
    with pytest.raises(CheckpointError, match="study.db cannot be used as a study: .*not a database"):
        tune(SEARCH, trials=1, out=tmp_path)
    assert (tmp_path / "study.db").read_bytes() == b"x" * 5000


def test_without_optuna_one_sentence_names_the_extra(monkeypatch, capsys):
    true_import = builtins.__import__

    def without(name, *rest):
        if name == "optuna":
            raise ModuleNotFoundError("No module named 'optuna'", name="optuna")
        return true_import(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    assert main(["tune", *FLAGS]) == 1
    assert capsys.readouterr().err == "sdgan-ext: tuning needs optuna; run `pip install 'sdgan_ext[tune]'`\n"
