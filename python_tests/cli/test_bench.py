"""bench: every operation is compared, and a mistake is one sentence."""

import re

import pytest

from sdgan_ext.cli import main

pytestmark = pytest.mark.usefixtures("one_thread")
CONV = "--shape 2 8 5 6 --out 6 --kernel 4 --stride 2 --padding 1 --activation relu".split()


def said(capsys, *argv):
    capsys.readouterr()
    assert main(["bench", *argv, "--seconds", "0.01", "--threads", "1"]) == 0
    return capsys.readouterr().out


def test_a_convolution_is_compared_in_both_layouts_forward_and_with_backward(capsys):
    out = said(capsys, "conv_transpose2d", *CONV, "--dtype", "bfloat16")
    assert re.search(r"^forward: \w+: ", out, re.MULTILINE) and re.search(r"^grad_input: \w+: ", out, re.MULTILINE)
    for passes in ("forward", "forward + backward"):
        assert f"conv_transpose2d 2 x 8->6 4x4 s2 @5x6 relu, bfloat16, {passes}, 1 thread\n" in out
    for name in ("eager", "eager channels_last", r"sdgan_ext \[\w.*\]", r"sdgan_ext NCHW \[\w.*\]"):
        assert len(re.findall(rf"^  {name} +[\d.]+ ", out, re.MULTILINE)) == 2
    for word in ("torch", "cpu", "isa", "over ch.last", "GF/s", "GB/s", "of peak"):
        assert word in out


@pytest.mark.parametrize(
    "words",
    [
        "conv2d --shape 2 3 9 8 --out 4 --kernel 3 5 --stride 1 2 --padding 1 0 2 1",
        "upsample_conv2d --shape 2 3 5 4 --out 4 --kernel 3 4 --activation silu",
        "batch_norm --shape 4 3 5 5 --activation silu",
        "batch_norm --shape 8 6",
        "group_norm --shape 2 64 5 5 --activation silu",
        "group_norm --shape 8 6 --groups 3",
        "discriminator_loss --shape 8 1 --objective hinge",
        "generator_loss --shape 8 1",
        "reconstruction_loss --shape 2 1 4 4 --kind l1",
        "binary_cross_entropy_with_logits --shape 9",
        "binary_cross_entropy --shape 9",
        "sample_gaussian --shape 4 5 --dtype float64",
    ],
)
def test_every_operation(words, capsys):
    out = said(capsys, *words.split())
    assert len(re.findall(r"^  sdgan_ext", out, re.MULTILINE)) in (2, 4)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("", "OP"),
        ("conv3d --shape 1 2", "invalid choice: 'conv3d'"),
        ("conv2d --shape 1 2 3 --out 4 --kernel 3", "--shape is 1x2x3; conv2d takes N C H W"),
        ("conv2d --shape 1 2 3 4 --kernel 3", "--out is missing; conv2d needs it"),
        ("conv2d --shape 1 2 3 4 --out 4", "--kernel is missing; conv2d needs it"),
        ("conv2d --shape 1 2 3 4 --out 0 --kernel 3", "--out is 0; it must be at least 1"),
        ("conv2d --shape 1 2 3 4 --out 4 --kernel 9", "gives an output of size -5x-4"),
        ("conv2d --shape 1 2 3 x --out 4 --kernel 9", "invalid int value: 'x'"),
        ("conv2d --shape 1 2 9 9 --out 4 --kernel 3 --stride 0", "--stride is 0; it must be at least 1"),
        ("conv2d --shape 1 2 9 9 --out 4 --kernel 3 3 3", "--kernel has 3 numbers; 1 or 2 are allowed"),
        ("conv2d --shape 1 2 9 9 --out 4 --kernel 3 --padding 1 1 1", "--padding has 3 numbers; 1, 2 or 4 are allowed"),
        ("conv2d --shape 1 2 9 9 --out 4 --kernel 3 --output-padding 1", "--output-padding is not a flag of conv2d"),
        ("conv2d --shape 1 2 9 9 --out 4 --kernel 3 --dtype int8", "invalid choice: 'int8'"),
        (
            "conv2d --shape 1 2 9 9 --out 4 --kernal 3",
            "--kernal is not a flag of sdgan-ext bench, did you",
        ),
        ("conv_transpose2d --shape 1 2 9 9 --out 4 --kernel 3 --output-padding 1", "output_padding is (1, 1)"),
        ("conv2d --shape 999999 999 9999 9999 --out 9 --kernel 3", "GiB; this machine has"),
        ("sample_gaussian --shape 4 5 --kind l1", "--kind is not a flag of sample_gaussian"),
        ("sample_gaussian --shape 0 5", "--shape is 0x5; no size may be below 1"),
        ("sample_gaussian --shape 4 5 --seconds -1", "--seconds is -1.0; it must be above 0"),
        ("sample_gaussian --shape 4 5 --threads 0", "--threads is 0; it must be at least 1"),
        (
            "upsample_conv2d --shape 1 2 9 9 --out 4 --kernel 3 --padding 1",
            "--padding is not a flag of upsample_conv2d",
        ),
        ("batch_norm --shape 1 3", "batch_norm cannot do this"),
        ("group_norm --shape 4 6 5 5", "--groups is 32; it must divide the 6 channels of --shape"),
        ("batch_norm --shape 4 6 5 5 --groups 3", "--groups is not a flag of batch_norm"),
        ("batch_norm --shape 4 3 5", "--shape is 4x3x5; batch_norm takes N C or N C H W"),
    ],
)
def test_mistakes_are_one_sentence(words, sentence, capsys):
    assert main(["bench", *words.split()]) == 2
    streams = capsys.readouterr()
    (line,) = streams.err.splitlines()
    assert line.startswith("sdgan-ext: ") and sentence in line
    assert streams.out == ""
