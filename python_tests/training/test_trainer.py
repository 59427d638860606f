"""The trainer: exact resume, what it writes, and how it ends."""

import json
import signal
import sys
import warnings

import pytest
import torch
import yaml
from PIL import Image
from tiny import Interrupting, make_config, make_dataset, make_model

import sdgan_ext
from sdgan_ext._errors import CheckpointError, ConfigError, DataError, DivergedError
from sdgan_ext.training import trainer as trainer_module
from sdgan_ext.training.state import list_checkpoints, load_checkpoint
from sdgan_ext.training.trainer import Trainer


def start(out, mode="vae-gan", model=None, **changes):
    return Trainer(make_model(mode, **(model or {})), make_config(mode=mode, **changes), out=out, progress=False)


def weights(run):
    return (run.model / "model.safetensors").read_bytes()


class Fives(torch.utils.data.Dataset):
    """A user's own, which does not say how many classes it has."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return torch.zeros(1, 8, 8), 5


# ------------------------------------------------------------------------------------------------------ resume
@pytest.mark.parametrize("mode", ["gan", "vae", "vae-gan"])
def test_2n_steps_are_n_steps_resumed_for_n_more_bit_for_bit(tmp_path, mode):
    whole = start(tmp_path / "whole", mode, steps=10).fit(make_dataset())
    half = start(tmp_path / "half", mode, steps=5).fit(make_dataset())
    torch.manual_seed(99)  # a new process would not have the old one's random state
    resumed = Trainer.resume(half.folder, steps=10, progress=False)
    run = resumed.fit(make_dataset())
    assert run.step == 10 and run.folder == half.folder
    assert weights(run) == weights(whole)
    ends = [load_checkpoint(list_checkpoints(r.checkpoints)[-1]) for r in (run, whole)]
    for key in ("model", "ema", "optimizers", "generator"):
        torch.testing.assert_close(ends[0][key], ends[1][key], rtol=0, atol=0)


@pytest.mark.parametrize("mode", ["gan", "vae", "vae-gan"])
def test_resume_is_exact_with_every_setting(tmp_path, mode):
    model = dict(classes=3, minibatch_stddev=4, learned_variance=True)
    late_start = dict(disc_start=4, disc_warmup=2) if mode == "vae-gan" else {}
    settings = dict(
        objective="relativistic", r1_gamma=0.3, r2_gamma=0.3, r1_every=3, n_critic=2, free_bits=0.05, weight_l1=1e-4,
        diffaugment=("color", "translation", "cutout"), adaptive_weight=0.5 * (mode == "vae-gan"), clip_generator=1.0,
        lr_warmup_steps=3, lr_hold_steps=4, lr_cosine_steps=4, pixel_loss="l1", **late_start,
    )  # fmt: skip
    data = make_dataset(classes=3)
    whole = start(tmp_path / "whole", mode, model, steps=10, **settings).fit(data)
    half = start(tmp_path / "half", mode, model, steps=5, **settings).fit(data)
    torch.manual_seed(99)
    run = Trainer.resume(half.folder, steps=10, progress=False).fit(data)
    assert weights(run) == weights(whole)
    ends = [load_checkpoint(list_checkpoints(r.checkpoints)[-1]) for r in (run, whole)]
    for key in ("model", "ema", "optimizers", "generator"):
        torch.testing.assert_close(ends[0][key], ends[1][key], rtol=0, atol=0)


def test_gradient_penalty_resumes_exactly(tmp_path):
    settings = dict(objective="wasserstein", gp_weight=10.0, n_critic=2)
    whole = start(tmp_path / "whole", "gan", steps=6, **settings).fit(make_dataset())
    half = start(tmp_path / "half", "gan", steps=3, **settings).fit(make_dataset())
    assert weights(Trainer.resume(half.folder, steps=6, progress=False).fit(make_dataset())) == weights(whole)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (make_dataset(), "dots has no labels, the model is conditioned on 3 classes"),
        (make_dataset(classes=4), "dots has 4 classes, the model is conditioned on 3 classes"),
        (Fives(), "Fives: labels has 5; this model's are 0 to 2"),
    ],
)
def test_labels_that_the_model_cannot_take(data, words):
    with pytest.raises(DataError, match=words):
        Trainer(make_model(classes=3), make_config(), out=None, progress=False).fit(data)


def test_digits_that_are_mirrored_are_warned_about():
    for augment, name, warned in ((("flip",), "mnist", 1), (("shift",), "mnist", 0), (("flip",), "dots", 0)):
        trainer = start(None, augment=augment)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            trainer.describe(make_dataset(name=name))
        assert [str(w.message)[:37] for w in caught] == ["augment has 'flip', but mnist is digi"] * warned


def test_quarter_turns_need_square_images():
    with pytest.raises(ConfigError, match="augment has 'rotate90', which needs square images; the model's are 8x4"):
        start(None, model={"image_size": (8, 4)}, augment=("rotate90",))


def test_resume_without_steps_goes_on_to_the_saved_number(tmp_path):
    run = start(tmp_path).fit(make_dataset())
    assert Trainer.resume(run.folder, progress=False).fit(make_dataset()).step == 6
    with pytest.raises(ConfigError, match="steps is 5, but 6 have been taken"):
        Trainer.resume(run.folder, steps=5)


def test_resume_passes_over_a_damaged_checkpoint_and_says_so(tmp_path):
    run = start(tmp_path).fit(make_dataset())
    newest = list_checkpoints(run.checkpoints)[-1]
    newest.write_bytes(newest.read_bytes()[:2000])
    with pytest.warns(UserWarning, match="skipped: the checkpoint .*step-00000006.pt is damaged"):
        trainer = Trainer.resume(run.folder, progress=False)
    assert trainer.run.step == 4
    before = weights(run)
    assert weights(trainer.fit(make_dataset())) == before


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    run, other = start(tmp_path).fit(make_dataset()), start(tmp_path, "gan").fit(make_dataset())
    newest = list_checkpoints(other.checkpoints)[-1]
    newest.rename(run.checkpoints / "step-00000900.pt")
    with pytest.raises(CheckpointError, match=r"step-00000900\.pt is of another architecture .*encoder_channels"):
        Trainer.resume(run.folder)


def test_other_data_is_refused(tmp_path):
    run = start(tmp_path).fit(make_dataset())
    for data, sentence in (
        (make_dataset(count=12), "started on data with images 16, now it is 12"),
        (make_dataset(name="other"), "started on data with name 'dots', now it is 'other'"),
        (make_dataset(size=9), r"dots has image_size \[9, 9\], the model takes \[8, 8\]"),
    ):
        with pytest.raises(DataError, match=sentence):
            Trainer.resume(run.folder, steps=20, progress=False).fit(data)


# ------------------------------------------------------------------------------------------------- what it writes
def test_the_run_folder(tmp_path, capsys):
    trainer = Trainer(make_model(), make_config(sample_every=3), out=tmp_path)
    run = trainer.fit(make_dataset())
    assert run.folder == tmp_path / "00000-vaegan-dots"
    assert sorted(path.name for path in run.samples.iterdir()) == [
        "interpolation.gif",
        "reconstructions-00000003.png",
        "reconstructions-00000006.png",
        "samples-00000003.png",
        "samples-00000006.png",
    ]
    assert [path.name for path in list_checkpoints(run.checkpoints)] == ["step-00000004.pt", "step-00000006.pt"]
    config = yaml.safe_load(run.config_file.read_text())
    assert config["train"] == trainer.config.to_dict() and config["model"] == trainer.model.config.to_dict()
    assert config["data"] == {"source": None, "name": "dots", "images": 16, "image_size": [8, 8], "channels": 1}
    assert config["versions"]["torch"] == str(torch.__version__)
    records = [json.loads(line) for line in run.log_file.read_text().splitlines()]
    assert [(record["step"], record["images"]) for record in records] == [(2, 8), (4, 16), (6, 24)]
    assert {"seconds", "s_per_kimg", "discriminator/adversarial", "encoder_generator/kl"} <= records[0].keys()
    assert records[-1] == run.metrics and 0 < records[0]["seconds"] <= records[-1]["seconds"]
    assert "step 6/6 24 images" in capsys.readouterr().out


def test_pictures(tmp_path):
    run = start(tmp_path).fit(make_dataset())
    with Image.open(run.samples / "samples-00000006.png") as picture:
        assert picture.mode == "L" and picture.size == (8 * 10 - 2, 8 * 10 - 2)
    with Image.open(run.samples / "reconstructions-00000006.png") as picture:  # 16 images: 2 rows of 8, each twice
        assert picture.size == (8 * 10 - 2, 4 * 10 - 2)
    with Image.open(run.samples / "interpolation.gif") as picture:
        assert picture.n_frames == 36 and picture.info["loop"] == 0


def test_tensorboard_has_the_scalars_and_the_pictures(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = start(tmp_path).fit(make_dataset())
    Trainer.resume(run.folder, steps=8, progress=False).fit(make_dataset())
    events = accumulator.EventAccumulator(str(run.folder))
    events.Reload()
    assert {"samples", "reconstructions"} <= set(events.Tags()["images"])
    assert [event.step for event in events.Scalars("encoder_generator/kl")] == [2, 4, 6, 8]
    first, second = (event.tensor_proto.string_val[0].decode() for event in events.Tensors("config"))
    assert "\n  batch_size: 4\n  steps: 6\n" in first and "\n  batch_size: 4\n  steps: 8\n" in second


def test_without_tensorboard_training_goes_on(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "tensorboard"] + ["tensorboard"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "sdgan_ext.training.trackers.tensorboard", raising=False)
    with pytest.warns(UserWarning, match="tensorboard is not installed; `pip install tensorboard`"):
        run = start(tmp_path).fit(make_dataset())
    assert run.step == 6 and not list(run.folder.glob("events*"))


def test_a_full_disk_under_tensorboard_ends_no_training(tmp_path, monkeypatch):
    writer = pytest.importorskip("tensorboard.summary.writer.record_writer").RecordWriter
    whole, wrote = writer.write, []

    def write(self, data):
        wrote.append(data)
        if len(wrote) > 4:
            raise OSError(28, "No space left on device")
        whole(self, data)

    monkeypatch.setattr(writer, "write", write)
    with pytest.warns(UserWarning, match="without the tracker tensorboard: .*No space left") as caught:
        run = start(tmp_path).fit(make_dataset())
    assert run.step == 6 and len(run.log_file.read_text().splitlines()) == 3
    assert len(wrote) == 5 and len(caught) == 1


def test_out_none_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = start(None).fit(make_dataset())
    assert run.folder is None and run.step == 6 and run.metrics["step"] == 6
    assert not list(tmp_path.iterdir())


def test_the_log_loses_what_came_after_the_checkpoint(tmp_path):
    run = start(tmp_path).fit(make_dataset())
    with open(run.log_file, "a") as log:
        log.write('{"step": 7}\n{"step": 8, "ima')
    Trainer.resume(run.folder, steps=8, progress=False).fit(make_dataset())
    assert [json.loads(line)["step"] for line in run.log_file.read_text().splitlines()] == [2, 4, 6, 8]


def test_describe_writes_nothing_and_counts_parameters(tmp_path):
    trainer = start(tmp_path / "runs")
    text = yaml.safe_load(trainer.describe(make_dataset()))
    assert text["parameters"]["total"] == sum(parameter.numel() for parameter in trainer.model.parameters())
    assert not (tmp_path / "runs").exists()
    with pytest.raises(DataError, match="holds 3 images, fewer than one batch"):
        start(tmp_path).describe(make_dataset(count=3))


# --------------------------------------------------------------------------------------------------- how it ends
@pytest.fixture
def restored():
    """Signals as they were: SIGINT and SIGHUP may be ignored, behind `&` and under nohup."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
