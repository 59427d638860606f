"""Model folders and configurations that are damaged, or made to do harm: one sentence, in little time and memory."""

import json
import os
import re
import resource
import struct
import time
import warnings

import pytest
import safetensors.torch
import torch

from sdgan_ext import _files
from sdgan_ext._errors import CheckpointError, ConfigError, SdganError
from sdgan_ext.models import VAEGAN, VAEGANConfig
from sdgan_ext.models.config import MOST_PARAMETERS
from sdgan_ext.models.folder import read_weights, save_folder
from sdgan_ext.models.weights import check_weights, load_into
from sdgan_ext.presets import PRESETS

WEIGHTS, CONFIG = "model.safetensors", "config.json"


def make_model(**changes):
    torch.manual_seed(0)
    sizes = dict(
        image_size=8, latent_dim=3, encoder_channels=(4,), generator_channels=(4,), discriminator_channels=(4,)
    )
    return VAEGAN(VAEGANConfig(**{**sizes, **changes}))


@pytest.fixture
def folder(tmp_path):
    make_model().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def refusal(folder):
    """The sentence that the folder is refused with, within 2 seconds and without 200 MB more of memory."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(SdganError) as caught:
        VAEGAN.from_pretrained(folder)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000
    assert time.perf_counter() - began < 60  # it used to be for ever
    text = str(caught.value)
    assert text.isprintable() and len(text) <= 1000
    return text


# -------------------------------------------------------------------------------------------------- the digest
def test_one_changed_byte_anywhere_is_refused(tmp_path):
    save_folder(tmp_path, {"a": torch.randn(3, 4), "b": torch.arange(2)}, {})
    whole = (tmp_path / WEIGHTS).read_bytes()
    for position in range(len(whole)):
        for flip in (0x01, 0x20, 0xFF):
            damaged = bytearray(whole)
            damaged[position] ^= flip
            (tmp_path / WEIGHTS).write_bytes(damaged)
            with pytest.raises(CheckpointError, match="model.safetensors is damaged"):
                read_weights(tmp_path)
    for damaged in (whole[:-1], whole + b"\0", whole[:8], b""):
        (tmp_path / WEIGHTS).write_bytes(damaged)
        with pytest.raises(CheckpointError, match="model.safetensors is damaged"):
            read_weights(tmp_path)


def test_equal_weights_make_equal_files_that_other_programs_read(folder):
    first = (folder / WEIGHTS).read_bytes()
    make_model().save_pretrained(folder)
    assert (folder / WEIGHTS).read_bytes() == first
    weights = safetensors.torch.load_file(folder / WEIGHTS)
    for name, value in make_model().state_dict().items():
        torch.testing.assert_close(weights[name], value, rtol=0, atol=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        VAEGAN.from_pretrained(folder)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"format": "pt", "sha256": "0" * 64}])
def test_another_programs_file_has_no_digest_and_loads_with_a_warning(folder, metadata):
    weights = {name: value.contiguous() for name, value in make_model().state_dict().items()}
    safetensors.torch.save_file(weights, folder / WEIGHTS, metadata=metadata)
    with pytest.warns(UserWarning, match="model.safetensors has no digest, so whether its weights have changed"):
        loaded = VAEGAN.from_pretrained(folder)
    torch.testing.assert_close(loaded.sample(2, seed=0), make_model().sample(2, seed=0))


# ------------------------------------------------------------------------------------------------- the weights
def spoilt(name, spoil):
    weights = dict(make_model().state_dict())
    weights[name] = spoil(weights[name].clone())
    return weights


BIAS = "generator.dense.bias"


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda w: w.fill_(float("nan")), f"is damaged: {BIAS} holds NaN or infinity"),
        (lambda w: w.double().fill_(1e300), f"is damaged: {BIAS} holds NaN or infinity"),  # in the model's float32
        (lambda w: w.view(torch.int32), f"{BIAS} is of torch.int32, the model's of torch.float32"),
        (lambda w: w.to(torch.complex64), f"{BIAS} is of torch.complex64"),
        (lambda w: w[:-1], rf"{BIAS} has shape \(63,\), the model's \(64,\)"),
        (lambda w: w.to("meta"), f"{BIAS} is a Tensor, not numbers"),
        (lambda w: w.to_sparse(), f"{BIAS} is a Tensor, not numbers"),
        (lambda w: [0.0], f"{BIAS} is a list, not numbers"),
    ],
    ids=["nan", "overflow", "integers", "complex", "shape", "meta", "sparse", "list"],
)
def test_weights_that_do_not_fit_are_refused_and_the_model_stays(tmp_path, spoil, words):
    model = make_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=words):
        load_into(model, spoilt(BIAS, spoil), tmp_path)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_weights_of_less_precision_are_of_their_kind(tmp_path):
    weights = spoilt(BIAS, lambda w: w.bfloat16())
    assert check_weights(make_model(), weights, tmp_path)[BIAS].dtype == torch.bfloat16


# ------------------------------------------------------------------------------------------------- config.json
def edited(**changes):
    def spoil(folder):
        values = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps({**values, **changes}))

    return spoil


def written(text):
    return lambda folder: (folder / CONFIG).write_text(text)


def other_text(name, value):
    """The value of a field as text that json.dumps would not write."""

    def spoil(folder):
        text = (folder / CONFIG).read_text()
        (folder / CONFIG).write_text(re.sub(rf'"{name}": [^,]+', f'"{name}": {value}', text))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "words"),
    {
        "blocks": (edited(residual_blocks=10**9), "residual_blocks is 1000000000; it must be .* at most 64"),
        "latent_dim": (edited(latent_dim=10**15), "parameters; it must be at most 1,073,741,824"),
        "kernel_size": (edited(kernel_size=10**6), "parameters; it must be at most 1,073,741,824"),
        "classes": (edited(classes=10**12), "parameters; it must be at most 1,073,741,824"),
        "image_size": (edited(image_size=10**9), r"image_size\[0\] is 1000000000; .* at most 8192"),
        "allowed but not saved": (edited(classes=10**7), "is of another architecture"),
        "prior": (edited(latent_dim=50_000, prior_rank=50_000), "parameters; it must be at most"),
        "many channels": (edited(encoder_channels=[4] * 9000), "9000 down blocks, but an image of 8x8"),
        "23 digits": (edited(latent_dim=10**22), "latent_dim is 1(0){22}; it must be at most 9223372036854775807"),
        "400 digits": (
            edited(negative_slope=10**400),
            "negative_slope is 10*...; it must be at most 9223372036854775807",
        ),
        "5,000 digits": (other_text("latent_dim", "9" * 5000), "config.json is damaged: Exceeds the limit"),
        "deep": (written("[" * 60_000), "config.json is damaged"),
        "deep value": (other_text("latent_dim", "[" * 900 + "]" * 900), "latent_dim is .*; it must be an integer"),
        "large": (written(" " * 2**20 + "{}"), "cannot read .*config.json: it has more than 65,536 bytes"),
        "NaN": (other_text("negative_slope", "NaN"), "negative_slope is nan; it must be a number"),
        "long text": (edited(init="x" * 50_000), "init is 'xxx.*; allowed are 'dcgan'"),
        "foreign key": (edited(**{"\x1b[2J\n": 1}), r"has no field '\\x1b\[2J\\n'"),
        "version": (edited(format_version=10**300), "format_version is 10*..., this sdgan_ext reads up to 1"),
        "model": (edited(model=["VAEGAN"]), "is not the configuration of a VAEGAN"),
    }.values(),
)
def test_a_hostile_configuration_is_a_sentence(folder, spoil, words):
    spoil(folder)
    with pytest.raises(SdganError, match=words):
        raise CheckpointError(refusal(folder))


@pytest.mark.parametrize("file", [CONFIG, WEIGHTS])
@pytest.mark.parametrize("kind", ["fifo", "folder", "device"])
def test_what_is_no_regular_file_is_not_read(folder, file, kind):
    (folder / file).unlink()
    if kind == "fifo":
        os.mkfifo(folder / file)
    elif kind == "folder":
        (folder / file).mkdir()
    else:
        (folder / file).symlink_to("/dev/zero")
    assert f"cannot read {folder / file}: it is no regular file" in refusal(folder)


def test_a_header_that_promises_more_than_the_file_has(folder):
    text = b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}'
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text)
    assert "model.safetensors is damaged" in refusal(folder)
    text = b'{"__metadata__":"' + b"n" * 100_000 + b'"}'
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text)
    assert "model.safetensors is damaged" in refusal(folder)
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", 2**62) + text)
    assert "model.safetensors is damaged" in refusal(folder)


# ----------------------------------------------------------------------------------------------- the parameters
CHANGES = {
    **{name: preset.model for name, preset in PRESETS.items() if isinstance(preset.model, VAEGANConfig)},
    "spectral": make_model(discriminator_norm="spectral", classes=3, minibatch_stddev=2).config,
    "group": make_model(encoder_norm="group", generator_norm="group", residual_blocks=2, learned_variance=True).config,
    "conv head": make_model(generator_head="conv", generator_channels=(8, 4, 6), kernel_size=5, channels=3).config,
    "latent map": make_model(latent_map=True, latent_dim=32, discriminator_head="patch", discriminator_blocks=1).config,
    "no encoder": make_model(encoder_channels=None, generator_norm="none", image_size=(9, 6)).config,
    "no discriminator": make_model(discriminator_channels=None, encoder_channels=(4, 8), encoder_norm="batch").config,
}


@pytest.mark.parametrize("config", CHANGES.values(), ids=CHANGES)
def test_parameters_are_counted_without_the_model(config):
    with torch.device("meta"):
        model = VAEGAN(config)
    assert config.parameters == sum(parameter.numel() for parameter in model.parameters())


def test_the_budget_is_what_it_says():
    config = VAEGANConfig()
    one = config.replace(classes=1).parameters - config.parameters
    most = (MOST_PARAMETERS - config.parameters) // one
    assert config.replace(classes=most).parameters <= MOST_PARAMETERS
    with pytest.raises(ConfigError, match=r"has 1,07\d,.* parameters; it must be at most 1,073,741,824"):
        config.replace(classes=most + 1)


# --------------------------------------------------------------------------------------------------------- links
@pytest.mark.parametrize("link", [WEIGHTS, CONFIG, f".{WEIGHTS}.PID.tmp", f".{CONFIG}.PID.tmp"])
def test_saving_writes_through_no_link(tmp_path, link):
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / link.replace("PID", str(os.getpid()))).symlink_to(victim)
    make_model().save_pretrained(folder)
    assert victim.read_bytes() == b"mine"
    assert sorted(path.name for path in folder.iterdir()) == [CONFIG, WEIGHTS]
    assert not any(path.is_symlink() for path in folder.iterdir())
    VAEGAN.from_pretrained(folder)


@pytest.mark.parametrize("file", [CONFIG, WEIGHTS])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink(os.devnull, path)])
def test_what_is_no_regular_file_is_not_replaced(folder, file, make):
    (folder / file).unlink()
    make(folder / file)
    kind = (folder / file).lstat().st_mode
    with pytest.raises(CheckpointError, match=f"cannot write .*{file}: it is no regular file"):
        make_model().save_pretrained(folder)
    assert (folder / file).lstat().st_mode == kind


def test_a_temporary_file_that_appears_in_between_is_not_opened(tmp_path, monkeypatch):
    victim, target = tmp_path / "victim", tmp_path / "target"
    victim.write_bytes(b"mine")
    temporary = tmp_path / f".target.{os.getpid()}.tmp"
    monkeypatch.setattr(_files.Path, "unlink", lambda path, **_: path.symlink_to(victim))
    with pytest.raises(CheckpointError, match="cannot write .*target: File exists"):
        with _files.replacing(target) as file:
            file.write(b"theirs")
    assert victim.read_bytes() == b"mine" and temporary.is_symlink() and not target.exists()


def test_a_folder_elsewhere_may_be_linked_to(tmp_path):
    (tmp_path / "big disk").mkdir()
    (tmp_path / "model").symlink_to(tmp_path / "big disk")
    make_model().save_pretrained(tmp_path / "model")
    assert (tmp_path / "big disk" / WEIGHTS).is_file()
    VAEGAN.from_pretrained(tmp_path / "model")
