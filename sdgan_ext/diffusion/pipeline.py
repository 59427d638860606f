"""The folder of a ``StableDiffusionPipeline``, which diffusers opens and runs without us."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .._files import replacing, write_errors_named
from ..models.folder import save_folder
from .model import LatentDiffusion
from .solvers import SOLVERS, SolverName, diffusers_scheduler

__all__ = ["pipeline_obstacle", "save_pipeline", "scheduler_of"]

_UNET_WEIGHTS = "diffusion_pytorch_model.safetensors"
_INDEX = "model_index.json"


def pipeline_obstacle(model: LatentDiffusion) -> str | None:
    """Why this model is none that a ``StableDiffusionPipeline`` runs; None: it is one."""
    if getattr(model.autoencoder, "vae", None) is None:
        return "its autoencoder is a VAEGAN, whose layers diffusers does not have"
    if model.config.shift_factor:
        return "its latents have a shift_factor, which a StableDiffusionPipeline does not take off"
    height, width = model.config.image_size
    if height % 8 or width % 8:
        return f"its images have {height}x{width} pixels, and a StableDiffusionPipeline makes multiples of 8"
    return None


def scheduler_of(model: LatentDiffusion) -> SolverName:
    """The solver of diffusers that is the model's own or takes the most similar steps."""
    solver = model.config.solver
    if solver in SOLVERS[2:]:
        return solver
    return "ddim" if solver == "euler" else "dpm++"


def save_pipeline(model: LatentDiffusion, folder: str | Path) -> None:
    """Writes what ``DiffusionPipeline.from_pretrained(folder)`` opens: to be opened from the moment it is whole.

    Raises:
        ValueError: :func:`pipeline_obstacle`.
        DivergedError: a weight is NaN or infinite.
        CheckpointError: the folder cannot be written.
    """
    if reason := pipeline_obstacle(model):
        raise ValueError(f"a pipeline cannot be made of this model: {reason}")
    import diffusers
    import transformers

    folder = Path(folder)
    with write_errors_named(folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _INDEX).unlink(missing_ok=True)  # until all parts are those of one model
    model.autoencoder.save_pretrained(folder / "vae")
    unet: Any = model.unet
    config = json.loads(unet.to_json_string())
    config |= {"_class_name": "UNet2DConditionModel", "_diffusers_version": diffusers.__version__}
    save_folder(folder / "unet", unet.state_dict(), config, file_name=_UNET_WEIGHTS)
    text_encoder: Any = model.text_encoder
    config = {**json.loads(text_encoder.config.to_json_string()), "architectures": ["CLIPTextModel"]}
    save_folder(folder / "text_encoder", text_encoder.state_dict(), config)
    scheduler = diffusers_scheduler(model.path, scheduler_of(model), shift=model.config.shift)
    with write_errors_named(folder):
        model.tokenizer.save(folder / "tokenizer")
        scheduler.save_pretrained(str(folder / "scheduler"))
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": diffusers.__version__,
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", transformers.CLIPTextModel.__name__],
        "tokenizer": ["transformers", transformers.CLIPTokenizer.__name__],
        "unet": ["diffusers", "UNet2DConditionModel"],
        "scheduler": ["diffusers", type(scheduler).__name__],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "requires_safety_checker": False,
    }
    with replacing(folder / _INDEX) as file:
        file.write((json.dumps(index, indent=2) + "\n").encode())
