import math

import pytest
import torch

from sdgan_ext._errors import EvaluationError
from sdgan_ext.evaluation import image_errors
from sdgan_ext.evaluation.image_errors import ssim

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def images():
    return torch.rand(5, 3, 16, 20, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_equal_images(images):
    assert image_errors(images, images) == pytest.approx({"mse": 0.0, "psnr": 100.0, "ssim": 1.0})


def test_a_known_offset():
    """0.2 in [-1, 1] is 0.1 in [0, 1]: MSE 0.01, PSNR 20 dB."""
    a, b = torch.zeros(3, 1, 16, 16), torch.full((3, 1, 16, 16), 0.2)
    got = image_errors(a, b)
    assert got["mse"] == pytest.approx(0.01) and got["psnr"] == pytest.approx(20.0, abs=1e-4)
    c1 = 0.01**2
    assert got["ssim"] == pytest.approx((2 * 0.5 * 0.6 + c1) / (0.25 + 0.36 + c1), abs=1e-4)


def test_psnr_is_the_mean_of_the_images_not_of_their_mse():
    a, b = torch.zeros(2, 1, 12, 12), torch.zeros(2, 1, 12, 12)
    b[0], b[1] = 0.2, 0.02
    assert image_errors(a, b)["psnr"] == pytest.approx((20 + 40) / 2, abs=1e-3)


def test_ssim_by_its_formula(images):
    """Every window's weighted means, variances and covariance, written out; borders are reflected."""
    a, b = (images[:1, :1, :12, :13] + 1) / 2, (images[1:2, :1, :12, :13] + 1) / 2
    g = torch.exp(-((torch.arange(11.0) - 5) ** 2) / (2 * 1.5**2))
    w = (torch.outer(g, g) / g.sum() ** 2).flatten()
    x, y = (
        torch.nn.functional.pad(image, (5,) * 4, mode="reflect")[0, 0].unfold(0, 11, 1).unfold(1, 11, 1).flatten(2)
        for image in (a, b)
    )
    mx, my = (w * x).sum(2), (w * y).sum(2)
    vx, vy, cov = (w * x * x).sum(2) - mx**2, (w * y * y).sum(2) - my**2, (w * x * y).sum(2) - mx * my
    c1, c2 = 0.01**2, 0.03**2
    expected = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    assert ssim(a, b).item() == pytest.approx(expected.mean().item(), abs=1e-4)


def test_parts_do_not_matter(images):
    hat = images.flip(0)
    assert image_errors(hat, images, batch_size=2) == pytest.approx(image_errors(hat, images), rel=1e-5)


def test_small_images_have_no_ssim():
    tiny = torch.zeros(2, 1, 10, 12)
    assert set(image_errors(tiny, tiny)) == {"mse", "psnr"}
    with pytest.raises(EvaluationError, match="images are 10x12; SSIM's window needs 11x11"):
        ssim(tiny, tiny)


def test_bad_input_is_named(images):
    with pytest.raises(EvaluationError, match=r"images_hat has shape \(4, 3, 16, 20\) and images \(5, 3, 16, 20\)"):
        image_errors(images[:4], images)
    with pytest.raises(EvaluationError, match="images_hat holds NaN or infinity in 1 of 5"):
        image_errors(images.index_fill(0, torch.tensor(1), math.inf), images)
    with pytest.raises(EvaluationError, match="images is torch.int64; images must be uint8 or floats"):
        image_errors(images, images.long())
