"""A tokenizer learnt from captions: every word one token, in CLIP's own classes and files."""

import json

import pytest
import torch

from sdgan_ext._errors import CheckpointError, ConfigError, DataError
from sdgan_ext.data.scenes import DigitScenes
from sdgan_ext.diffusion.tokenizer import CaptionTokenizer

transformers = pytest.importorskip("transformers")

CAPTIONS = [
    "A red seven, left of a blue three",
    "it's Mother's caffè no. 42; re-read",
    "一个红色的七在蓝色的三左边，背景是黑色",
    "ok手势 カタカナと漢字",
    "abab ababab ab b aab xabc abc bc",
]


@pytest.fixture(scope="module")
def learnt():
    return CaptionTokenizer.learn(CAPTIONS)


def tokens(tokenizer, caption):
    ids = tokenizer.tokenizer(caption)["input_ids"]
    return tokenizer.tokenizer.convert_ids_to_tokens(ids)[1:-1]


def test_every_word_is_one_token(learnt):
    assert tokens(learnt, CAPTIONS[0]) == [f"{w}</w>" for w in "a red seven , left of a blue three".split()]
    assert len(tokens(learnt, CAPTIONS[1])) == len("it 's mother 's caffè no . 4 2 ; re - read".split())
    assert len(tokens(learnt, CAPTIONS[2])) == len(CAPTIONS[2])
    assert len(tokens(learnt, CAPTIONS[3])) == 1 + 2 + len("カタカナと漢字")
    assert tokens(learnt, CAPTIONS[4]) == [f"{w}</w>" for w in CAPTIONS[4].split()]
    assert not [word for caption in CAPTIONS for word in learnt.unknown_words(caption)]


def test_scenes():
    scenes = DigitScenes(length=2000, image_size=16, objects=(1, 2, 3), languages=("en", "zh"))
    learnt = CaptionTokenizer.learn(scenes.captions)
    ids = learnt.encode(list(scenes.captions)[:300])
    assert learnt.length < 50 and ids.max() < learnt.vocab_size < 1000
    for caption in list(scenes.captions)[:300]:
        words = len(caption.replace(",", " ,").split()) if caption.isascii() else len(caption)
        assert len(tokens(learnt, caption)) == words


def test_words_are_not_of_those_around_them(learnt):
    """A Chinese character is the same token wherever it stands in a run, but for the end."""
    inside, last = tokens(learnt, "红色的七"), tokens(learnt, "七色")
    assert inside[1] == last[1].removesuffix("</w>") and len(inside) == 4 and len(last) == 2


def test_encode(learnt):
    ids = learnt.encode(["a red three", "", CAPTIONS[2]])
    start, end = (learnt.tokenizer.convert_tokens_to_ids(token) for token in ("<|startoftext|>", "<|endoftext|>"))
    assert (start, end) == (learnt.vocab_size - 2, learnt.vocab_size - 1)
    assert ids.shape == (3, learnt.length) and ids.dtype == torch.int64 and learnt.length == len(CAPTIONS[2]) + 2
    assert ids[0, 0] == start and (ids[0, 4:] == end).all() and end not in ids[0, :4]
    assert (ids[1, 1:] == end).all() and (ids[2] == end).sum() == 1
    assert learnt.tokenizer.decode(ids[0], skip_special_tokens=True) == "a red three"
    padded = learnt.tokenizer(["a red three"], padding="max_length", max_length=learnt.length)["input_ids"]
    assert ids[:1].tolist() == padded  # what a pipeline does


def test_a_caption_that_is_too_long():
    short = CaptionTokenizer.learn(CAPTIONS, length=6)
    with pytest.warns(
        UserWarning, match="2 captions have more tokens than the 4 .* 'a red seven left of' becomes 'a red seven left'"
    ):
        ids = short.encode(["a red seven left of", "a red seven left", "a a a a a"])
    assert ids.shape == (3, 6) and ids[0, -1] == short.vocab_size - 1 and torch.equal(ids[0], ids[1])


def test_unknown_words(learnt):
    assert learnt.unknown_words("a RED elephant, 7 x left-of the elephant! 红大") == [
        "elephant",
        "7",
        "x",
        "the",
        "!",
        "大",
    ]
    assert learnt.unknown_words("4 2 b 的") == [] and learnt.unknown_words("") == []
    assert learnt.unknown_words("seve ababababab") == ["seve", "ababababab"]


@pytest.mark.filterwarnings("error::UserWarning")
def test_save_and_load(learnt, tmp_path):
    learnt.save(tmp_path / "a")
    captions = [*CAPTIONS, "never Seen 没有"]
    expected = learnt.encode(captions)
    again = CaptionTokenizer.load(tmp_path / "a")
    assert torch.equal(again.encode(captions), expected) and again.length == learnt.length
    assert again.unknown_words(captions[-1]) == learnt.unknown_words(captions[-1]) == ["never", "seen", "没", "有"]
    again.save(tmp_path / "b")
    for file in ("vocab.json", "merges.txt", "words.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    (tmp_path / "b" / "tokenizer.json").unlink()  # from vocab.json and merges.txt alone
    for folder in ("a", "b"):
        loaded = transformers.CLIPTokenizer.from_pretrained(tmp_path / folder)
        got = loaded(captions, padding="max_length", truncation=True)["input_ids"]
        assert torch.equal(torch.tensor(got), expected)
    assert set(json.loads((tmp_path / "a" / "vocab.json").read_text())) >= {
        "red</w>",
        "<|startoftext|>",
        "<|endoftext|>",
    }


def test_without_the_list_of_words(learnt, tmp_path):
    """As a pipeline saves it: then what is one token is known, and a letter always is."""
    learnt.save(tmp_path)
    (tmp_path / "words.json").unlink()
    assert CaptionTokenizer.load(tmp_path).unknown_words("a red elephant 7") == ["elephant"]


def test_the_order_of_the_captions_does_not_matter():
    one, other = CaptionTokenizer.learn(CAPTIONS), CaptionTokenizer.learn(CAPTIONS[::-1])
    assert one.tokenizer.get_vocab() == other.tokenizer.get_vocab()


def test_what_cannot_be(tmp_path, learnt):
    with pytest.raises(DataError, match="hold no words"):
        CaptionTokenizer.learn([" ", ""])
    with pytest.raises(ConfigError, match="length is 2, it must be at least 3"):
        CaptionTokenizer.learn(CAPTIONS, length=2)
    with pytest.raises(CheckpointError, match="holds no tokenizer: No such file"):
        CaptionTokenizer.load(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="neither vocab.json nor tokenizer.json"):
        CaptionTokenizer.load(tmp_path)
    for file in ("tokenizer.json", "words.json"):
        learnt.save(tmp_path / file)
        (tmp_path / file / file).write_text("{")
        with pytest.raises(CheckpointError, match="holds no tokenizer"):
            CaptionTokenizer.load(tmp_path / file)
