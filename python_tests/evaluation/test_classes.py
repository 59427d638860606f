import math

import pytest
import torch

from sdgan_ext._errors import EvaluationError
from sdgan_ext.evaluation import agreement, class_metrics, classification_accuracy, train_classifier

pytestmark = pytest.mark.usefixtures("one_thread")


def certain(*classes, of=4):
    return torch.nn.functional.one_hot(torch.tensor(classes), of).float()


def test_class_metrics_by_hand():
    probabilities = torch.tensor(
        [[0.7, 0.1, 0.1, 0.1], [0.6, 0.2, 0.1, 0.1], [0.1, 0.8, 0.05, 0.05], [0.0, 0.0, 0.9, 0.1]]
    )
    got = class_metrics(probabilities, certain(0, 1, 2, 3))
    assert got["top_probability"] == pytest.approx((0.7 + 0.6 + 0.8 + 0.9) / 4)
    assert got["class_entropy"] == pytest.approx(-(0.5 * math.log(0.5) + 2 * 0.25 * math.log(0.25)))
    assert got["rarest_class"] == 0 and got["class_balance"] == pytest.approx(0.25)


def test_extremes():
    even, one = class_metrics(certain(0, 1, 2, 3)), class_metrics(certain(2, 2, 2), certain(2, 2, 2))
    assert even["class_entropy"] == pytest.approx(math.log(4)) and even["rarest_class"] == 0.25
    assert one["class_entropy"] == 0 and one["class_balance"] == 0 and "class_balance" not in even


def test_agreement_by_hand():
    assert agreement(certain(0, 1, 2, 3), torch.tensor([0, 1, 2, 0])) == 0.75


def stripes(n, seed, flip=0.0):
    """Grey images of horizontal (0) or vertical (1) stripes in noise; a share ``flip`` of the labels is wrong."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (n,), generator=generator)
    wave = (torch.arange(28) % 4 < 2).float() * 1.6 - 0.8
    across = wave.expand(n, 1, 28, 28)
    clean = torch.where(labels[:, None, None, None] == 1, across, across.mT)
    images = (clean + 0.2 * torch.randn(n, 1, 28, 28, generator=generator)).clamp(-1, 1)
    wrong = torch.rand(n, generator=generator) < flip
    return images, torch.where(wrong, 1 - labels, labels)


def test_accuracy_is_high_where_the_data_are_alike_and_falls_with_wrong_labels():
    good = classification_accuracy(stripes(200, 0), stripes(100, 1), steps=40)
    assert good > 0.95
    assert classification_accuracy(stripes(200, 0, flip=1.0), stripes(100, 1), steps=40) < 0.05
    images, labels = stripes(100, 1)
    assert classification_accuracy(stripes(200, 0), (images, 1 - labels), steps=40) == pytest.approx(1 - good, abs=0.02)


def test_a_seed_means_the_same_net_and_torchs_generator_is_left_alone():
    images, labels = stripes(50, 0)
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    a, b = (train_classifier(images, labels, steps=5, seed=3).head.weight for _ in range(2))
    assert torch.equal(torch.rand(1), expected) and torch.equal(a, b)
    assert not torch.equal(a, train_classifier(images, labels, steps=5, seed=4).head.weight)


def test_bad_input_is_named():
    images, labels = stripes(10, 0)
    for bad, words in (
        (labels[:9], r"labels are torch.int64 \(9,\); they must be \[10\] integers"),
        (labels.float(), "labels are torch.float32"),
        (labels - 2, "integers >= 0"),
    ):
        with pytest.raises(EvaluationError, match=words):
            train_classifier(images, bad)
    with pytest.warns(UserWarning, match="labels are all 0; the classifier will know no other class"):
        assert classification_accuracy((images, labels * 0), (images, labels * 0), steps=4) == 1
    with pytest.raises(EvaluationError, match=r"test labels have shape \(3,\)"):
        classification_accuracy((images, labels), (images, labels[:3]), steps=4)
    with pytest.raises(EvaluationError, match="images holds 1 images, at least 2"):
        train_classifier(images[:1], labels[:1])
    with pytest.raises(EvaluationError, match="probabilities has rows whose sum is not 1"):
        class_metrics(torch.full((2, 4), math.nan))
    with pytest.raises(EvaluationError, match=r"probabilities has shape \(0, 4\)"):
        class_metrics(torch.zeros(0, 4))
    with pytest.raises(EvaluationError, match="probabilities are of 4 classes and real_probabilities of 3"):
        class_metrics(certain(0, 1), certain(0, 1, of=3))
    with pytest.raises(EvaluationError, match=r"classes has shape \(3,\); it must be \[2\]"):
        agreement(certain(0, 1), torch.zeros(3))
