"""The step as a CUDA graph, on the stand-in for one: the same numbers as eager, and what must not be in a capture."""

import contextlib
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from graph_on_host import HostGraphs
from tiny import make_config, make_dataset, make_model

from sdgan_ext import cli
from sdgan_ext.models import VAEGAN, VAEGANConfig
from sdgan_ext.training import graph, steps
from sdgan_ext.training import trainer as trainer_module
from sdgan_ext.training.config import TrainConfig
from sdgan_ext.training.ema import ema_beta, make_ema, next_share
from sdgan_ext.training.graph import WARM_UP, GraphedStep
from sdgan_ext.training.optimizers import make_optimizers
from sdgan_ext.training.perceptual import perceptual_of
from sdgan_ext.training.state import list_checkpoints, load_checkpoint
from sdgan_ext.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")

BATCH, STEPS = 5, 16
KERNEL_BY_KERNEL = "a step is not replayed as a CUDA graph, but taken kernel by kernel"
MODEL = dict(
    image_size=(7, 6),
    latent_dim=3,
    encoder_channels=(4, 5),
    generator_channels=(5, 4),
    discriminator_channels=(4, 6),
    encoder_norm="batch",
)


class Training:
    """A model and all that trains it, from the same bits every time."""

    def __init__(self, model=None, dtype=torch.float32, **train):
        torch.manual_seed(0)
        self.config, self.dtype = TrainConfig(**{"batch_size": BATCH, "ema_images": 40, **train}), dtype
        self.model = VAEGAN(VAEGANConfig(**{**MODEL, **(model or {})}).for_mode(self.config.mode)).to(dtype)
        self.optimizers = make_optimizers(self.model, self.config)
        self.ema = make_ema(self.model, self.config)
        self.perceptual = perceptual_of(self.config, self.model.traits.image_shape)
        self.generator = torch.Generator().manual_seed(3)
        self.graphs = HostGraphs(host=(self.ema.n_averaged,))
        self.said, self.losses = [], []

    def batch(self, step, n=BATCH):
        shape = (n, *self.model.traits.image_shape)
        return (torch.rand(shape, generator=torch.Generator().manual_seed(step)) * 2 - 1).to(self.dtype)

    def labels(self, step, n=BATCH):
        classes = self.model.config.classes
        return torch.randint(classes, (n,), generator=torch.Generator().manual_seed(step)) if classes else None

    def eager(self, sizes=(BATCH,) * STEPS):
        for step, n in enumerate(sizes):
            given = dict(step=step, labels=self.labels(step, n), generator=self.generator, perceptual=self.perceptual)
            x = self.batch(step, n)
            self.losses.append(steps.train_step(self.model, self.optimizers, x, self.config, **given))
            self.ema.update_parameters(self.model)
        return self

    def graphed(self, sizes=(BATCH,) * STEPS):
        made = self.model, self.optimizers, self.ema, self.config
        take = GraphedStep(*made, self.graphs, self.said.append, self.perceptual)
        for step, n in enumerate(sizes):
            given = dict(step=step, labels=self.labels(step, n), generator=self.generator)
            self.losses.append(take(self.batch(step, n), **given))
        return self

    def state(self):
        return {
            "losses": self.losses,
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers.values()],
            "generator": self.generator.get_state(),
        }


def assert_same(a, b):
    torch.testing.assert_close(a, b, rtol=0, atol=0)


