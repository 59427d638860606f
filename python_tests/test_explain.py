"""sd.explain: what it lists is what ran, and it leaves no trace."""

import pytest
import torch
import torch.nn.functional as F

import sdgan_ext as sd
from sdgan_ext import ops


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = sd.nn.Conv2d(3, 64, 4, 2, 1, activation="relu")
        self.body = torch.nn.Sequential(
            torch.nn.BatchNorm2d(64), sd.nn.ConvTranspose2d(64, 32, 4, 2, 1), torch.nn.Conv2d(32, 8, 3)
        )

    def forward(self, x):
        return self.half(x).tanh() * torch.rand(())

    def half(self, x):
        return self.body(self.first(x))


@pytest.fixture(autouse=True)
def auto():
    with sd.conv_backend("auto"):
        yield


def test_a_model():
    rows = sd.explain(Model(), torch.empty(2, 3, 16, 16))
    assert [row.module for row in rows] == ["first", "body.1", "body.2"]
    assert [row.op for row in rows] == ["conv2d", "conv_transpose2d", "torch.conv2d"]
    first, middle, stock = rows
    assert (first.input, first.weight, first.stride) == ((2, 3, 16, 16), (64, 3, 4, 4), (2, 2))
    assert first.grad_input is None and set(first.passes) == {"forward", "grad_weight"}
    assert first.forward.kernel == "small_channel" and first.forward.speedup is None
    assert middle.grad_input is not None and middle.dtype == torch.float32 and not middle.channels_last
    assert {p.kernel for p in stock.passes.values()} == {"torch"}
    assert first.forward.direct == 2 * 8 * 8 * 64 * 3 * 16
    assert middle.forward.direct == 2 * 8 * 8 * 64 * 32 * 16
    assert stock.forward.direct == 2 * 14 * 14 * 8 * 32 * 9


def test_it_says_what_explain_conv_says():
    x = torch.randn(4, 64, 8, 8).contiguous(memory_format=torch.channels_last)
    w = torch.randn(64, 32, 5, 5)
    (row,) = sd.explain(ops.conv_transpose2d, x, w, stride=2, padding=2, output_padding=1)
    explained = ops.explain_conv(x, w, transposed=True, stride=2, sides=(2, 1, 2, 1))
    for name, taken in row.passes.items():
        assert explained[name] == f"{taken.kernel}: {taken.reason}"
    assert set(row.passes) == {"forward", "grad_input", "grad_weight"} and row.channels_last


def test_it_follows_the_setting():
    sd.conv_backend("winograd")
    (row,) = sd.explain(ops.conv2d, torch.empty(4, 64, 16, 16), torch.empty(64, 64, 4, 4), stride=2, padding=1)
    assert (row.forward.kernel, row.forward.reason) == ("winograd", "asked for by conv_backend")
    assert row.forward.multiplications == 4 * 4 * 4 * 36 * 64 * 64
    assert (row.forward.speedup is not None) == (sd.build_info()["cpu_isa"] != "generic")
    assert row.forward.direct == 4 * 8 * 8 * 16 * 64 * 64
    sd.conv_backend("library")
    (row,) = sd.explain(ops.conv2d, torch.empty(4, 64, 16, 16), torch.empty(64, 64, 4, 4), stride=2, padding=1)
    assert (row.forward.kernel, row.forward.multiplications) == ("library", row.forward.direct)


def test_nothing_changes():
    model = Model().train()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    state = torch.get_rng_state()
    explained = [
        sd.explain(model, torch.empty(2, 3, 16, 16)),
        sd.explain(lambda x: model(x), torch.empty(2, 3, 16, 16)),
        sd.explain(model.half, torch.empty(2, 3, 16, 16)),
    ]
    assert [len(rows) for rows in explained] == [3, 3, 3] and explained[0] == explained[2]
    assert [row.module for row in explained[1]] == ["Conv2d", "ConvTranspose2d", "Conv2d"]
    after = model.state_dict()
    assert all(type(t) is torch.Tensor and torch.equal(t, before[name]) for name, t in after.items())
    assert torch.equal(torch.get_rng_state(), state) and model.training
    assert all(type(p) is torch.nn.Parameter and p.grad is None for p in model.parameters())
    assert not torch.nn.modules.module._global_forward_pre_hooks


def test_shapes_of_any_size():
    (row,) = sd.explain(sd.nn.Conv2d(64, 64, 3), torch.empty(1, 64, 1, 1).expand(4096, 64, 1024, 1024))
    assert row.input == (4096, 64, 1024, 1024)


def test_gradients_that_autograd_asks_for():
    x, w = torch.empty(2, 32, 8, 8), torch.empty(32, 32, 3, 3)
    assert set(sd.explain(ops.conv2d, x.requires_grad_(), w)[0].passes) == {"forward", "grad_input"}
    assert set(sd.explain(F.conv2d, x.detach(), w.requires_grad_())[0].passes) == {"forward", "grad_weight"}


def test_autocast_is_seen():
    layer = sd.nn.Conv2d(64, 64, 3)
    with torch.autocast("cpu", torch.bfloat16):
        (row,) = sd.explain(layer, torch.empty(2, 64, 8, 8))
    assert row.dtype == torch.bfloat16 and "float32" in row.forward.reason


def test_presets_and_the_table():
    model = sd.VAEGAN(sd.preset("mnist-small").model)
    rows = sd.explain(model, torch.empty(16, 1, 28, 28))
    lines = str(rows).splitlines()
    assert all(row.op in ("conv2d", "conv_transpose2d") for row in rows) and len(lines) > len(rows)
    columns = [lines[0].index(name) for name in ("op", "input", "forward", "grad_weight", "multiplications")]
    assert all(line[column - 1] == " " and line[column] != " " for line in lines[: len(rows) + 1] for column in columns)
    assert "small_channel: the output has 1 to 4 channels (generator" in str(rows)
    assert str(sd.explain(torch.relu, torch.empty(3))) == "no convolutions"


def test_errors():
    with pytest.raises(TypeError, match="function must be a model or a function, got Tensor"):
        sd.explain(torch.ones(3))
    with pytest.raises(ValueError, match="function reads the values of tensors"):
        sd.explain(lambda x: x if x.sum() > 0 else -x, torch.ones(3))
    with pytest.raises(ValueError, match="input has 4 channels"):
        sd.explain(ops.conv2d, torch.empty(1, 4, 8, 8), torch.empty(8, 3, 3, 3))
    assert not torch.nn.modules.module._global_forward_pre_hooks


def test_build_info_has_the_setting():
    assert sd.build_info()["conv"] == "auto"
    sd.conv_backend("winograd", "library")
    assert sd.build_info()["conv"] == "winograd,library"
