"""Images into tar shards, WebDataset's format: a few large files in the place of many small ones."""

from __future__ import annotations

import io
import sys
import tarfile
from pathlib import Path

from tqdm import tqdm  # type: ignore[import-untyped]

from sdgan_ext._errors import DataError, printable
from sdgan_ext._files import replacing
from sdgan_ext.data.index import Index

__all__ = ["pack"]


def pack(index: Index, out: Path, name: str, images_per_shard: int = 10_000) -> list[Path]:
    """Writes the images of ``index`` to ``out/NAME-00000-of-00012.tar`` and so on, byte by byte as they are.

    They stay in their order, under their names, so that a training on the shards has the bits of one on the images.
    A shard is there whole or not at all; the same images make the same bytes.

    Args:
        index: of :attr:`sdgan_ext.data.lazy.FileSource.index`.
        out: a folder; it is made where it is missing.
        name: what the shards' names begin with.
        images_per_shard: at most.

    Returns:
        The shards.

    Raises:
        DataError: ``out`` holds shards already, an image cannot be read, or its name is there twice.
        CheckpointError: a shard cannot be written.
    """
    count = len(index.spans)
    shards = -(-count // images_per_shard)
    out.mkdir(parents=True, exist_ok=True)
    if there := sorted(out.glob("*.tar")):
        raise DataError(
            f"{printable(out)} holds shards already ({printable(there[0].name)}), an empty folder is needed"
        )
    written = []
    with tqdm(total=count, desc="packing", unit=" images", disable=not sys.stderr.isatty()) as bar:
        for shard in range(shards):
            path = out / f"{name}-{shard:05d}-of-{shards:05d}.tar"
            with replacing(path) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
                for number in range(shard * images_per_shard, min(count, (shard + 1) * images_per_shard)):
                    _add(archive, index, number)
                    bar.update()
            written.append(path)
    return written


def _add(archive: tarfile.TarFile, index: Index, number: int) -> None:
    with index.spans.open(number) as file:
        content = file.read()
    name = index.spans.name(number)
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))
