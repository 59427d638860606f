"""Filters of weights that do not change: kept in inference, right after every kind of change, freed with the weight."""

import copy
import gc
import os
import threading

import pytest
import torch
from torch import nn

import sdgan_ext as sd
from sdgan_ext import _C, ops

pytestmark = pytest.mark.skipif(bool(os.environ.get("SDGAN_TEST_NATIVE")), reason="the kernels are the CPU's")

KEPT = sd.kept_filters


@pytest.fixture(autouse=True)
def winograd_and_nothing_kept():
    limit = KEPT.max_bytes
    KEPT.clear()
    with sd.conv_backend("winograd"):
        yield
    KEPT.max_bytes = limit
    KEPT.clear()


def layer(transposed=False, channels=48, **options):
    torch.manual_seed(0)
    if transposed:
        return sd.nn.ConvTranspose2d(channels, channels, 4, 2, 1, **options)
    return sd.nn.Conv2d(channels, channels, 3, padding=1, **options)


def image(size=12, channels=48):
    return torch.randn(1, channels, size, size, generator=torch.Generator().manual_seed(1))


def uses(call, times=1):
    before = KEPT.uses
    for _ in range(times):
        call()
    return KEPT.uses - before


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_kept_from_the_second_call_with_equal_bits(mode, memory_format, transposed):
    net, x = layer(transposed).to(memory_format=memory_format), image().contiguous(memory_format=memory_format)
    want = net(x).detach()
    with mode():
        for use in (0, 0, 1, 1):
            before = KEPT.uses
            assert torch.equal(net(x), want)
            assert KEPT.uses - before == use
    assert KEPT.count == 1 and KEPT.bytes >= 16 * 48 * 48 * 4


def load(net, other):
    net.load_state_dict(other.state_dict())


def assign(net, other):
    net.load_state_dict(other.state_dict(), assign=True)


def data(net, other):
    net.weight.data = other.weight.data.clone()


def data_copy(net, other):
    net.weight.data.copy_(other.weight.data)


def numpy(net, other):
    net.weight.detach().numpy()[...] = other.weight.detach().numpy()


def in_place(net, other):
    with torch.no_grad():
        net.weight.copy_(other.weight)


def one_bit(net, other):
    net.weight.data.view(-1)[-1:].view(torch.int32).bitwise_xor_(1 << 20)


def signs(net, other):
    net.weight.data.neg_()


def optimizer(net, other):
    net.weight.grad = torch.ones_like(net.weight)
    torch.optim.SGD([net.weight], lr=0.1).step()


def averaged(net, other):
    average = torch.optim.swa_utils.AveragedModel(net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5))
    average.update_parameters(net)
    average.update_parameters(other)
    for p, q in zip(net.parameters(), average.module.parameters(), strict=True):
        p.data, q.data = q.data, p.data


def shared_memory(net, other):
    net.share_memory()
    net.weight.data.mul_(2)


CHANGES = [load, assign, data, data_copy, numpy, in_place, one_bit, signs, optimizer, averaged, shared_memory]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("change", CHANGES)
def test_every_change_of_the_weight_is_seen(change, mode):
    net, x = layer(), image()
    torch.manual_seed(5)
    other = copy.deepcopy(net)
    nn.init.normal_(other.weight)
    with mode():
        before = [net(x) for _ in range(3)][-1]
    assert KEPT.uses
    change(net, other)
    fresh = layer()
    fresh.load_state_dict(net.state_dict())
    want = fresh(x).detach()  # with gradients: nothing is kept
    assert not torch.equal(want, before)
    for _ in range(4):
        with mode():
            assert torch.equal(net(x), want)


def test_weights_of_inference_mode():
    with torch.inference_mode():
        net, x = layer(), image()
        outputs = [net(x) for _ in range(3)]
        assert uses(lambda: net(x)) == 1
        net.weight.mul_(2)
        assert not torch.equal(net(x), outputs[-1])


def test_freed_with_the_weight():
    net, other, x = layer(), layer(), image()
    with torch.no_grad():
        for _ in range(3):
            net(x), other(x)
        assert KEPT.count == 2
        half = KEPT.bytes // 2
        del net
        gc.collect()
        assert (KEPT.count, KEPT.bytes) == (1, half)
        assert uses(lambda: other(x)) == 1


def test_one_weight_in_two_layers_is_kept_once():
    net, x = layer(), image()
    other = layer()
    other.weight = net.weight
    with torch.no_grad():
        assert uses(lambda: (net(x), other(x)), 3) == 4
    assert KEPT.count == 1


def test_training_keeps_nothing_and_asks_nothing(monkeypatch):
    net, x = layer(), image()
    offered = []
    monkeypatch.setattr(_C, "offer_weight", offered.append)
    for _ in range(3):
        net(x).sum().backward()
    assert not offered and not KEPT.count
    with torch.no_grad():
        net(x)
    assert offered == [net.weight.data_ptr()]


def test_no_parameter_is_not_kept():
    x, weight = image(), layer().weight.detach()
    parametrized = nn.utils.parametrizations.weight_norm(layer())
    with torch.no_grad():
        for _ in range(3):
            ops.conv2d(x, weight, padding=1)
            parametrized(x)
    assert not KEPT.count and not KEPT.bytes


def test_a_weight_that_changes_is_looked_at_ever_more_rarely_and_kept_again_when_it_rests():
    net, x = layer(), image()
    with torch.no_grad():
        for _ in range(40):
            net(x)
            net.weight.add_(0.01)
        assert not KEPT.count
        for _ in range(70):
            net(x)
        assert KEPT.count == 1 and uses(lambda: net(x)) == 1


def test_the_budget_holds_and_what_came_first_stays():
    nets, x = [layer() for _ in range(3)], image()
    with torch.no_grad():
        for _ in range(3):
            nets[0](x)
        one = KEPT.bytes
        KEPT.max_bytes = 2 * one
        for _ in range(3):
            for net in nets:
                net(x)
        assert (KEPT.count, KEPT.bytes) == (2, 2 * one)
        assert uses(lambda: [net(x) for net in nets]) == 2
        KEPT.max_bytes = one
        assert KEPT.bytes == one
        KEPT.max_bytes = 0
        assert KEPT.bytes == 0 and uses(lambda: nets[0](x), 3) == 0


def test_what_was_not_used_for_long_makes_way():
    nets, x = [layer() for _ in range(2)], image(2)
    with torch.no_grad():
        for _ in range(3):
            nets[0](x)
        KEPT.max_bytes = KEPT.bytes
        for _ in range(4100):
            nets[1](x)
        assert KEPT.count == 1 and uses(lambda: nets[1](x)) == 1


def test_large_images_keep_nothing():
    net, x = layer(), image(96)  # 48 x 48 tiles
    with torch.no_grad():
        assert uses(lambda: net(x), 3) == 0
    assert not KEPT.bytes


def test_threads():
    net, x = layer(), image()
    want, wrong = net(x).detach(), []

    def run():
        with torch.no_grad():
            for _ in range(50):
                if not torch.equal(net(x), want):
                    wrong.append(True)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and KEPT.count == 1


def test_a_compiled_model_computes_the_same():
    net, x = layer(), image()
    with torch.no_grad():
        want = net(x)
        compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
        for _ in range(3):
            assert torch.equal(compiled(x), want)


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (-1, ValueError, "max_bytes is -1; it must be at least 0"),
        (1.5, TypeError, "max_bytes is 1.5; it must be an int"),
    ],
)
def test_max_bytes_is_checked(value, error, words):
    with pytest.raises(error, match=words):
        KEPT.max_bytes = value
