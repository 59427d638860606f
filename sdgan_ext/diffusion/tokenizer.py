"""A tokenizer learnt from captions, in CLIP's format: what ``transformers.CLIPTokenizer`` loads.

Byte pair encoding (Sennrich et al. 2016) on bytes. Merges are added word by word, the most frequent first, until each
is one token; those of a word that was learnt before have lower ranks than all that come later, so it stays one. Chinese
and Japanese have no spaces, and CLIP takes a run of letters for a word: in these runs each character is a token.
"""

from __future__ import annotations

import functools
import importlib
import json
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sdgan_ext._errors import CheckpointError, ConfigError, DataError, printable, shown
from sdgan_ext._files import replacing

__all__ = ["CaptionTokenizer"]

START, END = "<|startoftext|>", "<|endoftext|>"
_WORD_END = "</w>"
_WORDS = "words.json"
_UNSPACED = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # kana and Chinese characters
_UNITS = re.compile(f"[{_UNSPACED}]|[^{_UNSPACED}]+")

_Pair = tuple[str, str]


class CaptionTokenizer:
    """Texts to token ids, and the words that it was learnt from.

    Args:
        tokenizer: a ``transformers.CLIPTokenizer``; its ``model_max_length`` is the length of what is encoded.
        known: units as :meth:`learn` has found them; None: those that are one token.

    Attributes:
        tokenizer: as given, for a pipeline.
        length: tokens of an encoded caption, start and end among them.
        vocab_size: different ids.
    """

    def __init__(self, tokenizer: Any, known: Iterable[str] | None = None):
        self.tokenizer = tokenizer
        self.length: int = tokenizer.model_max_length
        self.vocab_size = len(tokenizer)
        self._known = frozenset(tokenizer.get_vocab() if known is None else known)

    @classmethod
    def learn(cls, captions: Iterable[str], length: int | None = None) -> CaptionTokenizer:
        """The tokenizer of which every word of ``captions`` is a token, in lower case.

        Args:
            length: tokens of an encoded caption, at least 3; None: of the longest of ``captions``.

        Raises:
            ConfigError: ``length`` is less.
            DataError: there are no words.
        """
        if length is not None and length < 3:
            raise ConfigError(f"length is {length}, it must be at least 3: a start, a word and an end")
        words: Counter[str] = Counter()
        backend = _clip().backend_tokenizer
        most = 0
        for caption in captions:
            pieces = _words(backend, caption)
            words.update(pieces)
            most = max(most, sum(len(_UNITS.findall(piece)) for piece in pieces))
        if not words:
            raise DataError("the captions hold no words, a tokenizer cannot be learnt from them")
        units = _count_units(words)
        merges = _learn_merges(units)
        letters = sorted(importlib.import_module("tokenizers").pre_tokenizers.ByteLevel.alphabet())
        tokens = [*letters, *(letter + _WORD_END for letter in letters), *(a + b for a, b in merges), START, END]
        tokenizer = _clip(
            vocab={token: number for number, token in enumerate(dict.fromkeys(tokens))},
            merges=merges,
            model_max_length=most + 2 if length is None else length,
        )
        return cls(tokenizer, map("".join, units))

    @classmethod
    def load(cls, folder: str | Path) -> CaptionTokenizer:
        """
        Raises:
            CheckpointError: ``folder`` holds no such tokenizer.
        """
        folder = Path(folder)
        known = None
        try:
            if not ({"vocab.json", "tokenizer.json"} & {file.name for file in folder.iterdir()}):
                raise OSError("it has neither vocab.json nor tokenizer.json")
            tokenizer = _transformers().CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
            if (folder / _WORDS).exists():
                known = json.loads((folder / _WORDS).read_text(encoding="utf-8"))
        except (ConfigError, CheckpointError):
            raise
        except Exception as error:  # transformers and tokenizers raise almost anything on a damaged file
            reason = " ".join(str(getattr(error, "strerror", None) or error).split())
            raise CheckpointError(f"{printable(folder)} holds no tokenizer: {reason}") from None
        return cls(tokenizer, known)

    def save(self, folder: str | Path) -> None:
        """Writes ``vocab.json``, ``merges.txt`` and what else ``transformers`` reads, and the words that are known."""
        folder = Path(folder)
        self.tokenizer.save_pretrained(str(folder))
        self.tokenizer.backend_tokenizer.model.save(str(folder))
        with replacing(folder / _WORDS) as file:
            file.write(json.dumps(sorted(self._known), ensure_ascii=False, indent=0).encode())

    def encode(self, captions: Sequence[str]) -> Tensor:
        """int64 [B, length]: start, tokens, end, and ends after it.

        Warns:
            UserWarning: captions are longer, and cut.
        """
        encoded = [self.tokenizer.backend_tokenizer.encode(caption).ids for caption in captions]
        end = self.tokenizer.eos_token_id
        ids = torch.full((len(captions), self.length), end)
        cut = []
        for number, (row, tokens) in enumerate(zip(ids, encoded, strict=True)):
            if len(tokens) > self.length:
                cut.append(number)
                tokens = [*tokens[: self.length - 1], end]
            row[: len(tokens)] = torch.tensor(tokens)
        if cut:
            left = self.tokenizer.decode(ids[cut[0]], skip_special_tokens=True)
            count = f"{len(cut):,} captions have" if len(cut) > 1 else "a caption has"
            warnings.warn(
                f"{count} more tokens than the {self.length - 2} that fit, and what follows is cut: "
                f"{shown(captions[cut[0]])} becomes {shown(left)}",
                stacklevel=2,
            )
        return ids

    def unknown_words(self, caption: str) -> list[str]:
        """The words of ``caption``, or the characters where these are the tokens, that were in no caption learnt from:
        the model has never seen them."""
        backend = self.tokenizer.backend_tokenizer
        found = (
            text
            for word in _words(backend, caption)
            for text, symbols in _units(word)
            if "".join(symbols) not in self._known
        )
        return list(dict.fromkeys(found))


