"""torch.export and ONNX: programs that compute the same, in stock operators alone, for any batch."""

import sys

import numpy as np
import pytest
import torch

import sdgan_ext as sd
import sdgan_ext.nn as sdnn
from sdgan_ext import cli, export, ops
from sdgan_ext._errors import CheckpointError

from .cases import ACTIVATIONS
from .registry import LAYERS, each_op

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

BATCH = torch.export.Dim("batch", min=1)


class Called(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *tensors):
        return self.function(*tensors)


def in_evaluation(op):
    """A case that moves no statistics, of which there are none in a file."""
    return next((case for case in op.cases if "running" in case.name), op.case)


def program_of(case):
    """Traced with a dynamic batch, from one of another size than any tensor's."""
    tensors = [t.detach() for t in case.with_batch(6).tensors()]
    shapes = tuple({0: BATCH} if i in case.batched else None for i in range(len(tensors)))
    return torch.export.export(Called(lambda *t: case.call(ops, *t)).eval(), tuple(tensors), dynamic_shapes=(shapes,))


def as_list(outputs):
    return [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)


def own_operators(program):
    return {str(node.target) for node in program.graph.nodes if "sdgan_ext" in str(node.target)}


def run_onnx(content, tensors):
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]
    feed = {name: t.detach().numpy() for name, t in zip(names, tensors, strict=True)}
    return [torch.from_numpy(np.asarray(y)) for y in session.run(None, feed)]


@each_op()
def test_export(op):
    case = in_evaluation(op)
    program = program_of(case)
    decomposed = program.run_decompositions(export.decompositions())
    assert own_operators(program) and not own_operators(decomposed)
    for batch in (2, 9):
        tensors = [t.detach() for t in case.with_batch(batch).tensors()]
        want = as_list(case.call(ops, *tensors))
        for module in (program.module(), decomposed.module()):
            torch.testing.assert_close(as_list(module(*tensors)), want, rtol=1e-5, atol=1e-5)


@each_op()
def test_onnx(op):
    case = in_evaluation(op)
    program = program_of(case).run_decompositions(export.decompositions())
    with export._quiet():
        content = torch.onnx.export(program, dynamo=True, verbose=False).model_proto.SerializeToString()
    onnx.checker.check_model(onnx.load_from_string(content))
    tensors = [t.detach() for t in case.with_batch(9).tensors()]
    torch.testing.assert_close(
        run_onnx(content, tensors), as_list(case.call(ops, *tensors)), rtol=1e-4, atol=1e-4, check_stride=False
    )


# ------------------------------------------------------------------------------------------------------- layers
class Branches(torch.nn.Module):
    """Layers side by side: one file, one output each."""

    def __init__(self, layers):
        super().__init__()
        self.layers = torch.nn.ModuleList(layers)

    def forward(self, x):
        return tuple(layer(x) for layer in self.layers)


def written(model, x, tmp_path):
    file = tmp_path / "model.onnx"
    export.write_onnx(model.eval(), (x,), file, input_names=["x"])
    return onnx.load(file), file.read_bytes()


LAYER_KINDS = {
    "Conv2d": lambda **how: sdnn.Conv2d(3, 5, 4, 2, 1, **how),
    "ConvTranspose2d": lambda **how: sdnn.ConvTranspose2d(3, 5, 4, 2, 1, **how),
    "UpsampleConv2d": lambda **how: sdnn.UpsampleConv2d(3, 5, **how),
    "BatchNorm2d": lambda **how: trained(sdnn.BatchNorm2d(3, **how)),
    "GroupNorm": lambda **how: trained(sdnn.GroupNorm(3, 3, **how)),
}


def trained(norm):
    norm(torch.randn(16, 3, 4, 4) * 3 + 1)
    torch.nn.init.normal_(norm.weight)
    return norm


@pytest.mark.parametrize("layer", [op.name for op in LAYERS])
def test_onnx_of_layers(layer, tmp_path):
    model = LAYER_KINDS[layer](activation="silu")
    model, x = model.eval(), torch.randn(2, 3, 9, 7)
    parsed, content = written(model, x, tmp_path)
    onnx.checker.check_model(parsed)
    assert parsed.opset_import[0].version >= 18 and {node.domain for node in parsed.graph.node} == {""}
    for batch in (1, 5):
        x = torch.randn(batch, 3, 9, 7)
        torch.testing.assert_close(run_onnx(content, [x]), [model(x)], rtol=1e-4, atol=1e-4, check_stride=False)


GEOMETRIES = [
    sdnn.Conv2d(3, 4, 5, 2, padding=(1, 2, 0, 3)),
    sdnn.Conv2d(3, 4, (3, 4), padding="same", dilation=2),
    sdnn.Conv2d(3, 6, 3, groups=3, padding=1, bias=False),
    sdnn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
    sdnn.ConvTranspose2d(3, 4, 5, 2, crop=(1, 2, 1, 2)),
    sdnn.ConvTranspose2d(3, 4, 5, 2, crop=(2, 1, 2, 0)),
    sdnn.ConvTranspose2d(3, 4, 5, 3, crop=(0, 4, 3, 1)),
    sdnn.ConvTranspose2d(3, 4, 3, 2, 1, output_padding=1),
    sdnn.ConvTranspose2d(3, 6, (3, 2), (2, 3), groups=3, dilation=2, bias=False),
    sdnn.UpsampleConv2d(3, 4, 5, bias=False),
    sdnn.UpsampleConv2d(3, 6, (3, 2), padding=(1, 0), groups=3),
    sdnn.BatchNorm2d(3, affine=False),
    sdnn.GroupNorm(1, 3, affine=False),
]


