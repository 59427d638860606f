"""DiffAugment against loops over pixels, and its gradients."""

import pytest
import torch

from sdgan_ext import losses

pytestmark = pytest.mark.usefixtures("one_thread")

KINDS = ("color", "translation", "cutout")


def images(n=5, height=9, width=16):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(n, 3, height, width, dtype=torch.float64, generator=generator) * 2 - 1


def draws(n=5, seed=1):
    return torch.rand(n, 7, generator=torch.Generator().manual_seed(seed))


def color(x, u):
    x = x + float(u[0]) - 0.5
    mean = x.mean(0)
    x = mean + 2 * float(u[1]) * (x - mean)
    return x.mean() + (float(u[2]) + 0.5) * (x - x.mean())


def translation(x, u):
    _, height, width = x.shape
    down, right = (
        int(float(v) * (2 * reach + 1)) - reach for v, reach in ((u[3], round(height / 8)), (u[4], round(width / 8)))
    )
    out = torch.zeros_like(x)
    for i in range(height):
        for j in range(width):
            if 0 <= i - down < height and 0 <= j - right < width:
                out[:, i, j] = x[:, i - down, j - right]
    return out


def cutout(x, u):
    _, height, width = x.shape
    top, left = (int(float(v) * size) - int(size / 2 + 0.5) // 2 for v, size in ((u[5], height), (u[6], width)))
    out = x.clone()
    out[:, max(top, 0) : top + int(height / 2 + 0.5), max(left, 0) : left + int(width / 2 + 0.5)] = 0
    return out


@pytest.mark.parametrize("kinds", [("color",), ("translation",), ("cutout",), KINDS, KINDS[::-1], ()])
@pytest.mark.parametrize("seed", range(4))
def test_against_loops(kinds, seed):
    x, u = images(), draws(seed=seed)
    expected = []
    for image, numbers in zip(x, u, strict=True):
        for kind, function in zip(KINDS, (color, translation, cutout), strict=True):
            image = function(image, numbers) if kind in kinds else image
        expected.append(image)
    torch.testing.assert_close(losses.diff_augment(x, u, kinds), torch.stack(expected), rtol=1e-6, atol=1e-6)


def test_the_ends_of_the_draws():
    x = images(1, 16, 16)
    almost_one = 1 - 2**-24
    far = losses.diff_augment(x, torch.full((1, 7), almost_one), ("translation",))
    torch.testing.assert_close(far[..., 2:, 2:], x[..., :-2, :-2])
    assert not far[..., :2, :].any() and not far[..., :2].any()
    back = losses.diff_augment(x, torch.zeros(1, 7), ("translation",))
    torch.testing.assert_close(back[..., :-2, :-2], x[..., 2:, 2:])
    corner = losses.diff_augment(x, torch.full((1, 7), almost_one), ("cutout",))
    assert (corner == 0).sum() == 3 * 5 * 5  # the centre is the last pixel: 4 before it are cut, and it


def test_first_and_second_derivative():
    x = images(2, 5, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: losses.diff_augment(x, draws(2)), x)
    assert torch.autograd.gradgradcheck(lambda x: losses.diff_augment(x, draws(2)), x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtype_and_a_batch_of_none(dtype):
    assert losses.diff_augment(images().to(dtype), draws()).dtype == dtype
    assert losses.diff_augment(images(0).to(dtype), draws(0)).shape == (0, 3, 9, 16)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": torch.zeros(3, 4)}, r"x has shape \(3, 4\); it must be \[N, C, H, W\]"),
        ({"draws": torch.zeros(5, 6)}, r"draws has shape \(5, 6\); it must be \(5, 7\)"),
        ({"kinds": ("colour",)}, "kinds has 'colour'; allowed are 'color', 'translation', 'cutout'"),
    ],
)
def test_refusals(change, words):
    with pytest.raises(ValueError, match=words):
        losses.diff_augment(**{"x": images(), "draws": draws(), "kinds": KINDS, **change})
