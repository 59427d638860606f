"""The table of the formats that the package reads: seeds, mutations, and the public reader of each.

Mutation ``i`` of a format is always the same bytes: it follows from the format's name and ``i``.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import pickle
import struct
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml

from sdgan_ext import cli
from sdgan_ext._errors import ConfigError
from sdgan_ext.data import ImageDataset, load_array_file, load_idx_folder, load_image_folder, open_dataset
from sdgan_ext.models import VAEGAN, VAEGANConfig
from sdgan_ext.training.config import TrainConfig
from sdgan_ext.training.monitor import open_log
from sdgan_ext.training.runs import open_run, read_configs
from sdgan_ext.training.trainer import Trainer

from . import arrays
from .mutations import STRANGE_WORDS, changed_tree, damaged, strange_json, strange_yaml, to_text


class Seed(NamedTuple):
    """A folder that can be read, and which of its files is changed."""

    files: dict[str, bytes]
    target: str

    @property
    def data(self) -> bytes:
        return self.files[self.target]


@dataclass(frozen=True)
class Format:
    """
    Attributes:
        name: of the format.
        make: gives the seeds.
        read: reads a seed's folder; what it returns is what the files say.
        rewrite: another change than that of bytes, after which lengths and checksums are right.
        checked: whether a checksum covers the contents: what is read of a damaged file is what a seed says.
        signed: whether the checksum also covers them from a writer that has made it anew, unless a warning is given.
    """

    name: str
    make: Callable[[], list[Seed]]
    read: Callable[[Path], Any]
    rewrite: Callable[[Random, bytes], bytes] | None = None
    checked: bool = False
    signed: bool = False

    @functools.cached_property
    def seeds(self) -> list[Seed]:
        return self.make()

    def mutation(self, number: int) -> tuple[int, bytes, bool]:
        """The number of its seed, its bytes, and whether checksums are right."""
        rng = Random(f"{self.name} {number}")
        which = rng.randrange(len(self.seeds))
        data = self.seeds[which].data
        if self.rewrite is not None and rng.random() < 0.5:
            return which, self.rewrite(rng, data), True
        return which, damaged(rng, data, [seed.data for seed in self.seeds]), False


def _one(name: str, *contents: bytes) -> list[Seed]:
    return [Seed({name: content}, name) for content in contents]


# ------------------------------------------------------------------------------------------------------ images
def _idx_seeds(suffix: str) -> list[Seed]:
    images, labels = f"train-images-idx3-ubyte{suffix}", f"train-labels-idx1-ubyte{suffix}"
    with tempfile.TemporaryDirectory() as folder:
        files = {
            images: arrays.idx(arrays.pictures(), Path(folder)),
            labels: arrays.idx(np.arange(4, dtype=np.int32), Path(folder)),
        }
    if suffix:
        import gzip

        files = {name: gzip.compress(content, mtime=0) for name, content in files.items()}
    return [Seed(files, images), Seed(files, labels)]


def _npz_seeds() -> list[Seed]:
    colour = arrays.pictures(channels=3)
    contents = (
        {"images": arrays.pictures(), "labels": np.arange(4)},
        {"x_train": colour, "y_train": np.zeros((4, 1), np.uint8), "x_test": colour},
        {"arr_0": colour.astype(np.float32) / 255},
    )
    methods = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED
    return _one("data.npz", *(arrays.npz(content, method) for content in contents for method in methods))


def _npy_seeds() -> list[Seed]:
    colour = arrays.pictures(channels=3)
    return _one("data.npy", *map(arrays.npy, (arrays.pictures(), colour, np.asfortranarray(colour / 255.0))))


def _png_seeds() -> list[Seed]:
    modes = "L", "P", "RGB", "RGBA", "LA", "1"
    return _one(
        "a.png", *(arrays.picture(mode, "PNG", **options) for mode in modes for options in ({}, {"optimize": 1}))
    )


def _jpeg_seeds() -> list[Seed]:
    plain = [arrays.picture(mode, "JPEG") for mode in ("L", "RGB", "CMYK")]
    exif = b"Exif\0\0" + b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"
    return _one(
        "a.jpg", *plain, arrays.picture("RGB", "JPEG", progressive=True), arrays.picture("RGB", "JPEG", exif=exif)
    )


def _other_image_seeds() -> list[Seed]:
    kinds = {
        "a.bmp": [("RGB", "BMP", {}), ("P", "BMP", {})],
        "a.gif": [("P", "GIF", {}), ("L", "GIF", {})],
        "a.ppm": [("RGB", "PPM", {}), ("L", "PPM", {})],
        "a.tif": [("RGB", "TIFF", {"compression": kind}) for kind in (None, "tiff_lzw", "tiff_adobe_deflate", "jpeg")],
        "a.webp": [("RGB", "WEBP", {"lossless": True}), ("RGBA", "WEBP", {})],
    }
    return [
        seed
        for name, pictures in kinds.items()
        for mode, kind, options in pictures
        for seed in _one(name, arrays.picture(mode, kind, **options))
    ]


def _archived() -> dict[str, bytes]:
    return {f"{label}/{number}.png": arrays.picture("RGB", "PNG") for label in "ab" for number in range(2)}


def _zip_seeds() -> list[Seed]:
    return _one("a.zip", *(arrays.zipped(_archived(), method) for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))


def _tar_seeds() -> list[Seed]:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in _archived().items():
            for member, text in ((name, content), (f"{name[:-4]}.cls", b"1")):
                info = tarfile.TarInfo(member)
                info.size = len(text)
                archive.addfile(info, io.BytesIO(text))
    return _one("a.tar", file.getvalue())


def _metadata_seeds() -> list[Seed]:
    images = {f"{number}.png": arrays.picture("RGB", "PNG") for number in range(3)}
    lines = [json.dumps({"file_name": name, "text": f"a number, 数 {name}"}, ensure_ascii=False) for name in images]
    return [Seed(images | {"metadata.jsonl": "\n".join(lines).encode()}, "metadata.jsonl")]


def _index_seeds() -> list[Seed]:
    (seed,) = _tar_seeds()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "a.tar").write_bytes(seed.data)
        os.utime(Path(folder) / "a.tar", ns=(0, 0))
        open_dataset(folder, cache="none").index.save(Path(folder) / "data-index.npz")
        return [Seed(_files(Path(folder)), "data-index.npz")]


def _read_index(folder: Path) -> Any:
    os.utime(folder / "a.tar", ns=(0, 0))  # as it was
    return _read_lazily(folder, folder / "data-index.npz")


def _read_lazily(path: Path, index: Path | None = None) -> Any:
    dataset = open_dataset(path, cache="none", index_file=index)
    return dataset.batch(torch.arange(len(dataset)))


def _read_npz(folder: Path) -> Any:
    """Without the labels: a zip's checksums do not cover names, and under a damaged one there are none."""
    return load_array_file(folder / "data.npz").images


