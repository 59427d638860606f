"""Mutations of the formats of images: what a byte at random seldom hits is rewritten with right lengths and CRCs."""

from __future__ import annotations

import functools
import gzip
import io
import struct
import zipfile
import zlib
from random import Random

import numpy as np
from PIL import Image

from sdgan_ext.data import write_idx

from .mutations import STRANGE_WORDS, damaged

SIZES = (0, 1, 2, 3, 4, 5, 255, 2**16, 2**31, 2**32 - 1, 2**40, 2**63, 2**70, -1)


# --------------------------------------------------------------------------------------------------------- IDX
def pictures(count: int = 4, height: int = 6, width: int = 5, channels: int = 0) -> np.ndarray:
    shape = (count, height, width, channels) if channels else (count, height, width)
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def idx(array: np.ndarray, folder) -> bytes:
    write_idx(folder / "array", array)
    return (folder / "array").read_bytes()


def idx_rewritten(rng: Random, data: bytes) -> bytes:
    rank = rng.choice((0, 1, 2, 3, 3, 4, 33, 100, 255))
    sizes = [min(max(rng.choice(SIZES), 0), 2**32 - 1) for _ in range(rank)]
    return struct.pack(f">HBB{rank}I", 0, rng.choice((8, 8, 9, 11, 12, 13, 14, 15)), rank, *sizes) + data[16:]


@functools.cache
def _zeros() -> bytes:
    """A member of a gzip file that expands to 64 MB."""
    return gzip.compress(bytes(2**26), 9, mtime=0)


def gzip_rewritten(rng: Random, data: bytes) -> bytes:
    """With another file in it, or one that expands to hundreds of times its size."""
    inside = gzip.decompress(data)
    if rng.random() < 0.05:
        header = idx_rewritten(rng, inside) if rng.random() < 0.5 else inside
        return gzip.compress(header, mtime=0) + _zeros() * rng.choice((1, 40))
    return gzip.compress(rng.choice((idx_rewritten(rng, inside), damaged(rng, inside, [inside]))), mtime=0)


# ------------------------------------------------------------------------------------------------- npy and npz
DTYPES = ("|u1", "<f4", "<f8", "<f2", ">f4", "<i8", "<u2", "|O", "|V8", "<U5", "|S3", "<c8", "<M8[s]", "|b1", "?", "x")
RECORD = [("a", "<i4"), ("b", "|O")]


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


def npy_rewritten(rng: Random, data: bytes) -> bytes:
    """Another header before the same values."""
    start = 10 + struct.unpack("<H", data[8:10])[0]
    shape = tuple(rng.choice(SIZES) for _ in range(rng.choice((0, 1, 3, 3, 4, 4, 5, 33, 100))))
    fields = {
        "descr": rng.choice(DTYPES) if rng.random() < 0.9 else RECORD,
        "fortran_order": rng.choice((False, True, None, 7)),
        "shape": rng.choice((shape, shape, (4, 6, 5), (4, 6, 5, 3), 4, "x", None, (4, 6.5), ((4,),), [4, 6, 5])),
    }
    header = {"fields": repr(fields), "tail": " \n"}
    if rng.random() < 0.15:
        header["fields"] = rng.choice(("", "{" * 500, "[" * 90_000, "x", "{}", "{'shape': 1}", "9" * 9000, "\0", "()"))
    text = "".join(header.values()).encode("latin1")
    version = rng.choice((1, 1, 1, 2, 3, 0, 9))
    length = struct.pack("<H" if version == 1 else "<I", len(text) % 2**16)
    return b"\x93NUMPY" + bytes((version, 0)) + length + text + data[start:]


def npz(arrays: dict[str, np.ndarray], method: int = zipfile.ZIP_STORED) -> bytes:
    return zipped({f"{name}.npy": npy(array) for name, array in arrays.items()}, method)


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name.encode("utf-8", "replace").decode() or "x"), content, method)
    return file.getvalue()


def unzipped(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def npz_rewritten(rng: Random, data: bytes) -> bytes:
    """Other members, with right CRCs."""
    members = unzipped(data)
    name = rng.choice(list(members))
    action = rng.random()
    if action < 0.6:
        members[name] = npy_rewritten(rng, members[name])
    elif action < 0.8:
        members[name] = damaged(rng, members[name], list(members.values()))
    elif action < 0.9:
        members[rng.choice(STRANGE_WORDS)[:1000] + rng.choice(("", ".npy"))] = members.pop(name)
    else:
        members[name] = rng.choice((b"", b"\x93NUMPY", npy(np.array([{}, None], object)), npy(np.zeros((0, 6, 5)))))
    if rng.random() < 0.03:
        members["zeros.npy"] = next(iter(members.values()))[:128] + bytes(2**24)
    return zipped(members, rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)))


# ------------------------------------------------------------------------------------------------ image files
def picture(mode: str, file_format: str, **options) -> bytes:
    """A file of 6x5 pixels."""
    channels = {"L": 0, "P": 3, "RGB": 3, "RGBA": 4, "LA": 2, "1": 0, "I;16": 0, "CMYK": 4}[mode]
    values = pictures(1, channels=channels)[0]
    if mode == "I;16":
        values = values.astype(np.uint16) * 257
    image = Image.fromarray(values).convert(mode) if mode in ("P", "1", "CMYK") else Image.fromarray(values)
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    chunks, place = [], 8
    while place + 8 <= len(data):
        length = struct.unpack(">I", data[place : place + 4])[0]
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += 12 + length
    return chunks


def png_rewritten(rng: Random, data: bytes) -> bytes:
    """Other chunks, with right lengths and CRCs."""
    chunks = _chunks(data)
    number = rng.randrange(len(chunks))
    kind, content = chunks[number]
    action = rng.random()
    if action < 0.4:
        sides = [rng.choice((0, 1, 5, 6, 1000, 13_000, 100_000, 2**31 - 1, 2**31, 2**32 - 1)) for _ in range(2)]
        chunks[0] = (b"IHDR", struct.pack(">II", *sides) + damaged(rng, chunks[0][1][8:], [content])[:5])
    elif action < 0.6:
        chunks[number] = (kind, damaged(rng, content, [content]))
    elif action < 0.7:
        del chunks[number]
    elif action < 0.8:
        chunks.insert(number, rng.choice(chunks))
    else:
        text = zlib.compress(bytes(rng.choice((10, 2**23))))
        extra = {
            b"zTXt": b"a\0\0" + text,
            b"iTXt": b"a\0\1\0\0\0" + text,
            b"tEXt": b"a\0" + rng.randbytes(20),
            b"iCCP": b"a\0\0" + text,
            b"eXIf": b"II*\0" + rng.randbytes(40),
            b"tRNS": rng.randbytes(rng.choice((0, 1, 2, 6, 300))),
            b"PLTE": rng.randbytes(rng.choice((0, 3, 7, 900))),
            b"acTL": struct.pack(">II", rng.choice((0, 1, 2**31)), 0),
        }
        chunks.insert(rng.randrange(1, len(chunks)), rng.choice(list(extra.items())))
    parts = [struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks]
    return data[:8] + b"".join(parts)
