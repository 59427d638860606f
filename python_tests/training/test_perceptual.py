"""The perceptual loss: its nets, a file of LPIPS, its place in the step, and a run that goes on with it."""

import copy
import json

import pytest
import torch
import yaml
from safetensors.torch import save_file
from tiny import make_config, make_dataset, make_model
from torch import nn
from torch.nn import functional as F
from torchmetrics.functional.image import lpips as of_torchmetrics

from sdgan_ext import cli, losses
from sdgan_ext._errors import CheckpointError, ConfigError
from sdgan_ext.evaluation import NETS, load_net
from sdgan_ext.models.discriminator import MinibatchStdDev
from sdgan_ext.training import steps
from sdgan_ext.training.config import TrainConfig
from sdgan_ext.training.optimizers import make_optimizers
from sdgan_ext.training.perceptual import PerceptualLoss, load_perceptual, perceptual_of
from sdgan_ext.training.state import list_checkpoints, load_checkpoint
from sdgan_ext.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("one_thread")
LEVELS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))


def pictures(n=2, channels=3, side=16, seed=0):
    return torch.rand(n, channels, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def vgg_features():
    """``torchvision.models.vgg16().features`` as far as LPIPS takes it, with random weights that keep the scale."""
    torch.manual_seed(0)
    layers, into = [], 3
    for level, (channels, convolutions) in enumerate(LEVELS):
        layers += [nn.MaxPool2d(2)] if level else []
        for _ in range(convolutions):
            layers += [nn.Conv2d(into, channels, 3, padding=1), nn.ReLU()]
            nn.init.kaiming_normal_(layers[-2].weight)
            nn.init.normal_(layers[-2].bias, std=0.1)
            into = channels
    return nn.Sequential(*layers)


def state_of_lpips(features):
    """What ``lpips.LPIPS(net="vgg").state_dict()`` names like this, with random weights of the channels."""
    state = {
        "scaling_layer.shift": torch.tensor([-0.030, -0.088, -0.188]).reshape(1, 3, 1, 1),
        "scaling_layer.scale": torch.tensor([0.458, 0.448, 0.450]).reshape(1, 3, 1, 1),
    }
    for name, weight in features.state_dict().items():
        level = 1 + sum(isinstance(layer, nn.MaxPool2d) for layer in features[: int(name.split(".")[0])])
        state[f"net.slice{level}.{name}"] = weight
    for level, (channels, _) in enumerate(LEVELS):
        state[f"lin{level}.model.1.weight"] = torch.rand(1, channels, 1, 1)
        state[f"lins.{level}.model.1.weight"] = state[f"lin{level}.model.1.weight"].clone()
    return state


@pytest.fixture(scope="session")
def vgg(tmp_path_factory):
    """A file with the layout of LPIPS, and what is in it."""
    state = state_of_lpips(vgg_features())
    path = tmp_path_factory.mktemp("lpips") / "vgg.safetensors"
    save_file(state, path)
    return path, state


class Means(nn.Module):
    """A net of any channels and dtype: means of pixels that lie side by side, and their squares."""

    def __init__(self, channels=1):
        super().__init__()
        self.mixing = nn.Conv2d(channels, 3, 2, bias=True)
        self.norm = nn.BatchNorm2d(3)
        self.norm.running_mean.fill_(0.2)

    def forward(self, x):
        mixed = self.norm(self.mixing(x))
        return [mixed, mixed.tanh()[..., ::2, ::2]]


def means(dtype=torch.float64, **options):
    torch.manual_seed(5)
    weights = [torch.rand(3, dtype=dtype), torch.rand(3, dtype=dtype)]
    return PerceptualLoss(Means().to(dtype), weights, channels=1, **options)


# ------------------------------------------------------------------------------------------------------ the nets
@pytest.mark.parametrize("name", NETS)
def test_a_shipped_net_compares_what_its_convolutions_answer(name):
    perceptual, net = load_perceptual(name), load_net(name)
    x_hat, x = pictures(channels=1, side=28), pictures(channels=1, side=28, seed=1)
    seen = []
    for image in (x_hat, x):
        found, value = [], image.expand(-1, net.channels, -1, -1)
        for layer in net.body:
            value = layer(value)
            if isinstance(layer, nn.ReLU) and value.dim() == 4:
                found.append(value)
        seen.append(found)
    assert [f.shape[1] for f in seen[0]] == {"photos": [16, 32, 64, 64], "lenet": [16, 32]}[name]
    torch.testing.assert_close(perceptual(x_hat, x), losses.perceptual_distance(*seen))
    assert perceptual.sha256 == NETS[name].sha256 and perceptual.source == name


def test_the_distance_of_equal_images_is_0_constant_ones_too():
    perceptual = load_perceptual()
    for x in (pictures(), torch.full((2, 3, 16, 16), 0.5), torch.zeros(2, 3, 16, 16)):
        assert torch.equal(perceptual(x, x), torch.zeros(2))
    a, b = pictures(), pictures(seed=1)
    assert torch.equal(perceptual(a, b), perceptual(b, a)) and (perceptual(a, b) > 0.01).all()


def test_each_image_is_compared_by_itself():
    perceptual = means().train()
    x_hat, x = pictures(4, 1).double(), pictures(4, 1, seed=1).double()
    alone = torch.cat([perceptual(*pair) for pair in zip(x_hat.split(1), x.split(1), strict=True)])
    torch.testing.assert_close(perceptual(x_hat, x), alone)
    assert not any(module.training for module in perceptual.modules()), "also after train()"
    assert not any(parameter.requires_grad for parameter in perceptual.parameters())


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (nn.BatchNorm2d(3, track_running_stats=False), "the perceptual net's 1, a BatchNorm2d, mixes the images of a"),
        (MinibatchStdDev(2), "the perceptual net's 1, a MinibatchStdDev, mixes the images of a batch"),
    ],
)
def test_a_net_that_mixes_images_is_refused(layer, words):
    with pytest.raises(ConfigError, match=words):
        PerceptualLoss(nn.Sequential(nn.ReLU(), layer))


