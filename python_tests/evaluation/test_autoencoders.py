"""Autoencoders under evaluation: reconstructions, latents, and models of diffusers that were not trained here."""

import contextlib
import html
import json
import math
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

import sdgan_ext as sd
from sdgan_ext._errors import EvaluationError
from sdgan_ext.cli import main
from sdgan_ext.cli._models import in_parts
from sdgan_ext.data import ImageDataset, batches
from sdgan_ext.evaluation import apply_net, evaluate, latent_statistics, load_net
from sdgan_ext.evaluation.evaluate import default_metrics, images_taken
from sdgan_ext.evaluation.image_errors import ssim
from sdgan_ext.evaluation.units import unit_of
from sdgan_ext.models import traits
from sdgan_ext.report import write_report
from sdgan_ext.training.autoencoder import Autoencoder
from sdgan_ext.training.autoencoder_config import AutoencoderConfig
from sdgan_ext.training.runs import load_model

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.usefixtures("one_thread")

SIDE, COUNT = 32, 72  # the photo net takes 32 pixels or more, and a covariance of its features 65 images
EXACT = {"rel": 1e-4, "abs": 1e-6}
STABLE_DIFFUSION = {"block_out_channels": (128, 256, 512, 512), "norm_num_groups": 32, "layers_per_block": 2}


def theirs(seed=0, **arguments):
    torch.manual_seed(seed)
    given = {
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
        "block_out_channels": (8, 16),
        "norm_num_groups": 4,
        "sample_size": SIDE,
    }
    vae = diffusers.AutoencoderKL(**{**given, **arguments}).eval()
    with torch.no_grad():
        vae.decoder.conv_out.weight.mul_(3)  # images that differ from each other
    return vae


@pytest.fixture(scope="module")
def photos():
    """Ramps with noise on them, in many colours: uint8 [COUNT, 3, SIDE, SIDE]."""
    generator = torch.Generator().manual_seed(1)
    ramp = torch.linspace(0, 1, SIDE)
    a, colour = (torch.rand(COUNT, n, 1, 1, generator=generator) for n in (1, 3))
    noise = torch.rand(COUNT, 3, SIDE, SIDE, generator=generator)
    return ((a * ramp + (1 - a) * ramp[:, None]) * colour * 180 + 70 * noise).byte()


@pytest.fixture(scope="module")
def vae(tmp_path_factory):
    """A folder that diffusers wrote, and its network."""
    folder = tmp_path_factory.mktemp("vae")
    made = theirs(shift_factor=0.1)
    made.save_pretrained(folder)
    return folder, made


@pytest.fixture(scope="module")
def data(tmp_path_factory, photos):
    path = tmp_path_factory.mktemp("data") / "photos.npz"
    np.savez(path, x_test=photos.numpy())
    return path


def model_of(vae, folder):
    vae.save_pretrained(folder)
    return load_model(folder)


def quietly(call):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the configuration has scaling_factor")
        return call()


def numbers(model, images, **options):
    return quietly(lambda: evaluate(model, ImageDataset(images), **options))


# ------------------------------------------------------------------------------------------------------ the numbers
def frechet(a, b):
    """By the eigenvalues of S1 S2."""
    a, b = a.numpy(), b.numpy()
    s1, s2 = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = np.sqrt(np.linalg.eigvals(s1 @ s2).astype(complex)).real.sum()
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s1) + np.trace(s2) - 2 * root


