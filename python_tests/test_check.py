"""`make check` finds the tests of what changed, in this tree."""

import subprocess

import check
import pytest

OPS = "python_tests/ops/test_{}.py"


@pytest.mark.parametrize(
    ("changed", "python", "native"),
    [
        ("csrc/kernels/cpu/bce.cpp", {OPS.format("bce")}, {"bce"}),
        ("csrc/kernels/cuda/batch_norm_backward.cu", {OPS.format("batch_norm")}, {"batch_norm"}),
        ("csrc/ops/gaussian.cpp", {OPS.format("gaussian")}, {"gaussian"}),
        ("csrc/tests/test_simd.cpp", set(), {"simd"}),
        ("sdgan_ext/ops/bce.py", {OPS.format("bce")}, set()),
        ("python_tests/ops/test_bce.py", {OPS.format("bce")}, set()),
        ("README.md", {"python_tests/test_docs.py::test_links_and_paths_exist"}, set()),
        ("LICENSE", set(), set()),
    ],
)
def test_what_a_file_selects(changed, python, native):
    assert check.of_file(changed)[:2] == (python, native)


def test_a_module_without_tests_of_its_name_has_its_folder_and_its_importers():
    found = check.of_file("sdgan_ext/training/trainer.py").python
    assert {"python_tests/training/test_trainer.py", "python_tests/training/test_health.py"} <= found
    assert "python_tests/ops/test_bce.py" not in found
    assert check.existing("models/test_*.py") <= check.of_file("sdgan_ext/models/layers.py").python


def test_a_shared_header_selects_every_op():
    found = check.of_file("csrc/kernels/cpu/simd.h")
    assert found.python == check.existing("ops/test_*.py")
    assert found.native == set(check.native_tests())


def test_a_convolution_selects_the_convolutions():
    found = check.of_file("csrc/kernels/conv/winograd/wgrad.cpp")
    assert {"winograd", "small_channel", "implicit_gemm"} <= found.native and "bce" not in found.native
    assert {OPS.format("conv2d"), OPS.format("conv_transpose2d")} <= found.python


def test_slow_tests_are_left_out_unless_they_are_meant():
    helper = check.of_file("python_tests/contract/cases.py")
    slow = {"python_tests/contract/test_compile.py", "python_tests/contract/test_export.py"}
    assert helper.left_out == slow and not helper.python & slow
    assert check.of_file("sdgan_ext/training/distributed.py").python >= {"python_tests/training/test_distributed.py"}
    assert check.of_part("contract/test_compile.py").python == {"python_tests/contract/test_compile.py"}


def test_every_slow_test_exists():
    assert not [name for name in check.SLOW if not (check.ROOT / name).exists()]


def test_parts():
    assert check.of_part("ops").python == {"python_tests/ops"}
    assert check.of_part("winog").native == {"winograd", "winograd_f43"}
    assert check.of_part("csrc").native == set(check.native_tests())
    with pytest.raises(SystemExit, match="PART is 'foo'; allowed are .*contract.*, csrc, the beginning of a C"):
        check.of_part("foo")


def test_changes_are_those_since_main_and_the_uncommitted(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True)

    git("init", "--initial-branch", "main")
    for name in ("same", "removed", "edited"):
        (tmp_path / name).write_text(name)
    git("add", ".")
    git("commit", "-m", "main")
    git("checkout", "-b", "work")
    (tmp_path / "committed").write_text("")
    git("add", "committed")
    git("commit", "-m", "work")
    (tmp_path / "edited").write_text("otherwise")
    (tmp_path / "removed").unlink()
    (tmp_path / "new").write_text("")
    monkeypatch.setattr(check, "ROOT", tmp_path)
    assert check.changed_files() == ["committed", "edited", "new"]