@pytest.mark.usefixtures("restored")
def test_a_signal_ends_the_step_saves_and_returns(tmp_path, name):
    number = getattr(signal, name)
    signal.signal(number, signal.default_int_handler)
    run = start(tmp_path, steps=1000, checkpoint_every=1000).fit(Interrupting(number))
    assert run.stopped_by == name and run.step == 2
    assert load_checkpoint(list_checkpoints(run.checkpoints)[-1])["step"] == run.step
    assert (run.model / "config.json").exists() and (run.model / "model.safetensors").exists()
    assert signal.getsignal(number) is signal.default_int_handler
    total = run.step + 3
    resumed = Trainer.resume(run.folder, steps=total, progress=False).fit(make_dataset())
    assert weights(resumed) == weights(start(tmp_path, steps=total).fit(make_dataset()))


@pytest.mark.usefixtures("restored")
def test_a_terminal_may_hang_up_twice_and_nohup_is_heeded(tmp_path, monkeypatch):
    def hung_up(*arguments, **options):
        for _ in range(2):
            signal.raise_signal(signal.SIGHUP)
        return real_step(*arguments, **options)

    real_step = trainer_module.train_step
    monkeypatch.setattr(trainer_module, "train_step", hung_up)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    run = start(tmp_path).fit(make_dataset())
    assert (run.stopped_by, run.step) == ("SIGHUP", 1)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    run = start(tmp_path).fit(make_dataset())
    assert (run.stopped_by, run.step) == (None, 6)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


