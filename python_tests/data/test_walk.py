"""Links, pipes and names in a folder of images: each file once, under its real folder, and nothing blocks."""

import os
import socket
import subprocess

import numpy as np
import pytest
from PIL import Image

from sdgan_ext.data import load_image_folder, open_dataset


@pytest.fixture
def folder(tmp_path):
    """cat with 2 images, dog with 3; the folder lies in one of its own, beside which there are others."""
    shade = iter(range(0, 256, 20))
    for place in ("photos/cat/1", "photos/cat/2", "photos/dog/1", "photos/dog/2", "photos/dog/deeper/3", "other/1"):
        path = tmp_path / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4), next(shade), np.uint8)).save(path)
    return tmp_path / "photos"


LABELS = [0, 0, 1, 1, 1]
SHADES = [0, 20, 40, 60, 80]


def link(path, target):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


LINKS = {
    "to itself": [("dog/deeper/up", ".")],
    "to the parent": [("cat/up", "..")],
    "to the folder": [("all", ".")],
    "out of the folder and around it": [("all", "..")],
    "to a sibling": [("zebra", "cat")],
    "to a sibling that is sorted after it": [("a", "dog")],
    "to a sibling's subfolder": [("a", "dog/deeper")],
    "a chain": [("a", "b"), ("b", "c"), ("c", "cat")],
    "into each other": [("cat/dog", "../dog"), ("dog/cat", "../cat")],
    "to a file of the same folder": [("cat/0.png", "1.png")],
    "to a file of another class": [("cat/0.png", "../dog/1.png")],
}


@pytest.mark.parametrize("links", LINKS.values(), ids=LINKS)
def test_links_add_no_image_and_no_class(folder, links):
    for name, target in links:
        link(folder / name, target)
    with pytest.warns(UserWarning, match="left out: .* already"):
        dataset = load_image_folder(folder)
    assert dataset.labels.tolist() == LABELS and dataset.num_classes == 2
    assert dataset.images[:, 0, 0, 0].tolist() == SHADES


def test_links_to_elsewhere_are_followed(folder):
    link(folder / "bird", "../other")
    (folder.parent / "one.png").write_bytes((folder / "cat" / "1.png").read_bytes())
    link(folder / "dog" / "0.png", folder.parent / "one.png")
    dataset = load_image_folder(folder)
    assert dataset.labels.tolist() == [0, 1, 1, 2, 2, 2, 2] and dataset.num_classes == 3
    assert dataset.images[:, 0, 0, 0].tolist() == [100, 0, 20, 0, 40, 60, 80]


def test_a_class_of_links_into_others_holds_no_image_of_its_own(folder, refused):
    link(folder / "a" / "1.png", "../dog/1.png")
    with pytest.warns(UserWarning, match="already"), refused(folder / "a", "holds no images"):
        load_image_folder(folder)


def test_two_names_of_a_file(folder):
    os.link(folder / "cat" / "1.png", folder / "dog" / "9.png")
    with pytest.warns(UserWarning, match=r"1 another name of a file .*dog/9\.png"):
        assert load_image_folder(folder).labels.tolist() == LABELS


def test_a_link_to_nothing_is_an_unreadable_image(folder, refused):
    link(folder / "cat" / "3.png", "absent")
    with refused("cannot read the image", folder / "cat" / "3.png", "No such file"):
        load_image_folder(folder)
    (folder / "cat" / "3.png").unlink()
    link(folder / "cat" / "3", "3")
    with pytest.warns(UserWarning, match=r"1 neither .* nor readable .cat/3."):
        assert len(load_image_folder(folder)) == 5


@pytest.mark.parametrize("kind", ["pipe", "socket", "link to a pipe", "link to a socket", "link to a device"])
def test_what_is_no_regular_file_is_left_out(folder, kind, monkeypatch):
    place = folder / "cat" / "9.png"
    real = folder.parent / "9.png" if kind.startswith("link") else place
    if "pipe" in kind:
        os.mkfifo(real)
    elif "socket" in kind:
        monkeypatch.chdir(real.parent)  # a socket's path may have 100 bytes
        socket.socket(socket.AF_UNIX).bind(real.name)
    else:
        real = "/dev/zero"
    if kind.startswith("link"):
        link(place, real)
    with pytest.warns(UserWarning, match=r"1 a pipe, socket or device .cat/9\.png"):
        assert load_image_folder(folder).labels.tolist() == LABELS


@pytest.mark.parametrize("name", ["data.npz", "data.npy", "train-images-idx3-ubyte"])
def test_a_pipe_as_data_is_refused(tmp_path, name, refused):
    os.mkfifo(tmp_path / name)
    with refused(tmp_path / name, "pipe"):
        open_dataset(tmp_path / name)


@pytest.mark.parametrize("name", ["a\nb", "\x1b[2J", "\u202ea"])
def test_foreign_names_are_escaped(tmp_path, name, refused):
    shown = name.encode("unicode_escape").decode()
    (tmp_path / name).mkdir()
    bad = tmp_path / name / f"{name}.png"
    bad.write_bytes(b"no image")
    with refused(f"{shown}/{shown}.png"):
        load_image_folder(tmp_path)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(bad)
    Image.fromarray(np.zeros((5, 4), np.uint8)).save(tmp_path / name / "9.png")
    with refused(shown, "4x5", "4x4"):
        load_image_folder(tmp_path)
    np.savez(tmp_path / f"{name}.npz", **{f"{name}1": np.zeros(3), f"{name}2": np.zeros(3)})
    with refused(f"{shown}.npz", f"{shown}1"):
        open_dataset(tmp_path / f"{name}.npz")
    (tmp_path / name / "9.png").unlink()
    assert load_image_folder(tmp_path / name).name == shown


def test_a_deep_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(1100):
        os.mkdir("a")
        os.chdir("a")
    Image.fromarray(np.zeros((4, 4), np.uint8)).save("1.png")
    try:
        assert load_image_folder(tmp_path).labels.tolist() == [0]
    finally:
        subprocess.run(["rm", "-rf", tmp_path / "a"], check=True)  # Python's own removal recurses
