"""adversarial_loss against its reference: values, first and second derivatives, shapes, dtypes, refusals."""

import pytest
import torch

from sdgan_ext.ops import adversarial_loss as op
from sdgan_ext.ops import reference

OBJECTIVES = list(op.OBJECTIVES)
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float64: 1e-12}


def logits(*shape, dtype=torch.float64, seed=0, spread=3.0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(*shape, generator=generator, dtype=torch.float64) * spread).to(dtype).requires_grad_()


def discriminator(module, real, fake, objective, **options):
    return module.discriminator_loss(real, fake, objective, **options)


def generator(module, real, fake, objective, **options):
    return module.generator_loss(fake, real, objective, **options)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("role", [discriminator, generator])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_values_and_gradients(objective, role, reduction, dtype):
    for shape in [(1,), (7, 1), (64, 1), (3, 1, 5, 7), (20_011,)]:
        real, fake = logits(*shape, dtype=dtype), logits(*shape, dtype=dtype, seed=1)
        wide_real, wide_fake = real.detach().double().requires_grad_(), fake.detach().double().requires_grad_()
        loss = role(op, real, fake, objective, reduction=reduction)
        expected = role(reference, wide_real, wide_fake, objective, reduction=reduction)
        upstream = torch.randn_like(expected)
        wanted = (real, fake) if role is discriminator or objective == "relativistic" else (fake,)
        wide_wanted = (wide_real, wide_fake) if len(wanted) == 2 else (wide_fake,)
        grads = torch.autograd.grad(loss, wanted, upstream.to(dtype))
        expected_grads = torch.autograd.grad(expected, wide_wanted, upstream)
        close = dict(rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
        torch.testing.assert_close(loss.double(), expected, **close)
        for got, want in zip(grads, expected_grads, strict=True):
            torch.testing.assert_close(got.double(), want, **close)


@pytest.mark.parametrize("target", [0.9, 0.5])
@pytest.mark.parametrize("objective", ["non_saturating", "minimax", "least_squares"])
def test_label_smoothing_touches_the_real_half_only(objective, target):
    real, fake = logits(33), logits(9, seed=1)
    loss = op.discriminator_loss(real, fake, objective, real_target=target)
    expected = reference.discriminator_loss(real, fake, objective, real_target=target)
    torch.testing.assert_close(loss, expected)
    plain = torch.autograd.grad(op.discriminator_loss(real, fake, objective), fake)[0]
    torch.testing.assert_close(torch.autograd.grad(loss, fake)[0], plain)


def test_default_is_binary_cross_entropy():
    real, fake = logits(64, 1), logits(32, 1, seed=1)
    bce = torch.nn.functional.binary_cross_entropy_with_logits
    expected = bce(real, torch.ones_like(real)) + bce(fake, torch.zeros_like(fake))
    torch.testing.assert_close(op.discriminator_loss(real, fake), expected)
    torch.testing.assert_close(op.generator_loss(fake), bce(fake, torch.ones_like(fake)))


@pytest.mark.parametrize("extreme", [0.0, 80.0, -80.0, 1e4, -1e4])
def test_extreme_logits_stay_finite(extreme):
    x = torch.full((17,), extreme, requires_grad=True)
    for loss in (op.discriminator_loss(x, x), op.generator_loss(x)):
        assert loss.isfinite()
        assert torch.autograd.grad(loss, x)[0].isfinite().all()


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("role", [discriminator, generator])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_first_and_second_derivative(objective, role, reduction):
    real, fake = logits(6), logits(6, seed=1)

    def run(real, fake):
        return role(op, real, fake, objective, reduction=reduction)

    assert torch.autograd.gradcheck(run, (real, fake))
    assert torch.autograd.gradgradcheck(run, (real, fake))


def test_same_bits_for_any_number_of_threads():
    real, fake = logits(100_003, dtype=torch.float32), logits(70_001, dtype=torch.float32, seed=1)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            loss = op.discriminator_loss(real, fake)
            results.append([loss.detach(), *torch.autograd.grad(loss, (real, fake))])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_strided_and_empty_logits():
    base = logits(8, 6)
    view = base[:, ::2].t()
    torch.testing.assert_close(op.generator_loss(view), reference.generator_loss(view))
    expanded = logits(1, 1).expand(5, 3)
    torch.testing.assert_close(op.generator_loss(expanded), reference.generator_loss(expanded))
    empty = logits(0, 1)
    assert op.generator_loss(empty).isnan()  # the mean of nothing, as in torch
    assert op.discriminator_loss(logits(5, 1), empty).isnan() and op.discriminator_loss(empty, logits(5, 1)).isnan()
    assert op.generator_loss(empty, reduction="sum") == 0


def test_opcheck():
    real, fake = logits(5, dtype=torch.float32), logits(5, dtype=torch.float32, seed=1)
    native, settings = torch.ops.sdgan_ext, (0, 0, 0.9, 1)
    torch.library.opcheck(native.adversarial_loss.default, (real, fake, *settings, True, True))
    torch.library.opcheck(native.adversarial_loss.default, (real.detach(), fake, *settings, False, True))
    grads = (torch.tensor(1.5), real, fake, real.detach(), fake.detach())
    torch.library.opcheck(native.adversarial_loss_backward.default, (*grads, *settings))


def test_a_gradient_that_was_not_needed_is_empty_and_missed_where_it_is():
    real, fake = logits(5), logits(5, seed=1)
    want = torch.ops.sdgan_ext.adversarial_loss(real, fake, 0, 0, 1.0, 1, True, True)
    for needs in ((True, False), (False, True), (False, False)):
        loss, *grads = torch.ops.sdgan_ext.adversarial_loss(real, fake, 0, 0, 1.0, 1, *needs)
        assert torch.equal(loss, want[0])
        for need, grad, whole in zip(needs, grads, want[1:], strict=True):
            assert torch.equal(grad, whole if need else whole.new_empty(0))
        with pytest.raises(RuntimeError, match="requires grad, but adversarial_loss was called with need_"):
            loss.backward()


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: op.discriminator_loss([1.0], logits(1)), TypeError, "real_logits must be a torch.Tensor, got list"),
        (lambda: op.generator_loss(torch.ones(3, dtype=torch.int64)), TypeError, "fake_logits has dtype torch.int64"),
        (lambda: op.discriminator_loss(logits(2), logits(2, dtype=torch.float32)), TypeError, "must be the same"),
        (lambda: op.generator_loss(logits(2), objective="hing"), ValueError, "objective is 'hing'; allowed are"),
        (lambda: op.generator_loss(logits(2), reduction="avg"), ValueError, "reduction is 'avg'; allowed are"),
        (lambda: op.generator_loss(logits(2), objective="relativistic"), ValueError, "real_logits is missing"),
        (lambda: op.discriminator_loss(logits(2), logits(3), "relativistic"), ValueError, "must match"),
        (lambda: op.discriminator_loss(logits(2), logits(2), real_target=1.5), ValueError, r"must be in \(0, 1\]"),
        (lambda: op.discriminator_loss(logits(2), logits(2), "hinge", real_target=0.9), ValueError, "has no target"),
    ],
)
def test_refusals_name_the_argument(call, error, words):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize("role", [discriminator, generator])
def test_autocast_computes_in_float32(role):
    real, fake = logits(5, dtype=torch.bfloat16), logits(5, dtype=torch.bfloat16, seed=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = role(op, real, fake, "relativistic")
    torch.testing.assert_close(loss, role(reference, real.float(), fake.float(), "relativistic"))
    assert [grad.dtype for grad in torch.autograd.grad(loss, (real, fake))] == [torch.bfloat16] * 2
