"""Scenes of digits: what is seen is what is said, the same for ever, and nothing for training in what judges."""

import itertools
import re

import pytest
import torch

from sdgan_ext._errors import DataError
from sdgan_ext.data import RenderedDigits, batches, hold_out, open_dataset, resolve_name, write_idx
from sdgan_ext.data.scenes import (
    COLOURS,
    GROUNDS,
    LANGUAGES,
    PLACES,
    DigitScenes,
    Scene,
    SceneObject,
    describe,
    grammar,
    held_out_pairs,
    parse,
)

COUNT = 400
BOTH = ("en", "zh")


@pytest.fixture(scope="module")
def scenes():
    return DigitScenes(length=COUNT, image_size=64, objects=(1, 2, 3), languages=BOTH)


def centres(image, scene):
    """(x, y) of the middle of each object, in units of the side: its pixels lie on the line from the ground's colour to
    its own."""
    ground = torch.tensor(GROUNDS[scene.ground], dtype=torch.float32)
    lines = torch.nn.functional.normalize(torch.tensor([COLOURS[thing.colour] for thing in scene.objects]) - ground)
    apart = (image + 1) * 127.5 - ground[:, None, None]
    nearest = torch.einsum("oc,chw->ohw", lines, apart).argmax(0)
    inked = apart.norm(dim=0) > 60
    found = []
    for k in range(len(scene.objects)):
        rows, columns = (inked & (nearest == k)).nonzero(as_tuple=True)
        found.append(tuple(float(at.min() + at.max() + 1) / 2 / image.shape[-1] for at in (columns, rows)))
    return found


def test_the_same_for_ever(scenes):
    images, numbers = scenes.batch(torch.arange(300))
    assert images.shape == (300, 3, 64, 64) and images.dtype == torch.float32
    assert -1 <= images.min() and images.max() <= 1 and torch.equal(numbers, torch.arange(300))
    longer = DigitScenes(length=10**9, image_size=64, objects=(3, 2, 1, 1), languages=("zh", "en"))
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0))[:70]
    assert torch.equal(longer.batch(order)[0], images[order])
    for index in (0, 7, 211):
        image, caption = longer[index]
        assert torch.equal(image, images[index]) and caption == scenes.captions[index] == scenes[index][1]
        assert longer.scene(index) == scenes.scene(index)
    assert list(scenes.captions) == [scenes.captions[k] for k in range(COUNT)] and len(scenes.captions) == COUNT
    far = longer.batch(torch.tensor([10**9 + 5, 5]))[0]
    assert not torch.equal(far[0], far[1]) and torch.equal(far[1], images[5])
    for other in (
        DigitScenes(1, COUNT, 64, objects=(1, 2, 3)),
        DigitScenes(0, COUNT, 64, objects=(1, 2, 3), split="test"),
    ):
        assert sum(other.scene(k) == scenes.scene(k) for k in range(50)) == 0


def test_an_epoch_ends(scenes):
    small = DigitScenes(length=3, image_size=16)
    assert len([caption for _, caption in small]) == 3 and torch.equal(small[-1][0], small[2][0])
    with pytest.raises(IndexError, match="beyond the epoch"):
        small[3]
    with pytest.raises(IndexError, match="from 0 up"):
        small.batch(torch.tensor([-1]))


def test_what_is_seen_is_what_is_said(scenes):
    """By the pixels alone: relations and places of the coloured blobs, sizes, and the ground."""
    images, _ = scenes.batch(torch.arange(COUNT))
    kinds = set()
    for index in range(COUNT):
        scene, said = scenes.scene(index), parse(scenes.captions[index])
        places = centres(images[index], scene)
        for (x, y), (x_next, y_next) in itertools.pairwise(places) if scene.relation else ():
            right, down = x_next - x, y_next - y
            along, across = (right, down) if scene.relation in ("left of", "right of") else (down, right)
            assert (along > 0) == (scene.relation in ("left of", "above")) and abs(along) > abs(across), scene
        for (x, y), thing in zip(places, scene.objects, strict=True):
            if thing.place is not None:
                assert PLACES.index(thing.place) == 3 * int(3 * y) + int(3 * x), scene
        corner = tuple(
            ((images[index, :, [0, 0, -1, -1], [0, -1, 0, -1]] + 1) * 127.5).median(1).values.round().int().tolist()
        )
        assert corner == GROUNDS[scene.ground]
        for thing, spot in zip(scene.objects, scenes.spots(index), strict=True):
            assert (spot.side > 0.35) == (thing.size == "large")
        # What is said is part of it.
        assert said.relation == scene.relation and said.ground in (None, scene.ground)
        for word, thing in zip(said.objects, scene.objects, strict=True):
            assert (word.digit, word.colour) == (thing.digit, thing.colour)
            assert word.size in (None, thing.size) and word.place in (None, thing.place)
        kinds.add((len(scene.objects), scene.relation, said.ground is None, said.objects[0].size is None))
    assert len(kinds) > 20