def _of_dataset(dataset: ImageDataset) -> Any:
    return dataset.images, dataset.labels


# ---------------------------------------------------------------------------------------------------- models
SIZES = {"image_size": 8, "latent_dim": 4}
CHANNELS = {name: (4,) for name in ("encoder_channels", "generator_channels", "discriminator_channels")}


def _model(**changes: Any) -> VAEGAN:
    torch.manual_seed(0)
    return VAEGAN(VAEGANConfig(**SIZES, **CHANNELS).replace(**changes))


def _files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _model_seeds(target: str) -> list[Seed]:
    seeds = []
    for changes in ({}, {"classes": 3, "prior_rank": 2, "residual_blocks": 1}, {"encoder_channels": None}):
        with tempfile.TemporaryDirectory() as folder:
            _model(**changes).save_pretrained(folder)
            seeds.append(Seed(_files(Path(folder)), target))
    return seeds


def _read_model(folder: Path) -> Any:
    return VAEGAN.from_pretrained(folder).state_dict()


def json_rewritten(rng: Random, data: bytes) -> bytes:
    return to_text(changed_tree(rng, json.loads(data), strange_json)).encode()


def safetensors_rewritten(rng: Random, data: bytes) -> bytes:
    """Another header of the right length before the same values, or other values after the same header."""
    stop = 8 + struct.unpack("<Q", data[:8])[0]
    header, values = data[8:stop], data[stop:]
    action = rng.random()
    if action < 0.2:
        values = damaged(rng, values, [values])
    elif action < 0.6:
        header = json_rewritten(rng, header)
    elif action < 0.8:
        tree = json.loads(header)
        name = rng.choice([name for name in tree if name != "__metadata__"])
        tree[name][rng.choice(("dtype", "shape", "data_offsets"))] = rng.choice(
            ("F16", "BF16", "I32", "F64", "BOOL", [4], [2**62, 4], [-1], [], [0, 0], [0, 16], [16, 0], [0, 2**63])
        )
        header = json.dumps(tree).encode()
    else:  # the names change their tensors
        tree = json.loads(header)
        a, b = (rng.choice([name for name in tree if name != "__metadata__"]) for _ in range(2))
        tree[a], tree[b] = tree[b], tree[a]
        header = json.dumps(tree).encode()
    return struct.pack("<Q", len(header)) + header + values


