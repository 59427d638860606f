"""One call, and the command over it."""

import json
import math
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

import sdgan_ext as sd
from sdgan_ext._errors import EvaluationError
from sdgan_ext.cli import main
from sdgan_ext.data import ImageDataset
from sdgan_ext.evaluation import METRICS, NETS, elbo, evaluate, refusals
from sdgan_ext.evaluation.evaluate import EvalContext
from sdgan_ext.evaluation.features import NetOutput
from sdgan_ext.evaluation.units import unit_of

pytestmark = pytest.mark.usefixtures("one_thread")
SMALL = {"latent_dim": 4, "encoder_channels": (4, 4), "generator_channels": (4, 4), "discriminator_channels": None}


def tiny(**changes):
    torch.manual_seed(0)
    return sd.VAEGAN(sd.VAEGANConfig(**SMALL | changes)).train()


@pytest.fixture(scope="module")
def digits():
    return sd.data.open_dataset("digits")


def some(dataset, n):
    images, labels = dataset.batch(torch.arange(n))
    return ImageDataset(images, labels, value_range=(-1, 1), num_classes=10)


@pytest.fixture(scope="module")
def held_out(digits):
    return some(digits, 120)


@pytest.fixture(scope="module")
def everything(held_out):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "labels are all")  # the net gives an untrained model's samples one class
        names = [name for name in METRICS if name != "asked" and not name.startswith("inception")]
        return evaluate(tiny(), held_out, metrics=names, k=3, batch_size=50)


def test_numbers(everything):
    assert all(isinstance(value, float) and math.isfinite(value) for value in everything.values())
    for name in ("neg_elbo", "binarised_nll", "ssim", "lenet-fd", "lenet-kid", "recall", "class_entropy", "agreement"):
        assert name in everything
    assert everything["lenet-fd"] > 100  # an untrained model
    assert everything["binarised_nll"] <= everything["binarised_neg_elbo"] + 1


def test_every_number_is_explained(everything):
    unexplained = [name for name in everything if not unit_of(name, 3)]
    assert unexplained == ["lenet-kid_std"], "which kid's own line speaks of"


def test_a_seed_means_the_same_numbers_and_the_model_keeps_its_mode(held_out):
    model = tiny(encoder_norm="batch")
    model.generator.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    a, b, c = (evaluate(model, held_out, metrics=["elbo", "fd"], n=100, seed=seed) for seed in (0, 0, 1))
    assert a == b and a["lenet-fd"] != c["lenet-fd"] and a["neg_elbo"] != c["neg_elbo"]
    assert model.training and not model.generator.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_model_that_answers_real_images_is_near_and_a_wrong_one_is_not(digits):
    class Copies(torch.nn.Module):
        encoder = None

        def sample(self, n, generator=None):
            return digits.batch(torch.randint(10_000, 60_000, (n,), generator=generator))[0]

    good = evaluate(Copies(), some(digits, 300))
    bad = evaluate(tiny(), some(digits, 300), metrics=["fd", "prdc"])
    assert good["lenet-fd"] < bad["lenet-fd"] / 20
    assert good["precision"] > 0.7 and good["coverage"] > 0.7 and bad["coverage"] < 0.1
    assert set(good) & {"neg_elbo", "mse", "agreement"} == set()


def test_a_conditional_model_is_asked_for_the_datasets_classes(held_out):
    class Conditional(torch.nn.Module):
        encoder = None

        def sample(self, n, labels=None, generator=None):
            return (labels[:, None, None, None] / 4.5 - 1).expand(n, 1, 28, 28).contiguous()

    got = evaluate(Conditional(), held_out, metrics=["cas"])
    assert set(got) == {"cas", "cas_reverse", "cas_real"}


def test_samples_of_the_asked_class(held_out):
    """Those that the net takes for it; nothing where the net does not know these classes."""
    context = EvalContext(tiny(classes=10), held_out, 40, 0, None, 40, 1)
    labels = context.labels
    made = labels.clone()
    made[:10] = (made[:10] + 1) % 10
    answers = {name: NetOutput(None, torch.eye(10)[seen]) for name, seen in (("real", labels), ("generated", made))}
    context.__dict__ |= {f"{name}_output": answer for name, answer in answers.items()}  # as if they had been taken
    assert METRICS["asked"].compute(context) == {"asked_agreement": 0.75}
    context.__dict__["real_output"] = answers["generated"]
    assert METRICS["asked"].compute(context) == {}
    assert refusals(tiny(), held_out)["asked"] == "the model is not conditioned on classes"
    bare = ImageDataset(held_out.images)
    assert refusals(tiny(classes=10), bare)["asked"] == "these images have no classes"


