"""`sdgan-ext bench` and what it shares with benchmarks/: who competes, what counts as work, memory and a sample."""

import re

import pytest
import torch

from sdgan_ext.bench import cases, machine, table, timing
from sdgan_ext.bench.work import Conv
from sdgan_ext.cli import main

pytestmark = pytest.mark.usefixtures("one_thread")
CONV = "--shape 2 8 5 6 --out 6 --kernel 4 --stride 2 --padding 1 --activation relu".split()


def said(capsys, *argv):
    capsys.readouterr()
    assert main(["bench", *argv, "--seconds", "0.01", "--threads", "1"]) == 0
    return capsys.readouterr().out


# ------------------------------------------------------------------------------------------------------- the command
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
        "batch_norm --shape 4 3 5 5 --activation silu",
        "batch_norm --shape 8 6",
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
        ("batch_norm --shape 1 3", "batch_norm cannot do this"),
        ("batch_norm --shape 4 3 5", "--shape is 4x3x5; batch_norm takes N C or N C H W"),
    ],
)
def test_mistakes_are_one_sentence(words, sentence, capsys):
    assert main(["bench", *words.split()]) == 2
    streams = capsys.readouterr()
    (line,) = streams.err.splitlines()
    assert line.startswith("sdgan-ext: ") and sentence in line
    assert streams.out == ""


# ------------------------------------------------------------------------------------------------------- who competes
CONVS = [
    Conv(True, 5, 3, (4, 6), 4, 2, 1, "relu"),
    Conv(True, 3, 5, 4, (5, 3), (2, 1), (2, 1), "tanh", (1, 0)),
    Conv(False, 3, 5, (7, 6), 4, 2, (1, 2, 0, 1), "leaky_relu"),
    Conv(False, 2, 3, 6, 3, 1, 1),
]
COMPARED = [cases.conv_case(conv, 2, nchw=True) for conv in CONVS]
COMPARED += [cases.batch_norm_case((4, 3, 5, 5)), cases.batch_norm_case((4, 3), None)]
COMPARED += [cases.discriminator_loss_case((7, 1), objective) for objective in cases.DISCRIMINATOR_LOSSES]
COMPARED += [cases.reconstruction_loss_case((2, 1, 3, 3), kind) for kind in cases.RECONSTRUCTION_LOSSES]
COMPARED += [cases.bce_case(op, (9,)) for op in ("binary_cross_entropy", "binary_cross_entropy_with_logits")]
COMPARED += [cases.generator_loss_case((7, 1))]


@pytest.mark.parametrize("case", COMPARED, ids=lambda case: f"{case.op} {case.shape}")
def test_contestants_compute_the_same(case):
    results = {}
    for name, (function, inputs) in case.contestants().items():
        leaves = [t for t in inputs if t.requires_grad]
        output = function(*inputs)
        results[name] = [output, *torch.autograd.grad((output * output.detach().cos()).sum(), leaves)]
    expected = results.pop("eager")
    assert set(results) == set(case.names) - {"eager"}
    for found in results.values():
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_layouts_are_those_that_the_names_say():
    contestants = cases.conv_case(Conv(False, 8, 8, 6, 3), 2, nchw=True).contestants()
    last = {
        name: inputs[0].is_contiguous(memory_format=torch.channels_last) for name, (_, inputs) in contestants.items()
    }
    assert last == {"eager": False, "eager channels_last": True, "sdgan_ext": True, "sdgan_ext NCHW": False}


def test_the_same_numbers_every_time():
    first, second = (cases.gaussian_case((3, 4)).contestants()["eager"][1] for _ in range(2))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


# --------------------------------------------------------------------------------------------------------- figures
@pytest.mark.parametrize("conv", CONVS, ids=str)
def test_work_is_that_of_the_operation(conv):
    function, _ = cases.functions(conv)
    x, weight, bias = cases.tensors_of(conv, 2, torch.float64)
    y = function(x, weight, bias)
    assert y.shape[2:] == conv.out_size and (x.numel(), weight.numel(), y.numel()) == conv.elements(2)
    ones = torch.ones_like(x[:, :1]), torch.ones_like(weight[:1, :1]), torch.zeros(1, dtype=torch.float64)
    linear, _ = cases.functions(Conv(*[getattr(conv, f) if f != "activation" else None for f in conv.__match_args__]))
    assert linear(*ones).sum() == 2 * conv.pairs()  # every pair of pixels that meets adds 1, in both images
    assert conv.forward(2, 4).flop == 4 * conv.pairs() * conv.into * conv.out
    assert conv.work(2, 4, "forward + backward").flop == 3 * conv.forward(2, 4).flop


def test_rows_hold_ratios_of_medians(monkeypatch):
    times = {"eager": [3.0, 4.0, 8.0], "eager channels_last": [2.0], "sdgan_ext": [1.0, 2.0]}
    monkeypatch.setattr(table, "interleave", lambda closures, *_, **__: {n: timing.Timing(t) for n, t in times.items()})
    monkeypatch.setattr(table, "measured_peaks", lambda dtype: {dtype: 1e9, "bytes": 1e9})
    case = cases.conv_case(Conv(False, 2, 2, 4, 1), 1)
    _, rows = table.measure(case, "forward", 0.0)
    eager, last, ours = rows
    assert (eager["over_eager"], last["over_eager"], ours["over_eager"]) == ("1.000", "2.000", "2.667")
    assert (eager["over_channels_last"], ours["over_channels_last"], ours["over_compile"]) == ("0.500", "1.333", "")
    assert (eager["min_us"], eager["median_us"], eager["p80_us"]) == ("3000000.0", "4000000.0", "8000000.0")
    work = case.work("forward")
    assert float(last["of_peak"]) == round(max(work.flop, work.bytes) / 1e9 / 2, 3)


def test_disturbed_samples_do_not_count():
    quiet = [(1.0, 5.0), (1.1, 4.0), (1.2, 6.0)]
    assert timing.undisturbed([(9.0, 1.0), *quiet], 1.2) == timing.Timing([4.0, 5.0, 6.0])
    assert timing.undisturbed([(9.0, 1.0), *quiet[:2], (8.0, 2.0)], 1.2) == timing.Timing(
        [2.0, 4.0, 5.0], disturbed=True
    )


def test_interleaving_takes_turns():
    turns = []
    closures = {name: lambda name=name: turns.append(name) for name in "ab"}
    timings = timing.interleave(closures, 0.0, warm=0)
    assert set(timings) == set("ab")
    blocks = [name for name, before in zip(turns, [None, *turns], strict=False) if name != before]
    assert blocks == list("ab" * (len(blocks) // 2)) and len(blocks) >= 6


@pytest.mark.parametrize(("passes", "gradients"), [("forward", 0), ("forward + backward", 2), ("backward", 2)])
def test_passes(passes, gradients):
    x, w = torch.randn(3, requires_grad=True), torch.randn(3, requires_grad=True)
    result = timing.closure_of(lambda a, b: a * b, (x, w), passes)()
    if gradients:
        assert len(result) == gradients and x.grad is None
    else:
        assert not result.requires_grad


def test_peak_memory_sees_what_a_call_takes_and_gives_back():
    def call():
        torch.ones(24 << 20).add_(1)
        return torch.ones(1)

    _, taken = machine.peak_memory(lambda: call)
    if taken is None:
        pytest.skip("this system does not say what memory was taken at most")
    assert 95 < taken / 2**20 < 120