# -------------------------------------------------------------------------------------------------------- runs
@functools.cache
def _run() -> dict[str, bytes]:
    """The files of a run of two steps; config.yaml says what is not the default, to be read quickly."""
    images = torch.from_numpy(arrays.pictures(8, 8, 8)[:, None])
    config = TrainConfig(steps=2, batch_size=4, log_every=1)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        run = Trainer(_model(), config, out=folder, progress=False).fit(ImageDataset(images, name="dots"))
        files = _files(run.folder)
    wanted = {f"checkpoints/step-{2:08d}.pt", "config.yaml", "log.jsonl"}
    files = {name: content for name, content in files.items() if name in wanted}
    whole = yaml.safe_load(files["config.yaml"])
    kept = {"model": (*SIZES, *CHANNELS), "train": ("steps", "batch_size", "log_every", "betas"), "data": whole["data"]}
    short = {section: {name: whole[section][name] for name in names} for section, names in kept.items()}
    return {**files, "config.yaml": yaml.safe_dump(short).encode()}


def _run_seeds(target: str) -> list[Seed]:
    return [Seed(_run(), target)]


def _read_config(folder: Path) -> Any:
    run = open_run(folder)
    return [config.to_dict() for config in read_configs(run.read_config(), run.config_file)]


def _read_run(folder: Path) -> Any:
    trainer = Trainer.resume(folder, progress=False)
    optimizers = [optimizer.state_dict() for optimizer in trainer.optimizers.values()]
    states = trainer.model.state_dict(), trainer.ema.state_dict(), optimizers, trainer.generator.get_state()
    return *states, trainer.run.step, trainer.run.seconds, trainer.config.to_dict(), trainer.data


_parsed = functools.cache(yaml.safe_load)


def yaml_rewritten(rng: Random, data: bytes) -> bytes:
    return to_text(changed_tree(rng, _parsed(data), strange_yaml)).encode()


def _config_file_seeds() -> list[Seed]:
    flat = {"data": "digits", "preset": "mnist-small", "batch_size": 64, "betas": [0.5, 0.9], "feature_layer": 0}
    flat |= {"image_size": [8, 8], **{name: list(channels) for name, channels in CHANNELS.items()}}
    run = yaml.safe_load(_run()["config.yaml"])
    run["data"]["source"] = "digits"
    run["train"] |= {"feature_layer": 0, "batch_size": 64}
    return _one("config.yaml", *(yaml.safe_dump({**tree, "threads": 1}).encode() for tree in (flat, run)))


def _read_config_file(folder: Path) -> None:
    """The command's code and its line on stderr as the error that they come from."""
    stderr = io.StringIO()
    with contextlib.redirect_stderr(stderr), contextlib.redirect_stdout(io.StringIO()):
        code = cli.main(["train", "--config", str(folder / "config.yaml"), "--dry-run"])
    if code:
        raise ConfigError(stderr.getvalue().removesuffix("\n"))


