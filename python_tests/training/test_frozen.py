"""Parameters with requires_grad=False stay as they are: whole networks and single ones, under every kind of step."""

import pytest
import torch
from graph_on_host import HostGraphs
from own import make_networks
from test_steps import images_like, noise, tiny
from tiny import make_config, make_dataset, make_model

from sdgan_ext._errors import CheckpointError, ConfigError
from sdgan_ext.training import steps
from sdgan_ext.training.config import MODES, TrainConfig
from sdgan_ext.training.ema import make_ema
from sdgan_ext.training.graph import WARM_UP, GraphedStep
from sdgan_ext.training.optimizers import make_optimizers
from sdgan_ext.training.state import list_checkpoints, load_checkpoint
from sdgan_ext.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")

SETTINGS = {
    "plain": {},
    "penalties": dict(r1_gamma=0.5, r2_gamma=0.5, r1_every=2, n_critic=2),
    "gradient penalty": dict(objective="wasserstein", gp_weight=10.0),
    "parts": dict(accumulate=2, n_critic=2),
    "weights": dict(weight_l1=1e-3, weight_l2=1e-3, clip_encoder=1.0, clip_generator=1.0, clip_discriminator=1.0),
    "gamma, features": dict(gamma=0.3, feature_weight=0.5, free_bits=0.05),
    "relativistic": dict(objective="relativistic", diffaugment=("translation",)),
}
#: A single parameter of each network that is frozen, of VAEGAN's.
SINGLE = {"encoder": "mean.weight", "generator": "dense.bias", "discriminator": "logit.weight"}