@torch.no_grad()
def test_reconstructions_by_their_formulas(vae, photos):
    folder, network = vae
    x = next(batches(ImageDataset(photos), COUNT, seed=0))[0]
    posterior = network.encode(x).latent_dist
    eps = torch.randn(1, *posterior.mean.shape, generator=torch.Generator().manual_seed(0))[0]
    net = load_net("photos")
    got = numbers(load_model(folder), photos, metrics=["errors", "rfd", "sampled"], batch_size=COUNT)
    drawn = posterior.mean + posterior.std * eps
    for z, errors, distance in ((posterior.mean, "", "rfd"), (drawn, "sampled_", "sampled_rfd")):
        x_hat = ((network.decode(z).sample + 1) * 127.5).clamp(0, 255).round() / 255
        pixels = (x + 1) / 2
        mse = (x_hat - pixels).square().mean((1, 2, 3)).double()
        assert got[f"{errors}mse"] == pytest.approx(mse.mean().item(), rel=1e-3)
        assert got[f"{errors}psnr"] == pytest.approx((-10 * mse.log10()).mean().item(), rel=1e-3)
        assert got[f"{errors}ssim"] == pytest.approx(ssim(x_hat, pixels).mean().item(), rel=1e-2)
        features, features_hat = (apply_net(net, images * 2 - 1).features for images in (pixels, x_hat))
        assert got[f"photos-{distance}"] == pytest.approx(frechet(features, features_hat), rel=1e-2)
    assert got["sampled_psnr"] < got["psnr"], "what is drawn is on top of what is lost"


@torch.no_grad()
def test_latents_by_their_formulas(vae, photos):
    folder, network = vae
    q = network.encode(photos / 127.5 - 1).latent_dist
    mean, var = q.mean.double(), q.var.double()
    nats = 0.5 * (mean**2 + var - 1 - var.log())
    got = numbers(load_model(folder), photos, metrics=["latents"], batch_size=50)
    active = (mean.var(0) > 0.01).double()
    assert got["latent_mean"] == pytest.approx(mean.mean().item(), **EXACT)
    assert got["latent_std"] == pytest.approx((var.mean() + mean.var(unbiased=False)).sqrt().item(), **EXACT)
    assert got["latent_kl"] == pytest.approx(nats.mean().item(), **EXACT)
    assert got["latent_active"] == pytest.approx(active.mean().item(), abs=2 / active.numel())
    assert 0.05 < got["latent_active"] < 1
    for c in range(4):
        m, v = mean[:, c], var[:, c]
        assert got[f"latent_mean_{c}"] == pytest.approx(m.mean().item(), **EXACT)
        assert got[f"latent_std_{c}"] == pytest.approx((v.mean() + m.var(unbiased=False)).sqrt().item(), **EXACT)
        assert got[f"latent_kl_{c}"] == pytest.approx(nats[:, c].mean().item(), **EXACT)
        assert got[f"latent_active_{c}"] == pytest.approx(active[c].mean().item(), abs=2 / active[c].numel())
    assert got["scaling_factor"] == pytest.approx(1 / got["latent_std"])
    assert got["config_scaling_factor"] == pytest.approx(0.18215)
    assert all(unit_of(name, 0) for name in got)


def test_the_deviation_is_that_of_drawn_latents(vae, photos):
    model = load_model(vae[0])
    with torch.no_grad():
        drawn = model.encode(photos / 127.5 - 1).sample(seed=0)
    assert latent_statistics(model, photos)["latent_std"] == pytest.approx(drawn.std().item(), rel=0.02)


def test_a_collapsed_posterior_has_no_active_dimension(tmp_path, photos):
    network = theirs()
    for parameter in network.quant_conv.parameters():
        torch.nn.init.zeros_(parameter)
    got = numbers(model_of(network, tmp_path), photos, metrics=["latents"])
    assert got["latent_active"] == got["latent_kl"] == got["latent_mean"] == 0
    assert got["latent_std"] == 1


@pytest.mark.parametrize(("times", "said"), [(0.94, True), (0.96, False), (1.04, False), (1.06, True)])
def test_a_scaling_factor_that_is_off_is_said(vae, photos, tmp_path, times, said):
    implied = numbers(load_model(vae[0]), photos, metrics=["latents"])["scaling_factor"]
    model = model_of(theirs(scaling_factor=times * implied), tmp_path)
    words = f"scaling_factor {times * implied:.5g}, but the latents of these images imply {implied:.5g}"
    with pytest.warns(UserWarning, match=words) if said else contextlib.nullcontext():
        got = evaluate(model, ImageDataset(photos), metrics=["latents"])
    assert got["config_scaling_factor"] / got["scaling_factor"] == pytest.approx(times, rel=1e-4)