def test_onnx_of_every_activation_and_geometry(tmp_path):
    layers = [kind(activation=a) for kind in LAYER_KINDS.values() for a in ACTIVATIONS] + GEOMETRIES
    model = Branches(layers).eval()
    _, content = written(model, torch.randn(3, 3, 9, 7), tmp_path)
    x = torch.randn(4, 3, 9, 7)
    got, want = run_onnx(content, [x]), model(x)
    for ours, theirs, layer in zip(got, want, layers, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4, check_stride=False, msg=str(layer))


# --------------------------------------------------------------------------------------------------- whole models
CONFIG = sd.VAEGANConfig(
    image_size=(13, 18), channels=3, latent_dim=7, encoder_channels=(8, 16), generator_channels=(16, 8, 4),
    discriminator_channels=(8, 16), kernel_size=5, encoder_norm="batch", discriminator_norm="spectral",
    generator_head="conv", encoder_activation="silu", init="torch",
)  # fmt: skip


def model_and_calls():
    """A model that has been trained a little, and of each network an input and what it makes of it in evaluation."""
    torch.manual_seed(0)
    model = sd.VAEGAN(CONFIG)
    x, z = torch.randn(5, 3, 13, 18), torch.randn(5, 7)
    for network, given in ((model.encoder, x), (model.generator, z), (model.discriminator, x)):
        network(given)
    model.eval()
    posterior = model.encode(x)
    calls = {
        "encoder": (x, [posterior.mean, posterior.logvar]),
        "generator": (z, [model.decode(z)]),
        "discriminator": (x, [model.discriminator(x)]),
    }
    return model, calls


def outputs_of(file, x):
    if file.suffix == ".onnx":
        return run_onnx(file.read_bytes(), [x])
    return as_list(torch.export.load(file).module()(x))


@pytest.mark.parametrize("format", export.FORMATS)
def test_networks(format, tmp_path):
    model, calls = model_and_calls()
    model.train()
    files = export.export_networks(model, tmp_path / "made", format)
    assert [file.stem for file in files] == list(calls) and model.training and model.encoder.training
    for file in files:
        x, want = calls[file.stem]
        torch.testing.assert_close(outputs_of(file, x), want, rtol=1e-4, atol=1e-4, check_stride=False)
    if format == "onnx":
        session = onnxruntime.InferenceSession(files[0].read_bytes())
        assert [(given.name, given.shape) for given in session.get_inputs()] == [("x", ["batch", 3, 13, 18])]
        assert [output.name for output in session.get_outputs()] == ["mean", "logvar"]


@pytest.mark.parametrize("format", export.FORMATS)
def test_command(format, tmp_path, capsys):
    model = sd.VAEGAN(CONFIG.replace(encoder_channels=None)).eval()
    model.save_pretrained(tmp_path / "model")
    assert cli.main(["export", str(tmp_path / "model"), "--format", format]) == 0
    folder = tmp_path / "model" / "exported"
    assert str(folder) in capsys.readouterr().out
    ending = export.FORMATS[format]
    assert sorted(file.name for file in folder.iterdir()) == [f"discriminator{ending}", f"generator{ending}"]
    z = torch.randn(3, 7)
    want = [model.decode(z)]
    torch.testing.assert_close(
        outputs_of(folder / f"generator{ending}", z), want, rtol=1e-4, atol=1e-4, check_stride=False
    )


# ----------------------------------------------------------------------------------------------------- refusals
def test_mistakes_of_a_user(tmp_path, capsys):
    assert cli.main(["export", str(tmp_path)]) == 2
    assert "is no run folder" in capsys.readouterr().err
    assert cli.main(["export", str(tmp_path), "--format", "onxx"]) == 2
    assert "format is 'onxx'; allowed are onnx, torch" in capsys.readouterr().err
    with pytest.raises(ValueError, match="model is in training mode; call model.eval"):
        export.stock_program(sdnn.BatchNorm2d(3), (torch.ones(2, 3, 4, 4),))
    with pytest.raises(ValueError, match=r"inputs\[0\] has shape \(1, 3, 4, 4\); a dynamic batch needs"):
        export.stock_program(sdnn.BatchNorm2d(3).eval(), (torch.ones(1, 3, 4, 4),))
    with pytest.raises(
        sd.models.ConfigError if hasattr(sd.models, "ConfigError") else ValueError, match="format is 'x'"
    ):
        export.export_networks(sd.VAEGAN(CONFIG), tmp_path, "x")


def test_without_onnx(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    sd.VAEGAN(CONFIG).save_pretrained(tmp_path / "model")
    assert cli.main(["export", str(tmp_path / "model")]) == 1
    assert "writing ONNX needs onnxscript; run `pip install 'sdgan_ext[onnx]'`" in capsys.readouterr().err
    assert not (tmp_path / "model" / "exported").exists()


@pytest.mark.parametrize("write", [export.write_onnx, export.write_torch])
def test_what_cannot_be_written_leaves_the_old_file(write, tmp_path, monkeypatch):
    model, x, file = sdnn.Conv2d(3, 2, 3).eval(), torch.ones(2, 3, 5, 5), tmp_path / "model"
    write(model, (x,), file)
    before = file.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CheckpointError, match="cannot write .*model: No space left on device"):
        write(model, (x,), file)
    assert file.read_bytes() == before and list(tmp_path.iterdir()) == [file]
