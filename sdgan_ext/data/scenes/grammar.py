"""Captions of scenes, and back: one table of phrasings per language makes the captions and parses them."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from sdgan_ext._errors import DataError, shown
from sdgan_ext.data.scenes.scene import COLOURS, GROUNDS, PLACES, RELATIONS, SIZES, Scene, SceneObject

__all__ = ["LANGUAGES", "describe", "parse"]

_T = TypeVar("_T")
Choose = Callable[[Sequence[_T]], _T]


class _Language(NamedTuple):
    """The words and phrasings of a language.

    Attributes:
        digits: of 0 to 9.
        words: by the kind of a slot, the word or words for each value.
        articles, thing: what may stand before an object, and the phrase of one.
        scenes: phrasings of a scene, by the number of objects and whether "places", a "relation" or "nothing" is said
            of where they are. ``{0}`` is the first object, ``{place0}`` its place.
        grounds: phrasings with a ground of a ``{scene}``.
    """

    digits: str
    words: Mapping[str, Mapping[str, tuple[str, ...]]]
    articles: tuple[str, ...]
    thing: str
    scenes: Mapping[tuple[int, str], tuple[str, ...]]
    grounds: tuple[str, ...]


def _words(values: Sequence[str], words: str) -> dict[str, tuple[str, ...]]:
    """``words``: those of one value between spaces, several words for one between "/"; "_" is a space in a word."""
    each = [tuple(choices.replace("_", " ").split("/")) for choices in words.split()]
    return dict(zip(values, each, strict=True))


_EN = _Language(
    digits="zero one two three four five six seven eight nine",
    words={
        "colour": {name: (name,) for name in COLOURS},
        "size": {name: (f"{name} ",) for name in SIZES},
        "ground": {name: (name,) for name in GROUNDS},
        "place": _words(
            PLACES,
            "in_the_top_left at_the_top in_the_top_right on_the_left in_the_middle on_the_right "
            "in_the_bottom_left at_the_bottom in_the_bottom_right",
        ),
        "relation": _words(RELATIONS, "left_of/to_the_left_of right_of/to_the_right_of above/over below/under"),
        "order": _words(RELATIONS, "from_left_to_right from_right_to_left from_top_to_bottom from_bottom_to_top"),
    },
    articles=("a ",),
    thing="{size}{colour} {digit}",
    scenes={
        (1, "nothing"): ("{0}", "there is {0}", "a picture of {0}"),
        (1, "places"): ("{0} {place0}", "{place0} {0}", "there is {0} {place0}"),
        (2, "relation"): ("{0} {relation} {1}", "{0} is {relation} {1}", "there is {0} {relation} {1}"),
        (2, "places"): ("{0} {place0} and {1} {place1}", "{place0} {0}, {place1} {1}"),
        (3, "relation"): ("{0}, {1} and {2} {order}", "{order} {0}, {1} and {2}"),
    },
    grounds=("{scene} on a {ground} background", "{scene}, the background is {ground}"),
)

_ZH = _Language(
    digits="零 一 二 三 四 五 六 七 八 九",
    words={
        "colour": _words(tuple(COLOURS), "红色 橙色 黄色 绿色 青色 蓝色 紫色 粉色"),
        "size": _words(SIZES, "小的 大的"),
        "ground": _words(tuple(GROUNDS), "黑色 灰色 深蓝色 深红色 深绿色"),
        "place": _words(PLACES, "左上角 顶部 右上角 左边 中间 右边 左下角 底部 右下角"),
        "relation": _words(RELATIONS, "左边/左侧 右边/右侧 上面/上方 下面/下方"),
        "order": _words(RELATIONS, "从左到右 从右到左 从上到下 从下到上"),
    },
    articles=("一个", ""),
    thing="{size}{colour}的{digit}",
    scenes={
        (1, "nothing"): ("{0}", "有{0}", "图上是{0}"),
        (1, "places"): ("{0}在{place0}", "{place0}有{0}", "{place0}是{0}"),
        (2, "relation"): ("{0}在{1}{relation}", "{0}在{1}的{relation}", "{1}的{relation}是{0}"),
        (2, "places"): ("{0}在{place0}，{1}在{place1}", "{place0}有{0}，{place1}有{1}"),
        (3, "relation"): ("{0}、{1}和{2}{order}排列", "{order}是{0}、{1}和{2}"),
    },
    grounds=("{ground}的背景上{scene}", "{scene}，背景是{ground}"),
)

LANGUAGES: dict[str, _Language] = {"en": _EN, "zh": _ZH}

_SLOT = re.compile(r"\{(\w+)\}")


def describe(scene: Scene, language: str, choose: Choose[str]) -> str:
    """A caption that says all that ``scene`` does.

    Args:
        language: "en" or "zh".
        choose: takes one of several phrasings.
    """
    words = LANGUAGES[language]

    def word(kind: str, value: str | None) -> str:
        return "" if value is None else choose(words.words[kind][value])

    def phrase(thing: SceneObject) -> str:
        slots = {"size": word("size", thing.size), "colour": word("colour", thing.colour)}
        return choose(words.articles) + words.thing.format(digit=words.digits.split()[thing.digit], **slots)

    said = "relation" if scene.relation else "places" if scene.objects[0].place else "nothing"
    slots = {f"place{k}": word("place", thing.place) for k, thing in enumerate(scene.objects)}
    slots |= {kind: word(kind, scene.relation) for kind in ("relation", "order")}
    template = choose(words.scenes[len(scene.objects), said])
    caption = template.format(*map(phrase, scene.objects), **slots)
    if scene.ground is not None:
        caption = choose(words.grounds).format(scene=caption, ground=word("ground", scene.ground))
    return caption.replace("a orange", "an orange")


def parse(caption: str) -> Scene:
    """The scene of a caption of :func:`describe`, in any of its languages and phrasings.

    Raises:
        DataError: it is no such caption.
    """
    text = caption.strip().replace("an orange", "a orange")
    for name, language in LANGUAGES.items():
        for pattern in _patterns(name):
            if (match := pattern.fullmatch(text)) is not None:
                return _scene(match.groupdict(), language)
    raise DataError(
        f"the caption {shown(caption)} is none of a scene; one is such as 'a red seven left of a blue three' or "
        "'一个红色的七在蓝色的三左边'"
    )


def _scene(found: Mapping[str, str | None], language: _Language) -> Scene:
    def value(kind: str, slot: str) -> str | None:
        text = found.get(slot)
        return None if text is None else next(v for v, words in language.words[kind].items() if text in words)

    objects: list[SceneObject] = []
    while (digit := found.get(f"digit{len(objects)}")) is not None:
        k = len(objects)
        colour = value("colour", f"colour{k}")
        assert colour is not None
        thing = SceneObject(language.digits.split().index(digit), colour, value("size", f"size{k}"))
        objects.append(dataclasses.replace(thing, place=value("place", f"place{k}")))
    relation = value("relation", "relation") or value("order", "order")
    return Scene(tuple(objects), relation, value("ground", "ground"))


@functools.cache
def _patterns(name: str) -> list[re.Pattern[str]]:
    """Of every phrasing, with a named group for each slot."""
    language = LANGUAGES[name]

    def group(kind: str, slot: str, optional: bool = False) -> str:
        texts = language.digits.split() if kind == "digit" else sum(language.words[kind].values(), ())
        return f"(?P<{slot}>{'|'.join(map(re.escape, texts))}){'?' if optional else ''}"

    def thing(k: str) -> str:
        form = _SLOT.sub(lambda slot: group(slot[1], f"{slot[1]}{k}", slot[1] == "size"), language.thing)
        return f"(?:{'|'.join(language.articles)}){form}"

    def slot(match: re.Match[str]) -> str:
        return thing(match[1]) if match[1].isdigit() else group(match[1].rstrip("012"), match[1])

    scenes = [scene for phrasings in language.scenes.values() for scene in phrasings]
    grounded = [ground.replace("{scene}", scene) for ground in language.grounds for scene in scenes]
    return [re.compile(_SLOT.sub(slot, template)) for template in scenes + grounded]
