"""torch.func and forward-mode derivatives: right or refused, eager and compiled."""

import pytest
import torch
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jvp, vmap

import sdgan_ext.nn as sdnn
from sdgan_ext import ops
from sdgan_ext.ops import reference

from .registry import each_op


def representative(op):
    """Running statistics are moved in place, which no transform takes: those of the test at the end."""
    return next((case for case in op.cases if "its own" in case.name), op.case)


def total(case, module=ops):
    """All outputs as one number, of the tensors that have gradients; the others as they are in the table."""
    fixed = case.tensors(torch.float64)
    where = [i for i, t in enumerate(fixed) if t.requires_grad]

    def run(*leaves):
        tensors = [t.detach() for t in fixed]
        for i, leaf in zip(where, leaves, strict=True):
            tensors[i] = leaf
        outputs = case.call(module, *tensors)
        outputs = (outputs,) if isinstance(outputs, torch.Tensor) else outputs
        return sum(output.square().sum() for output in outputs if output.is_floating_point())

    return run, tuple(fixed[i].detach() for i in where)


def all_grads(function, leaves):
    return grad(function, tuple(range(len(leaves))))(*leaves)


def close(got, want):
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


def stacked(leaves, n=3):
    """``n`` samples of each that are not the same; in the domain of all ops."""
    return tuple(torch.stack([leaf * (1 - 0.1 * i) for i in range(n)]) for leaf in leaves)


@each_op()
def test_grad(op):
    ours, leaves = total(representative(op))
    theirs, _ = total(representative(op), reference)
    wanted = [t.clone().requires_grad_() for t in leaves]
    close(all_grads(ours, leaves), torch.autograd.grad(ours(*wanted), wanted))  # of the kernels

    def gradients(function):
        return lambda *t: sum(g.square().sum() for g in all_grads(function, t))

    close(all_grads(gradients(ours), leaves), all_grads(gradients(theirs), leaves))
    torch._dynamo.reset()
    compiled = torch.compile(lambda *t: all_grads(ours, t), fullgraph=True, backend="aot_eager")
    close(compiled(*leaves), all_grads(ours, leaves))


@each_op()
def test_vmap(op):
    ours, leaves = total(representative(op))
    many = stacked(leaves)
    close(vmap(ours)(*many), torch.stack([ours(*one) for one in zip(*many, strict=True)]))
    for i in range(len(leaves)):  # one mapped, in its last dimension
        mixed = [many[j].movedim(0, -1) if j == i else leaf for j, leaf in enumerate(leaves)]
        got = vmap(ours, tuple(-1 if j == i else None for j in range(len(leaves))))(*mixed)
        close(got, torch.stack([ours(*(many[j][k] if j == i else t for j, t in enumerate(leaves))) for k in range(3)]))


@each_op()
def test_per_sample_gradients(op):
    ours, leaves = total(representative(op))
    many = stacked(leaves)
    got = vmap(lambda *one: all_grads(ours, one))(*many)
    each = [all_grads(ours, one) for one in zip(*many, strict=True)]
    close(got, tuple(map(torch.stack, zip(*each, strict=True))))
    wanted = [t.clone().requires_grad_() for t in leaves]
    factors = torch.tensor([1.0, -2.0], dtype=torch.float64)
    value = ours(*wanted)
    want = tuple(torch.stack([g, -2 * g]) for g in torch.autograd.grad(value, wanted, retain_graph=True))
    close(vmap(lambda f: torch.autograd.grad(value, wanted, f, retain_graph=True))(factors), want)
    close(torch.autograd.grad(value, wanted, factors, is_grads_batched=True, retain_graph=True), want)
    close(torch.autograd.grad(value, wanted, factors, is_grads_batched=True), want)


@each_op()
def test_forward_mode(op):
    ours, leaves = total(representative(op))
    theirs, _ = total(representative(op), reference)
    tangents = tuple(torch.cos(i + torch.arange(t.numel(), dtype=t.dtype)).view(t.shape) for i, t in enumerate(leaves))
    want = jvp(theirs, leaves, tangents)
    assert want[1].abs() > 0
    close(jvp(ours, leaves, tangents), want)
    for enabled in (True, False):
        with forward_ad.dual_level(), torch.set_grad_enabled(enabled):
            dual = ours(*map(forward_ad.make_dual, leaves, tangents))
            close(forward_ad.unpack_dual(dual).tangent, want[1])


# ------------------------------------------------------------------------------------------------------- users'
def test_per_sample_gradients_of_a_critic():
    """As in torch's own tutorial, with functional_call."""
    torch.manual_seed(0)
    layers = [sdnn.Conv2d(3, 8, 4, 2, 1, activation="leaky_relu"), torch.nn.Flatten(), torch.nn.Linear(128, 1)]
    critic = torch.nn.Sequential(*layers)
    weights = {name: p.detach() for name, p in critic.named_parameters()}
    x = torch.randn(4, 3, 8, 8)

    def loss(weights, x):
        return ops.generator_loss(functional_call(critic, weights, (x[None],)))

    got = vmap(grad(loss), (None, 0))(weights, x)
    for i in range(4):
        critic.zero_grad()
        ops.generator_loss(critic(x[i : i + 1])).backward()
        for name, p in critic.named_parameters():
            torch.testing.assert_close(got[name][i], p.grad)


def test_noise_under_vmap_follows_torchs_rule():
    mean = torch.zeros(3, 2, 5)
    draw = lambda m: ops.sample_gaussian(m, m)[0]  # noqa: E731
    with pytest.raises(RuntimeError, match="randomness error mode"):
        vmap(draw)(mean)
    same, different = (vmap(draw, randomness=how)(mean) for how in ("same", "different"))
    assert torch.equal(same[0], same[1]) and not torch.equal(different[0], different[1])
    given = vmap(lambda m, s: ops.sample_gaussian(m, m, seed=s)[0])(mean, torch.tensor([1, 2, 1]))
    assert torch.equal(given[0], given[2]) and not torch.equal(given[0], given[1])
    torch.testing.assert_close(given[1], ops.sample_gaussian(mean[1], mean[1], seed=2)[0])


@pytest.mark.parametrize("transform", [vmap, grad, lambda f: lambda m: jvp(f, (m,), (m,))], ids=["vmap", "grad", "jvp"])
def test_out_is_refused(transform):
    mean, out = torch.ones(2, 3), torch.empty(2, 3)
    with pytest.raises(RuntimeError, match="out is given under torch.func or in forward mode"):
        transform(lambda m: ops.sample_gaussian(m, m, seed=1, out=out)[1])(mean)


def test_vmap_of_running_statistics_is_refused():
    """They are shared by the samples, so that none may move them; as with the stock layer."""
    x, norm = torch.randn(3, 4, 2, 5, 5), sdnn.BatchNorm2d(2)
    with pytest.raises(RuntimeError, match="running_mean is one for all samples of vmap"):
        vmap(norm)(x)
    with pytest.raises(RuntimeError, match="running_mean is one for all samples of vmap"):
        gradients = grad(lambda x, mean, var: ops.batch_norm(x, mean, var, None, None, True).sum())
        vmap(gradients, (0, None, None))(x, norm.running_mean, norm.running_var)
    assert torch.equal(norm.running_mean, torch.zeros(2))
    evaluated = vmap(norm.eval())(x)
    torch.testing.assert_close(evaluated[1], norm(x[1]))
