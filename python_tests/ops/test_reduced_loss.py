"""The gradient that a reduced loss computes beside it is handed out once, as it is: nobody may see it change."""

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from sdgan_ext import ops

LOSSES = {
    "discriminator": lambda a, b: ops.discriminator_loss(a, b),
    "relativistic": lambda a, b: ops.discriminator_loss(a, b, "relativistic"),
    "generator": lambda a, b: ops.generator_loss(b, a, "relativistic"),
    "bce_with_logits": lambda a, b: ops.binary_cross_entropy_with_logits(a, b.sigmoid()),
    "bce": lambda a, b: ops.binary_cross_entropy(a.sigmoid(), b.sigmoid()),
    "weighted": lambda a, b: ops.binary_cross_entropy_with_logits(a, b, a.new_tensor(3), pos_weight=a.new_tensor(2)),
    "reconstruction": lambda a, b: ops.reconstruction_loss(a, b),
    "reconstruction bce": lambda a, b: ops.reconstruction_loss(a, b, "bce", "sum"),
}


def pair(n=10, dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    return tuple(torch.randn(n, 3, generator=generator, dtype=dtype).requires_grad_() for _ in range(2))


def once_more(loss, a, b, factor=1.0):
    """The gradients of a fresh graph, multiplied outside of it."""
    return [factor * grad for grad in torch.autograd.grad(LOSSES[loss](a, b), (a, b))]


@pytest.fixture(params=LOSSES)
def loss(request):
    return request.param


def test_a_graph_that_is_kept_gives_the_same_gradients_each_time(loss):
    a, b = pair()
    want = once_more(loss, a, b)
    value = LOSSES[loss](a, b)
    for keep in (True, True, False):
        grads = torch.autograd.grad(value, (a, b), retain_graph=keep)
        torch.testing.assert_close(grads, tuple(want))
        for grad in grads:
            grad.fill_(7)  # as an optimizer or clip_grad_norm_ may
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        torch.autograd.grad(value, (a, b))


def test_grads_accumulate(loss):
    a, b = pair()
    want = once_more(loss, a, b, 3.0)
    value = LOSSES[loss](a, b)
    value.backward(retain_graph=True)  # .grad may become the very tensor that backward returned
    value.backward()
    LOSSES[loss](a, b).backward()
    torch.testing.assert_close((a.grad, b.grad), tuple(want))


@pytest.mark.parametrize("factor", [0.0, 1.0, -0.25, float("nan")])
def test_the_gradient_that_arrives_multiplies(loss, factor):
    a, b = pair()
    want = once_more(loss, a, b, factor)
    for keep in (True, False):
        value = factor * LOSSES[loss](a, b)
        got = torch.autograd.grad(value, (a, b), retain_graph=keep)
        torch.testing.assert_close(got, tuple(want), equal_nan=True)


def test_two_losses_of_the_same_tensors(loss):
    a, b = pair()
    want = once_more(loss, a, b, 4.0)
    got = torch.autograd.grad(LOSSES[loss](a, b) + 3 * LOSSES[loss](a, b), (a, b))
    torch.testing.assert_close(got, tuple(want))


def test_one_tensor_in_both_places(loss):
    a, _ = pair()
    (got,) = torch.autograd.grad(LOSSES[loss](a, a), a)
    c = a.detach().clone().requires_grad_()
    torch.testing.assert_close(got, sum(once_more(loss, a, c)))


def test_only_one_of_both(loss):
    a, b = pair()
    want = once_more(loss, a, b)
    (got,) = torch.autograd.grad(LOSSES[loss](a, b.detach()), a)
    torch.testing.assert_close(got, want[0])
    (got,) = torch.autograd.grad(LOSSES[loss](a.detach(), b), b)
    torch.testing.assert_close(got, want[1])
    assert not LOSSES[loss](a.detach(), b.detach()).requires_grad


def test_the_node_called_by_hand(loss):
    a, b = pair()
    if loss.startswith("bce"):  # whose inputs are sigmoids
        return
    want = once_more(loss, a, b)
    node = LOSSES[loss](a, b).grad_fn
    for _ in range(2):
        got = node.apply(torch.ones(()))[:2]
        torch.testing.assert_close(got, tuple(want))
        got[0].zero_()


def test_derivatives_of_the_gradient(loss):
    a, b = pair(3, torch.float64)
    assert torch.autograd.gradgradcheck(LOSSES[loss], (a, b))
    value = LOSSES[loss](a, b)
    grads = torch.autograd.grad(value, (a, b), create_graph=True)
    sum(grad.square().sum() for grad in grads).backward()  # after it the first graph is gone
    assert a.grad is not None and b.grad is not None


def test_gradients_in_batches(loss):
    a, b = pair()
    want = once_more(loss, a, b)
    value = LOSSES[loss](a, b)
    factors = torch.tensor([1.0, 2.0])
    got = torch.autograd.grad(value, (a, b), factors, is_grads_batched=True)
    torch.testing.assert_close(got, tuple(torch.stack([w, 2 * w]) for w in want))


def test_fake_tensors_and_tracing(loss):
    with FakeTensorMode():
        a, b = (torch.empty(4, 3, requires_grad=True) for _ in range(2))
        assert [grad.shape for grad in torch.autograd.grad(LOSSES[loss](a, b), (a, b))] == [(4, 3)] * 2
    a, b = pair()
    traced = make_fx(lambda a, b: torch.autograd.grad(2 * LOSSES[loss](a, b), (a, b)))(a, b)
    torch.testing.assert_close(traced(a, b), once_more(loss, a, b, 2.0))


def test_changed_inputs_are_noticed(loss):
    a, b = pair()
    if loss in ("bce", "bce_with_logits"):  # sees sigmoids of them
        return
    value = LOSSES[loss](a, b)
    with torch.no_grad():
        a.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


def test_checkpointed(loss):
    a, b = pair()
    value = torch.utils.checkpoint.checkpoint(LOSSES[loss], a, b, use_reentrant=False)
    torch.testing.assert_close(torch.autograd.grad(value, (a, b)), tuple(once_more(loss, a, b)))


def test_hooks_and_saved_tensors(loss):
    a, b = pair()
    want = once_more(loss, a, b)
    seen = []
    with torch.autograd.graph.save_on_cpu():
        value = LOSSES[loss](a, b)
    a.register_hook(lambda grad: seen.append(grad.clone()))
    value.backward()
    torch.testing.assert_close((a.grad, b.grad), tuple(want))
    torch.testing.assert_close(seen, want[:1])