def states(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def take_steps(model, config, count=3):
    optimizers, generator = make_optimizers(model, config), noise()
    x = images_like(model)
    for step in range(count):
        terms = steps.train_step(model, optimizers, x, config, step=step, generator=generator)
    return optimizers, terms


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", ["encoder", "generator", "discriminator"])
def test_a_frozen_network_stays_and_the_others_learn(name, setting):
    model = tiny(dtype=torch.float32, generator_norm="batch", encoder_norm="batch", discriminator_norm="spectral")
    getattr(model, name).requires_grad_(False)
    before = states(model)
    optimizers, terms = take_steps(model, TrainConfig(batch_size=6, **SETTINGS[setting]))
    assert set(optimizers) == set(MODES["vae-gan"]) - {name}
    after = model.state_dict()
    moved = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
    assert moved == set(optimizers), "its buffers too are as they were"
    assert not getattr(model, name).training and all(getattr(model, other).training for other in optimizers)
    assert all(parameter.grad is None for parameter in getattr(model, name).parameters())
    assert all(value.isfinite() for value in terms.values())
    assert any(term.startswith("discriminator/") for term in terms) == (name != "discriminator")


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", ["encoder", "generator", "discriminator"])
def test_a_frozen_parameter_stays_and_changes_nothing_else_of_a_step(name, setting):
    """The gradients of all others are those without it; so is the step, as Adam takes each number for itself."""
    settings = {**SETTINGS[setting], f"clip_{name}": 0.0, "n_critic": 1}
    ends, config = [], TrainConfig(batch_size=6, **settings)
    for frozen in (False, True):
        model = tiny(dtype=torch.float32)
        own = getattr(model, name).get_parameter(SINGLE[name]).requires_grad_(not frozen)
        before = own.detach().clone()
        take_steps(model, config, count=1)
        assert torch.equal(own, before) == frozen
        assert getattr(model, name).training
        ends.append(states(model))
    key = f"{name}.{SINGLE[name]}"
    alike = ("discriminator",) if name == "discriminator" else MODES["vae-gan"]  # E and G come after D's step
    for other, value in ends[0].items():
        if other != key and other.startswith(alike):
            assert torch.equal(value, ends[1][other]), other


def test_gradients_reach_the_encoder_through_a_frozen_generator():
    model, config = tiny(), TrainConfig(gamma=0.3)
    wanted = []
    for frozen in (False, True):
        model.generator.requires_grad_(not frozen)
        images = steps.forward(model, images_like(model), config, generator=noise())
        steps.encoder_generator_phase(model, images, config)
        wanted.append([parameter.grad for parameter in model.encoder.parameters()])
        assert all((parameter.grad is None) == frozen for parameter in model.generator.parameters())
    torch.testing.assert_close(*wanted, rtol=0, atol=0)


@pytest.mark.parametrize("mode", ["vae", "gan"])
def test_the_other_modes(mode):
    for name in MODES[mode]:
        model = tiny(dtype=torch.float32)
        getattr(model, name).requires_grad_(False)
        before = states(model)
        optimizers, _ = take_steps(model, TrainConfig(mode=mode, batch_size=6))
        moved = {key.split(".")[0] for key, value in model.state_dict().items() if not torch.equal(before[key], value)}
        assert moved == set(optimizers) == set(MODES[mode]) - {name}


def test_a_frozen_scale_stays():
    model = tiny(learned_variance=True)
    model.generator.log_scale.requires_grad_(False)
    take_steps(model, TrainConfig(batch_size=6))
    assert model.generator.log_scale.item() == 0


@pytest.mark.parametrize("frozen", ["encoder", "generator", "discriminator", "encoder.mean", "discriminator.logit"])
def test_the_average_and_the_graph_have_it_too(frozen):
    config, ends = TrainConfig(batch_size=6, ema_images=30), []
    for replay in (False, True):
        model = tiny(dtype=torch.float32, generator_norm="batch")
        model.get_submodule(frozen).requires_grad_(False)
        before = states(model)
        optimizers, ema, generator = make_optimizers(model, config), make_ema(model, config), noise()
        take = GraphedStep(model, optimizers, ema, config, HostGraphs(host=(ema.n_averaged,)))
        for step in range(WARM_UP + 3):
            if replay:
                take(images_like(model), step=step, generator=generator)
            else:
                steps.train_step(model, optimizers, images_like(model), config, step=step, generator=generator)
                ema.update_parameters(model)
        fixed = [key for key in before if key.startswith(frozen)]
        averaged = ema.module.state_dict()
        assert fixed and all(torch.equal(before[key], averaged[key]) for key in fixed)
        assert not all(torch.equal(before[key], averaged[key]) for key in before)
        ends.append((states(model), ema.state_dict()))
    torch.testing.assert_close(*ends, rtol=0, atol=0)


@pytest.mark.parametrize("frozen", ["encoder", "generator", "discriminator", "generator.dense", "discriminator.logit"])
@pytest.mark.parametrize("own", [False, True])
def test_a_resumed_run_has_the_same_parameters_frozen(tmp_path, frozen, own):
    if own:
        frozen = {"generator.dense": "generator.first", "discriminator.logit": "discriminator.conv"}.get(frozen, frozen)

    def model(seed=0, freeze=True):
        made = make_networks(seed=seed) if own else make_model(seed=seed)
        made.get_submodule(frozen).requires_grad_(not freeze)
        return made

    def train(folder, count):
        torch.manual_seed(5)
        config = make_config(steps=count, r1_gamma=0.5, r1_every=2)
        return Trainer(model(), config, out=tmp_path / folder, progress=False).fit(make_dataset())

    whole, half = train("whole", 8), train("half", 4)
    given = {"model": model(seed=3)} if own else {}
    trainer = Trainer.resume(half.folder, steps=8, progress=False, **given)
    assert not any(parameter.requires_grad for parameter in trainer.model.get_submodule(frozen).parameters())
    ends = [load_checkpoint(list_checkpoints(run.checkpoints)[-1]) for run in (trainer.fit(make_dataset()), whole)]
    for key in ("model", "ema", "optimizers"):
        torch.testing.assert_close(ends[0][key], ends[1][key], rtol=0, atol=0)
    assert ends[0]["frozen"] == ends[1]["frozen"] and frozen not in ends[0]["optimizers"]
    start = model().state_dict()
    fixed = [name for name in ends[0]["frozen"] if name.startswith(frozen)]
    assert fixed and all(torch.equal(start[name], ends[0]["model"][name]) for name in fixed)
    if own:
        with pytest.raises(CheckpointError, match="has requires_grad=True in your model and False in"):
            Trainer.resume(half.folder, model=model(freeze=False))


@pytest.mark.parametrize(
    ("names", "config", "words"),
    [
        (MODES["vae-gan"], {}, "every parameter of discriminator and encoder and generator has requires_grad=False"),
        (("generator", "discriminator"), {"mode": "gan"}, "in mode 'gan' nothing would be trained"),
        (("discriminator",), {"disc_start": 4, "disc_warmup": 2}, "disc_warmup is 2, but every parameter of the disc"),
        (("encoder", "generator"), {"disc_start": 4}, "disc_start is 4, but every parameter of encoder and generator"),
        (
            ("generator",),
            {"adaptive_weight": 0.5},
            "adaptive_weight is 0.5, but the generator's last weight has requir",
        ),
    ],
)
def test_what_leaves_nothing_to_train_is_refused(names, config, words):
    model = tiny()
    for name in names:
        getattr(model, name).requires_grad_(False)
    with pytest.raises(ConfigError, match=words):
        make_optimizers(model, TrainConfig(**config))