def strange_saved(rng: Random) -> Any:
    """What a checkpoint may hold in the place of what it should."""
    tensors = (
        *(torch.zeros(0), torch.zeros(()), torch.ones(4), torch.full((4, 1, 4, 4), torch.nan), torch.zeros(3, 1, 4, 4)),
        *(torch.ones(4, dtype=dtype) for dtype in (torch.float64, torch.int64, torch.bool, torch.complex64)),
        *(torch.zeros(100, dtype=torch.uint8), torch.zeros(5056, dtype=torch.uint8), torch.zeros(1).expand(2**40)),
        *(torch.eye(4).to_sparse(), torch.zeros(4, device="meta"), torch.nn.Parameter(torch.ones(4))),
    )
    plain = (None, True, 0, -1, 3, 2**63, 10**30, 0.5, float("nan"), float("inf"), b"bytes", [], {}, (), set(), [1, 2])
    return rng.choice((*tensors, *plain, *STRANGE_WORDS))


@functools.cache
def _saved(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), weights_only=True)


def checkpoint_rewritten(rng: Random, data: bytes) -> bytes:
    """Other contents in a complete file: another tree, or other bytes with right CRCs."""
    if rng.random() < 0.6:
        file = io.BytesIO()
        torch.save(changed_tree(rng, _saved(data), strange_saved), file)
        return file.getvalue()
    members = arrays.unzipped(data)
    pickled = next(name for name in members if name.endswith("data.pkl"))
    name = pickled if rng.random() < 0.7 else rng.choice(list(members))
    if rng.random() < 0.1:
        members[name] = pickle.dumps(rng.choice((10**30, "x", [[]], {"format": 1}, {"format": 10**9})), protocol=2)
    else:
        members[name] = damaged(rng, members[name], [members[pickled]])
    return arrays.zipped(members)


def log_rewritten(rng: Random, data: bytes) -> bytes:
    lines = data.splitlines()
    number = rng.randrange(len(lines))
    lines[number] = to_text(changed_tree(rng, json.loads(lines[number]), strange_json)).encode()
    return b"\n".join(lines) + rng.choice((b"\n", b"", b"\r\n"))


def _read_log(folder: Path) -> None:
    path = folder / "log.jsonl"
    open_log(path, 1).close()
    for line in path.read_bytes().splitlines():
        if not json.loads(line)["step"] <= 1:
            raise AssertionError(f"log.jsonl keeps a record of a later step: {line!r}")


FORMATS = {
    format.name: format
    for format in (
        Format("idx", lambda: _idx_seeds(""), lambda f: _of_dataset(load_idx_folder(f)), arrays.idx_rewritten),
        Format(
            "idx.gz", lambda: _idx_seeds(".gz"), lambda f: _of_dataset(load_idx_folder(f)), arrays.gzip_rewritten, True
        ),
        Format("npz", _npz_seeds, _read_npz, arrays.npz_rewritten, True),
        Format("npy", _npy_seeds, lambda f: _of_dataset(load_array_file(f / "data.npy")), arrays.npy_rewritten),
        Format("png", _png_seeds, lambda f: _of_dataset(load_image_folder(f)), arrays.png_rewritten),
        Format("jpeg", _jpeg_seeds, lambda f: _of_dataset(load_image_folder(f))),
        Format("bmp, gif, ppm, tiff, webp", _other_image_seeds, lambda f: _of_dataset(load_image_folder(f))),
        Format("zip", _zip_seeds, lambda f: _read_lazily(f / "a.zip"), arrays.npz_rewritten),
        Format("tar", _tar_seeds, lambda f: _read_lazily(f / "a.tar")),
        Format(
            "metadata.jsonl",
            _metadata_seeds,
            lambda f: list(open_dataset(f, captions="{class}").captions),
            log_rewritten,
        ),
        Format("data-index.npz", _index_seeds, _read_index, arrays.npz_rewritten, True),
        Format("config.json", lambda: _model_seeds("config.json"), _read_model, json_rewritten),
        Format(
            "safetensors", lambda: _model_seeds("model.safetensors"), _read_model, safetensors_rewritten, True, True
        ),
        Format("checkpoint", lambda: _run_seeds(f"checkpoints/step-{2:08d}.pt"), _read_run, checkpoint_rewritten, True),
        Format("config.yaml", lambda: _run_seeds("config.yaml"), _read_config, yaml_rewritten),
        Format("train --config", _config_file_seeds, _read_config_file, yaml_rewritten),
        Format("log.jsonl", lambda: _run_seeds("log.jsonl"), _read_log, log_rewritten),
    )
}