# ------------------------------------------------------------------------------------------------ the same numbers
CASES = {
    "gan": dict(mode="gan"),
    "vae": dict(mode="vae", kl_warmup_steps=12),
    "vae-gan": dict(feature_weight=0.5, kl_warmup_steps=12),
    "without batch norm": dict(model=dict(generator_norm="none", encoder_norm="none")),
    "batch norm in D": dict(model=dict(discriminator_norm="batch")),
    "spectral norm": dict(model=dict(discriminator_norm="spectral"), feature_weight=0.5),
    "wasserstein": dict(mode="gan", model=dict(discriminator_norm="spectral"), objective="wasserstein", n_critic=3),
    "relativistic": dict(objective="relativistic"),
    "R1": dict(r1_gamma=0.5, r1_every=3),
    "R1, spectral norm, two steps of D": dict(
        model=dict(discriminator_norm="spectral"), r1_gamma=0.5, r1_every=3, n_critic=2
    ),
    "learning rates that fall": dict(lr_hold_steps=6, lr_halving_steps=3),
    "learning rates that rise, then fall": dict(lr_warmup_steps=5, lr_hold_steps=8, lr_cosine_steps=6, lr_final=0.1),
    "R1 and R2": dict(objective="relativistic", r1_gamma=0.5, r2_gamma=0.5, r1_every=3),
    "gradient penalty": dict(objective="wasserstein", gp_weight=10.0, n_critic=2),
    "minibatch deviation": dict(model=dict(minibatch_stddev=5)),
    "parts, adaptive weight": dict(accumulate=5, adaptive_weight=0.5, gamma=0.5),
    "free bits": dict(free_bits=0.1, kl_warmup_steps=12),
    "learned scale": dict(model=dict(learned_variance=True), pixel_loss="l1"),
    "weight penalties, clipping": dict(weight_l1=1e-3, weight_l2=1e-3, clip_encoder=0.5, clip_discriminator=0.1),
    "DiffAugment": dict(diffaugment=("color", "translation", "cutout"), feature_weight=0.5),
    "adaptive weight": dict(adaptive_weight=0.5),
    "perceptual": dict(model=dict(image_size=(8, 9)), perceptual_weight=0.5, adaptive_weight=0.5),
    "the adversarial terms begin later": dict(disc_start=10, disc_warmup=5, n_critic=2),
    "classes": dict(model=dict(classes=3)),
    "binarised": dict(binarise=True, n_critic=2),
    "no average": dict(ema_images=0),
    "float64": dict(dtype=torch.float64),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_replayed_steps_are_the_eager_ones_bit_for_bit(case):
    """On CUDA two things differ in the last bit: a learning rate is a float32 tensor, and cuDNN may choose anew."""
    replayed = Training(**case).graphed()
    assert_same(replayed.state(), Training(**case).eager().state())
    taken = Counter(steps.kind_of(replayed.config, step) for step in range(STEPS))
    assert replayed.graphs.captures == len(taken)
    assert replayed.graphs.replays == sum(count - WARM_UP for count in taken.values())
    assert not replayed.said


def test_the_state_dict_of_an_optimizer_is_the_eager_one():
    """No tensor for a learning rate and no ``capturable`` gets into a checkpoint."""
    training = Training().graphed()
    for optimizer in training.optimizers.values():
        group = optimizer.state_dict()["param_groups"][0]
        assert type(group["lr"]) is float and group["capturable"] is False


def test_adam_may_be_captured_while_it_is_and_reads_its_learning_rate_from_a_tensor():
    seen = []
    training = Training()
    for name, optimizer in training.optimizers.items():
        group = optimizer.param_groups[0]
        optimizer.register_step_pre_hook(
            lambda *_, name=name, group=group: seen.append((name, group["capturable"], group["lr"]))
        )
    training.graphed()
    assert [name for name, capturable, _ in seen if capturable] == ["discriminator", "encoder", "generator"]
    assert all(isinstance(lr, torch.Tensor) for _, _, lr in seen)


def test_losses_stay_what_they_were():
    training = Training().graphed((BATCH,) * 8)
    kept = [{name: loss.clone() for name, loss in losses.items()} for losses in training.losses]
    assert_same(training.losses, kept)
    assert len({loss["encoder_generator/kl"].item() for loss in training.losses}) == 8
    assert all(loss.dim() == 0 and not loss.requires_grad for loss in training.losses[-1].values())


def test_share_of_the_average():
    config = TrainConfig(batch_size=4, ema_images=100)
    ema = make_ema(make_model(), config)
    assert next_share(ema, config) == 1
    ema.n_averaged += 6
    assert next_share(ema, config) == 1 - ema_beta(28, 4, 100)


def test_noise_is_drawn_in_the_order_of_the_forward_passes():
    training = Training(n_critic=2)
    a, b = (torch.Generator().manual_seed(7) for _ in range(2))
    noise = [steps.draw_noise(training.model, BATCH, training.config, generator=a) for _ in range(2)]
    for drawn in noise:
        images = steps.forward(training.model, training.batch(0), training.config, generator=b)
        again = steps.forward(training.model, training.batch(0), training.config, noise=drawn)
        assert torch.equal(images.z, again.z) and torch.equal(images.generated, again.generated)
    assert torch.equal(a.get_state(), b.get_state())


def test_own_loop_as_printed():
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
    (block,) = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "GraphedStep" in block]
    namespace, training = {}, Training()
    exec(block, namespace)
    namespace["CudaGraphs"] = lambda device: training.graphs
    batches = [(training.batch(step), None) for step in range(6)]
    torch.manual_seed(2)
    terms = namespace["train_replayed"](training.model, training.optimizers, training.ema, training.config, batches)
    assert training.graphs.replays == 6 - WARM_UP
    eager = Training()
    eager.generator = None
    torch.manual_seed(2)
    assert_same(terms, eager.eager((BATCH,) * 6).losses[-1])


