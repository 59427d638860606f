"""Who competes in bench_autoencoder.py: a task becomes a call, by the settings that each one's documentation advises.

Imports of the other projects are local: each contestant runs in a process of its own, with that project alone.
"""

import importlib.metadata
import os
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from _autoencoders import Task
from torch import Tensor, nn

import sdgan_ext as sd
from sdgan_ext.bench.cases import CHANNELS_LAST, COMPILE, EAGER, OURS

#: Of --precision: the dtype column, strictest first. A contestant at one competes with all that are as strict or more.
PRECISIONS = {"highest": "float32", "high": "float32 high", "bfloat16": "bfloat16"}
STRICTER = {name: tuple(PRECISIONS)[: place + 1][::-1] for place, name in enumerate(PRECISIONS)}
RUNTIMES = {"openvino": "openvino", "onnxruntime": "onnxruntime", "ncnn": "pnnx"}  # and what a user installs for it
MAX_AUTOTUNE = "compile max-autotune"


@dataclass(frozen=True)
class Ready:
    """``result`` makes of what ``call`` gave what is compared: the output or, of a training step, all gradients."""

    call: Callable[[], Tensor]
    settings: str
    result: Callable[[Tensor], Tensor] = lambda output: output


class Refused(Exception):
    """A contestant cannot do what is asked; a sentence."""


def prepare(contestant: str, task: Task, inputs: tuple[Tensor, ...], precision: str, threads: int) -> Ready:
    """Loads, converts and compiles. ``precision``: of PRECISIONS, or "float64" for the stock layers that are the judge.

    Raises:
        Refused: it cannot do this.
    """
    torch.set_num_threads(threads)
    if contestant in _RUNTIMES:
        if task.trains:
            raise Refused(f"{contestant} does not train")
        call, settings = _RUNTIMES[contestant](task.eval(), inputs, precision, threads)
        package = importlib.metadata.version(contestant)
        return Ready(call, f"{contestant} {package}, {settings}")
    return _torch(contestant, task, inputs, precision)


def _torch(contestant: str, task: Task, inputs: tuple[Tensor, ...], precision: str) -> Ready:
    torch.set_float32_matmul_precision("high" if precision == "high" else "highest")
    layout = torch.contiguous_format if contestant == EAGER else torch.channels_last
    said = [f'torch.set_float32_matmul_precision("{torch.get_float32_matmul_precision()}")']
    dtype = {"float64": torch.float64, "bfloat16": torch.bfloat16}.get(precision, torch.float32)
    cast = nullcontext
    if dtype == torch.bfloat16 and task.trains:
        said = ["torch.autocast to bfloat16"]
        cast, dtype = lambda: torch.autocast("cpu", torch.bfloat16), torch.float32
    elif dtype != torch.float32:
        said = [f"weights and images in {str(dtype).removeprefix('torch.')}"]
    task.to(dtype).to(memory_format=layout)
    inputs = tuple(t.to(dtype).contiguous(memory_format=layout) for t in inputs)
    said.append("NCHW" if layout == torch.contiguous_format else "channels_last")
    parameters = [p for p in task.parameters() if p.requires_grad]
    function: Callable[..., Tensor] = task
    if contestant == OURS:
        report = sd.accelerate(task.network)
        said.append(f"sd.accelerate: {len(report.replaced)} layers replaced, {len(report.left)} left")
    elif contestant in (COMPILE, MAX_AUTOTUNE):
        mode = "max-autotune-no-cudagraphs" if contestant == MAX_AUTOTUNE else "default"
        said.append(f'torch.compile(mode="{mode}", dynamic=False)')
        if not task.trains:
            from torch._inductor import config

            config.freezing = True  # weights in the layout that oneDNN wants, once
            said.append("freezing")
        function = torch.compile(task, mode=mode, dynamic=False)
    if task.trains:
        call = _step(function, inputs, parameters, cast, fused=contestant != EAGER)
        said.append("Adam" if contestant == EAGER else "fused Adam")
    else:
        call = _inference(function, inputs)
    if contestant in (COMPILE, MAX_AUTOTUNE):
        call()  # compiles; the memory for that is not a decode's
    return Ready(call, ", ".join(said), *([_gradients(parameters)] if task.trains else []))