def _transformers() -> Any:
    try:
        return importlib.import_module("transformers")
    except ImportError:
        raise ConfigError(
            "captions need the packages transformers and tokenizers: pip install 'sdgan_ext[diffusion]'"
        ) from None


def _clip(**arguments: Any) -> Any:
    given = {"vocab": {START: 0, END: 1}, "merges": []} | arguments
    return _transformers().CLIPTokenizer(**given)


def _words(backend: Any, caption: str) -> list[str]:
    """As CLIP splits them: letters, single digits, punctuation; in lower case."""
    text = backend.normalizer.normalize_str(caption)
    return [text[start:end] for _, (start, end) in backend.pre_tokenizer.pre_tokenize_str(text)]


def _units(word: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """What shall be a token each, and the symbols of its bytes, the last of a word marked."""
    units = _UNITS.findall(word)
    for number, unit in enumerate(units, start=1):
        yield unit, _symbols(unit, number == len(units))


@functools.lru_cache(maxsize=100_000)
def _symbols(unit: str, final: bool) -> tuple[str, ...]:
    level = importlib.import_module("tokenizers").pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    symbols = list(level.pre_tokenize_str(unit)[0][0])
    return (*symbols[:-1], symbols[-1] + _WORD_END * final)


def _count_units(words: Counter[str]) -> list[tuple[str, ...]]:
    """The units by their symbols, the most frequent first. A character without spaces around it may end a run or not:
    it is learnt both ways."""
    counts: Counter[tuple[str, ...]] = Counter()
    for word, count in words.items():
        for unit, symbols in _units(word):
            counts[symbols] += count
            if re.match(f"[{_UNSPACED}]", unit):
                counts[_symbols(unit, not symbols[-1].endswith(_WORD_END))] += 0
    return sorted(counts, key=lambda symbols: (-counts[symbols], symbols))


def _learn_merges(units: Iterable[tuple[str, ...]]) -> list[_Pair]:
    ranks: dict[_Pair, int] = {}
    for symbols in units:
        while len(pieces := _merged(symbols, ranks)) > 1:
            ranks[pieces[0], pieces[1]] = len(ranks)
    return list(ranks)


def _merged(symbols: Sequence[str], ranks: dict[_Pair, int]) -> list[str]:
    pieces = list(symbols)
    while len(pieces) > 1:
        rank, at = min(
            (ranks.get(pair, len(ranks)), at) for at, pair in enumerate(zip(pieces, pieces[1:], strict=False))
        )
        if rank == len(ranks):
            break
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
    return pieces