def test_a_scale_of_each_channel_is_not_compared(photos, tmp_path):
    network = theirs(latents_mean=[0.0] * 4, latents_std=[1.0] * 4)
    got = evaluate(model_of(network, tmp_path), ImageDataset(photos), metrics=["latents"])
    assert "scaling_factor" not in got and "latent_std" in got


def test_a_vector_has_no_channels(photos):
    config = sd.VAEGANConfig(image_size=SIDE, channels=3, latent_dim=5, encoder_channels=(4, 4), classes=2)
    torch.manual_seed(0)
    model = sd.VAEGAN(config.replace(generator_channels=(4, 4), discriminator_channels=None)).eval()
    torch.nn.init.normal_(model.generator.embedding.weight)
    dataset = ImageDataset(photos, torch.arange(COUNT) % 2)
    got = evaluate(model, dataset, metrics=["latents", "sampled"])
    assert sum(name.startswith("latent_") for name in got) == 4 and "scaling_factor" not in got
    images, labels = next(batches(dataset, COUNT, seed=0))
    assert got["latent_kl"] == pytest.approx(latent_statistics(model, images, labels=labels)["latent_kl"])
    assert {"rfd", "latents", "fd", "elbo"} <= set(default_metrics(model))


# ---------------------------------------------------------------------------------------------------------- the size
@pytest.mark.parametrize(("side", "most"), [(64, 64), (256, 4), (512, 1), (1024, 1)])
def test_as_many_images_at_a_time_as_the_memory_takes(side, most):
    config = AutoencoderConfig(image_size=side, accelerate=False, discriminator_channels=None, **STABLE_DIFFUSION)
    with torch.device("meta"):
        assert Autoencoder(config).traits.images_at_a_time(250) == most


def test_no_batch_is_larger_than_that(vae, photos, monkeypatch):
    model = load_model(vae[0])
    monkeypatch.setattr(traits, "_MOST_NUMBERS", 7 * SIDE * SIDE * 16)
    seen = []
    for network in (model.encoder, model.generator):
        network.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    numbers(model, photos, metrics=["errors", "sampled", "latents"])
    in_parts(model, model.reconstruct, photos[:20] / 127.5 - 1)
    assert max(seen) == 7


def test_large_images_are_fewer(photos):
    class Large:
        channels, image_size = 3, (512, 512)

        def __len__(self):
            return 20_000

    assert images_taken(Large()) == 2**30 // (3 * 512 * 512)
    assert images_taken(Large(), 5000) == 5000
    assert images_taken(ImageDataset(photos)) == COUNT


# ---------------------------------------------------------------------------------------------------- the command
def asked(*argv):
    return main(["evaluate", *map(str, argv)])


