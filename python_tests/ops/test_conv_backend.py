"""sd.conv_backend: what runs a convolution, by name, by estimate or by measurement."""

import json
import os
import subprocess
import sys
import threading

import pytest
import torch

import sdgan_ext as sd
from sdgan_ext import _C, _env, ops

ON_HOST = "cuda_on_host" in os.environ.get("SDGAN_TEST_NATIVE", "")
cpu_kernels = pytest.mark.skipif(ON_HOST, reason="which backends can run is the CPU build's")


@pytest.fixture(autouse=True)
def fresh():
    _C.forget_measured_convolutions()
    with sd.conv_backend("auto"):
        yield
    _C.forget_measured_convolutions()


def layer(channels=32, outputs=16, size=8):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, channels, size, size, generator=generator).to(memory_format=torch.channels_last)
    return x, torch.randn(channels, outputs, 4, 4, generator=generator) * 0.1


def convolve(x, w):
    return ops.conv_transpose2d(x, w, stride=2, padding=1)


def backend_of(x, w, case="forward"):
    return ops.explain_conv(x, w, transposed=True, stride=2, sides=(1, 1, 1, 1))[case].partition(":")[0]


def test_the_block_ends_where_it_began():
    assert sd.get_conv_backend() == ("auto",)
    with sd.conv_backend("winograd", "library"):
        assert sd.get_conv_backend() == ("winograd", "library")
        with sd.conv_backend("benchmark"):
            assert sd.get_conv_backend() == ("benchmark",)
        assert sd.get_conv_backend() == ("winograd", "library")
    assert sd.get_conv_backend() == ("auto",)


def test_as_a_function_it_holds():
    sd.conv_backend("library")
    assert sd.get_conv_backend() == ("library",)


@cpu_kernels
@pytest.mark.parametrize("name", ["winograd", "library"])
def test_what_is_named_runs(name):
    x, w = layer()
    with sd.conv_backend(name):
        assert {backend_of(x, w, case) for case in ("forward", "grad_input", "grad_weight")} == {name}
        named = convolve(x, w)
    other = "library" if name == "winograd" else "winograd"
    with sd.conv_backend(other):
        assert not torch.equal(named, convolve(x, w))  # another algorithm rounds otherwise


@cpu_kernels
def test_the_first_that_can_run_it_does():
    x, w = layer()
    with sd.conv_backend("implicit_gemm", "small_channel", "winograd", "library"):
        assert backend_of(x, w) == "winograd"
        assert backend_of(*layer(outputs=3)) == "small_channel"


@cpu_kernels
def test_one_that_cannot_run_says_so():
    x, w = layer()
    words = (
        "'implicit_gemm', which cannot run this conv_transpose2d: the implicit GEMM kernels are for CUDA; it can be "
    )
    with sd.conv_backend("implicit_gemm"):
        with pytest.raises(RuntimeError, match=words + "one of 'auto', 'benchmark', 'winograd', 'library'$"):
            convolve(x, w)
        with pytest.raises(ValueError, match=words):
            backend_of(x, w)


@cpu_kernels
def test_a_gradient_that_cannot_run_says_so():
    x, w = layer()
    y = convolve(x.requires_grad_(), w)
    with (
        sd.conv_backend("small_channel"),
        pytest.raises(RuntimeError, match="conv_transpose2d's gradient: neither side"),
    ):
        y.sum().backward()


def test_nothing_is_refused_for_an_empty_batch():
    x, w = layer()
    with sd.conv_backend("winograd"):
        assert convolve(x[:0], w).shape == (0, 16, 16, 16)


@pytest.mark.parametrize("names", [("fast",), ("auto", "library"), ("benchmark", "library"), ("winograd",) * 5])
def test_unknown_names(names):
    with pytest.raises(ValueError, match="conv_backend is '.*'; allowed are 'auto', 'benchmark', and 'small_channel'"):
        sd.conv_backend(*names)
    assert sd.get_conv_backend() == ("auto",)


