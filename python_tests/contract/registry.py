"""What every op keeps to: one entry an op, one entry a contract; the tests of this folder and the tables come from it.

A contract says, op by op, where it is tested: in a test of this folder, which has the op's name in its id, or in an
older one elsewhere. A cell that is not supported is refused in a sentence, and its test is the one of the refusal.
`python python_tests/contract/table.py --write` makes docs/feature-table.md and the README's table.
"""

import dataclasses
from dataclasses import dataclass

import pytest

from .cases import CASES, Case


@dataclass(frozen=True)
class Operation:
    """
    Attributes:
        name: of ``sdgan_ext.ops``, or of ``sdgan_ext.nn`` for a layer.
        family: the stem of its files.
        example, stock: the README's row: how it is called, and what it stands for.
        without: arguments without a derivative, which are refused where they require one.
        dtype: of its output under autocast of float32 tensors: "half", "float32", or "input" (that of the input).
        operator: of ``torch.ops.sdgan_ext``, where it is not the family's: what a composite runs.
    """

    name: str
    family: str
    example: str
    stock: str
    without: tuple[str, ...] = ()
    dtype: str = "float32"
    operator: str = ""

    @property
    def cases(self) -> list[Case]:
        """Those of the table that ``auto`` would run on this machine."""
        return [case for case in CASES if case.op == self.name and case.backend == "auto"]

    @property
    def case(self) -> Case:
        """One that stands for the op: small, smooth and differentiable in all that it can be."""
        return next(case for case in self.cases if _SMALL.get(self.name, "") in case.name)


_SMALL = {
    "conv2d": "residual, then silu",
    "conv_transpose2d": "5x5 s2 Keras",
    "upsample_conv2d": "3x3 as transposed",
    "batch_norm": "4x18x5x5 training tanh",
    "group_norm": "4x18x5x5 6 groups silu",
    "discriminator_loss": "7 relativistic",
    "generator_loss": "7 relativistic",
    "binary_cross_entropy": "(5, 3)",
    "binary_cross_entropy_with_logits": "(5, 3)",
    "sample_gaussian": "(5, 3) batchmean eps",
    "gaussian_kl": "(5, 3)",
    "reconstruction_loss": "bce (4, 6, 5, 3)",
}