@pytest.mark.usefixtures("restored")
def test_a_second_ctrl_c_leaves_at_once(tmp_path, monkeypatch):
    def interrupted_twice(*arguments, **options):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(trainer_module, "train_step", interrupted_twice)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path).fit(make_dataset())
    (folder,) = tmp_path.iterdir()
    assert [path.name for path in list_checkpoints(folder / "checkpoints")] == ["step-00000000.pt"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_names_phase_term_step_and_the_last_good_checkpoint(tmp_path, monkeypatch, bad):
    real_step = trainer_module.train_step

    def step(*arguments, step, **options):
        losses = real_step(*arguments, step=step, **options)
        return losses | {"encoder_generator/kl": torch.tensor(bad)} if step == 4 else losses

    monkeypatch.setattr(trainer_module, "train_step", step)
    with pytest.raises(DivergedError) as caught:
        start(tmp_path).fit(make_dataset())
    for words in ("step 5", "kl", "encoder_generator", str(bad), "the last good checkpoint is", "step-00000004.pt"):
        assert words in str(caught.value)
    (folder,) = tmp_path.iterdir()
    assert load_checkpoint(list_checkpoints(folder / "checkpoints")[-1])["step"] == 4


def test_a_real_divergence_is_caught(tmp_path):
    with pytest.raises(DivergedError, match="step-00000000.pt"):
        start(tmp_path, steps=50, checkpoint_every=50, lr_encoder=1e30, lr_generator=1e30).fit(make_dataset())


def test_weights_that_are_not_finite_are_never_saved(tmp_path, monkeypatch):
    real_step = trainer_module.train_step

    def train_step(model, *arguments, step, **options):
        losses = real_step(model, *arguments, step=step, **options)
        if step == 1:  # as after a finite loss with an infinite gradient
            model.generator.dense.weight.data[0, 0] = float("inf")
        return losses

    monkeypatch.setattr(trainer_module, "train_step", train_step)
    with pytest.raises(DivergedError, match=r"by step 2: generator.dense.weight holds NaN or infinity.*00000000\.pt"):
        start(tmp_path).fit(make_dataset())
    (folder,) = tmp_path.iterdir()
    assert len(list_checkpoints(folder / "checkpoints")) == 1 and not (folder / "model").exists()


def test_the_mode_must_fit_the_model(tmp_path):
    with pytest.raises(ConfigError, match="mode 'vae-gan' trains the encoder, but the model has none"):
        Trainer(make_model("gan"), make_config())


@pytest.mark.parametrize("made", ["before", "after"])
def test_float64_by_default_is_refused_in_a_sentence(made, tmp_path):
    model = make_model()
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.raises(ConfigError, match=r"torch's default dtype is torch.float64, but .*set_default_dtype\(.*32"):
            Trainer(model if made == "before" else make_model(), make_config(), out=tmp_path)
    finally:
        torch.set_default_dtype(torch.float32)
    with pytest.raises(ConfigError, match=r"encoder\..* is torch.float64, but .* model.float\(\)"):
        Trainer(make_model().double(), make_config(), out=tmp_path)
    assert Trainer(make_model().double().float(), make_config(), out=None, progress=False).fit(make_dataset()).step == 6


def test_the_public_names():
    assert sdgan_ext.Trainer is Trainer
    with pytest.raises(AttributeError, match="has no attribute 'Tranier'"):
        sdgan_ext.Tranier  # noqa: B018
    assert {"ops", "nn", "losses", "VAEGAN", "preset", "build_info", "__version__"} <= set(dir(sdgan_ext))
