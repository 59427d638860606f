"""The step as a CUDA graph on a GPU. What can be shown without one is in python_tests/training/test_graphed_step.py."""

import pytest
import torch

import sdgan_ext
from sdgan_ext.data import ImageDataset
from sdgan_ext.models import VAEGAN, VAEGANConfig
from sdgan_ext.training import graph, steps
from sdgan_ext.training.config import TrainConfig
from sdgan_ext.training.ema import make_ema
from sdgan_ext.training.graph import WARM_UP, GraphedStep, graphs_of
from sdgan_ext.training.optimizers import make_optimizers
from sdgan_ext.training.trainer import Trainer

pytestmark = pytest.mark.skipif(
    not (torch.cuda.is_available() and sdgan_ext.build_info()["cuda"]), reason="needs a GPU and a build for it"
)

DEVICE, BATCH, STEPS = torch.device("cuda"), 8, 20
CASES = {
    "gan": dict(mode="gan"),
    "vae": dict(mode="vae", kl_warmup_steps=12),
    "vae-gan": dict(feature_weight=0.5, lr_halving_steps=5),
    "R1, spectral norm, two steps of D": dict(norm="spectral", r1_gamma=0.5, r1_every=3, n_critic=2),
    "batch norm in D": dict(norm="batch"),
}


@pytest.fixture(autouse=True)
def same_kernels(monkeypatch):
    """Rounding of the eager and of the captured step is then the same, or nearly so."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def make_model(mode="vae-gan", norm="none"):
    torch.manual_seed(0)
    channels = dict(encoder_channels=(8, 16), generator_channels=(16, 8), discriminator_channels=(8, 16))
    config = VAEGANConfig(image_size=12, latent_dim=4, discriminator_norm=norm, **channels)
    return VAEGAN(config.for_mode(mode)).to(DEVICE)


class Training:
    def __init__(self, norm="none", **train):
        self.config = TrainConfig(batch_size=BATCH, ema_images=80, **train)
        self.model = make_model(self.config.mode, norm)
        self.optimizers = make_optimizers(self.model, self.config)
        self.ema = make_ema(self.model, self.config)
        self.generator = torch.Generator().manual_seed(1)
        self.said = []
        self.take = GraphedStep(self.model, self.optimizers, self.ema, self.config, graphs_of(DEVICE), self.said.append)

    def graphed(self, step, x=None):
        return self.take(batch(step) if x is None else x, step=step, generator=self.generator)

    def eager(self, step):
        x = batch(step).to(DEVICE, memory_format=torch.channels_last)
        losses = steps.train_step(self.model, self.optimizers, x, self.config, step=step, generator=self.generator)
        self.ema.update_parameters(self.model)
        return losses


def batch(step):
    return torch.rand(BATCH, 1, 12, 12, generator=torch.Generator().manual_seed(step)) * 2 - 1


def assert_close(a, b, rtol=1e-5):
    torch.testing.assert_close(a, b, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_replayed_steps_are_the_eager_ones(case):
    replayed, eager = Training(**case), Training(**case)
    losses = [(replayed.graphed(step), eager.eager(step)) for step in range(STEPS)]
    for ours, theirs in losses:
        assert_close(ours, theirs)
    assert not replayed.said and replayed.ema.n_averaged == eager.ema.n_averaged == STEPS
    assert_close(replayed.ema.module.state_dict(), eager.ema.module.state_dict(), rtol=1e-4)


def test_every_replay_has_its_own_noise():
    training = Training(lr_encoder=1e-12, lr_generator=1e-12, lr_discriminator=1e-12)
    x = batch(0)
    losses = [training.graphed(step, x) for step in range(WARM_UP + 6)][WARM_UP:]
    for name in ("encoder_generator/adversarial_generated", "encoder_generator/adversarial_reconstructed"):
        assert len({loss[name].item() for loss in losses}) == 6
    kl = torch.stack([loss["encoder_generator/kl"] for loss in losses])
    assert_close(kl, kl[:1].expand(6))


def test_a_replay_waits_for_nothing():
    training = Training(r1_gamma=0.5, r1_every=2)
    for step in range(2 * WARM_UP + 2):
        training.graphed(step)
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(2 * WARM_UP + 2, 2 * WARM_UP + 6):
            training.graphed(step)
    finally:
        torch.cuda.set_sync_debug_mode(before)
    assert not training.said


def test_a_capture_that_fails_leaves_a_run_that_goes_on(monkeypatch):
    real, stream = graph.take_step, torch.cuda.current_stream()

    def take_step(*arguments, **options):
        terms = real(*arguments, **options)
        terms["encoder_generator/kl"].item()
        return terms

    broken, eager = Training(), Training()
    with monkeypatch.context() as patch:
        patch.setattr(graph, "take_step", take_step)
        losses = [broken.graphed(step) for step in range(WARM_UP + 4)]
    assert len(broken.said) == 1 and "it cannot be captured (" in broken.said[0]
    assert torch.cuda.current_stream() == stream
    for step, loss in enumerate(losses):
        assert_close(loss, eager.eager(step))
    sound = Training()  # the next one in this process is captured all the same
    for step in range(WARM_UP + 2):
        sound.graphed(step)
    assert not sound.said


def make_dataset():
    images = torch.randint(0, 256, (32, 1, 12, 12), generator=torch.Generator().manual_seed(0)).byte()
    return ImageDataset(images, name="dots")


def fit(folder, number, device=DEVICE, **train):
    settings = dict(batch_size=BATCH, log_every=5, sample_every=100, checkpoint_every=5, r1_gamma=0.5, r1_every=4)
    config = TrainConfig(steps=number, **settings | train)
    return Trainer(make_model().to(device), config, out=folder, progress=False).fit(make_dataset())


def test_resumed_is_uninterrupted(tmp_path):
    whole, half = fit(tmp_path / "whole", STEPS), fit(tmp_path / "half", STEPS // 2)
    run = Trainer.resume(half.folder, steps=STEPS, device=DEVICE, progress=False).fit(make_dataset())
    for name, value in whole.metrics.items():
        if "/" in name:
            assert run.metrics[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name


@pytest.mark.parametrize(("first", "then"), [("cpu", DEVICE), (DEVICE, "cpu")])
def test_a_checkpoint_goes_on_on_the_other_device(tmp_path, first, then):
    whole, half = fit(tmp_path / "whole", STEPS), fit(tmp_path / "half", STEPS // 2, first)
    run = Trainer.resume(half.folder, steps=STEPS, device=then, progress=False).fit(make_dataset())
    for name, value in whole.metrics.items():
        if "/" in name:
            assert run.metrics[name] == pytest.approx(value, rel=1e-2, abs=1e-2), name