@pytest.mark.parametrize("value", [-0.25, torch.nan])
def test_weights_below_0_are_refused(value):
    weights = [torch.ones(3), torch.tensor([1.0, value, 2.0])]
    with pytest.raises(ConfigError, match=f"weights of layer 1 of the perceptual net 'mine' hold {value:g}; the least"):
        PerceptualLoss(Means(), weights, source="mine")


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("photos", (3, 7, 30), "images are 7x30; the perceptual net 'photos' takes images of 8 pixels a side or more"),
        ("photos", (4, 30, 30), "images have 4 channels; the perceptual net 'photos' takes 1 or 3"),
        ("lenet", (1, 28, 9), "images are 28x9; the perceptual net 'lenet' takes images of 10 pixels"),
        ("lenet", (3, 28, 28), "images have 3 channels; the perceptual net 'lenet' takes 1$"),
    ],
)
def test_images_that_a_net_does_not_take(name, shape, words):
    perceptual = load_perceptual(name)
    with pytest.raises(ConfigError, match=words):
        perceptual(torch.zeros(1, *shape), torch.zeros(1, *shape))
    with pytest.raises(ConfigError, match=words):
        perceptual_of(TrainConfig(perceptual_weight=1.0, perceptual_net=name), shape)


@pytest.mark.parametrize(("name", "side"), [("photos", 8), ("lenet", 10), ("vgg", 16)])
def test_the_least_size_is_taken(name, side, vgg):
    perceptual = load_perceptual(vgg[0] if name == "vgg" else name)
    a, b = pictures(1, 1, side), pictures(1, 1, side, seed=1)
    assert perceptual(a, b) > 0 and perceptual.least_side == side


# ------------------------------------------------------------------------------------------------- a file of LPIPS
def lpips_written_out(state, x_hat, x):
    """As the package ``lpips`` computes it, from the weights alone."""
    maps = []
    for image in (x_hat, x):
        h, found, index = (image - state["scaling_layer.shift"]) / state["scaling_layer.scale"], [], 0
        for level, (_, convolutions) in enumerate(LEVELS):
            if level:
                h, index = F.max_pool2d(h, 2), index + 1
            for _ in range(convolutions):
                name = f"net.slice{level + 1}.{index}"
                h, index = F.conv2d(h, state[f"{name}.weight"], state[f"{name}.bias"], padding=1).relu(), index + 2
            found.append(h / (h.square().sum(1, keepdim=True).sqrt() + 1e-10))
        maps.append(found)
    total = 0
    for level, (a, b) in enumerate(zip(*maps, strict=True)):
        total = total + F.conv2d((a - b) ** 2, state[f"lin{level}.model.1.weight"]).mean((1, 2, 3))
    return total


def test_a_file_of_lpips_is_lpips(vgg):
    path, state = vgg
    x_hat, x = pictures(side=32), pictures(side=32, seed=1)
    torch.testing.assert_close(load_perceptual(path)(x_hat, x), lpips_written_out(state, x_hat, x), rtol=1e-5, atol=0)


