"""What may be replaced and, of the rest, why not: each a clause that completes "left: <name>: ..."."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import parametrize

from .._torch_internals import MODULE_REGISTRIES, has_hooks, tree_leaves
from ..ops._checks import CUDA_OBSTACLE
from .chains import Flow
from .functions import Function
from .layers import ACTIVATIONS, LAYERS

__all__ = [
    "activation_of",
    "check_model",
    "held_outside",
    "layer_obstacle",
    "looks_like_a_layer",
    "nothing_gained",
    "parts_of",
]

_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def check_model(model: object, name: str = "model") -> nn.Module:
    """The module to walk.

    Raises:
        TypeError, ValueError: it cannot be accelerated as it is; the sentence says what to do.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"{name} is a {type(model).__name__}; it must be a torch.nn.Module")
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError(
            f"{name} is a TorchScript module, whose code is frozen; accelerate the module it was made from"
        )
    if any(type(part).__name__ == "OptimizedModule" for part in model.modules()):
        raise ValueError(
            f"{name} was compiled by torch.compile, and its code would not change; accelerate the module it was made "
            "from, then compile that"
        )
    if any("FullyShardedDataParallel" in base.__name__ for part in model.modules() for base in type(part).__mro__):
        raise ValueError(f"{name} is wrapped by FSDP, which has taken its weights apart; accelerate it before wrapping")
    if isinstance(model, _WRAPPERS):  # they hold the parameters, not the layers' code
        return check_model(model.module, name)
    if any(map(_is_offloaded, model.modules())):
        raise ValueError(
            f"{name} is offloaded by hooks that move its weights to another device when it is called; remove the "
            "hooks, accelerate it, then offload it again"
        )
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    if any(device.type == "meta" for device in devices):
        raise ValueError(f"{name} has weights on the meta device, which hold nothing; load them first (to_empty)")
    if len(devices) > 1:
        names = ", ".join(sorted(map(str, devices)))
        raise ValueError(f"{name} has weights on {names}; move it to one device, or accelerate its parts")
    return model


def _is_offloaded(module: nn.Module) -> bool:
    """By the hooks of the packages accelerate and diffusers, which hide in plain attributes."""
    own = module.__dict__.get("_hf_hook")
    hooks = [own, *getattr(own, "hooks", ())]  # of a sequence
    registry = getattr(module.__dict__.get("_diffusers_hook"), "hooks", {})
    return any("Offload" in type(hook).__name__ or getattr(hook, "offload", False) is True for hook in hooks) or any(
        "offload" in name for name in registry
    )


def parts_of(pipeline: object) -> dict[str, nn.Module] | None:
    """The modules of one of diffusers' pipelines, which lists its ``components``; None for what is none."""
    components = None if isinstance(pipeline, (nn.Module, type)) else getattr(pipeline, "components", None)
    if not isinstance(components, dict):
        return None
    return {name: part for name, part in components.items() if isinstance(part, nn.Module)}


def held_outside(model: nn.Module) -> set[nn.Module]:
    """Modules of the model that plain attributes hold as well: a forward may call them there, past any replacement."""
    children = set(model.modules())
    held = set()
    for module in children:
        for name, value in module.__dict__.items():
            if name not in MODULE_REGISTRIES:
                leaves = tree_leaves(value) if isinstance(value, (list, tuple, dict)) else [value]
                held |= {leaf for leaf in leaves if isinstance(leaf, nn.Module) and leaf in children}
    return held


def looks_like_a_layer(module: nn.Module) -> bool:
    """Whether it must be in the report: a layer of two dimensions of torch's, or something made to replace one."""
    names = ("Conv2d", "ConvTranspose2d", "BatchNorm2d", "GroupNorm")
    return any(name in type(module).__name__ for name in names) or isinstance(module, (*LAYERS, nn.SyncBatchNorm))


def layer_obstacle(module: nn.Module) -> str | None:
    """Why this layer cannot be ours."""
    if isinstance(module, nn.modules.lazy.LazyModuleMixin):
        return "it is lazy and has no weights yet; run the model once first"
    if parametrize.is_parametrized(module):
        return "its weight is parametrised"
    if type(module) not in LAYERS:
        return f"a {type(module).__name__} is not torch's own layer, its forward may do anything"
    if "forward" in module.__dict__:
        return "its forward was replaced"
    if isinstance(module, nn.GroupNorm) and not module.eps > 0:
        return f"its eps is {module.eps}"
    tensors = [t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()]
    for tensor in tensors:
        if tensor.dtype not in (torch.float32, torch.bfloat16) and not (tensor.is_cuda and tensor.dtype == torch.half):
            return f"its weights are {str(tensor.dtype).removeprefix('torch.')}, where nothing is gained"
        if not (tensor.is_cpu or tensor.is_cuda):
            return f"it is on {tensor.device}, where there are no kernels of ours"
        if tensor.is_cuda and CUDA_OBSTACLE:
            return CUDA_OBSTACLE
    return None


def activation_of(layer: nn.Module, flow: Flow) -> nn.Module | Function | str:
    """The activation that ``layer`` may take over, or why there is none."""
    if layer not in flow.follower:
        return flow.reason.get(layer, "what follows it is not known: torch.fx cannot trace the module that it is in")
    following = flow.follower[layer]
    if isinstance(following, Function):
        return "a hook runs between it and the activation" if has_hooks(layer, before_forward=False) else following
    if type(following) not in ACTIVATIONS:
        return f"what follows is a {type(following).__name__}"
    if isinstance(following, nn.ELU) and following.alpha != 1:
        return f"what follows is an ELU of alpha {following.alpha}; ours has 1"
    if isinstance(following, nn.LeakyReLU) and following.negative_slope < 0:
        return "what follows is a LeakyReLU whose negative_slope is below 0"
    if has_hooks(layer, before_forward=False) or has_hooks(following):
        return "a hook runs between it and the activation"
    if "forward" in following.__dict__ or parametrize.is_parametrized(following):
        return "the activation was changed"
    return following


def nothing_gained(layer: nn.Module) -> str | None:
    """Why a layer without an activation to take over is no faster as ours, by docs/performance.md."""
    if isinstance(layer, nn.GroupNorm):
        if all(parameter.is_cpu and parameter.dtype == torch.float32 for parameter in layer.parameters()):
            return None
        return "a group norm alone gains in float32 on the CPU, elsewhere torch's kernel runs as before"
    if not isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
        return None
    if layer.groups > 1:
        return "of groups, the library's kernel would run as before"
    if layer.weight.is_cuda:
        return "on CUDA cuDNN's kernel would run as before"
    if layer.weight.dtype != torch.float32:
        return "in bfloat16 the library's kernel would run as before"
    if min(layer.in_channels, layer.out_channels) <= 4:
        return None
    sides, strides = set(layer.kernel_size), set(layer.stride)
    by_winograd = (strides == {2} and sides <= {3, 4, 5}) or (
        strides == {1} and sides == {3} and not isinstance(layer, nn.ConvTranspose2d)
    )
    wide = min(layer.in_channels, layer.out_channels) >= 16
    if wide and by_winograd and len(sides) == 1 and set(layer.dilation) == {1}:
        return None
    return "the library's kernel would run as before"
