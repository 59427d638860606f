import numpy as np
from PIL import Image


def test_writes_a_grid_of_images(run_example, tmp_path):
    flags = ("--data", "digits", "--steps", "3", "--batch-size", "4", "--image-size", "16", "--width", "8")
    printed = run_example("dcgan.py", *flags, "--out", "grid.png")
    assert "step 3: discriminator " in printed
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.mode == "L"
        assert picture.size == (8 * 18 - 2, 8 * 18 - 2)


def test_a_folder_of_colour_images_gives_colour_images(run_example, tmp_path):
    (tmp_path / "images").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (4, 40, 36, 3), dtype=np.uint8)
    for index, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / "images" / f"{index}.png")
    flags = ("--data", "images", "--steps", "1", "--batch-size", "2", "--image-size", "32", "--width", "4")
    run_example("dcgan.py", *flags)
    with Image.open(tmp_path / "dcgan.png") as picture:
        assert picture.mode == "RGB"