def _inference(function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> Callable[[], Tensor]:
    def call() -> Tensor:
        with torch.no_grad():
            return function(*inputs)

    return call


def _step(function, inputs, parameters, cast, fused: bool) -> Callable[[], Tensor]:
    optimizer = torch.optim.Adam(parameters, 1e-4, fused=fused or None)

    def call() -> Tensor:
        optimizer.zero_grad()
        with cast():
            loss = function(*inputs)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return call


def _gradients(parameters: list[nn.Parameter]) -> Callable[[Tensor], Tensor]:
    return lambda loss: torch.cat([p.grad.flatten() for p in parameters])


# ---------------------------------------------------------------------------------------------------- runtimes
def _openvino(task, inputs, precision, threads):
    import openvino

    hint = {"bfloat16": "bf16"}.get(precision, "f32")
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": hint}
    with torch.no_grad():  # its own trace calls the network several times, to check itself
        traced = torch.jit.trace(task, inputs, strict=False, check_trace=False)
    model = openvino.convert_model(traced, example_input=inputs, input=[tuple(t.shape) for t in inputs])
    compiled = openvino.Core().compile_model(model, "CPU", settings)
    if compiled.get_property("INFERENCE_PRECISION_HINT").to_string() != hint:
        raise Refused("openvino computes in float32 on this CPU, whatever INFERENCE_PRECISION_HINT asks for")
    request, arrays = compiled.create_infer_request(), [t.numpy() for t in inputs]
    said = ", ".join(f"{name} {value}" for name, value in settings.items())
    return lambda: torch.from_numpy(request.infer(arrays)[0]), said


def _onnxruntime(task, inputs, precision, threads):
    import onnxruntime

    if precision == "bfloat16":
        raise Refused("onnxruntime has no bfloat16 convolution on the CPU")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = f"{folder}/task.onnx"
        torch.onnx.export(task, inputs, path, dynamo=True)
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    feed = {given.name: t.numpy() for given, t in zip(session.get_inputs(), inputs, strict=True)}
    said = f"intra_op_num_threads {threads}, ORT_ENABLE_ALL, torch.onnx.export(dynamo=True)"
    return lambda: torch.from_numpy(session.run(None, feed)[0]), said


def _ncnn(task, inputs, precision, threads):
    import ncnn
    import numpy
    import pnnx

    if len(inputs[0]) != 1:
        raise Refused(f"ncnn takes one image at a time, not {len(inputs[0])}")
    net, half = ncnn.Net(), precision == "bfloat16"
    net.opt.num_threads, net.opt.use_bf16_storage = threads, half
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        os.chdir(folder)  # it writes beside its input, and where it runs
        pnnx.export(task, "task.pt", inputs, check_trace=False, fp16=False)
        os.chdir(here)
        if net.load_param(f"{folder}/task.ncnn.param") or net.load_model(f"{folder}/task.ncnn.bin"):
            raise Refused("ncnn cannot load what pnnx made of the network")
    image = ncnn.Mat(inputs[0][0].numpy()).clone()

    def call() -> Tensor:
        extractor = net.create_extractor()
        extractor.input("in0", image)
        failed, output = extractor.extract("out0")
        if failed:
            raise Refused(f"ncnn cannot run what pnnx made of the network: code {failed}")
        return torch.from_numpy(numpy.array(output))[None]

    return call, f"num_threads {threads}, {'bf16 storage' if half else 'float32'}, pnnx.export(fp16=False)"


_RUNTIMES = {"openvino": _openvino, "onnxruntime": _onnxruntime, "ncnn": _ncnn}
#: The last one competes where it is named: it takes minutes to compile.
CONTESTANTS = (EAGER, CHANNELS_LAST, COMPILE, *RUNTIMES, OURS, MAX_AUTOTUNE)