OPERATIONS = [
    Operation(
        "conv2d",
        "conv2d",
        'ops.conv2d(x, w, b, 2, padding=(1, 2, 1, 2), activation="leaky_relu")',
        "`F.leaky_relu(F.conv2d(F.pad(x, (1, 2, 1, 2)), w, b, 2), 0.2)`",
        dtype="half",
    ),
    Operation(
        "conv_transpose2d",
        "conv_transpose2d",
        'ops.conv_transpose2d(x, w, b, 2, crop=(1, 2, 1, 2), activation="relu")',
        "`F.relu(F.conv_transpose2d(x, w, b, 2)[:, :, 1:-2, 1:-2])`",
        dtype="half",
    ),
    Operation(
        "upsample_conv2d",
        "upsample_conv2d",
        'ops.upsample_conv2d(x, w, b, activation="silu")',
        '`F.silu(F.conv2d(F.interpolate(x, scale_factor=2), w, b, padding="same"))`',
        dtype="half",
        operator="conv_transpose2d",
    ),
    Operation(
        "batch_norm",
        "batch_norm",
        'ops.batch_norm(x, mean, var, w, b, training, activation="relu")',
        "`F.relu(F.batch_norm(x, mean, var, w, b, training))`",
        ("running_mean", "running_var"),
        "input",
    ),
    Operation(
        "group_norm",
        "group_norm",
        'ops.group_norm(x, 32, w, b, activation="silu")',
        "`F.silu(F.group_norm(x, 32, w, b))`",
        dtype="input",
    ),
    Operation(
        "discriminator_loss",
        "adversarial_loss",
        "ops.discriminator_loss(real, fake)",
        "`bce_with_logits(real, ones) + bce_with_logits(fake, zeros)`",
    ),
    Operation("generator_loss", "adversarial_loss", "ops.generator_loss(fake)", "`bce_with_logits(fake, ones)`"),
    Operation(
        "sample_gaussian",
        "gaussian",
        "ops.sample_gaussian(mean, logvar)",
        "`z = mean + exp(logvar / 2) * randn`; `kl = 0.5 * (mean**2 + logvar.exp() - 1 - logvar).sum() / N`",
        ("seed", "out"),
    ),
    Operation("gaussian_kl", "gaussian", "ops.gaussian_kl(mean, logvar)", "that `kl` alone"),
    Operation(
        "reconstruction_loss",
        "reconstruction_loss",
        "ops.reconstruction_loss(x_hat, x)",
        "`(x_hat - x).square().sum() / N`",
    ),
    Operation(
        "binary_cross_entropy_with_logits",
        "bce",
        "ops.binary_cross_entropy_with_logits(...)",
        "`F.binary_cross_entropy_with_logits(...)`, the same signature",
        ("weight", "pos_weight"),
    ),
    Operation(
        "binary_cross_entropy",
        "bce",
        "ops.binary_cross_entropy(...)",
        "`F.binary_cross_entropy(...)`, the same signature",
        ("weight",),
    ),
]
LAYERS = [
    Operation(
        "ConvTranspose2d",
        "nn",
        'nn.ConvTranspose2d(..., activation="relu")',
        "`nn.Sequential(ConvTranspose2d(...), ReLU())`; the same state dict",
    ),
    Operation(
        "Conv2d", "nn", 'nn.Conv2d(..., activation="leaky_relu")', "`nn.Sequential(Conv2d(...), LeakyReLU(0.2))`"
    ),
    Operation(
        "UpsampleConv2d",
        "nn",
        'nn.UpsampleConv2d(..., activation="silu")',
        "`nn.Sequential(Upsample(scale_factor=2), Conv2d(...), SiLU())`; the state dict of the convolution",
    ),
    Operation(
        "BatchNorm2d", "nn", 'nn.BatchNorm2d(..., activation="relu")', "`nn.Sequential(BatchNorm2d(...), ReLU())`"
    ),
    Operation("GroupNorm", "nn", 'nn.GroupNorm(..., activation="silu")', "`nn.Sequential(GroupNorm(...), SiLU())`"),
]
CONVOLUTIONS = ("conv2d", "conv_transpose2d", "upsample_conv2d")
REFUSING = [(op.name, argument) for op in OPERATIONS for argument in op.without]


def id_of(case: Case) -> str:
    return case.name.replace(" ", "_")


# --------------------------------------------------------------------------------------------------- contracts
@dataclass(frozen=True)
class Contract:
    """
    Attributes:
        key: the heading of its column.
        says: what holds, in a sentence.
        test: the id, with ``{op}``, ``{family}``, ``{operator}``, ``{case}`` (that stands for the op) and
            ``{argument}`` (its first one without a derivative).
        ops: whose contract it is.
        tests: of single families or ops, instead of ``test``.
        refused: of which ops, or all of them, the test is that of a refusal.
        also: more tests that stand behind it, whatever the op.
        holds: the mark of what is not refused: "yes", or "not run" where no machine had what the test needs.
    """

    key: str
    says: str
    test: str
    ops: list[Operation] = dataclasses.field(default_factory=lambda: OPERATIONS)
    tests: dict[str, str] = dataclasses.field(default_factory=dict)
    refused: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    holds: str = "yes"

    def cells(self):
        """(op, mark, id of the test) of each op."""
        for op in self.ops:
            test = self.tests.get(op.name) or self.tests.get(op.family) or self.test
            names = {"op": op.name, "family": op.family, "argument": op.without[0] if op.without else ""}
            names["operator"] = op.operator or op.family
            if "{case}" in test:
                names["case"] = id_of(op.case)
            yield op, "refused" if op.name in self.refused else self.holds, test.format(**names)