FOLDERS = {
    "folder": lambda network, at: network.save_pretrained(at),
    "folder of 16 bits": lambda network, at: network.half().save_pretrained(at),
    "variant fp16": lambda network, at: network.half().save_pretrained(at, variant="fp16"),
    "pipeline": lambda network, at: network.save_pretrained(at / "vae"),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_model_that_diffusers_wrote(tmp_path, photos, data, kind, capsys):
    network = theirs()
    FOLDERS[kind](network, tmp_path / "m")
    assert asked(tmp_path / "m", "--data", data) == 0
    written = json.loads((tmp_path / "m" / "evaluation-00000.json").read_text())
    network = network.float()  # the 16 bits, read as float32
    want = numbers(model_of(network, tmp_path / "again"), photos)
    assert written["metrics"] == pytest.approx(want, rel=1e-5, abs=1e-7)
    assert {name.split("_")[0] for name in want} >= {"mse", "psnr", "ssim", "photos-rfd", "latent"}
    assert not {"neg_elbo", "photos-fd", "precision", "class_entropy"} & set(want)
    said = capsys.readouterr()
    assert "latent_std             by channel: " in said.out and "photos-rfd" in said.out
    assert "is left out" not in said.out, "what no autoencoder has is not missed"
    assert "the configuration has scaling_factor 0.18215" in said.err


def test_another_size_than_its_own(vae, photos, data, tmp_path):
    for side in (48, SIDE):
        target = tmp_path / f"{side}.json"
        assert asked(vae[0], "--data", data, "--image-size", side, "--metrics", "errors", "--json", target) == 0
    got = {side: json.loads((tmp_path / f"{side}.json").read_text())["metrics"] for side in (48, SIDE)}
    resized = sd.data.fit_images(photos, 48)
    want = numbers(load_model(vae[0], image_size=48), resized, metrics=["errors"])
    assert got[48] == pytest.approx(want, rel=1e-5) and got[48] != got[SIDE]


def test_a_run_of_ours_at_another_size_and_its_report(photos, data, tmp_path, capsys):
    torch.manual_seed(0)
    small = {"block_out_channels": (8, 16), "norm_num_groups": 4, "discriminator_channels": (4, 8)}
    model = sd.autoencoder(AutoencoderConfig(image_size=16, **small))
    config = sd.TrainConfig(steps=1, batch_size=4, objective="hinge", prior_images=False, disc_start=5)
    run = sd.Trainer(model, config, out=tmp_path, progress=False).fit(ImageDataset(photos[:, :, ::2, ::2]))
    assert asked(run.folder, "--data", data, "--image-size", SIDE) == 0
    values = json.loads((run.folder / "evaluation-00000.json").read_text())["metrics"]
    model = load_model(run.folder, image_size=SIDE)
    assert values["psnr"] == pytest.approx(numbers(model, photos, metrics=["errors"])["psnr"], rel=1e-5)
    assert values["config_scaling_factor"] == pytest.approx(model.prior.scaling_factor.item())
    page = write_report(run.folder, tmp_path / "report.html").read_text()
    for name in ("photos-rfd", "latent_active", "latent_kl_3", "scaling_factor"):
        assert name in page and html.escape(unit_of(name, 0)) in page


def test_a_sheet_has_the_worst_first_and_what_differs(vae, photos, data, tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    assert asked(vae[0], "--data", data, "--metrics", "errors", "--json", tmp_path / "e.json", "--sheet", sheet) == 0
    pixels = np.asarray(Image.open(sheet), dtype=int)
    assert pixels.shape == (9 * (SIDE + 2) - 2, 8 * (SIDE + 2) - 2, 3)

    def cell(row, column):
        top, left = row * (SIDE + 2), column * (SIDE + 2)
        return pixels[top : top + SIDE, left : left + SIDE]

    mse = np.zeros((3, 8))
    for row in range(3):
        for column in range(8):
            x, x_hat, difference = (cell(3 * row + kind, column) for kind in range(3))
            assert np.abs(difference - np.minimum(4 * np.abs(x_hat - x), 255)).max() <= 1
            mse[row, column] = ((x_hat - x) ** 2 / 255**2).mean()
    x_hat = quietly(lambda: load_model(vae[0]).reconstruct(photos / 127.5 - 1))
    all_mse = ((sd.data.to_uint8(x_hat).int() - photos.int()) / 255).square().mean((1, 2, 3)).numpy()
    ranked = np.sort(all_mse)[::-1]
    assert mse[0] == pytest.approx(ranked[:8], rel=1e-4)
    assert mse[1] == pytest.approx(ranked[COUNT // 2 - 4 : COUNT // 2 + 4], rel=1e-4)
    worst, best = (-10 * math.log10(value) for value in (ranked[0], ranked[7]))
    assert f"times 4; 8 with the lowest PSNR ({worst:.1f} to {best:.1f} dB), 8 about" in capsys.readouterr().out


@pytest.mark.parametrize("count", [1, 2, 9, 12])
def test_a_sheet_of_few_images(vae, photos, tmp_path, count, capsys):
    np.savez(tmp_path / "few.npz", x_test=photos[:count].numpy())
    flags = ["--metrics", "errors", "--json", tmp_path / "e.json", "--sheet", tmp_path / "sheet.png"]
    assert asked(vae[0], "--data", tmp_path / "few.npz", *flags) == 0
    assert Image.open(tmp_path / "sheet.png").width == min(count, 8) * (SIDE + 2) - 2


SAMPLES = "cannot be taken: samples of an autoencoder are decoded from noise of its latents' scale and show no images"
REFUSED = {
    **{name: ("VAE", ["--metrics", name], SAMPLES) for name in ("fd", "kid", "prdc", "classes", "cas")},
    "few": ("VAE", ["--metrics", "rfd", "--n", "64"], "'rfd' cannot be taken: n is 64; with the 64 features of photos"),
    "one": ("VAE", ["--metrics", "latents", "--n", "1"], "'latents' cannot be taken: n is 1; it needs 2 images"),
    "VQ": ("VQ", [], "config.json is of diffusers' 'VQModel'; only an AutoencoderKL is trained"),
    "channels": ("CHANNELS", [], "has in_channels 4 and out_channels 3"),
    "five channels": ("FIVE", [], "channels must be 1 (grey), 3 (RGB) or 4 (RGBA), 5 came"),
    "sides": ("VAE", ["--image-size", "33"], "image_size is 33x33; with 2 block_out_channels both sides must be mult"),
    "size of another": ("VAEGAN", ["--image-size", "64"], "image_size is 64, but VAEGAN takes images of 32x32 alone"),
    "sheet nowhere": ("VAE", ["--sheet", "absent/s.png"], "--sheet is absent/s.png; the folder absent does not exist"),
    "sheet of a GAN": ("GAN", ["--sheet", "s.png"], "has no encoder, so there is nothing for --sheet"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_mistakes_end_in_a_sentence(vae, data, tmp_path, monkeypatch, capsys, kind):
    name, flags, words = REFUSED[kind]
    monkeypatch.chdir(tmp_path)
    networks = {"encoder_channels": (4,), "generator_channels": (4,), "discriminator_channels": (4,)}
    if name == "VQ":
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text('{"_class_name": "VQModel"}')
    elif name in ("CHANNELS", "FIVE"):
        into, out = (4, 3) if name == "CHANNELS" else (5, 5)
        theirs(in_channels=into, out_channels=out).save_pretrained(tmp_path / name)
    elif name in ("VAEGAN", "GAN"):
        networks |= {"encoder_channels": None} if name == "GAN" else {}
        sd.VAEGAN(sd.VAEGANConfig(image_size=SIDE, channels=3, latent_dim=4, **networks)).save_pretrained(name)
    model = vae[0] if name == "VAE" else name
    before = sorted(tmp_path.rglob("*")) + sorted(vae[0].iterdir())
    assert asked(model, "--data", data, *flags) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert sorted(tmp_path.rglob("*")) + sorted(vae[0].iterdir()) == before, "nothing is half-written"


def test_equal_latents_have_no_scale(vae, photos):
    model = load_model(vae[0])
    for parameter in model.encoder.quant_conv.parameters():
        torch.nn.init.zeros_(parameter)
    with torch.no_grad():
        model.encoder.quant_conv.bias[4:] = -3000.0  # clamped at -30
    assert quietly(lambda: evaluate(model, ImageDataset(photos), metrics=["latents"]))["scaling_factor"] > 1e6
    with pytest.raises(EvaluationError, match="the latents of all images are equal, so that they have no scale"):
        sd.evaluation.latents.scaling_factors(0.0, 1.0)