def test_it_is_what_torchmetrics_computes_with_the_weights_of_lpips(tmp_path, monkeypatch):
    """The published weights of the channels, which torchmetrics has in it, on random features: no download."""
    monkeypatch.setattr(of_torchmetrics, "_get_tv_model_features", lambda net, pretrained: vgg_features())
    theirs = of_torchmetrics._LPIPS(net="vgg").eval()
    state = {
        **theirs.state_dict(),
        **{f"scaling_layer.{name}": value for name, value in theirs.scaling_layer.named_buffers()},
    }
    torch.save(state, tmp_path / "vgg.pth")
    x_hat, x = pictures(side=32), pictures(side=32, seed=1)
    ours = load_perceptual(tmp_path / "vgg.pth")
    torch.testing.assert_close(ours(x_hat, x), theirs(x_hat, x).flatten(), rtol=1e-5, atol=0)
    assert ours.sha256 is not None and ours.source == str((tmp_path / "vgg.pth").resolve())


def test_it_is_what_the_package_lpips_computes(tmp_path):
    lpips = pytest.importorskip("lpips", reason="lpips needs torchvision", exc_type=ImportError)
    theirs = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
    torch.save(theirs.state_dict(), tmp_path / "vgg.pth")
    x_hat, x = pictures(side=32), pictures(side=32, seed=1)
    ours = load_perceptual(tmp_path / "vgg.pth")
    torch.testing.assert_close(ours(x_hat, x), theirs(x_hat, x).flatten(), rtol=1e-4, atol=1e-6)


def test_a_file_of_16_bits_is_read_as_float32(vgg, tmp_path):
    path, state = vgg
    torch.save({name: weight.half() for name, weight in state.items()}, tmp_path / "half.pth")
    a, b = pictures(), pictures(seed=1)
    value = load_perceptual(tmp_path / "half.pth")(a, b)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, load_perceptual(path)(a, b), rtol=1e-2, atol=0)


MUST = r"perceptual_net must be a file of the state dict of lpips.LPIPS\(net='vgg'\), but .*"
BROKEN = {
    "torchvision's": (lambda state: {"features.0.weight": torch.ones(2)}, f"{MUST} it has no scaling_layer.shift"),
    "a layer is missing": (lambda state: state.pop("net.slice3.12.bias") is None or state, f"{MUST} it has no net.sli"),
    "AlexNet's": (
        lambda state: {**state, "net.slice1.0.weight": torch.ones(64, 3, 11, 11)},
        rf"{MUST} net.slice1.0.weight has shape \(64, 3, 11, 11\)",
    ),
    "NaN": (lambda state: {**state, "lin2.model.1.weight": torch.full((1, 256, 1, 1), torch.nan)}, f"{MUST}holds NaN"),
    "below 0": (
        lambda state: {**state, "lin2.model.1.weight": -torch.ones(1, 256, 1, 1)},
        "weights of layer 2 of the perceptual net '.*bad.pth' hold -1; the least is 0",
    ),
    "a list": (lambda state: [1, 2], "bad.pth is neither safetensors nor a state dict of torch.save"),
    "numbers for names": (lambda state: {1: torch.ones(1)}, "bad.pth is neither safetensors nor a state dict"),
    "a whole module": (lambda state: nn.ReLU(), "bad.pth is neither safetensors nor a state dict"),
}


@pytest.mark.parametrize(("change", "words"), BROKEN.values(), ids=BROKEN)
def test_files_that_are_something_else(change, words, vgg, tmp_path):
    torch.save(change(dict(vgg[1])), tmp_path / "bad.pth")
    with pytest.raises((CheckpointError, ConfigError), match=words):
        load_perceptual(tmp_path / "bad.pth")


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(
        ConfigError, match="perceptual_net is 'photo', and there is no such file, did you mean 'photos'"
    ):
        load_perceptual("photo")
    with pytest.raises(CheckpointError, match=f"cannot read perceptual_net {tmp_path}: "):
        load_perceptual(tmp_path)
    (tmp_path / "cut.safetensors").write_bytes(b"\x08" + bytes(30))
    with pytest.raises(CheckpointError, match="cut.safetensors is neither safetensors nor a state dict"):
        load_perceptual(tmp_path / "cut.safetensors")


# -------------------------------------------------------------------------------------------------------- the step
def phase(perceptual, mode="vae-gan", learned_variance=False, **changes):
    """A model in float64 with the gradients of phase E+G, its images, its terms and its configuration."""
    model = make_model(mode, generator_norm="none", learned_variance=learned_variance).double()
    if learned_variance:
        nn.init.constant_(model.generator.log_scale, -0.7)
    config = make_config(**{"mode": mode, "perceptual_weight": 0.3, "kl_weight": 0.0, "pixel_weight": 0.8, **changes})
    images = steps.forward(
        model, pictures(4, 1, 8, seed=2).double(), config, generator=torch.Generator().manual_seed(1)
    )
    terms = steps.encoder_generator_phase(model, images, config, perceptual=perceptual)
    return model, images, terms, config


