"""The shipped nets: the right file or none, the right images or a sentence, and features that mean something."""

import hashlib
import math
import shutil
from importlib import resources

import pytest
import torch

from sdgan_ext._errors import CheckpointError, EvaluationError
from sdgan_ext.data import to_float
from sdgan_ext.evaluation import NETS, apply_net, choose_net, frechet_distance, load_net
from sdgan_ext.evaluation.features import facts, fit

pytestmark = pytest.mark.usefixtures("one_thread")
FOLDER = resources.files("sdgan_ext") / "evaluation" / "nets"


@pytest.mark.parametrize("name", NETS)
def test_shipped_nets(name):
    content = (FOLDER / f"{name}.safetensors").read_bytes()
    assert len(content) < 1_000_000 and hashlib.sha256(content).hexdigest() == NETS[name].sha256
    net, known = load_net(name), facts(content)
    assert f"train_feature_nets.py {name}" in known["command"] and float(known["test_accuracy"]) > 0.5 and known["data"]
    assert not net.training and not any(p.requires_grad for p in net.parameters())
    features, logits = net(torch.zeros(2, net.channels, net.side, net.side))
    assert features.shape == (2, net.num_features) and logits.shape == (2, len(net.classes))


def test_a_wrong_hash_is_refused(tmp_path):
    copy = tmp_path / "lenet.safetensors"
    shutil.copy(FOLDER / "lenet.safetensors", copy)
    load_net("lenet", copy)
    content = bytearray(copy.read_bytes())
    content[-1] ^= 1
    copy.write_bytes(content)
    with pytest.raises(
        CheckpointError, match=r"lenet.safetensors has SHA-256 \w{64}, the feature net 'lenet' has \w{64}"
    ):
        load_net("lenet", copy)
    with pytest.raises(CheckpointError, match="cannot read the feature net .*absent: No such file"):
        load_net("lenet", tmp_path / "absent")
    with pytest.raises(CheckpointError, match="cannot read the feature net /dev/zero: it is no regular file"):
        load_net("lenet", "/dev/zero")
    with pytest.raises(EvaluationError, match="there is no feature net 'lennet', did you mean 'lenet'?"):
        load_net("lennet")


def test_choice():
    assert choose_net(1, (28, 28)) == choose_net(1, (32, 32)) == "lenet"
    assert choose_net(3, (28, 28)) == choose_net(1, (64, 64)) == "photos"


def test_bytes_and_floats_are_the_same_image(noise):
    net = load_net("lenet")
    for a, b in zip(apply_net(net, noise[:9]), apply_net(net, to_float(noise[:9]), batch_size=4), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    features, probabilities = apply_net(net, noise[:9])
    assert features.dtype == torch.float64 and torch.allclose(probabilities.sum(1), torch.ones(9))


def test_other_images_are_fitted_or_refused():
    lenet, photos = load_net("lenet"), load_net("photos")
    assert fit(torch.zeros(2, 3, 40, 60), lenet).shape == (2, 1, 28, 28)
    assert fit(torch.zeros(2, 1, 32, 32), photos).shape == (2, 3, 64, 64)
    with pytest.raises(
        EvaluationError, match="x are 31x64; the feature net 'photos' has 64x64 inputs and takes images of 32"
    ):
        fit(torch.zeros(2, 3, 31, 64), photos, "x")
    with pytest.raises(EvaluationError, match="x must have 1, 3 or 4 channels"):
        apply_net(lenet, torch.zeros(2, 2, 28, 28), name="x")
    with pytest.raises(EvaluationError, match="x holds NaN or infinity in 2 of 2 images"):
        apply_net(lenet, torch.full((2, 1, 28, 28), math.nan), name="x")
    with pytest.raises(EvaluationError, match="x must be a tensor of images .* list came"):
        apply_net(lenet, [1], name="x")


def test_lenet_reads_digits_and_its_distance_parts_them_from_noise(mnist, noise):
    net = load_net("lenet")
    features, probabilities = apply_net(net, mnist.images[:2000])
    assert (probabilities.argmax(1) == mnist.labels[:2000]).float().mean() > 0.985
    real = frechet_distance(features[:1000], features[1000:])
    blurred = torch.nn.functional.avg_pool2d(mnist.images[1000:2000].float(), 3, 1, 1).byte()
    blur = frechet_distance(features[:1000], apply_net(net, blurred)[0])
    far = frechet_distance(features[:1000], apply_net(net, noise)[0])
    assert 0 < real < 20 < blur < far / 2


def test_the_old_name_is_there_with_a_warning():
    from sdgan_ext import evaluation

    with pytest.warns(DeprecationWarning, match="evaluation.look is called apply_net"):
        assert evaluation.look is apply_net
    with pytest.raises(AttributeError, match="has no attribute 'loock'"):
        _ = evaluation.loock