def test_a_model_of_captions_is_asked_for_the_datasets_captions(held_out):
    asked = []

    class OfCaptions(torch.nn.Module):
        def sample(self, n, *, captions, generator=None):
            asked.extend(captions)
            return torch.zeros(n, 1, 28, 28)

    texts = [f"image {number}" for number in range(len(held_out))]
    dataset = ImageDataset(held_out.images, captions=texts)
    context = EvalContext(OfCaptions(), dataset, 40, 0, None, 16, 1)
    assert context.generated.shape == (40, 1, 28, 28)
    assert asked == [texts[number] for number in context.labels]


def test_the_bounds_of_a_conditional_model_are_given_the_labels(digits, held_out):
    model = tiny(classes=10)
    torch.nn.init.normal_(model.generator.embedding.weight)
    got = evaluate(model, held_out, metrics=["elbo", "nll"], k=2, n=120)
    assert set(got) >= {"neg_elbo", "binarised_nll"}
    (images, labels), model = next(sd.data.batches(held_out, 120, seed=0)), model.eval()
    assert elbo(model, images, labels=labels)["neg_elbo"] == pytest.approx(got["neg_elbo"], rel=1e-6)
    assert elbo(model, images, labels=(labels + 1) % 10)["neg_elbo"] != pytest.approx(got["neg_elbo"], rel=1e-6)
    with pytest.raises(EvaluationError, match="labels are missing: this model is conditioned on 10 classes"):
        elbo(model, images)
    with pytest.raises(EvaluationError, match="labels has 10; this model's are 0 to 9"):
        elbo(model, images, labels=labels + 1)
    with pytest.raises(EvaluationError, match="this model is not conditioned on classes"):
        elbo(tiny(), images, labels=labels)
    assert "no classes" in refusals(model, ImageDataset(held_out.images))["elbo"]


def test_the_learned_scale_is_that_of_the_bound():
    model = tiny(channels=3, image_size=(28, 28), learned_variance=True).eval()
    with torch.no_grad():
        model.generator.log_scale.fill_(-1.0)
    images = torch.randint(0, 256, (20, 3, 28, 28), generator=torch.Generator().manual_seed(0)).byte()
    got = evaluate(model, ImageDataset(images), metrics=["elbo"])["neg_elbo"]
    shuffled = next(sd.data.batches(ImageDataset(images), 20, seed=0))[0]
    expected = elbo(model, shuffled, likelihood="gaussian", scale=math.exp(-1))["neg_elbo"]
    assert got == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"metrics": ["fid"]}, "there is no metric 'fid'"),
        ({"metrics": []}, "metrics is empty"),
        ({"n": 0}, "n is 0; it must be an integer from 1 to 120, the images of the dataset"),
        ({"n": 121}, "n is 121"),
        ({"seed": -1}, "seed is -1"),
        ({"n": 84, "metrics": ["fd"]}, "'fd' cannot be taken: n is 84; with the 84 features of lenet it needs more"),
        ({"n": 5, "metrics": ["prdc"]}, "'prdc' cannot be taken: n is 5; it needs 6 images or more"),
        ({"metrics": ["inception-fid"]}, "'inception-fid' cannot be taken: "),
        ({"k": 0, "metrics": ["nll"]}, "k is 0"),
        ({"net": "vgg", "metrics": ["kid"]}, "there is no feature net 'vgg'"),
    ],
)
def test_bad_arguments_are_named(held_out, options, words):
    with pytest.raises(EvaluationError, match=words):
        evaluate(tiny(), held_out, **options)


def test_what_a_model_or_data_cannot_have_is_left_out_or_refused(held_out):
    gan = tiny(encoder_channels=None)
    of_encoders = {"elbo", "nll", "errors", "rfd", "sampled", "latents", "agreement"}
    assert set(refusals(gan, held_out)) == of_encoders | {"asked", "inception-fid", "inception-rfid"}
    with pytest.raises(EvaluationError, match="metric 'elbo' cannot be taken: the model has no encoder"):
        evaluate(gan, held_out, metrics=["elbo"])
    small = ImageDataset(torch.zeros(20, 3, 8, 10, dtype=torch.uint8))
    assert {"fd", "kid", "classes", "nll"} <= set(refusals(gan, small))