def test_one_list_of_names():
    assert list(_env.CONV_BACKENDS) == _C.conv_backend_names()


def test_no_name():
    with pytest.raises(ValueError, match="conv_backend takes 'auto', 'benchmark' or some of"):
        sd.conv_backend()


@pytest.mark.parametrize("old, new", [("direct", "small_channel"), ("gemm", "implicit_gemm")])
def test_old_names_hold_for_a_release(old, new):
    with pytest.warns(FutureWarning, match=f"'{old}' is called '{new}' now"):
        sd.conv_backend(old)
    assert sd.get_conv_backend() == (new,)


def test_the_variable_is_read_at_import():
    code = "import os, sdgan_ext as sd, sdgan_ext.ops; os.environ['SDGAN_CONV'] = 'auto'; print(*sd.get_conv_backend())"

    def run(value):
        return subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "SDGAN_CONV": value}, capture_output=True, text=True
        )

    assert run("winograd, library").stdout.split() == ["winograd", "library"]
    bad = run("fast")
    assert bad.returncode and "SDGAN_CONV is 'fast'; allowed are auto, benchmark, and" in bad.stderr


def test_threads_see_it():
    x, w = layer()
    answers = []
    with sd.conv_backend("library"):
        thread = threading.Thread(target=lambda: answers.append((backend_of(x, w), convolve(x, w))))
        thread.start()
        thread.join()
        expected = convolve(x, w)
    assert answers[0][0] == "library" and torch.equal(answers[0][1], expected)


def test_threads_change_it_while_others_compute():
    """No torn word: every call runs on one of the two, and gives the bits of one of them."""
    x, w = layer()
    allowed = []
    for name in ("library", "winograd"):
        with sd.conv_backend(name, "library"):
            allowed.append(convolve(x, w))
    done = threading.Event()

    def change():
        while not done.is_set():
            _C.set_conv_backend(["library"])
            _C.set_conv_backend(["winograd", "library"])

    thread = threading.Thread(target=change)
    thread.start()
    try:
        results = [convolve(x, w) for _ in range(200)]
    finally:
        done.set()
        thread.join()
    assert all(any(torch.equal(result, one) for one in allowed) for result in results)


@cpu_kernels
def test_compiled_graphs_follow_it():
    x, w = layer()
    compiled = torch.compile(convolve, fullgraph=True)
    for name in ("winograd", "library"):
        with sd.conv_backend(name):
            assert torch.equal(compiled(x, w), convolve(x, w))


# --------------------------------------------------------------------------------------------------- benchmark
@cpu_kernels
def test_benchmark_times_once_and_keeps_its_choice():
    x, w = layer()
    with sd.conv_backend("benchmark"):
        assert (
            backend_of(x, w)
            and "not measured yet" in ops.explain_conv(x, w, transposed=True, stride=2, sides=(1, 1, 1, 1))["forward"]
        )
        first = convolve(x.requires_grad_(), w.requires_grad_())
        first.sum().backward()
        rows = _C.measured_convolutions()
        assert len(rows) == 2  # forward, and both gradients
        for _, chosen, weight, times in rows:
            fastest = min(times, key=lambda time: time[2])
            assert (chosen, weight) == tuple(fastest[:2]) and all(time[2] > 0 for time in times)
        assert {time[0] for row in rows for time in row[3]} == {"winograd", "library"}
        assert torch.equal(first, convolve(x, w))
        assert _C.measured_convolutions() == rows
        answer = ops.explain_conv(x, w, transposed=True, stride=2, sides=(1, 1, 1, 1))["forward"]
    assert "measured: winograd" in answer and " ms, library " in answer


