"""A latent diffusion model with text: denoiser, text encoder, tokenizer, and the autoencoder whose latents it makes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .._accelerate import accelerate
from .._errors import ConfigError, shown
from .._modes import evaluation_mode
from ..models.folder import save_folder
from ..models.labels import as_labels
from ..models.layers import flatten, unflatten
from ..models.traits import Traits
from .latents import LatentScaling
from .model_config import LatentDiffusionConfig
from .paths import Parametrization, parametrization
from .sampling import sample, seeded_noise
from .solvers import SolverName
from .tokenizer import CaptionTokenizer

__all__ = ["LatentDiffusion", "check_autoencoder", "scaling_of"]

_MOST_AT_A_TIME = 64


class LatentDiffusion(torch.nn.Module):
    """Rombach et al. 2022 in small: ``UNet2DConditionModel`` of diffusers, ``CLIPTextModel`` of transformers.

    Called as ``model(x_t, timesteps, ids)`` it is the network of :mod:`sdgan_ext.diffusion`'s functions, whose
    condition are the tokens of captions.

    Args:
        config: sizes that fit ``autoencoder`` and ``tokenizer``; :func:`sdgan_ext.latent_diffusion` makes one.
        autoencoder: a :class:`~sdgan_ext.models.VAEGAN` with a latent map, or an
            :class:`~sdgan_ext.training.autoencoder.Autoencoder`; used as it is, and never trained.
        tokenizer: of the captions.

    Attributes:
        unet, text_encoder: what is trained, the only children; the weights are drawn from torch's own generator.
        autoencoder, tokenizer: as given; not in the state dict, and the same in a copy of the model.
        path: the parametrization.
        scaling: of the latents.

    Raises:
        ConfigError: the configuration does not fit them, or diffusers or transformers do not take it.
        ImportError: diffusers or transformers are not installed.
    """

    def __init__(self, config: LatentDiffusionConfig, autoencoder: Any, tokenizer: CaptionTokenizer):
        super().__init__()
        check_autoencoder(autoencoder)
        for name, own, other in (
            ("latent_shape", config.latent_shape, tuple(autoencoder.config.latent_shape)),
            ("image_shape", (config.channels, *config.image_size), tuple(autoencoder.traits.image_shape)),
            ("vocab_size", config.vocab_size, tokenizer.vocab_size),
            ("text_length", config.text_length, tokenizer.length),
        ):
            if own != other:
                whose = "tokenizer" if name in ("vocab_size", "text_length") else "autoencoder"
                raise ConfigError(f"{name} of the diffusion model is {own}, and the {whose} has {other}")
        self.config = config
        self._beside = _Beside(autoencoder, tokenizer)
        self.path: Parametrization = parametrization(config.parametrization)
        self.scaling = LatentScaling(config.scaling_factor, config.shift_factor)
        self.unet, self.text_encoder = _networks(config, tokenizer)
        autoencoder.requires_grad_(False).eval()
        if config.accelerate:
            accelerate(self.unet)

    @property
    def autoencoder(self) -> Any:
        return self._beside.autoencoder

    @property
    def tokenizer(self) -> CaptionTokenizer:
        return self._beside.tokenizer

    @property
    def encoder(self) -> None:
        """None: images are made from captions, and not encoded."""

    @property
    def traits(self) -> Traits:
        config = self.config
        return Traits(
            image_shape=(config.channels, *config.image_size),
            latent_shape=config.latent_shape,
            classes=config.classes,
            largest_activation=self.autoencoder.traits.largest_activation,
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LatentDiffusion:
        self.autoencoder._apply(fn)
        super()._apply(fn, recurse)
        return self

    def forward(self, x_t: Tensor, timesteps: Tensor, ids: Tensor) -> Tensor:
        """The prediction, of x_t's shape, [N, C, h, w]; ``ids`` are tokens of captions, int64 [N, L]."""
        return self._predict(x_t, timesteps, self.text_encoder(ids)[0])

    def _predict(self, x_t: Tensor, timesteps: Tensor, embeddings: Tensor | None) -> Tensor:
        prediction: Tensor = self.unet(x_t, timesteps, embeddings, return_dict=False)[0]
        return prediction

    @property
    def null(self) -> Tensor:
        """The tokens of the empty caption, [L]: the null condition."""
        return self.tokenizer.encode([""])[0]

    # ---------------------------------------------------------------------------------------------- the autoencoder
    @torch.no_grad()
    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logvar of q(z|x), each [N, C, h, w], as the autoencoder gives them: not normalised."""
        posterior = self.autoencoder.encode(images)
        mean, logvar = posterior.mean, posterior.logvar
        if mean.dim() == 2:  # of a VAEGAN, whose latent map is a vector of its pixels
            shape = self.config.latent_shape
            mean, logvar = unflatten(mean, shape), unflatten(logvar, shape)
        return mean.contiguous(), logvar.contiguous()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Images [N, channels, H, W] in [-1, 1] of normalised latents [N, C, h, w]."""
        z = self.scaling.denormalize(latents)
        images: Tensor = self.autoencoder.decode(flatten(z) if len(self.autoencoder.traits.latent_shape) == 1 else z)
        return images.clamp(-1, 1)

    # ----------------------------------------------------------------------------------------------------- sampling
    @torch.no_grad()
    def sample(
        self,
        n: int | None = None,
        *,
        captions: str | Sequence[str] | None = None,
        labels: int | Sequence[int] | Tensor | None = None,
        seeds: Sequence[int] | None = None,
        generator: torch.Generator | None = None,
        steps: int | None = None,
        solver: SolverName | None = None,
        guidance: float = 1.0,
        interval: tuple[float, float] = (0.0, 1.0),
        negative: str | None = None,
    ) -> Tensor:
        """Images of captions, in evaluation mode. [n, channels, H, W] in [-1, 1]

        The noise is drawn on the CPU, so that a seed means the same image on every device, in every batch (up to the
        rounding of sums) and in a pipeline of diffusers that is given the same seed.

        Args:
            n: how many; None: as many as there are captions, labels or seeds.
            captions: one for each image, or one for all; None: those of ``labels``, or without them the empty caption.
            labels: classes, where the model knows their captions.
            seeds: one for each image.
            generator: of the noise, where there are no seeds; torch's own state by default.
            steps, solver: the configuration's unless given.
            guidance, interval: of :func:`sdgan_ext.diffusion.guided`.
            negative: a caption to lead away from.

        Warns:
            UserWarning: words that were in no caption of the training, and captions that are too long and cut.

        Raises:
            ConfigError: settings that are out of range or at odds with each other; the empty caption or guidance of a
                model that was trained without.
            ValueError: numbers of captions, labels and seeds differ.
        """
        ids = self._ids(captions, labels, n, seeds)
        count = len(ids)
        shape = self.config.latent_shape
        noise = torch.randn(count, *shape, generator=generator) if seeds is None else seeded_noise(seeds, shape)
        size = self.traits.images_at_a_time(_MOST_AT_A_TIME)
        away = self._words([negative]) if negative is not None else None
        null = self.null if self.config.null_condition else None
        device = next(self.unet.parameters()).device
        images = []
        with evaluation_mode(self):
            lead, none = (None if given is None else self._embed(given.to(device)) for given in (away, null))
            for part, rows in zip(noise.split(size), ids.split(size), strict=True):
                embeddings = self._embed(rows.to(device))
                latents = sample(
                    self._predict,
                    self.path,
                    part.to(device),
                    embeddings,
                    steps=self.config.sampling_steps if steps is None else steps,
                    solver=self.config.solver if solver is None else solver,  # type: ignore[arg-type]
                    shift=self.config.shift,
                    guidance=guidance,
                    interval=interval,
                    null=none,
                    negative=None if lead is None else lead.expand_as(embeddings),
                )
                images.append(self.decode(latents))
        return torch.cat(images)

    def _embed(self, ids: Tensor) -> Tensor:
        """int64 [L] or [N, L] -> [L, D] or [N, L, D]."""
        hidden: Tensor = self.text_encoder(ids.reshape(-1, ids.shape[-1]))[0]
        return hidden.reshape(*ids.shape, -1)

    def _ids(
        self,
        captions: str | Sequence[str] | None,
        labels: int | Sequence[int] | Tensor | None,
        n: int | None,
        seeds: Sequence[int] | None,
    ) -> Tensor:
        """int64 [n, L]."""
        if captions is not None and labels is not None:
            raise ValueError("captions and labels are both given; one of them says what the images shall show")
        listed = captions if isinstance(captions, Sequence) and not isinstance(captions, str) else None
        several = labels if isinstance(labels, Sequence) or (isinstance(labels, Tensor) and labels.dim()) else None
        counts = {
            name: value if isinstance(value, int) else len(value)
            for name, value in (("n", n), ("captions", listed), ("labels", several), ("seeds", seeds))
            if value is not None
        }
        if len(set(counts.values())) > 1:
            raise ValueError(f"{' and '.join(f'{name} {count}' for name, count in counts.items())} do not agree")
        count = next(iter(counts.values()), 1)
        if count < 1:
            raise ValueError(f"{next(iter(counts))} is {count}; at least one image must be asked for")
        if labels is not None:
            if not self.config.class_captions:
                raise ConfigError("this model has no classes; give captions")
            classes = as_labels(labels, count, self.config)  # type: ignore[arg-type]
            assert classes is not None
            return self.tokenizer.encode(self.config.class_captions)[classes.cpu()]
        if captions is None:
            if not self.config.null_condition:
                raise ConfigError(
                    "captions are missing, and this model was trained with one for each image (condition_dropout 0)"
                )
            return self.null.expand(count, -1)
        return self._words([captions] * count if isinstance(captions, str) else captions)

    def _words(self, captions: Sequence[str]) -> Tensor:
        """The tokens of captions that a user wrote, int64 [N, L]."""
        distinct = list(dict.fromkeys(captions))
        for caption in distinct:
            if unknown := self.tokenizer.unknown_words(caption):
                words = ", ".join(map(shown, unknown[:5]))
                warnings.warn(
                    f"the model has never seen {words}, of the caption {shown(caption)}: no training caption has it",
                    stacklevel=4,
                )
        places = torch.tensor([distinct.index(caption) for caption in captions])
        return self.tokenizer.encode(distinct)[places]

    # ------------------------------------------------------------------------------------------------- the folder
    def save_pretrained(self, folder: str | Path) -> None:
        """Writes config.json and model.safetensors, and into subfolders the tokenizer and the autoencoder.

        Raises:
            DivergedError: a weight is NaN or infinite; nothing of the weights is written.
            CheckpointError: the folder cannot be written.
        """
        self.save_parts(folder)
        save_folder(folder, self.state_dict(), self.config.to_dict())

    def save_parts(self, folder: str | Path) -> None:
        """What is not trained, the autoencoder and the tokenizer, into subfolders of these names."""
        self.autoencoder.save_pretrained(Path(folder) / "autoencoder")
        self.tokenizer.save(Path(folder) / "tokenizer")

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: torch.device | str = "cpu") -> LatentDiffusion:
        """The model that :meth:`save_pretrained` wrote, in evaluation mode.

        Raises:
            CheckpointError: a file is missing, damaged, of a newer format, or of another architecture.
        """
        from ..training.runs import load_model  # which knows the autoencoders

        model = load_model(folder)
        if not isinstance(model, cls):
            raise ConfigError(f"{folder} is of a {type(model).__name__}; it must be of a latent diffusion model")
        return model.to(device)


