"""``sdgan-ext pack``: a folder of images as tar shards."""

from __future__ import annotations

import argparse

from .._errors import ConfigError, MissingCaptionsError
from .._files import user_path
from ._common import integer, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="FOLDER", help="a folder of images, or a .zip or .tar archive of them")
    parser.add_argument("--out", required=True, help="the folder for the shards, without any yet")
    parser.add_argument("--split", default="train", help="train or test; train unless given")
    parser.add_argument("--images-per-shard", type=integer, default=10_000, help="at most; 10000 unless given")


def run(arguments: argparse.Namespace) -> int:
    if arguments.split not in ("train", "test"):
        raise ConfigError(f"--split is {arguments.split}; it must be train or test")
    if arguments.images_per_shard < 1:
        raise ConfigError(f"--images-per-shard is {arguments.images_per_shard}; it must be at least 1")
    from ..data import find_images
    from ..data.captions import TEMPLATE
    from ..data.lazy import FileSource
    from ..data.pack import pack

    try:
        source = find_images(arguments.data, arguments.split, captions=TEMPLATE)
    except MissingCaptionsError:
        source = find_images(arguments.data, arguments.split)
    if not isinstance(source, FileSource):
        raise ConfigError(f"{arguments.data} holds no images in files of their own, it need not be packed")
    captions = source.captions if source.index.num_classes is None else None
    shards = pack(source.index, user_path(arguments.out), source.name, arguments.images_per_shard, captions)
    what = "images" if captions is None else "images with captions"
    say(f"{len(source):,} {what} in {len(shards):,} shards: {user_path(arguments.out)}")
    return 0