@pytest.mark.parametrize("kind", ["mse", "l1"])
@pytest.mark.parametrize("learned", [False, True], ids=["fixed scale", "learned scale"])
def test_it_stands_beside_the_distance_of_the_pixels(kind, learned):
    """rec = pixel_weight (sum |x - x~| + w D p) / scale, as in taming transformers; encoder and decoder follow it."""
    perceptual = means()
    model, images, terms, config = phase(perceptual, "vae", learned, pixel_loss=kind)
    rng = torch.Generator().manual_seed(1)
    images = steps.forward(model, images.real, config, generator=rng)  # the same images with a graph of their own
    p, size = perceptual(images.reconstructed, images.real), images.real[0].numel()
    error = images.reconstructed - images.real
    distance = {"mse": error.square() / 2, "l1": error.abs()}[kind].flatten(1).sum(1) + 0.3 * size * p
    s = model.generator.log_scale if learned else torch.zeros((), dtype=torch.float64)
    rec = 0.8 * (distance.mean() / s.exp() ** {"mse": 2, "l1": 1}[kind] + size * s)
    torch.testing.assert_close(terms["encoder_generator/perceptual"], p.mean().detach())
    torch.testing.assert_close(terms["encoder_generator/reconstruction"], rec.detach())
    trained = [parameter for parameter in (*model.encoder.parameters(), *model.generator.parameters())]
    for parameter, want in zip(trained, torch.autograd.grad(rec, trained, allow_unused=True), strict=True):
        torch.testing.assert_close(parameter.grad, want)


class UnderNoGrad(PerceptualLoss):
    forward = torch.no_grad()(PerceptualLoss.forward)


def check_it_reaches_the_decoder(perceptual, mode):
    with_it, without = (phase(perceptual, mode, perceptual_weight=weight)[0] for weight in (0.3, 0.0))
    for network in ("encoder", "generator"):
        pairs = zip(*(getattr(model, network).parameters() for model in (with_it, without)), strict=True)
        assert not all(torch.equal(a.grad, b.grad) for a, b in pairs), f"no gradient for the {network}"


@pytest.mark.parametrize("mode", ["vae", "vae-gan"])
def test_its_gradient_reaches_the_decoder_and_none_its_net(mode):
    perceptual = means()
    check_it_reaches_the_decoder(perceptual, mode)
    assert all(parameter.grad is None for parameter in perceptual.parameters())
    broken = UnderNoGrad(perceptual.net, list(perceptual.weights), channels=1)
    with pytest.raises(AssertionError, match="no gradient for the encoder"):
        check_it_reaches_the_decoder(broken, mode)


def test_the_adaptive_weight_is_that_of_the_whole_reconstruction():
    settings = dict(adaptive_weight=0.5, gamma=0.4, prior_images=False)
    perceptual = means()
    model, images, terms, config = phase(perceptual, **settings)
    images = steps.forward(model, images.real, config, generator=torch.Generator().manual_seed(1))
    last = model.generator.last_weight
    size, p = images.real[0].numel(), perceptual(images.reconstructed, images.real).mean()
    pixel = losses.pixel_loss(images.reconstructed, images.real)
    adversarial = losses.generator_loss(model.discriminator(images.reconstructed))
    g = torch.autograd.grad(adversarial, last, retain_graph=True)
    for rec, same in ((0.8 * (pixel + 0.3 * size * p), True), (0.8 * pixel, False)):
        nll = torch.autograd.grad(0.4 * rec, last, retain_graph=True)
        want = 0.5 * losses.adaptive_weight(nll, g)
        assert torch.allclose(terms["encoder_generator/adaptive_weight"], want) == same


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"mode": "gan", "perceptual_weight": 1.0},
            "perceptual_weight is 1.0, but in mode 'gan' nothing is reconstruc",
        ),
        ({"perceptual_weight": 1.0, "pixel_weight": 0.0, "feature_weight": 1.0}, "but pixel_weight, its own, is 0"),
        ({"perceptual_weight": -1.0}, "perceptual_weight is -1.0; it must be a number, at least 0"),
        ({"perceptual_net": "lenet"}, "perceptual_net is 'lenet', but perceptual_weight is 0: it would not be used"),
    ],
)
def test_contradictory_settings_are_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        TrainConfig(**changes)


def test_a_step_without_the_net_says_so():
    with pytest.raises(
        ConfigError, match="perceptual_weight is 0.3, but the step is given no perceptual; training.per"
    ):
        phase(None)


