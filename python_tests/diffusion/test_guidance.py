"""Dropping conditions and guidance."""

import pytest
import torch

from sdgan_ext import diffusion
from sdgan_ext._errors import ConfigError

PATH = diffusion.Flow()
NULL = torch.zeros(3)


class Recorder:
    """``x_t + condition's sum + timestep``, and what it was called with."""

    def __init__(self):
        self.calls = []

    def __call__(self, x_t, timesteps, condition):
        self.calls.append((x_t, timesteps, condition))
        return x_t + condition.sum(1, keepdim=True) + timesteps[:, None]


def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, 2, generator=generator), torch.randn(4, 3, generator=generator)


# ------------------------------------------------------------------------------------------------------------- dropout
@pytest.mark.parametrize(
    ("condition", "null"),
    [
        (torch.tensor([3, 1, 2]), torch.tensor(10)),
        (torch.tensor([[1, 2], [3, 4], [5, 6]]), torch.tensor([0, 9])),
        (torch.randn(3, 4, 5), torch.randn(4, 5)),
    ],
    ids=["labels", "tokens", "embeddings"],
)
def test_drop_condition(condition, null):
    found = diffusion.drop_condition(condition, torch.tensor([True, False, True]), null)
    assert torch.equal(found[1], condition[1])
    assert torch.equal(found[0], null) and torch.equal(found[2], null)
    assert found.dtype == condition.dtype


def test_a_learnt_null_condition_gets_the_gradient_of_the_dropped_rows():
    condition, null = torch.randn(3, 4), torch.zeros(4, requires_grad=True)
    diffusion.drop_condition(condition, torch.tensor([True, False, True]), null).sum().backward()
    assert torch.equal(null.grad, torch.full((4,), 2.0))


def test_draw_dropped():
    dropped = diffusion.draw_dropped(20_000, 0.1, generator=torch.Generator().manual_seed(0))
    assert dropped.dtype == torch.bool and dropped.float().mean() == pytest.approx(0.1, abs=0.01)
    assert torch.equal(dropped, diffusion.draw_dropped(20_000, 0.1, generator=torch.Generator().manual_seed(0)))
    assert not diffusion.draw_dropped(1000, 0.0).any() and diffusion.draw_dropped(1000, 1.0).all()
    with pytest.raises(ConfigError, match="condition_dropout is 10; it must be a number from 0 to 1"):
        diffusion.draw_dropped(4, 10)


# ------------------------------------------------------------------------------------------------------------ guidance
@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 4.0])
def test_guide(scale):
    without, with_condition = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = without + scale * (with_condition - without)
    torch.testing.assert_close(diffusion.guide(without, with_condition, scale), expected)


def test_guidance_leads_towards_the_condition():
    """Beyond the conditional prediction, seen from the unconditional one; the wrong sign leads to the other side."""
    assert diffusion.guide(torch.tensor(1.0), torch.tensor(2.0), 3.0) == 4.0
    assert diffusion.guide(torch.tensor(2.0), torch.tensor(1.0), 3.0) == -1.0


def test_guidance_of_eps_and_of_x_0_is_that_of_the_velocity():
    x_t, a, b = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t = torch.tensor(0.4, dtype=torch.float64)
    for path in (diffusion.Flow(), diffusion.VPrediction()):
        guided = path.denoise(x_t, diffusion.guide(a, b, 3.0), t)
        for found, without, with_condition in zip(
            guided, path.denoise(x_t, a, t), path.denoise(x_t, b, t), strict=True
        ):
            torch.testing.assert_close(found, diffusion.guide(without, with_condition, 3.0))


@pytest.mark.parametrize("negative", [None, torch.full((4, 3), 2.0)], ids=["null", "negative"])
def test_guided(negative):
    network, (x_t, condition) = Recorder(), batch()
    found = diffusion.guided(network, PATH, condition, scale=3.0, null=NULL, negative=negative)(x_t, 0.25)
    without = 0.0 if negative is None else 6.0
    torch.testing.assert_close(found, x_t + 250 + without + 3 * (condition.sum(1, keepdim=True) - without))
    (call,) = network.calls
    assert [len(tensor) for tensor in call] == [8, 8, 8]


def test_scale_1_is_the_condition_alone_and_one_evaluation():
    network, (x_t, condition) = Recorder(), batch()
    found = diffusion.guided(network, PATH, condition, scale=1.0, null=NULL)(x_t, 0.25)
    ((seen, timesteps, given),) = network.calls
    assert seen is x_t and given is condition and torch.equal(timesteps, torch.full((4,), 250.0))
    assert torch.equal(found, Recorder()(x_t, timesteps, condition))


@pytest.mark.parametrize(("t", "rows"), [(0.1, 4), (0.2, 8), (0.5, 8), (0.7, 8), (0.71, 4), (1.0, 4)])
def test_the_interval(t, rows):
    network, (x_t, condition) = Recorder(), batch()
    diffusion.guided(network, PATH, condition, scale=3.0, interval=(0.2, 0.7), null=NULL)(x_t, t)
    assert len(network.calls[0][0]) == rows


def test_timesteps_are_not_rounded_to_bfloat16():
    network, (x_t, condition) = Recorder(), batch()
    diffusion.guided(network, PATH, condition.bfloat16())(x_t.bfloat16(), 0.999)
    assert torch.equal(network.calls[0][1], torch.full((4,), 999.0))


CONDITION = torch.ones(4, 3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (dict(condition=CONDITION, scale=4.0), "needs a model with a null condition, and this one was trained without"),
        (dict(scale=4.0), "guidance needs a condition, and this model is sampled without one; leave guidance at 1"),
        (dict(condition=CONDITION, negative=CONDITION), "guidance is 1, at which a negative condition does nothing"),
        (
            dict(condition=CONDITION, negative=torch.ones(1, 3), scale=2.0),
            r"shape \[1, 3\] for a condition of .*\[4, 3\]",
        ),
        (dict(condition=CONDITION, null=NULL, scale=-1.0), "guidance is -1.0; it must be a number of at least 0"),
        (dict(condition=CONDITION, null=NULL, scale=float("nan")), "guidance is nan"),
        (dict(condition=CONDITION, null=NULL, interval=(0.7, 0.2)), r"interval is \(0.7, 0.2\); it must be two times"),
    ],
)
def test_refused(arguments, words):
    with pytest.raises(ConfigError, match=words):
        diffusion.guided(Recorder(), PATH, **arguments)


def test_a_negative_condition_stands_in_for_a_missing_null_condition():
    x_t, condition = batch()
    predict = diffusion.guided(Recorder(), PATH, condition, scale=2.0, negative=torch.zeros(4, 3))
    torch.testing.assert_close(predict(x_t, 0.0), x_t + 2 * condition.sum(1, keepdim=True))