def test_a_digit_is_as_large_as_it_says():
    scenes = DigitScenes(length=200, image_size=64, objects=(1,), attributes=("size",))
    images, _ = scenes.batch(torch.arange(200))
    for index in range(200):
        rows, columns = (images[index].amax(0) > -0.6).nonzero(as_tuple=True)
        side = max(int(rows.max() - rows.min()), int(columns.max() - columns.min())) + 1
        assert (side > 0.36 * 64) == (scenes.scene(index).objects[0].size == "large") and 14 < side < 34


def test_the_digit_is_the_one_that_is_said():
    """By the nearest rendered digit of its size."""
    pool = RenderedDigits(7, 2000)
    known, labels = pool.batch(torch.arange(2000))
    scenes = DigitScenes(length=100, image_size=60, objects=(1,), attributes=("place",))
    images, _ = scenes.batch(torch.arange(100))
    right = 0
    for index in range(100):
        (spot,), thing = scenes.spots(index), scenes.scene(index).objects[0]
        grey = images[index].amax(0)
        left, top = round(spot.x * 60) - 20, round(spot.y * 60) - 20
        window = torch.full((40, 40), -1.0)
        for row in range(40):
            for column in range(40):
                if 0 <= top + row < 60 and 0 <= left + column < 60:
                    window[row, column] = grey[top + row, left + column]
        small = torch.nn.functional.interpolate(window[None, None], (28, 28), mode="area")
        right += int(labels[(known - small / small.max()).square().sum((1, 2, 3)).argmin()]) == thing.digit
    assert right >= 70  # of 100, and 10 by chance


@pytest.mark.parametrize("split", ["train", "test", "unseen", "judge"])
def test_held_out_combinations(split):
    scenes = DigitScenes(length=COUNT, objects=(1, 2, 3), split=split)
    found = [
        [(thing.colour, thing.digit) in held_out_pairs() for thing in scenes.scene(k).objects] for k in range(COUNT)
    ]
    counts = {sum(pairs) for pairs in found}
    assert {"train": counts == {0}, "test": counts == {0}, "unseen": counts == {1}, "judge": counts >= {0, 1, 2}}[split]
    assert {len(pairs) for pairs in found} == {1, 2, 3}
    if split == "train":  # each digit and each colour by itself is seen
        seen = {(thing.colour, thing.digit) for k in range(COUNT * 3) for thing in scenes.scene(k).objects}
        assert len(seen) == 64 and len(held_out_pairs()) == 16 and not seen & held_out_pairs()


