"""Other people's models: the same outputs, gradients, training and checkpoints on our layers."""

import copy

import foreign
import pytest
import torch
from torch import nn

import sdgan_ext as sd

every = pytest.mark.parametrize("name", foreign.FOREIGN)


def pair(name, seed=0, **options):
    """Stock, and the same accelerated, and an input."""
    torch.manual_seed(seed)
    entry = foreign.FOREIGN[name]
    stock = entry.small()
    x = torch.randn(*entry.input)
    fast = copy.deepcopy(stock)
    report = sd.accelerate(fast, **options)
    return stock, fast, x, report


def step(model, x):
    x = x.clone().requires_grad_()
    y = model(x)
    upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    return [y.detach(), *torch.autograd.grad(y, [x, *model.parameters()], upstream)]


def assert_near(got, want, tolerance=1e-4):
    for a, b in zip(got, want, strict=True):
        assert a.shape == b.shape
        # a gradient that cancels, such as that of a bias before a norm, is rounding and nothing else
        assert (a - b).norm() <= tolerance * b.norm() + 1e-4, (a - b).norm() / b.norm()


@every
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("format", [torch.contiguous_format, torch.channels_last], ids=["nchw", "channels_last"])
def test_outputs_and_gradients(name, training, format):
    stock, fast, x, report = pair(name)
    assert len(report.replaced) == foreign.FOREIGN[name].replaced, str(report)
    stock.train(training), fast.train(training)
    stock.to(memory_format=format), fast.to(memory_format=format)
    for _ in range(2):  # the second time with running statistics of the first
        assert_near(step(fast, x), step(stock, x))
    assert list(fast.state_dict()) == list(stock.state_dict())
    assert_near([t.float() for t in fast.state_dict().values()], [t.float() for t in stock.state_dict().values()])


@every
def test_an_optimizer_made_before_goes_on_along_the_same_curve(name):
    torch.manual_seed(0)
    entry = foreign.FOREIGN[name]
    stock = entry.small()
    fast, x = copy.deepcopy(stock), torch.randn(*entry.input)
    with torch.no_grad():
        target = torch.randn_like(stock.eval()(x))
    stock.train()
    curves = []
    for model in (stock, fast):
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-4)
        if model is fast:
            assert sd.accelerate(model).replaced
        curve = []
        for _ in range(20):
            optimizer.zero_grad()
            loss = (model(x) - target).square().mean()
            loss.backward()
            optimizer.step()
            curve.append(loss.item())
        curves.append(curve)
    assert curves[0][-1] < curves[0][0]
    # Adam and batch norms of few pixels amplify how a convolution rounds: 3.5e-4 by another algorithm alone.
    torch.testing.assert_close(*map(torch.tensor, curves), rtol=1e-3, atol=0)


@every
def test_checkpoints_go_both_ways(name, tmp_path):
    stock, fast, x, _ = pair(name)
    for source, target in ((fast, foreign.FOREIGN[name].small()), (stock, pair(name, seed=1)[1])):
        torch.save(source.state_dict(), tmp_path / "model.pt")
        target.load_state_dict(torch.load(tmp_path / "model.pt"))
        assert_near([target.eval()(x)], [source.eval()(x)])


@every
def test_restored_it_is_stock(name):
    stock, fast, x, report = pair(name)
    assert len(sd.restore(fast)) >= len(report.replaced)
    assert repr(fast) == repr(stock)
    assert [vars(a).keys() for a in fast.modules()] == [vars(b).keys() for b in stock.modules()]
    for got, want in zip(step(fast, x), step(stock, x), strict=True):
        assert torch.equal(got, want)
    assert sd.restore(fast) == []


def gradient_penalty_steps(critic, steps=50):
    generator = torch.Generator().manual_seed(3)
    optimizer = torch.optim.Adam(critic.parameters(), lr=1e-4, betas=(0.0, 0.9))
    curve = []
    for _ in range(steps):
        real, fake = torch.randn(2, 4, 3, 16, 16, generator=generator)
        between = torch.lerp(real, fake, torch.rand(4, 1, 1, 1, generator=generator)).requires_grad_()
        (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
        penalty = (gradient.flatten(1).norm(dim=1) - 1).square().mean()
        loss = critic(fake).mean() - critic(real).mean() + 10 * penalty
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        curve.append((loss.item(), penalty.item()))
    return torch.tensor(curve)


def test_a_gradient_penalty_run_follows_stocks():
    stock, fast, _, report = pair("wgan-gp-critic")
    assert len(report.replaced) == 3
    curves = gradient_penalty_steps(stock), gradient_penalty_steps(fast)
    assert (curves[0][0] - curves[0][-1]).abs().min() > 1e-3  # it moved
    torch.testing.assert_close(curves[1], curves[0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["dcgan-generator", "wgan-gp-critic"])
def test_compiled_in_one_graph(name):
    stock, fast, x, _ = pair(name)
    compiled = torch.compile(fast, fullgraph=True, backend="aot_eager")
    assert_near([compiled(x)], [stock(x)])


def test_layouts_stay_channels_last():
    _, fast, x, _ = pair("unet")
    seen = []
    for module in fast.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            module.register_forward_hook(lambda module, args, out: seen.append(out))
    fast.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    assert seen and all(out.is_contiguous(memory_format=torch.channels_last) for out in seen)