@cpu_kernels
def test_benchmark_has_the_gradients_of_the_others():
    x, w = layer()
    tensors = x.double().requires_grad_(), w.double().requires_grad_()
    expected = torch.autograd.grad(convolve(*tensors).square().sum(), tensors)
    with sd.conv_backend("benchmark"):
        for wanted in ((True, True), (True, False), (False, True)):
            inputs = [t.clone().requires_grad_(w) for t, w in zip((x, w), wanted, strict=True)]
            got = torch.autograd.grad(convolve(*inputs).square().sum(), [t for t in inputs if t.requires_grad])
            for g, e in zip(got, [e for e, w in zip(expected, wanted, strict=True) if w], strict=True):
                assert torch.allclose(g.double(), e, rtol=1e-4, atol=1e-4)


@cpu_kernels
def test_the_same_file_gives_the_same_choices(tmp_path):
    x, w = layer()
    file = tmp_path / "kept" / "conv.json"
    for name in ("library", "winograd"):
        with sd.conv_backend("benchmark", file=file):
            convolve(x, w)
        content = json.loads(file.read_text())
        (row,) = content["measured"]
        row["first"] = name  # whatever is faster here
        file.write_text(json.dumps(content))
        _C.forget_measured_convolutions()
        with sd.conv_backend("benchmark", file=file):
            assert backend_of(x, w) == name
            got = convolve(x, w)
        with sd.conv_backend(name):
            assert torch.equal(got, convolve(x, w))
        _C.forget_measured_convolutions()


def test_the_file_is_written_when_the_process_ends(tmp_path):
    """Also where the block of another file has ended before."""
    file = tmp_path / "conv.json"
    code = (
        "import sys, torch, sdgan_ext as sd\n"
        "sd.conv_backend('benchmark', file=sys.argv[1])\n"
        "with sd.conv_backend('benchmark', file=sys.argv[1] + '.other'): pass\n"
        "sd.ops.conv2d(torch.ones(1, 16, 4, 4), torch.ones(16, 16, 3, 3))\n"
    )
    subprocess.run([sys.executable, "-c", code, str(file)], check=True)
    assert len(json.loads(file.read_text())["measured"]) == 1


@pytest.mark.parametrize(
    "content, words",
    [
        ("not json", "cannot be read as measurements"),
        ("[" * 60_000, "cannot be read as measurements"),
        ("[]", "does not hold measurements"),
        ('{"version": 2, "measured": []}', "version 2 where 1 is known"),
        (
            '{"version": 1, "measured": [{"key": [1], "first": "library", "weight": "", "times": []}]}',
            "another version",
        ),
        ('{"version": 1, "measured": [{"key": [], "first": "x"}]}', "does not hold measurements"),
    ],
)
def test_a_file_of_something_else(tmp_path, content, words):
    file = tmp_path / "conv.json"
    file.write_text(content)
    with pytest.raises(ValueError, match=words):
        sd.conv_backend("benchmark", file=file)
    assert sd.get_conv_backend() == ("auto",) and file.read_text() == content


def test_a_file_that_is_none(tmp_path):
    os.mkfifo(tmp_path / "conv.json")
    with pytest.raises(ValueError, match="cannot be read as measurements of conv_backend: .*no regular file"):
        sd.conv_backend("benchmark", file=tmp_path / "conv.json")


@cpu_kernels
def test_a_file_that_names_what_cannot_run(tmp_path):
    x, w = layer()
    file = tmp_path / "conv.json"
    with sd.conv_backend("benchmark", file=file):
        convolve(x, w)
    _C.forget_measured_convolutions()
    file.write_text(
        file.read_text()
        .replace('"first": "winograd"', '"first": "implicit_gemm"')
        .replace('"first": "library"', '"first": "implicit_gemm"')
    )
    with sd.conv_backend("benchmark", file=file), pytest.raises(RuntimeError, match="names a backend that cannot run"):
        convolve(x, w)


def test_a_file_goes_with_benchmark(tmp_path):
    with pytest.raises(ValueError, match="file is .*, which goes with conv_backend\\('benchmark'\\) only"):
        sd.conv_backend("auto", file=tmp_path / "x.json")