_OPS = "python_tests/ops/test_{family}.py::"
_HERE = "python_tests/contract/"
_ALL = tuple(op.name for op in OPERATIONS)

CONTRACTS = [
    Contract(
        "values",
        "values and gradients of the reference in float32, bfloat16 and float64",
        _OPS + "test_values_and_gradients",
        tests={
            **dict.fromkeys(CONVOLUTIONS, _OPS + "test_activations_and_dtypes"),
            "batch_norm": _OPS + "test_values_statistics_and_gradients",
        },
        also=(
            "python_tests/ops/test_winograd.py::test_values_and_gradients",
            "python_tests/ops/test_conv2d_residual.py::test_values_and_gradients",
        ),
    ),
    Contract(
        "float16 on the CPU",
        "refused in a sentence; on CUDA supported",
        _HERE + "test_modes.py::test_float16_is_refused_on_the_cpu[{op}]",
        refused=_ALL,
    ),
    Contract(
        "CUDA",
        "on a GPU the same contract, from the same cases; none has run it yet, but the kernels run on the CPU, thread "
        "by thread, under `python_tests/ops` (docs/cuda.md)",
        "python_tests/cuda/test_values.py::test_values_and_gradients",
        also=("python_tests/cuda/test_contracts.py::test_capture_and_replay",),
        holds="not run",
    ),
    Contract(
        "other devices",
        "refused in a sentence; on `meta` shapes only",
        _HERE + "test_modes.py::test_other_devices_are_refused[{op}]",
        refused=_ALL,
    ),
    Contract(
        "layouts",
        "sliced, permuted, expanded and channels_last arguments; the output keeps the layout, the fake kernel agrees",
        _HERE + "test_modes.py::test_layouts[{op}]",
        also=(
            "python_tests/ops/test_conv2d.py::test_layouts_that_strides_leave_open",
            "python_tests/ops/test_conv_transpose2d.py::test_layouts_that_strides_leave_open",
            "python_tests/ops/test_batch_norm.py::test_views_and_the_layout_of_the_output",
            "python_tests/ops/test_group_norm.py::test_views_and_the_layout_of_the_output",
            "python_tests/ops/test_conv2d_residual.py::test_expanded_sliced_and_other_layouts",
        ),
    ),
    Contract(
        "second derivative",
        "`gradgradcheck` in float64, every activation, objective and reduction of the table",
        _HERE + "test_second_derivative.py::test_gradgradcheck[{case}]",
    ),
    Contract(
        "third derivative",
        "no silent zeros: second and third derivatives by finite differences; what has none is constant",
        _HERE + "test_second_derivative.py::test_no_silent_zeros[{op}]",
    ),
    Contract(
        "no derivative",
        "an argument without a derivative (statistics, seed, weights of a loss, `out`) that requires one is refused",
        _HERE + "test_second_derivative.py::test_what_has_no_derivative_raises[{op}-{argument}]",
        [op for op in OPERATIONS if op.without],
        refused=_ALL,
    ),
    Contract(
        "opcheck",
        "`torch.library.opcheck` of the operator and its backward; a composite has those of the operator that it runs",
        "python_tests/ops/test_{operator}.py::test_opcheck",
        also=("python_tests/ops/test_winograd.py::test_opcheck_and_compile",),
    ),
    Contract(
        "compile",
        "`torch.compile(fullgraph=True)`, forward and backward; two compilations for five batch sizes",
        _HERE + "test_compile.py::test_dynamic_batch[{op}]",
        also=(_HERE + "test_compile.py::test_inductor", _HERE + "test_compile.py::test_a_training_step"),
    ),
    Contract(
        "func.grad", "`torch.func.grad`, once and twice, eager and compiled", _HERE + "test_func.py::test_grad[{op}]"
    ),
    Contract(
        "vmap",
        "`torch.func.vmap` over a further dimension",
        _HERE + "test_func.py::test_vmap[{op}]",
        also=(_HERE + "test_func.py::test_vmap_of_running_statistics_is_refused",),
    ),
    Contract(
        "per-sample gradients",
        "`vmap(grad)`, and `is_grads_batched=True`",
        _HERE + "test_func.py::test_per_sample_gradients[{op}]",
    ),
    Contract(
        "forward mode",
        "`torch.func.jvp` and dual numbers, also without grad mode",
        _HERE + "test_func.py::test_forward_mode[{op}]",
    ),
    Contract(
        "export",
        "`torch.export` with a dynamic batch, as it is and decomposed to stock operators",
        _HERE + "test_export.py::test_export[{op}]",
    ),
    Contract(
        "ONNX",
        "the decomposed program in onnxruntime, to 1e-4, at another batch size",
        _HERE + "test_export.py::test_onnx[{op}]",
        also=(_HERE + "test_export.py::test_onnx_of_every_activation_and_geometry",),
    ),
    Contract(
        "autocast bfloat16",
        "bfloat16 convolutions, float32 losses, gradients in the dtype of the leaves",
        _HERE + "test_modes.py::test_autocast[{op}]",
    ),
    Contract(
        "autocast float16 on the CPU",
        "losses and norms in float32; convolutions are refused in a sentence",
        _HERE + "test_modes.py::test_autocast_to_float16[{op}]",
        refused=CONVOLUTIONS,
    ),
    Contract(
        "deterministic",
        "`torch.use_deterministic_algorithms(True)`: runs, the same bits twice",
        _HERE + "test_modes.py::test_deterministic[{op}]",
    ),
    Contract("threads", "the same bits for any number of threads", _OPS + "test_same_bits_for_any_number_of_threads"),
    Contract("empty batch", "outputs and gradients without images", _HERE + "test_modes.py::test_empty_batch[{op}]"),
    Contract(
        "equal to stock",
        "outputs, gradients and statistics of the stock layer and its activation",
        "python_tests/nn/test_conv.py::test_equals_stock_and_exchanges_state_dicts",
        LAYERS,
        {
            "BatchNorm2d": "python_tests/nn/test_batch_norm.py::test_trains_and_evaluates_as_the_stock_layer",
            "GroupNorm": "python_tests/nn/test_group_norm.py::test_equals_the_stock_layer",
        },
    ),
    Contract(
        "state dict",
        "strict, from the stock layer and to it, before and after training",
        _HERE + "test_layers.py::test_state_dict_goes_both_ways[{op}]",
        LAYERS,
    ),
    Contract(
        "deepcopy and pickle",
        "the copy computes the same and trains apart",
        _HERE + "test_layers.py::test_copies[{op}-deepcopy]",
        LAYERS,
    ),
    Contract(
        "channels_last",
        "kept by the layer, forward and backward, and through whole models",
        _HERE + "test_layers.py::test_channels_last_is_kept[{op}]",
        LAYERS,
        also=(_HERE + "test_layers.py::test_channels_last_through_whole_models",),
    ),
    Contract(
        "penalties",
        "R1, R2 and WGAN-GP of a critic: gradients of the stock critic to 1e-5",
        _HERE + "test_penalties.py::test_penalty_gradients",
        [layer for layer in LAYERS if layer.name == "Conv2d"],
    ),
    Contract(
        "ONNX of a layer",
        "alone, and encoder, generator and discriminator of a VAE-GAN, to 1e-4",
        _HERE + "test_export.py::test_onnx_of_layers[{op}]",
        LAYERS,
        also=(_HERE + "test_export.py::test_networks",),
    ),
]


def each_op(ops=OPERATIONS):
    """Runs a test for every op."""
    return pytest.mark.parametrize("op", ops, ids=[op.name for op in ops])


def each_case(cases):
    """Runs a test for every case."""
    return pytest.mark.parametrize("case", cases, ids=list(map(id_of, cases)))
