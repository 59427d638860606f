"""Solvers where the answer is known, against diffusers' loops, and their orders of convergence."""

import math
import sys

import pytest
import torch
from exact import Gaussian

from sdgan_ext import diffusion
from sdgan_ext._errors import ConfigError
from sdgan_ext.diffusion.solvers import Euler, Heun, make_solver

OF_DIFFUSERS = ("ddim", "dpm++", "unipc")
CASES = [
    (name, solver)
    for name in diffusion.PARAMETRIZATIONS
    for solver in diffusion.SOLVERS
    if (name, solver) != ("v", "heun")
]


def needs(solver):
    return pytest.importorskip("diffusers") if solver in OF_DIFFUSERS else None


def error(path, solver, steps, **data):
    """The mean distance from where the probability flow takes the same noise."""
    network, noise = Gaussian(path, **data), diffusion.seeded_noise(range(300), (1,)).double()
    begin = make_solver(path, solver, steps).times[0]
    found = diffusion.sample(network, path, noise, steps=steps, solver=solver)
    return (found - network.solution(noise, begin)).abs().mean().item()


# ---------------------------------------------------------------------------------------------------- the known answer
@pytest.mark.parametrize(("name", "solver"), CASES)
def test_mean_and_deviation(name, solver):
    needs(solver)
    path = diffusion.parametrization(name)
    noise = torch.randn(20_000, 1, generator=torch.Generator().manual_seed(0))
    made = diffusion.sample(Gaussian(path, 2.0, 0.5), path, noise, steps=50, solver=solver)
    assert made.mean() == pytest.approx(2.0, abs=0.02)
    assert made.std() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    ("name", "solver", "steps", "low", "high"),
    [
        ("flow", "euler", (20, 40, 80), 0.9, 1.1),
        ("flow", "heun", (20, 40, 80), 1.85, 2.2),
        ("flow", "ddim", (20, 40, 80), 0.9, 1.1),
        ("flow", "dpm++", (40, 80, 160), 1.6, 2.2),
        ("flow", "unipc", (40, 80, 160), 1.8, 2.3),
        ("v", "euler", (20, 40, 80), 0.85, 1.1),
        ("v", "ddim", (5, 10, 20), 0.85, 1.1),
        ("v", "dpm++", (5, 10, 20), 1.6, 3.5),
        ("v", "unipc", (5, 10, 20), 1.6, 3.5),
    ],
)
def test_order_of_convergence(name, solver, steps, low, high):
    """The error falls with the order's power of the steps, between the first and the last of these numbers.

    A million timesteps for "flow", since diffusers rounds them, which ends the convergence at 1e-3 with a thousand. For
    "v" the errors are still above that where the steps are few; they fall irregularly there.
    """
    needs(solver)
    path = diffusion.Flow(10**6) if name == "flow" else diffusion.VPrediction()
    errors = [error(path, solver, n) for n in steps]
    assert errors == sorted(errors, reverse=True)
    order = math.log(errors[0] / errors[-1]) / math.log(steps[-1] / steps[0])
    assert low < order < high, errors


@pytest.mark.parametrize(("solver", "evaluations"), [("euler", 7), ("heun", 13), ("dpm++", 7), ("unipc", 7)])
def test_evaluations(solver, evaluations):
    needs(solver)
    network = Gaussian(diffusion.Flow())
    diffusion.sample(network, network.path, torch.zeros(2, 1), steps=7, solver=solver)
    assert network.rows == [2] * evaluations


# ----------------------------------------------------------------------------------------------------- diffusers' loops
def noises(n=6):
    return diffusion.seeded_noise(range(n), (2, 4, 4))


def test_euler_is_diffusers():
    diffusers = pytest.importorskip("diffusers")
    path, x = diffusion.Flow(), noises()
    network, scheduler = Gaussian(path), diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=[1.0, 0.8, 0.5, 0.2])
    found, solver = x, Euler(path, scheduler.sigmas.tolist())
    for i, t in enumerate(scheduler.timesteps):
        v = network(x, t.expand(len(x)), None)
        x = scheduler.step(v, t, x).prev_sample
        found = solver.step(diffusion.guided(network, path), found, i)
    torch.testing.assert_close(found, x)