def test_the_optimizers_do_not_change_the_net():
    model, config = make_model(), make_config(perceptual_weight=0.5)
    perceptual, optimizers = perceptual_of(config, (1, 8, 8)), make_optimizers(model, config)
    before = copy.deepcopy(perceptual.state_dict())
    for step in range(3):
        steps.train_step(model, optimizers, pictures(4, 1, 8), config, step=step, perceptual=perceptual)
    torch.testing.assert_close(perceptual.state_dict(), before, rtol=0, atol=0)


# --------------------------------------------------------------------------------------------------------- the run
def start(out, net="photos", side=8, **changes):
    model = make_model("vae-gan", image_size=side)
    config = make_config(perceptual_weight=0.5, perceptual_net=str(net), adaptive_weight=0.1, **changes)
    return Trainer(model, config, out=out, progress=False)


def test_a_run_resumes_bit_for_bit_and_saves_nothing_of_the_net(tmp_path):
    whole = start(tmp_path / "whole", steps=6).fit(make_dataset())
    half = start(tmp_path / "half", steps=3).fit(make_dataset())
    run = Trainer.resume(half.folder, steps=6, progress=False).fit(make_dataset())
    ends = [load_checkpoint(list_checkpoints(r.checkpoints)[-1]) for r in (run, whole)]
    for key in ("model", "ema", "optimizers", "generator"):
        torch.testing.assert_close(ends[0][key], ends[1][key], rtol=0, atol=0)
    plain = make_model("vae-gan").state_dict()
    assert ends[0]["model"].keys() == plain.keys() and len(ends[0]["optimizers"]) == 3
    assert json.loads((run.folder / "log.jsonl").read_text().splitlines()[-1])["encoder_generator/perceptual"] > 0
    config = yaml.safe_load(run.config_file.read_text())
    assert config["train"]["perceptual_net"] == "photos" and config["perceptual_sha256"] == NETS["photos"].sha256


def test_a_file_of_other_bytes_does_not_resume_a_run_and_one_that_has_moved_does(vgg, tmp_path, monkeypatch):
    path, state = vgg
    (tmp_path / "a.safetensors").write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    run = start(tmp_path, "a.safetensors", 16, steps=1).fit(make_dataset(size=16))
    monkeypatch.chdir("/")
    assert Trainer.resume(run.folder, steps=2, progress=False).config.perceptual_net == str(tmp_path / "a.safetensors")
    (tmp_path / "a.safetensors").rename(tmp_path / "b.safetensors")
    with pytest.raises(ConfigError, match="perceptual_net is '.*a.safetensors', and there is no such file"):
        Trainer.resume(run.folder, steps=2, progress=False)
    moved = str(tmp_path / "b.safetensors")
    assert (
        Trainer.resume(run.folder, steps=2, perceptual_net=moved, progress=False).fit(make_dataset(size=16)).step == 2
    )
    save_file({**state, "net.slice1.0.bias": torch.zeros(64)}, moved)
    for net in (None, "photos"):
        with pytest.raises(
            CheckpointError, match=r"perceptual_net is .*, whose SHA-256 is \w{64}; .* was trained with"
        ):
            Trainer.resume(run.folder, steps=3, perceptual_net=net, progress=False)


def test_images_that_the_net_does_not_take_make_no_run(tmp_path):
    with pytest.raises(ConfigError, match="images are 8x8; the perceptual net 'lenet' takes images of 10 pixels"):
        start(tmp_path / "runs", "lenet")
    assert not (tmp_path / "runs").exists()


def test_command_line(tmp_path, capsys):
    command = ["train", "--out", str(tmp_path), "--preset", "mnist-small", "--batch-size", "4", "--threads", "1"]
    command += ["--data", "digits", "--perceptual-weight", "0.1", "--perceptual-net", "lenet"]
    assert cli.main([*command, "--steps", "1"]) == 0
    (run,) = tmp_path.iterdir()
    assert cli.main(["train", "--resume", str(run), "--steps", "2", "--threads", "1"]) == 0
    assert cli.main(["train", "--config", str(run / "config.yaml"), "--dry-run", "--threads", "1"]) == 0
    capsys.readouterr()
    assert cli.main(["train", "--resume", str(run), "--steps", "3", "--perceptual-net", "photos"]) == 2
    assert "perceptual_net is photos, whose SHA-256 is" in capsys.readouterr().err
    assert cli.main([*command, "--steps", "1", "--perceptual-net", "lpips"]) == 2
    assert "perceptual_net is 'lpips', and there is no such file; allowed are" in capsys.readouterr().err