def write_digits(folder, train=400, test=100):
    """As MNIST's files; each image has its number in its pixels."""
    folder.mkdir(parents=True)
    for prefix, count, first in (("train", train, 0), ("t10k", test, 1000)):
        images = torch.zeros(count, 28, 28, dtype=torch.uint8)
        images[:, 4:24, 4:24] = 255
        numbers = torch.arange(first, first + count)
        for bit in range(11):  # a column of pixels a bit
            images[:, 8:20, 6 + bit] = torch.where((numbers >> bit & 1).bool(), 255, 90)[:, None].to(torch.uint8)
        write_idx(folder / f"{prefix}-images-idx3-ubyte", images.numpy())
        write_idx(folder / f"{prefix}-labels-idx1-ubyte", (numbers // 2 % 10).to(torch.uint8).numpy())
    return folder


def taken_images(scenes, monkeypatch):
    """Which images of digits, by their contents, and that each shows the digit that is said."""
    numbers = set()
    images_of = scenes._pool.images

    def spied(wanted):
        images = images_of(wanted)
        for image in images:
            numbers.add(int(sum(1 << bit for bit in range(11) if image[10, 6 + bit] == 255)))
        return images

    monkeypatch.setattr(scenes._pool, "images", spied)
    scenes.batch(torch.arange(len(scenes)))
    return numbers


def test_images_of_digits_of_the_splits_are_disjoint(tmp_path, monkeypatch):
    folder = write_digits(tmp_path / "digits")
    taken = {}
    for split in ("train", "judge", "test", "unseen"):
        scenes = DigitScenes(length=600, objects=(2,), split=split, digits=folder)
        taken[split] = taken_images(scenes, monkeypatch)
    assert len(taken["train"]) > 150 and len(taken["judge"]) > 150
    assert {number % 2 for number in taken["train"]} == {0} and {number % 2 for number in taken["judge"]} == {1}
    assert max(taken["train"] | taken["judge"]) < 1000 <= min(taken["test"] | taken["unseen"])


def test_rendered_digits_of_the_splits_are_disjoint():
    pools = [DigitScenes(length=4, split=split)._pool for split in ("train", "judge", "test")]
    images = [{image.tobytes() for image in pool.images(torch.arange(300).numpy())} for pool in pools]
    assert not images[0] & images[1] and not images[0] & images[2] and not images[1] & images[2]


def test_mnist(real_data):
    scenes = open_dataset(f"digits-scenes:size=64,digits={real_data / 'mnist'}")
    rendered = open_dataset("digits-scenes:size=64")
    assert scenes.captions[5] == rendered.captions[5] and not torch.equal(scenes[5][0], rendered[5][0])
    assert (scenes.batch(torch.arange(50))[0].flatten(1).amax(1) > 0).all()


def every_choice(scene, language):
    """Each way to say ``scene``, by going through the choices as the digits of a number."""
    choices, done = [], False
    while not done:
        at = iter(range(100))
        sizes = []

        def choose(values, at=at, sizes=sizes):
            k = next(at)
            sizes.append(len(values))
            return values[choices[k] if k < len(choices) else 0]

        yield describe(scene, language, choose)
        choices.extend([0] * (len(sizes) - len(choices)))
        del choices[len(sizes) :]
        while choices and choices[-1] + 1 == sizes[len(choices) - 1]:
            choices.pop()
        done = not choices
        if choices:
            choices[-1] += 1


OBJECTS = (SceneObject(7, "red", "small"), SceneObject(3, "orange", "large"), SceneObject(1, "blue"))
SAID = [
    Scene((SceneObject(8, "orange"),)),
    Scene((SceneObject(0, "cyan", "small", "middle"),), ground="black"),
    Scene((SceneObject(0, "pink", None, "top"),), ground="dark green"),
    Scene(OBJECTS[:2], "left of", "dark blue"),
    Scene(OBJECTS[1:], "below"),
    Scene((SceneObject(4, "red", None, "top left"), SceneObject(4, "blue", "large", "bottom")), ground="grey"),
    Scene(OBJECTS, "above", "dark red"),
    Scene(OBJECTS, "right of"),
]


@pytest.mark.parametrize("language", BOTH)
@pytest.mark.parametrize("scene", SAID)
def test_every_phrasing_means_the_scene(scene, language):
    captions = list(every_choice(scene, language))
    assert len(set(captions)) > 1
    for caption in captions:
        assert parse(caption) == scene, caption
        # No other phrasing of any language reads it as something else.
        for name in LANGUAGES:
            for pattern in grammar._patterns(name):
                if match := pattern.fullmatch(caption.replace("an orange", "a orange")):
                    assert grammar._scene(match.groupdict(), LANGUAGES[name]) == scene, caption


def test_the_words():
    captions = set(every_choice(Scene(OBJECTS[:2], "left of"), "en"))
    assert "a small red seven left of a large orange three" in captions
    plain = Scene((SceneObject(7, "red"), SceneObject(3, "blue")), "left of")
    assert "a red seven left of a blue three" in set(every_choice(plain, "en"))
    assert "一个红色的七在蓝色的三左边" in set(every_choice(plain, "zh"))
    assert "an orange eight" in set(every_choice(SAID[0], "en"))
    assert not [caption for caption in captions if re.search("  | a a|a orange", caption)]


def one(digit, colour, size=None, place=None, ground=None):
    return Scene((SceneObject(digit, colour, size, place),), None, ground)


#: Written by hand: the table of words is checked against them.
MEANT = {
    "a small red zero in the top left": one(0, "red", "small", "top left"),
    "小的红色的零在左上角": one(0, "red", "small", "top left"),
    "an orange one at the top": one(1, "orange", place="top"),
    "橙色的一在顶部": one(1, "orange", place="top"),
    "a yellow two in the top right": one(2, "yellow", place="top right"),
    "黄色的二在右上角": one(2, "yellow", place="top right"),
    "a green three on the left": one(3, "green", place="left"),
    "绿色的三在左边": one(3, "green", place="left"),
    "a large cyan four in the middle": one(4, "cyan", "large", "middle"),
    "大的青色的四在中间": one(4, "cyan", "large", "middle"),
    "a blue five on the right": one(5, "blue", place="right"),
    "蓝色的五在右边": one(5, "blue", place="right"),
    "a purple six in the bottom left": one(6, "purple", place="bottom left"),
    "紫色的六在左下角": one(6, "purple", place="bottom left"),
    "a pink seven at the bottom": one(7, "pink", place="bottom"),
    "粉色的七在底部": one(7, "pink", place="bottom"),
    "a red eight in the bottom right": one(8, "red", place="bottom right"),
    "一个红色的八在右下角": one(8, "red", place="bottom right"),
    "a red nine on a black background": one(9, "red", ground="black"),
    "黑色的背景上红色的九": one(9, "red", ground="black"),
    "a red nine, the background is grey": one(9, "red", ground="grey"),
    "红色的九，背景是灰色": one(9, "red", ground="grey"),
    "a red nine on a dark blue background": one(9, "red", ground="dark blue"),
    "红色的九，背景是深蓝色": one(9, "red", ground="dark blue"),
    "红色的九，背景是深红色": one(9, "red", ground="dark red"),
    "红色的九，背景是深绿色": one(9, "red", ground="dark green"),
}
THREE = (SceneObject(7, "red"), SceneObject(3, "blue"), SceneObject(1, "pink"))
TWO = THREE[:2]
MEANT |= {
    f"a red seven {words} a blue three": Scene(TWO, relation)
    for relation in ("left of", "right of", "above", "below")
    for words in (relation, f"is {relation}")
}
MEANT |= {
    f"红色的七在蓝色的三{word}": Scene(TWO, relation)
    for words, relation in (
        ("左边 左侧", "left of"),
        ("右边 右侧", "right of"),
        ("上面 上方", "above"),
        ("下面 下方", "below"),
    )
    for word in words.split()
}
MEANT |= {"蓝色的三的左边是红色的七": Scene(TWO, "left of"), "a red seven under a blue three": Scene(TWO, "below")}
MEANT |= {
    f"{words}{rest}": Scene(THREE, relation)
    for relation, words, rest in (
        ("left of", "from left to right", " a red seven, a blue three and a pink one"),
        ("below", "from bottom to top", " a red seven, a blue three and a pink one"),
        ("left of", "从左到右", "是红色的七、蓝色的三和粉色的一"),
        ("right of", "从右到左", "是红色的七、蓝色的三和粉色的一"),
        ("above", "从上到下", "是红色的七、蓝色的三和粉色的一"),
        ("below", "从下到上", "是红色的七、蓝色的三和粉色的一"),
    )
}


@pytest.mark.parametrize("caption", MEANT)
def test_what_captions_mean(caption):
    assert parse(caption) == MEANT[caption]


@pytest.mark.parametrize(
    "caption", ["", "a red seven left of", "a red elephant", "红色", "a red seven left of a blue three!"]
)
def test_what_is_no_caption(caption, refused):
    with refused("none of a scene"):
        parse(caption)


def test_options(scenes):
    dataset = open_dataset("digits-scenes:size=48,objects=2,languages=zh,attributes=none,split=unseen")
    assert dataset.image_size == (48, 48) and len(dataset) == 10_000 and dataset.num_classes is None
    for index in range(40):
        scene = dataset.scene(index)
        assert scene.ground == "black" and scene.relation and [thing.size for thing in scene.objects] == ["large"] * 2
        assert "背景" not in dataset.captions[index] and parse(dataset.captions[index]).objects[0].size is None
    assert open_dataset("digits-scenes", image_size=(40, 40), channels=3).image_size == (40, 40)
    assert open_dataset("digits-scenes", split="test").plan.split == "test"
    assert open_dataset("digits-scenes:objects=1-3").plan.objects == (1, 2, 3)
    assert open_dataset("digits-scenes", seed=3).captions[0] != open_dataset("digits-scenes").captions[0]


def test_its_name_says_what_is_not_as_by_default(tmp_path):
    folder = write_digits(tmp_path / "digits")
    names = {
        open_dataset(f"digits-scenes{options}").name
        for options in ("", ":objects=2", ":languages=zh", ":attributes=none", f":digits={folder}", ":objects=1-2")
    }
    assert names == {
        "digits-scenes",
        "digits-scenes objects=2",
        "digits-scenes languages=zh",
        "digits-scenes attributes=none",
        "digits-scenes digits=digits",
    }


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"length": 0}, ["length", "0"]),
        ({"image_size": 15}, ["size", "16 to 512", "15"]),
        ({"objects": ()}, ["objects", "empty"]),
        ({"objects": (4,)}, ["objects", "4", "1, 2, 3"]),
        ({"languages": ("de",)}, ["languages", "'de'", "en, zh"]),
        ({"attributes": ("sizes",)}, ["attributes", "did you mean 'size'"]),
        ({"split": "validation"}, ["split", "train, judge, test, unseen"]),
    ],
)
def test_wrong_arguments(options, words, refused):
    with refused(*words):
        DigitScenes(**options)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("digits-scenes:siez=64", ["siez=64", "did you mean 'size'"]),
        ("digits-scenes:size=big", ["size", "'big'", "16 to 512"]),
        ("digits-scenes:size=99999999999999999999", ["size", "16 to 512"]),
        ("digits-scenes:objects=0", ["objects", "1-3"]),
        ("digits-scenes:objects=3-1", ["objects", "1-3"]),
        ("digits-scenes:objects=", ["objects", "1-3"]),
        ("digits-scenes:languages=en+de", ["languages", "en, zh"]),
        ("digits-scenes:attributes=hue", ["attributes", "none, or some of"]),
        ("digits-scenes:split=val", ["split", "unseen"]),
        ("digits-scenes:digits=", ["digits", "MNIST"]),
        ("digits-scenes:digits=nowhere", ["nowhere", "does not exist"]),
        ("mnist:size=3", ["mnist", "size=3", "it has none"]),
        ("digits-scene", ["did you mean 'digits-scenes'"]),
    ],
)
def test_wrong_names(spec, words, refused):
    with refused(*words):
        open_dataset(spec)


