"""What `sdgan-ext bench` and benchmarks/ share: who competes, what counts as work, memory and a sample."""

import pytest
import torch

from sdgan_ext.bench import cases, machine, table, timing
from sdgan_ext.bench.work import Conv

pytestmark = pytest.mark.usefixtures("one_thread")


# ------------------------------------------------------------------------------------------------------- who competes
CONVS = [
    Conv(True, 5, 3, (4, 6), 4, 2, 1, "relu"),
    Conv(True, 3, 5, 4, (5, 3), (2, 1), (2, 1), "tanh", (1, 0)),
    Conv(False, 3, 5, (7, 6), 4, 2, (1, 2, 0, 1), "leaky_relu"),
    Conv(False, 2, 3, 6, 3, 1, 1),
]
COMPARED = [cases.conv_case(conv, 2, nchw=True) for conv in CONVS]
COMPARED += [cases.batch_norm_case((4, 3, 5, 5)), cases.batch_norm_case((4, 3), None)]
COMPARED += [cases.group_norm_case((2, 6, 5, 5), 3), cases.group_norm_case((4, 6), 2, None)]
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


def test_interleaving_takes_the_seconds_of_another_clock():
    """As of another process; what has been warmed up is not called before its samples."""
    calls = []

    def seconds(closure, count):
        calls.append((closure, count))
        return closure * count

    timings = timing.interleave({"a": 2.0, "b": 3.0}, 0.0, warm=None, seconds=seconds)
    assert {name: timing.median for name, timing in timings.items()} == {"a": 2.0, "b": 3.0}
    assert calls == [(2.0, 1), (3.0, 1)] * 2


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


def test_memory_of_one_call_is_what_it_takes_and_keeps():
    torch.ones(8 << 20).add_(1)  # the highest mark before is not this call's
    before = machine.resident_memory()
    kept, taken = machine.memory_of_call(lambda: torch.ones(4 << 20).add_(1), before)
    if taken is None:
        pytest.skip("this system does not say what memory was taken at most")
    assert 15 < taken / 2**20 < 24
    _, more = machine.memory_of_call(lambda: torch.ones(4 << 20).add_(1), before)  # beside what is kept
    assert len(kept) == 4 << 20 and 31 < more / 2**20 < 40
