"""Ways from noise to data: a solver has its times and takes one step at a time.

Euler's and Heun's methods are here. The others are diffusers' schedulers, made as a pipeline's folder may hold them: a
pipeline and :func:`~sdgan_ext.diffusion.sample` then take the same steps, at diffusers' times, for which the network is
called with integer timesteps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor

from .._errors import ConfigError, nearest, shown
from .guidance import Predict
from .paths import Parametrization
from .times import shift_times

__all__ = ["SOLVERS", "Euler", "Heun", "Solver", "SolverName", "check_steps", "diffusers_scheduler", "make_solver"]

SolverName = Literal["euler", "heun", "ddim", "dpm++", "unipc"]
SOLVERS: tuple[SolverName, ...] = get_args(SolverName)


class Solver(Protocol):
    """Of one batch: a solver may keep what earlier steps predicted.

    Attributes:
        times: of the steps' ends, from the noise to 0; one more than steps.
    """

    @property
    def times(self) -> Sequence[float]: ...

    def step(self, predict: Predict, x: Tensor, i: int) -> Tensor:
        """x at ``times[i]`` to x at ``times[i + 1]``."""


class Euler:
    """``x <- alpha(s) x_0 + sigma(s) eps`` with the x_0 and eps predicted at t: one evaluation, order 1.

    For "flow" it is Euler's method, ``x + (s - t) v``; for "v" it is DDIM without noise.

    Source: Song et al. 2021 (DDIM), equation 12 with sigma 0.
    """

    def __init__(self, path: Parametrization, times: Sequence[float]):
        self.path, self.times = path, times

    def step(self, predict: Predict, x: Tensor, i: int) -> Tensor:
        t, s = self.times[i : i + 2]
        x_0, eps = self.path.denoise(x, predict(x, t), _scalar(t))
        return self.path.add_noise(x_0, eps, _scalar(s))


class Heun:
    """``x + (s - t) (v(x, t) + v(x', s)) / 2`` with Euler's x': two evaluations, order 2. For "flow".

    The last step, to s = 0, is Euler's, for no network was trained at 0.

    Source: Karras et al. 2022, algorithm 1.
    """

    def __init__(self, times: Sequence[float]):
        self.times = times

    def step(self, predict: Predict, x: Tensor, i: int) -> Tensor:
        t, s = self.times[i : i + 2]
        v = predict(x, t)
        if s > 0:
            v = (v + predict(x + (s - t) * v, s)) / 2
        return x + (s - t) * v


class _Scheduled:
    """One of diffusers' schedulers."""

    def __init__(self, path: Parametrization, scheduler: Any, steps: int, start: int):
        scheduler.set_timesteps(steps)
        self._scheduler = scheduler
        self._evaluated = [path.time_of(timestep) for timestep in scheduler.timesteps.tolist()]
        exact = path.name == "flow"  # its noise levels are times, and not rounded
        self.times = scheduler.sigmas.tolist() if exact else [*self._evaluated, 0.0]
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(start)

    def step(self, predict: Predict, x: Tensor, i: int) -> Tensor:
        prediction = predict(x, self._evaluated[i])
        return self._scheduler.step(prediction, self._scheduler.timesteps[i], x, return_dict=False)[0]


def diffusers_scheduler(path: Parametrization, solver: SolverName, *, shift: float = 1.0) -> Any:
    """The scheduler of diffusers that samples this parametrization; its configuration may be saved with a pipeline.

    "ddim" for "flow" is Euler's method in the words of ``DPMSolverMultistepScheduler``, since diffusers' own scheduler
    of it does not go into a ``StableDiffusionPipeline``.

    Args:
        shift: of :func:`~sdgan_ext.diffusion.shift_times`, for "flow".

    Raises:
        ConfigError: a solver that is unknown or not diffusers', or a shift for "v".
        ImportError: diffusers is not installed.
    """
    if solver not in SOLVERS[2:]:
        raise ConfigError(
            f"solver {shown(solver)} is no scheduler of diffusers; allowed are {_listed(SOLVERS[2:], solver)}"
        )
    _check_shift(path, shift)
    try:
        import diffusers
    except ImportError as error:
        raise ImportError(
            f"the solver {solver!r} needs {error.name}; run `pip install 'sdgan_ext[diffusion]'`"
        ) from error
    settings: dict[str, Any] = {"steps_offset": 1}  # without effect; StableDiffusionPipeline warns of any other
    if path.name == "flow":
        settings |= {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": shift}
        if solver == "ddim":
            settings["solver_order"] = 1
    else:
        settings |= {
            "prediction_type": "v_prediction",
            "beta_schedule": "squaredcos_cap_v2",
            "rescale_betas_zero_snr": True,
            "timestep_spacing": "trailing",
        }
        if solver == "ddim":
            return diffusers.DDIMScheduler(path.num_train_timesteps, clip_sample=False, **settings)
    kind = diffusers.UniPCMultistepScheduler if solver == "unipc" else diffusers.DPMSolverMultistepScheduler
    return kind(path.num_train_timesteps, **settings)


def make_solver(path: Parametrization, solver: SolverName, steps: int, *, shift: float = 1.0, start: int = 0) -> Solver:
    """A solver of this many steps for one batch, which begins at step ``start``.

    Raises:
        ConfigError: an unknown solver, "heun" or a shift for "v", or no steps.
        ImportError: the solver is diffusers', which is not installed.
    """
    if solver not in SOLVERS:
        raise ConfigError(f"solver is {shown(solver)}; allowed are {_listed(SOLVERS, solver)}")
    check_steps(steps)
    _check_shift(path, shift)
    if solver == "ddim" and path.name == "v" and path.num_train_timesteps % steps:
        raise ConfigError(
            f"steps is {steps}; diffusers' DDIM ends its steps at other times than it begins them unless steps divides "
            f"{path.num_train_timesteps}, and the solver 'euler' is the same method for any number"
        )
    if solver not in ("euler", "heun"):
        return _Scheduled(path, diffusers_scheduler(path, solver, shift=shift), steps, start)
    times = shift_times(torch.linspace(1, 0, steps + 1, dtype=torch.float64), shift).tolist()
    if solver == "euler":
        return Euler(path, times)
    if path.name != "flow":
        raise ConfigError(
            "solver 'heun' samples the parametrization 'flow' alone; 'dpm++' and 'unipc' are of order 2 too"
        )
    return Heun(times)


def check_steps(steps: int) -> None:
    """
    Raises:
        ConfigError: they are none that a solver can take.
    """
    if type(steps) is not int or not 1 <= steps <= 1000:
        raise ConfigError(f"steps is {shown(steps)}; it must be an integer from 1 to 1000")


def _check_shift(path: Parametrization, shift: float) -> None:
    if shift != 1 and path.name != "flow":
        raise ConfigError(f"shift is {shown(shift)}, which samples the parametrization 'flow' alone; leave it at 1")


def _scalar(t: float) -> Tensor:
    return torch.tensor(t, dtype=torch.float64)


def _listed(choices: Sequence[str], name: object) -> str:
    return f"{', '.join(map(repr, choices))}{nearest(str(name), choices)}"
