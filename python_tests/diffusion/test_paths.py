"""Parametrizations against their formulas written out."""

import math

import pytest
import torch

from sdgan_ext import diffusion
from sdgan_ext._errors import ConfigError

NAMES = diffusion.PARAMETRIZATIONS


def batch(seed=0):
    """x_0, eps and t, with the ends of time."""
    generator = torch.Generator().manual_seed(seed)
    x_0, eps = torch.randn(2, 5, 2, 3, 3, generator=generator, dtype=torch.float64)
    return x_0, eps, torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0], dtype=torch.float64)


def cosine(t):
    """alpha and sigma of Nichol & Dhariwal's schedule, scaled to 1 at t = 0."""

    def f(u):
        return math.cos((u + 0.008) / 1.008 * math.pi / 2)

    alpha = f(t) / f(0)
    return alpha, math.sqrt(max(0.0, 1 - alpha**2))


def test_flow():
    path, (x_0, eps, times) = diffusion.parametrization("flow"), batch()
    x_t, v = path.add_noise(x_0, eps, times), path.target(x_0, eps, times)
    for i, t in enumerate(times.tolist()):
        torch.testing.assert_close(x_t[i], (1 - t) * x_0[i] + t * eps[i])
        torch.testing.assert_close(v[i], eps[i] - x_0[i])
        assert path.timesteps(times)[i] == pytest.approx(1000 * t)


def test_v_prediction():
    path, (x_0, eps, times) = diffusion.parametrization("v"), batch()
    x_t, v = path.add_noise(x_0, eps, times), path.target(x_0, eps, times)
    for i, t in enumerate(times.tolist()):
        alpha, sigma = cosine(t)
        torch.testing.assert_close(x_t[i], alpha * x_0[i] + sigma * eps[i])
        torch.testing.assert_close(v[i], alpha * eps[i] - sigma * x_0[i])
        assert path.timesteps(times)[i] == pytest.approx(1000 * t - 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_signal_is_gone_at_1_and_the_noise_at_0(dtype):
    for name in NAMES:
        alpha, sigma = diffusion.parametrization(name).coefficients(torch.tensor([0.0, 1.0], dtype=dtype))
        assert alpha[1] == 0 and sigma[0] == 0
        torch.testing.assert_close(alpha[0], torch.ones((), dtype=dtype))
        torch.testing.assert_close(sigma[1], torch.ones((), dtype=dtype))


def test_the_small_noise_of_v_in_float32():
    """1 - alpha^2 would lose half of its digits."""
    t = torch.tensor([1e-4, 1e-3, 1e-2])
    sigma = diffusion.VPrediction().coefficients(t)[1]
    torch.testing.assert_close(sigma, torch.tensor([cosine(t)[1] for t in t.double().tolist()]), rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", NAMES)
def test_the_target_is_the_velocity_of_the_path(name):
    """Of "flow" in t; of "v" in the angle arccos(alpha)."""
    path, (x_0, eps, _) = diffusion.parametrization(name), batch()
    t = torch.full((5,), 0.3, dtype=torch.float64)
    clock = (lambda t: t) if name == "flow" else (lambda t: path.coefficients(t)[0].arccos())
    h = 1e-6
    moved = path.add_noise(x_0, eps, t + h) - path.add_noise(x_0, eps, t - h)
    passed = clock(t + h) - clock(t - h)
    torch.testing.assert_close(moved / passed.reshape(-1, 1, 1, 1), path.target(x_0, eps, t), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", NAMES)
def test_back_from_a_prediction(name):
    path, (x_0, eps, t) = diffusion.parametrization(name), batch()
    found = path.denoise(path.add_noise(x_0, eps, t), path.target(x_0, eps, t), t)
    torch.testing.assert_close(found.x_0, x_0)
    torch.testing.assert_close(found.eps, eps)
    one = torch.tensor(0.3, dtype=torch.float64)  # one t for all
    x_t = path.add_noise(x_0.float(), eps.float(), one)
    assert x_t.dtype == torch.float32
    torch.testing.assert_close(path.denoise(x_t, path.target(x_0, eps, one).float(), one).x_0, x_0.float())


@pytest.mark.parametrize("name", NAMES)
def test_a_timestep_and_its_time(name):
    path = diffusion.parametrization(name)
    for timestep in (0, 1, 500, 999):
        t = torch.tensor(path.time_of(timestep), dtype=torch.float64)
        assert path.timesteps(t).item() == pytest.approx(timestep, abs=1e-9)


@pytest.mark.parametrize("scheduler", ["DDIMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"])
def test_v_has_the_schedule_of_diffusers(scheduler):
    diffusers = pytest.importorskip("diffusers")
    solver = {"DDIMScheduler": "ddim", "DPMSolverMultistepScheduler": "dpm++", "UniPCMultistepScheduler": "unipc"}
    path = diffusion.VPrediction()
    made = diffusion.diffusers_scheduler(path, solver[scheduler])
    assert isinstance(made, getattr(diffusers, scheduler))
    alpha, sigma = path.coefficients(torch.tensor([path.time_of(k) for k in range(1000)], dtype=torch.float64))
    kept = made.alphas_cumprod.double()
    assert kept[-1] == (0 if solver[scheduler] == "ddim" else 2**-24)  # the others divide by it
    torch.testing.assert_close(alpha, kept.sqrt(), rtol=0, atol=3e-4)
    torch.testing.assert_close(sigma, (1 - kept).sqrt(), rtol=0, atol=3e-4)


@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_weight(gamma):
    t = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    alpha, sigma = torch.tensor([cosine(u) for u in t.tolist()], dtype=torch.float64).unbind(1)
    snr = (alpha / sigma) ** 2
    weight = diffusion.min_snr_weight(diffusion.VPrediction(), t, gamma)
    torch.testing.assert_close(weight, snr.clamp(max=gamma) / (snr + 1))
    snr = ((1 - t) / t) ** 2
    torch.testing.assert_close(diffusion.min_snr_weight(diffusion.Flow(), t, gamma), snr.clamp(max=gamma) * t**2)


@pytest.mark.parametrize("name", NAMES)
def test_min_snr_weighs_the_error_of_x_0(name):
    """A weighted error of the prediction is min(SNR, gamma) times that of the x_0 it stands for, at the ends too."""
    path, (x_0, eps, t) = diffusion.parametrization(name), batch()
    x_t, target = path.add_noise(x_0, eps, t), path.target(x_0, eps, t)
    prediction = target + torch.randn(target.shape, generator=torch.Generator().manual_seed(1))
    of_prediction = (prediction - target).square().flatten(1).sum(1) * diffusion.min_snr_weight(path, t)
    of_x_0 = (path.denoise(x_t, prediction, t).x_0 - x_0).square().flatten(1).sum(1)
    alpha, sigma = path.coefficients(t)
    torch.testing.assert_close(of_prediction[1:], (alpha / sigma).square().clamp(max=5)[1:] * of_x_0[1:])
    assert of_prediction[0] == 0


def test_an_unknown_name():
    with pytest.raises(ConfigError, match="parametrization is 'epsilon'; allowed are 'flow' and 'v'"):
        diffusion.parametrization("epsilon")