def test_heun_is_diffusers():
    diffusers = pytest.importorskip("diffusers")
    path, x = diffusion.Flow(), noises()
    network, scheduler = Gaussian(path), diffusers.FlowMatchHeunDiscreteScheduler()
    scheduler.set_timesteps(5)
    times = list(dict.fromkeys(scheduler.sigmas.tolist()))
    found, solver = x, Heun(times)
    for i in range(5):
        found = solver.step(diffusion.guided(network, path), found, i)
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t.expand(len(x)), None), t, x).prev_sample
    torch.testing.assert_close(found, x, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("steps", [5, 10, 40])
def test_euler_of_v_is_ddim(steps):
    pytest.importorskip("diffusers")
    path = diffusion.VPrediction()
    first, second = (
        diffusion.sample(Gaussian(path), path, noises(), steps=steps, solver=solver) for solver in ("euler", "ddim")
    )
    torch.testing.assert_close(first, second, rtol=0, atol=2e-3)


@pytest.mark.parametrize("strength", [1.0, 0.6])
@pytest.mark.parametrize("solver", OF_DIFFUSERS)
@pytest.mark.parametrize("name", diffusion.PARAMETRIZATIONS)
def test_the_steps_are_those_of_a_pipeline(name, solver, strength):
    """Written as diffusers' text-to-image and image-to-image pipelines are, with what a pipeline's folder keeps."""
    pytest.importorskip("diffusers")
    path, noise = diffusion.parametrization(name), noises()
    network, init = Gaussian(path), torch.full((6, 2, 4, 4), 0.7)
    scheduler = diffusion.diffusers_scheduler(path, solver)
    scheduler = type(scheduler).from_config(dict(scheduler.config))
    scheduler.set_timesteps(10)
    start = 10 - int(10 * strength)
    timesteps, x = scheduler.timesteps[start:], noise * scheduler.init_noise_sigma
    if strength < 1:
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(start)
        x = scheduler.add_noise(init, noise, timesteps[:1].repeat(6))
    for t in timesteps:
        x = scheduler.step(network(scheduler.scale_model_input(x, t), t.expand(6), None), t, x).prev_sample
    found = diffusion.sample(network, path, noise, steps=10, solver=solver, init=init, strength=strength)
    torch.testing.assert_close(found, x, rtol=0, atol=1e-5 if strength == 1 or name == "flow" else 1e-3)


@pytest.mark.parametrize("solver", ["euler", "ddim", "dpm++", "unipc"])
def test_a_shift_moves_the_times(solver):
    needs(solver)
    plain, shifted = (torch.tensor(make_solver(diffusion.Flow(), solver, 8, shift=s).times) for s in (1.0, 3.0))
    torch.testing.assert_close(shifted, 3 * plain / (1 + 2 * plain), rtol=0, atol=1e-6 if solver == "euler" else 2e-3)


# --------------------------------------------------------------------------------------------------------------- errors
@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("flow", dict(solver="eular"), "solver is 'eular'; allowed are .*, did you mean 'euler'?"),
        ("v", dict(solver="heun"), "solver 'heun' samples the parametrization 'flow' alone"),
        ("flow", dict(steps=0), "steps is 0; it must be an integer from 1 to 1000"),
        ("v", dict(solver="dpm++", shift=3.0), "shift is 3.0, which samples the parametrization 'flow' alone"),
        ("v", dict(shift=3.0), "shift is 3.0, which samples the parametrization 'flow' alone"),
        ("v", dict(solver="ddim", steps=64), "steps is 64; diffusers' DDIM .* unless steps divides 1000"),
    ],
)
def test_refused(name, arguments, words):
    if arguments.get("solver") in OF_DIFFUSERS:
        pytest.importorskip("diffusers")
    with pytest.raises(ConfigError, match=words):
        make_solver(diffusion.parametrization(name), **{"solver": "euler", "steps": 10, **arguments})


def test_a_solver_of_ours_is_no_scheduler():
    with pytest.raises(ConfigError, match="solver 'heun' is no scheduler of diffusers; allowed are 'ddim', 'dpm"):
        diffusion.diffusers_scheduler(diffusion.Flow(), "heun")


def test_without_diffusers(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    path = diffusion.Flow()
    with pytest.raises(
        ImportError, match=r"the solver 'unipc' needs diffusers; run `pip install 'sdgan_ext\[diffusion\]'`"
    ):
        diffusion.sample(Gaussian(path), path, torch.zeros(1, 1), solver="unipc")
    assert diffusion.sample(Gaussian(path), path, torch.zeros(1, 1), solver="heun").isfinite().all()