def test_what_cannot_be(tmp_path, refused):
    with refused("square", "(32, 64)"):
        open_dataset("digits-scenes", image_size=(32, 64))
    with refused("size is 64", "32"):
        open_dataset("digits-scenes:size=64", image_size=32)
    with refused("3 channels", "channels=1"):
        open_dataset("digits-scenes", channels=1)
    with refused("nothing to resize"):
        open_dataset("digits-scenes", image_size=32, resize=40)
    folder = write_digits(tmp_path / "few", train=10)
    write_idx(folder / "train-labels-idx1-ubyte", torch.arange(10, dtype=torch.uint8).numpy())
    with refused("no image of a 1", "'train'"):
        open_dataset(f"digits-scenes:digits={folder}")
    write_idx(folder / "train-labels-idx1-ubyte", torch.zeros(10, dtype=torch.uint8).numpy())
    with refused("1 classes", "ten of 28x28"):
        open_dataset(f"digits-scenes:digits={folder}")


def test_a_name_means_the_same_from_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve_name("digits-scenes:digits=d,size=64") == f"digits-scenes:digits={tmp_path / 'd'},size=64"
    assert resolve_name("digits-scenes:size=64,digits=mnist") == "digits-scenes:size=64,digits=mnist"
    assert resolve_name("mnist") == "mnist" and resolve_name("photos") is None and resolve_name(tmp_path) is None


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_go_on_where_they_were(workers):
    scenes = DigitScenes(length=50, image_size=16, languages=BOTH)
    kept, held = hold_out(scenes, 10)
    assert held.captions is scenes.captions
    stream = batches(kept, 8, seed=3)
    alone = [next(stream) for _ in range(12)]
    again = batches(kept, 8, seed=3, start=7, workers=workers)
    for images, numbers in alone[7:]:
        more, others = next(again)
        assert torch.equal(images, more) and torch.equal(numbers, others)
        assert torch.equal(images[2], scenes[int(numbers[2])][0])
        assert scenes.captions[int(numbers[2])] == scenes[int(numbers[2])][1]


def test_through_torch():
    loader = torch.utils.data.DataLoader(DigitScenes(length=5, image_size=16), batch_size=5)
    (batch,) = loader
    assert batch[0].shape == (5, 3, 16, 16) and parse(batch[1][0]).objects
    with pytest.raises(DataError):
        parse("nothing")