def test_constant_data_and_a_diverged_model_are_named(held_out):
    constant = ImageDataset(torch.zeros(120, 1, 28, 28, dtype=torch.uint8))
    with pytest.raises(EvaluationError, match="real: all 120 images have the same features"):
        evaluate(tiny(), constant, metrics=["fd"])
    model = tiny()
    model.generator.dense.weight.data[:] = math.nan
    with pytest.raises(EvaluationError, match="generated images hold NaN or infinity; the model has diverged"):
        evaluate(model, held_out, metrics=["fd"])
    with pytest.raises(EvaluationError, match="reconstructed images hold NaN or infinity"):
        evaluate(model, held_out, metrics=["errors"])


def test_inception_says_how_to_get_it(monkeypatch, held_out):
    import importlib.util

    from sdgan_ext.evaluation import inception_fid

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    images = torch.zeros(2049, 1, 4, 4, dtype=torch.uint8)
    with pytest.raises(EvaluationError, match=r"torch-fidelity is not installed: pip install 'sdgan_ext\[incep"):
        inception_fid(images, images)


def test_torchmetrics_waits_until_it_is_used():
    code = "import sys, sdgan_ext as sd; sd.evaluation.evaluate; print([m for m in sys.modules if 'torchmetrics' in m])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.stdout.strip() == "[]", ran.stderr


# ---------------------------------------------------------------------------------------------------- the command
@pytest.fixture
def saved(tmp_path, held_out):
    tiny().save_pretrained(tmp_path / "model")
    np.savez(tmp_path / "digits.npz", x_test=held_out.images.numpy(), y_test=held_out.labels.numpy())
    return str(tmp_path / "model"), str(tmp_path / "digits.npz")


def run(*argv):
    return main(["evaluate", *map(str, argv)])


def test_command_prints_a_table_and_writes_each_evaluation_beside_the_last(saved, capsys, tmp_path):
    model, data = saved
    for _ in range(2):
        assert run(model, "--data", data, "--metrics", "elbo,classes", "--n", "50") == 0
    out = capsys.readouterr().out
    assert "neg_elbo" in out and "nats, lower is better" in out and "evaluation-00001.json" in out
    first, second = (json.loads((tmp_path / "model" / f"evaluation-0000{i}.json").read_text()) for i in (0, 1))
    assert first["metrics"] == second["metrics"] and first["metrics"].keys() > {"neg_elbo", "class_entropy"}
    settings = first["settings"]
    assert (settings["n"], settings["data"], settings["split"]) == (50, data, "test")
    assert settings["feature_net"] == {"name": "lenet", "sha256": NETS["lenet"].sha256}
    assert sd.VAEGAN.from_pretrained(model)


def test_command_writes_the_file_that_is_named(saved, tmp_path, capsys):
    model, data = saved
    assert run(model, "--data", data, "--metrics", "elbo", "--json", tmp_path / "e.json") == 0
    assert json.loads((tmp_path / "e.json").read_text())["metrics"]["neg_elbo"] > 0
    assert not list((tmp_path / "model").glob("*evaluation*"))


def test_command_says_when_the_images_may_be_known_to_the_model(saved, tmp_path, held_out, capsys):
    np.savez(tmp_path / "train.npz", held_out.images.numpy())
    assert run(saved[0], "--data", tmp_path / "train.npz", "--metrics", "elbo") == 0
    assert "the test images must be" in (out := capsys.readouterr().out)
    assert "the training images are taken, from which the model may have learnt" in out
    (file,) = (tmp_path / "model").glob("evaluation-*.json")
    assert json.loads(file.read_text())["settings"]["split"] == "train"


def test_command_refuses_in_one_sentence(saved, capsys, tmp_path):
    model, data = saved
    for argv, words in (
        (["--metrics", "elbo,fdd"], "there is no metric 'fdd', did you mean 'fd'?"),
        (["--n", "500"], "n is 500; it must be an integer from 1 to 120"),
        (["--json", tmp_path / "absent" / "e.json"], "does not exist"),
    ):
        assert run(model, "--data", data, *argv) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line
    assert not list((tmp_path / "model").glob("*evaluation*"))