class _Beside:
    """What a model and its copies share."""

    def __init__(self, autoencoder: Any, tokenizer: CaptionTokenizer):
        self.autoencoder, self.tokenizer = autoencoder, tokenizer

    def __deepcopy__(self, memo: dict[int, Any]) -> _Beside:
        return self


def check_autoencoder(autoencoder: Any) -> None:
    """That latents of its can be generated.

    Raises:
        ConfigError: they are no maps, it has no encoder, or it is conditioned on classes.
    """
    config = autoencoder.config
    if getattr(autoencoder, "encoder", None) is None:
        raise ConfigError("the autoencoder has no encoder (mode 'gan'), and so no latents of images")
    if len(config.latent_shape) != 3:
        raise ConfigError(
            f"the autoencoder's latents are vectors of {config.latent_shape[0]} numbers; a diffusion model needs maps: "
            "train one with --latent-map true, or one in diffusers' layout"
        )
    if config.classes:
        raise ConfigError("the autoencoder is conditioned on classes; a diffusion model needs one that is not")


def scaling_of(autoencoder: Any) -> LatentScaling | None:
    """As an autoencoder in diffusers' layout says; None: it says nothing of it."""
    vae = getattr(autoencoder, "vae", None)
    if vae is None:
        return None
    prior = autoencoder.prior
    if prior is None:
        return LatentScaling.from_config(vae.config)
    return LatentScaling(float(prior.scaling_factor), float(prior.shift_factor))


def _networks(config: LatentDiffusionConfig, tokenizer: CaptionTokenizer) -> tuple[torch.nn.Module, torch.nn.Module]:
    try:
        from diffusers import UNet2DConditionModel
        from transformers import CLIPTextConfig, CLIPTextModel
    except ImportError as error:
        raise ImportError(
            f"a latent diffusion model needs diffusers and transformers ({error}): pip install 'sdgan_ext[diffusion]'"
        ) from None
    clip = tokenizer.tokenizer
    try:
        unet: Any = UNet2DConditionModel(**config.for_unet())  # no Module where diffusers is not typed
        text: torch.nn.Module = CLIPTextModel(
            CLIPTextConfig(**config.for_text_encoder(clip.bos_token_id, clip.eos_token_id))
        )
    except (ValueError, TypeError) as error:
        first = str(error).splitlines()[0]
        raise ConfigError(f"diffusers or transformers cannot make networks of this configuration: {first}") from error
    return unet, text