# ---------------------------------------------------------------------------------------------- mistakes are caught
def baked_learning_rate(patch):
    patch.setattr(graph, "tensor_learning_rates", lambda *_, **__: contextlib.nullcontext())


def baked_kl_weight(patch):
    real = graph.take_step
    patch.setattr(graph, "take_step", lambda *a, kl_weight, **k: real(*a, **k))


def drawn_in_the_step(patch):
    real = graph.take_step

    def take_step(model, optimizers, x, noise, config, **options):
        noise = [steps.draw_noise(model, len(x), config) for _ in noise]
        return real(model, optimizers, x, noise, config, **options)

    patch.setattr(graph, "take_step", take_step)


def baked_noise(patch):
    """Noise of another step's, in memory that nothing writes to any more."""
    real = graph._Inputs.set

    def set(self, x, labels, noise, scalars):
        first = self.__dict__.setdefault("first", noise)
        real(self, x, labels, first, scalars)

    patch.setattr(graph._Inputs, "set", set)


def baked_batch(patch):
    real, kept = graph.take_step, []

    def take_step(model, optimizers, x, *rest, **options):
        if len(kept) < WARM_UP:
            kept.append(x.clone())
        return real(model, optimizers, kept[-1], *rest, **options)

    patch.setattr(graph, "take_step", take_step)


def baked_share(patch):
    updates = []

    @torch.no_grad()
    def average_in(ema, model, share):
        updates.append(share)
        share = 1 - ema_beta(len(updates) * BATCH, BATCH, 40) if len(updates) > 1 else 1.0
        torch._foreach_lerp_(list(ema.module.parameters()), list(model.parameters()), share)
        for copied, buffer in zip(ema.module.buffers(), model.buffers(), strict=True):
            copied.copy_(buffer)

    patch.setattr(graph, "average_in", average_in)


def wrong_kind(patch):
    patch.setattr(graph, "kind_of", lambda config, step: steps.Kind((False,)))


def baked(name):
    """One field of the noise, or the labels, of another step's."""

    def plant(patch):
        real = graph._Inputs.set

        def set(self, x, labels, noise, scalars):
            first, first_labels = self.__dict__.setdefault("first", (noise, labels))
            if name == "labels":
                labels = first_labels
            else:
                noise = [replace(one, **{name: getattr(old, name)}) for one, old in zip(noise, first, strict=True)]
            real(self, x, labels, noise, scalars)

        patch.setattr(graph._Inputs, "set", set)

    return plant


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("seed", {}),
        ("latents", {}),
        ("points", dict(gp_weight=10.0)),
        ("draws", dict(diffaugment=("translation",))),
        ("thresholds", dict(mode="vae", binarise=True)),
        ("labels", dict(model=dict(classes=3))),
    ],
)
def test_every_draw_is_an_input_of_the_graph(name, options):
    eager = Training(**options).eager()
    with pytest.MonkeyPatch.context() as patch:
        baked(name)(patch)
        replayed = Training(**options).graphed()
    with pytest.raises(AssertionError):
        assert_same(replayed.state()["model"], eager.state()["model"])


@pytest.mark.parametrize(
    ("mistake", "wrong"),
    [
        (baked_learning_rate, "model"),
        (baked_kl_weight, "model"),
        (baked_noise, "model"),
        (baked_batch, "model"),
        (baked_share, "ema"),
        (wrong_kind, "model"),
    ],
)
def test_what_is_baked_into_a_capture_shows(mistake, wrong):
    options = dict(kl_warmup_steps=12, lr_halving_steps=3, r1_gamma=0.5, r1_every=5)
    if mistake is not wrong_kind:
        options.pop("r1_gamma")
    eager = Training(**options).eager()
    with pytest.MonkeyPatch.context() as patch:
        mistake(patch)
        replayed = Training(**options).graphed()
    assert replayed.graphs.replays
    with pytest.raises(AssertionError):
        assert_same(replayed.state()[wrong], eager.state()[wrong])
    if wrong == "ema":
        assert_same(replayed.state()["model"], eager.state()["model"])


