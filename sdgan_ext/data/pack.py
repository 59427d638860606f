"""Images into tar shards, WebDataset's format: a few large files in the place of many small ones."""

from __future__ import annotations

import io
import sys
import tarfile
from pathlib import Path, PurePosixPath

from tqdm import tqdm  # type: ignore[import-untyped]

from sdgan_ext._errors import DataError, printable
from sdgan_ext._files import replacing
from sdgan_ext.data.captions import Captions
from sdgan_ext.data.index import Index

__all__ = ["pack"]


def pack(
    index: Index, out: Path, name: str, images_per_shard: int = 10_000, captions: Captions | None = None
) -> list[Path]:
    """Writes the images of ``index`` to ``out/NAME-00000-of-00012.tar`` and so on, byte by byte as they are.

    They stay in their order, under their names, so that a training on the shards has the bits of one on the images.
    A shard is there whole or not at all; the same images make the same bytes.

    Args:
        index: of :attr:`sdgan_ext.data.lazy.FileSource.index`.
        out: a folder; it is made where it is missing.
        name: what the shards' names begin with.
        images_per_shard: at most.
        captions: of each image, which become .txt files behind them; None: there are none.

    Returns:
        The shards.

    Raises:
        DataError: ``out`` holds shards already, an image cannot be read, its name is there twice, or two images of one
            name but for the suffix have two captions.
        CheckpointError: a shard cannot be written.
    """
    count = len(index.spans)
    shards = -(-count // images_per_shard)
    out.mkdir(parents=True, exist_ok=True)
    if there := sorted(out.glob("*.tar")):
        raise DataError(
            f"{printable(out)} holds shards already ({printable(there[0].name)}), an empty folder is needed"
        )
    texts = None if captions is None else _text_files(index, captions)
    written = []
    with tqdm(total=count, desc="packing", unit=" images", disable=not sys.stderr.isatty()) as bar:
        for shard in range(shards):
            path = out / f"{name}-{shard:05d}-of-{shards:05d}.tar"
            with replacing(path) as file, tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
                for number in range(shard * images_per_shard, min(count, (shard + 1) * images_per_shard)):
                    with index.spans.open(number) as image:
                        _add(archive, index.spans.name(number), image.read())
                    if texts is not None:
                        _add(archive, *texts[number])
                    bar.update()
            written.append(path)
    return written


def _text_files(index: Index, captions: Captions) -> list[tuple[str, bytes]]:
    """Of each image, the name and the content of the file with its caption."""
    files: dict[str, bytes] = {}
    names = [str(PurePosixPath(index.spans.name(number)).with_suffix(".txt")) for number in range(len(captions))]
    for name, caption in zip(names, captions, strict=True):
        if files.setdefault(name, caption.encode()) != caption.encode():
            raise DataError(f"two images would have their captions in {printable(name)}: rename one of them")
    return [(name, files[name]) for name in names]


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))
