"""One file of the package names private parts of torch, and each of them does here what the package takes it for."""

import ast
from pathlib import Path

import pytest
import torch
from torch.autograd import forward_ad

from sdgan_ext import _torch_internals as internals
from sdgan_ext import nn

ROOT = Path(__file__).parents[1]
#: Of named tuples and of argparse.
OTHERS = {"_replace", "_asdict", "_fields", "_option_string_actions"}

covered: set[str] = set()


def covers(*names):
    """Marks a test as the one of these names."""
    covered.update(names)
    return lambda function: function


# ----------------------------------------------------------------------------------------------- in no other file
def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def defined_names() -> set[str]:
    """Private names that the package itself defines: functions, classes, variables, attributes, arguments."""
    names = set()
    for path in (ROOT / "sdgan_ext").rglob("*.py"):
        if path.name == "_torch_internals.py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
                names.add(node.id if isinstance(node, ast.Name) else node.attr)
            elif isinstance(node, ast.ImportFrom) and node.level:
                names.update(alias.name for alias in node.names)
    return names | {path.stem for path in (ROOT / "sdgan_ext").rglob("*")}


def foreign_private_names(path: Path, defined: set[str]) -> list[str]:
    """Private modules of others that are imported, and private attributes that the package does not define."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            modules = [alias.name.split(".") for alias in node.names]
            names = [part for module in modules if module[0] != "sdgan_ext" for part in module]
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module.split(".")[0] != "sdgan_ext":
            names = [*node.module.split("."), *(alias.name for alias in node.names)]
            names = [name for name in names if name != "__future__"]
        elif isinstance(node, ast.Attribute) and node.attr not in defined:
            names = [node.attr]
        found += [f"{path.relative_to(ROOT)}:{node.lineno} {name}" for name in names if is_private(name)]
    return found


def test_no_other_file_names_a_private_part():
    defined = defined_names() | OTHERS
    found = [
        name
        for path in sorted((ROOT / "sdgan_ext").rglob("*.py"))
        if path.name != "_torch_internals.py"
        for name in foreign_private_names(path, defined)
    ]
    assert not found


def test_the_search_finds_what_it_should(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    file = tmp_path / "file.py"
    file.write_text("import torch\nfrom torch._subclasses import fake_tensor\ntorch._C._is_alias_of(a, b)\nx._mine\n")
    found = {line.split()[1] for line in foreign_private_names(file, {"_mine"})}
    assert found == {"_subclasses", "_C", "_is_alias_of"}


# ---------------------------------------------------------------------------------------------------- the dispatcher
class Counting(internals.TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.append(function)
        return function(*args, **(kwargs or {}))


@covers("plain_eager", "transformed")
def test_who_listens():
    seen = []

    def look(x):
        seen.append((internals.plain_eager(), internals.transformed()))
        return x.sum()

    x = torch.ones(3)
    look(x)
    with torch.autocast("cpu", torch.bfloat16):
        look(x)
    torch.func.grad(look)(x)
    torch.func.vmap(look)(x)
    with forward_ad.dual_level():
        look(x)
    with internals.FakeTensorMode():
        look(torch.ones(3))
    look(x)
    nobody, somebody, transforms = (True, False), (False, False), (False, True)
    assert seen == [nobody, somebody, transforms, transforms, transforms, somebody, nobody]


def test_a_compiled_call_is_not_plain():
    @torch.compile(backend="eager", fullgraph=True)
    def look(x):
        return x + 1 if internals.plain_eager() or internals.transformed() else x - 1

    assert look(torch.ones(())) == 0


@covers("below_autograd", "overload_call", "OpOverload")
def test_below_autograd_nothing_is_recorded():
    overload = torch.ops.aten.mul.Tensor
    assert isinstance(overload, internals.OpOverload)
    call = internals.overload_call(overload)
    x = torch.ones(2, requires_grad=True)
    assert call(x, x).requires_grad
    with internals.below_autograd():
        assert not call(x, x).requires_grad
    assert call(x, x).requires_grad


@covers("TorchDispatchMode")
def test_a_dispatch_mode_sees_every_operator():
    with Counting() as mode:
        torch.ones(2).mul(3)
    assert torch.ops.aten.mul.Tensor in mode.seen


@covers("without_autocast_key")
def test_past_the_autocast_kernel():
    x, without_key = torch.ones(2, 2), internals.without_autocast_key("CPU")
    with torch.autocast("cpu", torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16
        with without_key():
            assert (x @ x).dtype == torch.float32
        assert (x @ x).dtype == torch.bfloat16
    internals.without_autocast_key("CUDA")


# ------------------------------------------------------------------------------------------------------- autograd
class Double(torch.autograd.Function):
    kept = None

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, grad):
        Double.kept = internals.graph_is_kept()
        return 2 * grad


@covers("plain_apply", "graph_is_kept")
def test_the_short_way_into_an_autograd_function():
    apply = internals.plain_apply(Double)
    x = torch.ones(3, requires_grad=True)
    y = apply(x).sum()
    for keep in (True, False):
        (grad,) = torch.autograd.grad(y, x, retain_graph=keep)
        assert grad.tolist() == [2, 2, 2] and Double.kept is keep


@covers("saved_tensor_hooks", "on_saved")
def test_hooks_on_saved_tensors():
    assert internals.saved_tensor_hooks() is None
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
        outer = internals.saved_tensor_hooks()
        assert outer is not None and internals.saved_tensor_hooks() == outer
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: t):
            assert internals.saved_tensor_hooks() != outer

    class Twice(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            output = 2 * x
            ctx.save_for_backward(x, output)
            return output

        @staticmethod
        def backward(ctx, grad):
            seen.extend(ctx.saved_tensors)
            return 2 * grad

    seen: list[torch.Tensor] = []
    output = Twice.apply(torch.ones(1, requires_grad=True))
    internals.on_saved(output, 1, lambda t: t + 5, lambda t: t + 1)
    output.backward()
    assert seen == [1, 8]


@covers("exporting", "autocast_to_half")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_exports_and_autocast():
    seen = []

    class Look(torch.nn.Module):
        def forward(self, x):
            seen.append(internals.exporting())
            return x + 1

    x = torch.ones(1)
    Look()(x), torch.jit.trace(Look(), x, check_trace=False), torch.export.export(Look(), (x,))
    assert seen[0] is False and all(seen[1:]) and len(seen) >= 3
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype):
            assert internals.autocast_to_half() == (dtype == torch.float16)
    assert not internals.autocast_to_half()


@covers("shares_storage")
def test_one_storage():
    x = torch.zeros(4)
    assert internals.shares_storage(x[:2], x[2:]) and not internals.shares_storage(x, torch.zeros(4))
    with internals.FakeTensorMode():
        x = torch.zeros(4)
        assert internals.shares_storage(x[:2], x[2:]) and not internals.shares_storage(x, torch.zeros(4))


@covers("foreach_add_", "foreach_div_", "foreach_lerp_")
def test_many_tensors_at_once():
    a, b = [torch.ones(2), torch.ones(3)], [torch.full((2,), 3.0), torch.full((3,), 5.0)]
    internals.foreach_lerp_(a, b, 0.5)
    assert [t[0].item() for t in a] == [2, 3]
    internals.foreach_lerp_(a, b, [torch.tensor(0.5), torch.tensor(1.0)])
    assert [t[0].item() for t in a] == [2.5, 5]
    internals.foreach_add_(a, b)
    internals.foreach_div_(a, 2)
    assert [t[0].item() for t in a] == [2.75, 5]


# --------------------------------------------------------------------------------------------------- fake tensors
@covers("FakeTensor", "FakeTensorMode", "DataDependentOutputException", "DynamicOutputShapeException")
def test_fake_tensors():
    mode = internals.FakeTensorMode()
    fake = mode.from_tensor(torch.ones(3))
    assert isinstance(fake, internals.FakeTensor) and fake.shape == (3,)
    with mode, pytest.raises(internals.DataDependentOutputException) as error:
        fake.sum().item()
    assert error.value.func is torch.ops.aten._local_scalar_dense.default
    with mode, pytest.raises(internals.DynamicOutputShapeException):
        fake.nonzero()


@covers("tree_leaves", "tree_map_only")
def test_trees():
    tree = {"a": [1, (2.0, "x")], "b": 3}
    assert sorted(map(str, internals.tree_leaves(tree))) == ["1", "2.0", "3", "x"]
    assert internals.tree_map_only(int, lambda i: -i, tree) == {"a": [-1, (2.0, "x")], "b": -3}


# -------------------------------------------------------------------------------------------------------- modules
@covers("children_of", "MODULE_REGISTRIES")
def test_what_a_module_registers():
    module = torch.nn.Sequential(torch.nn.ReLU())
    internals.children_of(module)["0"] = torch.nn.Tanh()
    assert isinstance(module[0], torch.nn.Tanh)
    layer = torch.nn.BatchNorm2d(3)
    registered = [set(layer.__dict__[name]) for name in internals.MODULE_REGISTRIES]
    assert registered == [{"weight", "bias"}, {"running_mean", "running_var", "num_batches_tracked"}, set()]


@pytest.mark.parametrize(
    "register, before",
    [
        ("register_forward_hook", False),
        ("register_forward_pre_hook", True),
        ("register_full_backward_hook", False),
        ("register_full_backward_pre_hook", False),
    ],
)
@covers("has_hooks")
def test_hooks(register, before):
    layer = torch.nn.ReLU()
    assert not internals.has_hooks(layer)
    handle = getattr(layer, register)(lambda *args: None)
    assert internals.has_hooks(layer)
    assert internals.has_hooks(layer, before_forward=False) == (not before)
    handle.remove()
    assert not internals.has_hooks(layer)


@covers("any_global_hooks")
def test_hooks_on_every_module():
    assert not internals.any_global_hooks()
    for register in (
        torch.nn.modules.module.register_module_forward_pre_hook,
        torch.nn.modules.module.register_module_forward_hook,
        torch.nn.modules.module.register_module_full_backward_pre_hook,
        torch.nn.modules.module.register_module_full_backward_hook,
    ):
        handle = register(lambda *args: None)
        assert internals.any_global_hooks()
        handle.remove()
        assert not internals.any_global_hooks()


@covers("run_plain_convolution")
def test_torchs_own_convolution_of_a_layer_of_ours():
    layer, x = nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect", activation="relu"), torch.randn(1, 2, 4, 4)
    stock = torch.nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect")
    stock.load_state_dict(layer.state_dict())
    assert torch.equal(internals.run_plain_convolution(layer, x), stock(x))


@covers("uncompiled")
def test_what_compile_was_given():
    model = torch.nn.ReLU()
    assert internals.uncompiled(torch.compile(model)) is model
    assert internals.uncompiled(model) is model
    assert internals.uncompiled(torch.relu) is torch.relu


@covers("check_input_dim", "padding_for_pad", "output_padding_for")
def test_what_layers_take_of_their_base_classes():
    internals.check_input_dim(nn.BatchNorm2d(2), torch.ones(1, 2, 3, 3))
    with pytest.raises(ValueError, match="expected 4D input"):
        internals.check_input_dim(nn.BatchNorm2d(2), torch.ones(1, 2))
    assert list(internals.padding_for_pad(nn.Conv2d(1, 1, 3, padding=(1, 2)))) == [2, 2, 1, 1]
    layer, x = nn.ConvTranspose2d(1, 1, 3, stride=2, output_padding=(1, 0)), torch.ones(1, 1, 4, 4)
    assert list(internals.output_padding_for(layer, x, None)) == [1, 0]
    assert list(internals.output_padding_for(layer, x, [9, 10])) == [0, 1]
    with pytest.raises(ValueError, match="requested an output size"):
        internals.output_padding_for(layer, x, [20, 20])


def test_the_method_that_a_convolution_overrides():
    """``nn.Conv2d`` keeps torch's ``forward``, which calls this one."""
    assert "_conv_forward" in torch.nn.Conv2d.__dict__ and "_conv_forward" in torch.nn.Conv2d.forward.__code__.co_names


@covers("legacy_reduction")
def test_the_deprecated_reduction():
    with pytest.warns(UserWarning, match="size_average and reduce args will be deprecated"):
        assert internals.legacy_reduction(False, True) == "sum"
    with pytest.warns(UserWarning):
        assert internals.legacy_reduction(None, False) == "none"


# ----------------------------------------------------------------------------------------------------- CUDA graphs
@covers("end_allocation_to_pool")
def test_the_end_of_a_pool():
    """A CPU build of torch has no such function; where there is one, it takes a device and a pool."""
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    with pytest.raises(RuntimeError):  # none is allocated to
        internals.end_allocation_to_pool(0, torch.cuda.graph_pool_handle())


def test_each_name_is_run_here():
    assert covered == set(internals.__all__)
