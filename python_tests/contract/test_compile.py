"""torch.compile: one graph, a dynamic batch, forward and backward, alone and inside a user's function."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

import sdgan_ext as sd
import sdgan_ext.nn as sdnn
from sdgan_ext import ops

from .registry import OPERATIONS, each_op

BATCHES = (5, 3, 4, 7, 9)


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def results(function, tensors):
    outputs = function(*tensors)
    outputs = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
    with_graph = [output for output in outputs if output.requires_grad]
    total = sum(output.square().sum() for output in with_graph)
    return [*outputs, *torch.autograd.grad(total, [t for t in tensors if t.requires_grad])]


@each_op()
def test_dynamic_batch(op):
    """The second batch size makes the batch dynamic; three more compile nothing."""
    for case in [op.case, *(c for c in op.cases if "its own" in c.name or "seed" in c.name)]:
        torch._dynamo.reset()
        counter = CompileCounterWithBackend("aot_eager")
        compiled = torch.compile(lambda *t, case=case: case.call(ops, *t), fullgraph=True, backend=counter)
        for i, batch in enumerate(BATCHES):
            tensors = case.with_batch(batch).tensors(torch.float64)
            got, want = results(compiled, tensors), results(lambda *t, case=case: case.call(ops, *t), tensors)
            torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
            assert [t.stride() for t in got] == [t.stride() for t in want]
            assert counter.frame_count <= min(i + 1, 2), case.name


def model():
    torch.manual_seed(0)
    network = sd.VAEGAN(
        sd.VAEGANConfig(
            image_size=(8, 12), channels=3, latent_dim=5, encoder_channels=(8,), generator_channels=(8, 4),
            discriminator_channels=(8,), generator_norm="batch", generator_head="conv", init="torch",
        )
    )  # fmt: skip
    network.enlarge = sdnn.UpsampleConv2d(3, 3, activation="tanh")
    return network


def step(model, x, z, seed):
    """All of a VAE-GAN's step before the optimizers: every family of ops, R1 left out."""
    posterior = model.encode(ops.group_norm(x, 3))
    z_q, kl = ops.sample_gaussian(posterior.mean, posterior.logvar, seed=seed)
    x_hat, x_p = model.decode(torch.cat([z_q, z])).chunk(2)
    real, fake = model.discriminator(x), model.discriminator(x_p)
    loss_d = ops.discriminator_loss(real, fake)
    loss_g = ops.generator_loss(fake) + ops.reconstruction_loss(x_hat, x) + 0.1 * kl
    loss_g = loss_g + ops.reconstruction_loss(model.enlarge(x_hat), x.repeat_interleave(2, -1).repeat_interleave(2, -2))
    return loss_d, loss_g + ops.binary_cross_entropy_with_logits(real.sigmoid(), torch.ones_like(real))


def test_a_training_step():
    """Encoder, generator, discriminator and their losses in one graph, with gradients of all parameters."""
    eager, counter = model(), CompileCounterWithBackend("aot_eager")
    uncompiled = model()
    compiled = torch.compile(lambda x, z, seed: step(eager, x, z, seed), fullgraph=True, backend=counter)
    for i, batch in enumerate(BATCHES):
        x, z, seed = torch.randn(batch, 3, 8, 12), torch.randn(batch, 5), torch.tensor(i)
        both = []
        for run, network in ((compiled, eager), (lambda *a: step(uncompiled, *a), uncompiled)):
            losses = run(x, z, seed)
            both.append([*losses, *torch.autograd.grad(sum(losses), list(network.parameters()))])
        torch.testing.assert_close(*both, rtol=1e-4, atol=1e-5)
        assert counter.frame_count <= min(i + 1, 2)
    torch.testing.assert_close(list(eager.buffers()), list(uncompiled.buffers()), rtol=1e-4, atol=1e-5)


def test_inductor():
    """The compiler that torch.compile uses: every family at once, with code of its own between the ops."""
    network, uncompiled = model(), model()
    x, z, seed = torch.randn(4, 3, 8, 12), torch.randn(4, 5), torch.tensor(3)

    def run(x, z, seed, network=network):
        return torch.stack(step(network, 2 * x - 1, z.tanh(), seed)).log1p().sum()

    got, want = torch.compile(run, fullgraph=True)(x, z, seed), run(x, z, seed, uncompiled)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)
    grads = (torch.autograd.grad(y, list(n.parameters())) for y, n in ((got, network), (want, uncompiled)))
    torch.testing.assert_close(*grads, rtol=1e-3, atol=1e-5)
    families = {op.family for op in OPERATIONS}
    assert families == set(
        "conv2d conv_transpose2d upsample_conv2d batch_norm group_norm adversarial_loss gaussian reconstruction_loss "
        "bce".split()
    )