def after(what):
    """A step with something in it that no capture allows."""

    def plant(patch):
        real = graph.take_step

        def take_step(model, optimizers, x, *rest, **options):
            terms = real(model, optimizers, x, *rest, **options)
            what(terms["encoder_generator/kl"], x)
            return terms

        patch.setattr(graph, "take_step", take_step)

    return plant


def counts(patch):
    real = graph.average_in

    def average_in(ema, *rest):
        real(ema, *rest)
        ema.n_averaged += 0

    patch.setattr(graph, "average_in", average_in)


@pytest.mark.parametrize(
    ("mistake", "words"),
    [
        (after(lambda loss, x: loss.item()), "aten._local_scalar_dense.default"),
        (after(lambda loss, x: int(loss)), "aten._local_scalar_dense.default"),
        (after(lambda loss, x: bool(loss > 0)), "aten._local_scalar_dense.default"),
        (after(lambda loss, x: loss.tolist()), "Tensor.tolist"),
        (after(lambda loss, x: loss.cpu()), "Tensor.cpu"),
        (after(lambda loss, x: loss.numpy()), "Tensor.numpy"),
        (after(lambda loss, x: x[x > 0]), "aten.index.Tensor"),
        (after(lambda loss, x: torch.equal(x, x)), "aten.equal.default"),
        (after(lambda loss, x: loss * torch.tensor(2.0)), "aten.lift_fresh.default"),
        (drawn_in_the_step, "aten.randint|aten.randn"),
        (counts, "on a tensor of the host"),
    ],
)
def test_what_cannot_be_captured_is_refused_and_the_run_goes_on(mistake, words):
    with pytest.MonkeyPatch.context() as patch:
        mistake(patch)
        replayed = Training().graphed()
    assert replayed.graphs.captures == replayed.graphs.replays == 0
    (line,) = replayed.said
    assert "\n" not in line and "CUDA's next line" not in line
    assert line.startswith(f"{KERNEL_BY_KERNEL}: it cannot be captured (operation not permitted")
    assert any(word in line for word in words.split("|")), line
    if mistake is not drawn_in_the_step:
        assert_same(replayed.state(), Training().eager().state())


# -------------------------------------------------------------------------------------------------------- falling back
def test_a_batch_of_another_size_is_taken_kernel_by_kernel():
    sizes = (BATCH,) * 6 + (3,) + (BATCH,) * 4 + (3, 4) + (BATCH,)
    replayed = Training().graphed(sizes)
    assert_same(replayed.state(), Training().eager(sizes).state())
    assert replayed.graphs.captures == 1 and replayed.graphs.replays == sizes.count(BATCH) - WARM_UP
    assert replayed.said == [
        f"{KERNEL_BY_KERNEL}: a batch is [{n}, 1, 7, 6], the captured ones are [5, 1, 7, 6]" for n in (3, 4)
    ]


def test_the_first_error_is_the_reason():
    """torch.cuda.graph raises again at the end of a capture that failed."""

    class Failing(HostGraphs):
        def capture(self, work):
            try:
                raise RuntimeError("the reason\nand more")
            except RuntimeError:
                raise RuntimeError("operation failed due to a previous error during capture")  # noqa: B904

    training = Training()
    training.graphs = Failing()
    training.graphed()
    assert len(training.said) == 1 and training.said[0].endswith("it cannot be captured (the reason)")


def test_a_mistake_that_is_none_of_capturing_is_raised():
    def broken(*arguments, **options):
        raise RuntimeError("broken")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph, "take_step", broken)
        with pytest.raises(RuntimeError, match="broken"):
            Training().graphed()


def test_no_graphs_on_the_cpu():
    assert graph.graphs_of(torch.device("cpu")) is None


# --------------------------------------------------------------------------------------------------------- the trainer
@pytest.fixture
def on_host(monkeypatch):
    """Switches the trainer's graphs on and off; the list holds those that were made."""
    made = []

    def switch(on):
        def graphs_of(device):
            made.extend([HostGraphs()] * on)
            return made[-1] if on else None

        monkeypatch.setattr(trainer_module, "graphs_of", graphs_of)
        return made

    return switch


