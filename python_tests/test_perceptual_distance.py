"""The formula of LPIPS against one written out number by number, and its gradient."""

import pytest
import torch

from sdgan_ext.losses import perceptual_distance

pytestmark = pytest.mark.usefixtures("one_thread")
SHAPES = ((3, 4, 5), (6, 2, 2))  # C, H, W of two layers


def maps(seed, n=3):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, *shape, dtype=torch.float64, generator=generator) for shape in SHAPES]


def weights():
    return [torch.arange(shape[0], dtype=torch.float64) / 4 for shape in SHAPES]


def written_out(features_hat, features, weights, image):
    total = 0.0
    for f_hat, f, w in zip(features_hat, features, weights, strict=True):
        _, channels, height, width = f.shape
        for i in range(height):
            for j in range(width):
                a, b = f_hat[image, :, i, j].tolist(), f[image, :, i, j].tolist()
                norms = [sum(value**2 for value in vector) ** 0.5 for vector in (a, b)]
                for c in range(channels):
                    total += w[c].item() * (a[c] / norms[0] - b[c] / norms[1]) ** 2 / (height * width)
    return total


def test_it_is_the_formula_of_the_paper():
    values = perceptual_distance(maps(0), maps(1), weights())
    expected = [written_out(maps(0), maps(1), weights(), image) for image in range(3)]
    torch.testing.assert_close(values, torch.tensor(expected, dtype=torch.float64))


def test_without_weights_they_are_1():
    ones = [torch.ones(shape[0], dtype=torch.float64) for shape in SHAPES]
    assert torch.equal(perceptual_distance(maps(0), maps(1)), perceptual_distance(maps(0), maps(1), ones))


def test_equal_features_have_distance_0_and_others_one_that_is_symmetric():
    assert torch.equal(perceptual_distance(maps(0), maps(0), weights()), torch.zeros(3, dtype=torch.float64))
    there, back = perceptual_distance(maps(0), maps(1), weights()), perceptual_distance(maps(1), maps(0), weights())
    assert torch.equal(there, back) and (there > 0).all()


def test_the_length_of_a_feature_vector_does_not_count():
    longer = [7 * f for f in maps(1)]
    torch.testing.assert_close(perceptual_distance(maps(0), longer), perceptual_distance(maps(0), maps(1)))


def test_gradient():
    both = [f.requires_grad_() for f in (*maps(0, n=2), *maps(1, n=2))]
    assert torch.autograd.gradcheck(lambda *f: perceptual_distance(f[:2], f[2:], weights()), both)


def test_the_gradient_is_finite_where_all_features_are_0():
    """As after a ReLU; the package lpips has NaN there."""
    a = torch.randn(1, 3, 2, 2).relu()
    a[..., 0, 0] = 0
    a.requires_grad_()
    perceptual_distance([a], [torch.rand(1, 3, 2, 2)]).sum().backward()
    assert a.grad.isfinite().all() and a.grad[..., 1, 1].any()


def test_half_precision_is_computed_in_float32():
    halves = [[f.bfloat16() for f in maps(seed)] for seed in (0, 1)]
    value = perceptual_distance(*halves)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, perceptual_distance(*([f.float() for f in half] for half in halves)))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((maps(0), maps(1)[:1]), "features_hat has 2 layers, features 1 and weights 1; they must have as many"),
        ((maps(0), maps(1), weights()[:1]), "features_hat has 2 layers, features 2 and weights 1"),
        (([], []), "features_hat has 0 layers"),
        ((maps(0), maps(1)[::-1]), r"layer 0 has features_hat \[3, 3, 4, 5\], features \[3, 6, 2, 2\]"),
        ((maps(0), maps(1), weights()[::-1]), r"layer 0 .* weights \[6\]; they must be \[N, C, H, W\], the same and"),
        ((maps(0)[0], maps(1)[0]), r"layer 0 has features_hat \[3, 4, 5\]"),
    ],
)
def test_what_does_not_fit_is_refused(given, words):
    with pytest.raises(ValueError, match=words):
        perceptual_distance(*given)