def train(folder, steps, mode="vae-gan", **changes):
    options = dict(steps=steps, r1_gamma=0.5 * (mode != "vae"), r1_every=2, ema_images=40, lr_halving_steps=9)
    trainer = Trainer(make_model(mode), make_config(mode=mode, **options | changes), out=folder, progress=False)
    return trainer.fit(make_dataset())


def end(run):
    state = load_checkpoint(list_checkpoints(run.checkpoints)[-1])
    return {key: state[key] for key in ("step", "model", "ema", "optimizers", "generator", "torch_generator")}


@pytest.mark.parametrize("mode", ["gan", "vae", "vae-gan"])
@pytest.mark.parametrize(("first", "then"), [(True, True), (True, False), (False, True)])
def test_resumed_with_or_without_graphs_it_ends_with_the_bits_of_an_eager_run(tmp_path, on_host, mode, first, then):
    on_host(False)
    whole = train(tmp_path / "whole", 18, mode)
    made = on_host(first)
    half = train(tmp_path / "half", 9, mode)
    on_host(then)
    run = Trainer.resume(half.folder, steps=18, progress=False).fit(make_dataset())
    assert_same(end(run), end(whole))
    assert (run.model / "model.safetensors").read_bytes() == (whole.model / "model.safetensors").read_bytes()
    assert len(made) == first + then and all(graphs.replays for graphs in made)


def test_the_trainer_says_why_in_one_line(on_host, monkeypatch, capsys):
    on_host(True)
    after(lambda loss, x: loss.item())(monkeypatch)
    Trainer(make_model(), make_config(steps=8), out=None).fit(make_dataset())
    lines = [line for line in capsys.readouterr().out.splitlines() if "CUDA graph" in line]
    assert len(lines) == 1 and "it cannot be captured (operation not permitted when stream is capturing" in lines[0]


def test_cuda_graph_false_is_eager(tmp_path, on_host):
    made = on_host(True)
    run = train(tmp_path, 6, cuda_graph=False)
    assert not made
    Trainer.resume(run.folder, steps=7, progress=False).fit(make_dataset())
    assert not made
    Trainer.resume(run.folder, steps=8, cuda_graph=True, progress=False).fit(make_dataset())
    assert len(made) == 1


def test_the_flag(tmp_path, capsys):
    words = ["train", "--data", "digits", "--out", str(tmp_path), "--dry-run", "--cuda-graph"]
    for text, value in (("false", False), ("True", True)):
        assert cli.main([*words, text]) == 0
        assert yaml.safe_load(capsys.readouterr().out)["train"]["cuda_graph"] is value
    assert cli.main([*words, "maybe"]) == 2
    assert "cuda_graph is 'maybe'; it must be true or false" in capsys.readouterr().err


# -------------------------------------------------------------------------------------------------------- the stand-in
def test_a_capture_does_nothing_and_a_replay_does_it_without_python():
    calls = []
    x, total = torch.arange(4.0), torch.zeros(4)

    def work():
        calls.append(None)
        doubled = x.view(2, 2).t() * 2
        total.add_(doubled.reshape(4))
        return doubled, torch.ones(2).mul_(3)

    replay, (doubled, threes) = HostGraphs().capture(work)
    assert total.eq(0).all() and doubled.isnan().all() and threes.isnan().all()
    for step in range(1, 3):
        x.fill_(step)
        replay()
        assert doubled.eq(2 * step).all() and threes.eq(3).all()
    assert total.eq(6).all() and len(calls) == 1


def test_a_capture_that_fails_does_nothing():
    weight = torch.nn.Parameter(torch.ones(3))

    def work():
        with torch.no_grad():
            weight.mul_(2)
        weight.sum().item()

    with pytest.raises(RuntimeError, match="not permitted when stream is capturing: aten._local_scalar_dense"):
        HostGraphs().capture(work)
    assert weight.eq(1).all()


def test_what_is_captured_lies_beneath_autograd_the_packages_own_ops_too():
    operations = Training(feature_weight=0.5).graphed((BATCH,) * 4).graphs.operations
    for op in ("gaussian", "conv2d", "conv_transpose2d", "batch_norm", "reconstruction_loss"):
        assert {f"sdgan_ext.{op}.default", f"sdgan_ext.{op}_backward.default"} <= operations
    assert {"aten._fused_adam_.tensor_lr", "aten.linear.default"} & operations == {"aten._fused_adam_.tensor_lr"}
