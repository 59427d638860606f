"""This package's trainer of an AutoencoderKL beside diffusers' own script: the same network, images and settings.

    python benchmarks/compare_autoencoder_trainers.py --script train_autoencoderkl.py --data FOLDER --images 32000

``--script`` is examples/research_projects/autoencoderkl/train_autoencoderkl.py of a clone of diffusers, run as it is
(benchmarks/_kl_script.py: with stand-ins for packages that the comparison does not need). Both sides begin with the
same weights of the network in ``--config``, diffusers' config.json, and see N images of FOLDER's training split, the
same PNG files of the same size, in an order of their own. Both have absolute error summed over an image, a KL weight of
1e-6, the same PatchGAN with group norm and hinge loss from ``--disc-start`` of the images on, by the adaptive weight,
Adam with the same rates, betas and batches; no perceptual term, no average of weights, no bound on gradients, no
warm-up. From then on the script takes turns, a batch for D and a batch for the autoencoder, while ours trains both on
every batch: at equal images it has taken half as many steps of each.

Prints, and writes to benchmarks/results/autoencoder_trainers.csv, what ``sdgan-ext evaluate`` says of both folders on
the test split (PSNR, SSIM, rfd: docs/evaluation.md) and seconds a step, without pictures and checkpoints. A step of the
script is of one network, and it decodes its images as it goes; ours are in memory.
"""

import argparse
import hashlib
import json
import tempfile
from pathlib import Path

import _kl_script
import torch
from _harness import RESULTS, conditions, write_rows

import sdgan_ext as sd
from sdgan_ext.pictures import save_png
from sdgan_ext.training.autoencoder_config import AutoencoderConfig
from sdgan_ext.training.denormals import flushed_denormals
from sdgan_ext.training.diffusers_files import config_of, make_autoencoder
from sdgan_ext.training.runs import load_model

BETAS = (0.5, 0.9)
KL_WEIGHT, ADAPTIVE_WEIGHT = 1e-6, 0.1
DISCRIMINATOR = {"discriminator_channels": (32, 64, 128), "discriminator_norm": "group", "learned_variance": False}
JUDGED = ("psnr", "ssim", "mse", "photos-rfd", "lenet-rfd", "latent_std", "latent_active")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--script", type=Path, required=True, help="the path of train_autoencoderkl.py")
    parser.add_argument("--data", required=True, help="a folder of images with a training and a test split")
    parser.add_argument("--images", type=int, default=32_000, help="that each side is trained on (default: 32000)")
    parser.add_argument("--config", type=Path, help="config.json of the network; that of preset kl-f4-64 unless given")
    parser.add_argument("--image-size", type=int, default=64, help="side of the images (default: 64)")
    parser.add_argument("--batch-size", type=int, default=16, help="images a step (default: 16)")
    parser.add_argument("--lr", type=float, default=5e-4, help="learning rate of the autoencoder (default: 5e-4)")
    parser.add_argument("--disc-lr", type=float, default=2e-4, help="of the discriminator (default: 2e-4)")
    parser.add_argument("--disc-start", type=float, default=0.5, help="share of the images before it (default: 0.5)")
    parser.add_argument("--n", type=int, help="test images; all unless given")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--work", type=Path, help="the folder for both; a temporary one unless given")
    parser.add_argument("--out", type=Path, default=RESULTS / "autoencoder_trainers.csv", help="the CSV")
    args = parser.parse_args()
    if not args.script.is_file():
        parser.error(f"--script is {args.script}, which is no file; it is in a clone of diffusers")
    if args.images < 2 * args.batch_size:
        parser.error(f"--images is {args.images}; it must be two batches or more, {2 * args.batch_size}")
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as temporary:
        work = args.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        rows = compare(args, work)
    for row in rows:
        print({name: value for name, value in row.items() if value != ""})
    write_rows(args.out, rows)


def compare(args, work):
    config = network(args)
    torch.manual_seed(args.seed)
    make_autoencoder(config.for_diffusers()).save_pretrained(work / "start")
    opened = {
        split: sd.data.open_dataset(args.data, split=split, image_size=config.image_size, channels=config.channels)
        for split in ("train", "test")
    }
    write_images(opened["train"], work / "images")
    steps = args.images // args.batch_size
    sides = {"sdgan_ext": ours, "train_autoencoderkl.py": theirs}
    shared = {"data": Path(args.data).name, "images": steps * args.batch_size, "batch_size": args.batch_size}
    shared |= {"image_size": args.image_size, "disc_start": int(args.disc_start * steps), "seed": args.seed}
    rows = []
    for name, train in sides.items():
        folder, seconds = train(args, config, steps, work)
        model = load_model(folder, image_size=args.image_size)
        values = sd.evaluation.evaluate(model, opened["test"], n=args.n)
        rows.append(
            {"trainer": name, **shared, "seconds_per_step": round(seconds, 4)}
            | {key: round(values[key], 4) for key in JUDGED if key in values}
            | {"script_sha256": hashlib.sha256(args.script.read_bytes()).hexdigest()[:16]}
            | conditions()
        )
    return rows


def network(args):
    if args.config is None:
        return sd.preset("kl-f4-64").model.replace(image_size=args.image_size, **DISCRIMINATOR)
    whole = config_of(make_autoencoder(json.loads(args.config.read_text())))
    return AutoencoderConfig.of_diffusers(whole, str(args.config), image_size=args.image_size, **DISCRIMINATOR)


def write_images(dataset, folder):
    """As PNG files, which both sides read."""
    folder.mkdir(exist_ok=True)
    for i in range(len(dataset)):
        image = sd.data.to_uint8(dataset.batch(torch.tensor([i]))[0])[0]
        save_png(folder / f"{i:06d}.png", image)


def ours(args, config, steps, work):
    """The folder of the trained model, and seconds a step."""
    model = sd.autoencoder(work / "start", image_size=args.image_size, **DISCRIMINATOR)
    train = sd.TrainConfig(
        mode="vae-gan",
        steps=steps,
        batch_size=args.batch_size,
        seed=args.seed,
        lr_encoder=args.lr,
        lr_generator=args.lr,
        lr_discriminator=args.disc_lr,
        betas=BETAS,
        objective="hinge",
        prior_images=False,
        disc_start=int(args.disc_start * steps),
        adaptive_weight=ADAPTIVE_WEIGHT,
        kl_weight=KL_WEIGHT,
        pixel_loss="l1",
        ema_images=0,
    )
    with flushed_denormals():
        run = sd.Trainer(model, train, out=work / "runs").fit(str(work / "images"))
    return run.model, run.seconds / steps


def theirs(args, config, steps, work):
    folder = work / "theirs"
    folder.mkdir(exist_ok=True)
    flags = {
        "pretrained_model_name_or_path": work / "start",
        "train_data_dir": work / "images",
        "output_dir": folder / "model",
        "resolution": args.image_size,
        "train_batch_size": args.batch_size,
        "max_train_steps": steps,
        "seed": args.seed,
        "learning_rate": args.lr,
        "disc_learning_rate": args.disc_lr,
        "adam_beta1": BETAS[0],
        "adam_beta2": BETAS[1],
        "adam_weight_decay": 0,
        "max_grad_norm": 1e12,
        "rec_loss": "l1",
        "kl_scale": KL_WEIGHT,
        "perceptual_scale": 0,
        "disc_start": int(args.disc_start * steps),
        "disc_scale": ADAPTIVE_WEIGHT,
        "disc_loss": "hinge",
        "validation_image": work / "images" / "000000.png",
        "validation_steps": 10 * steps,
        "checkpointing_steps": 10 * steps,
    }
    seconds, count = _kl_script.run(args.script.resolve(), flags, config, folder, args.threads)
    if count != steps:
        raise SystemExit(f"{args.script} took {count} optimizer steps, {steps} were asked for")
    return folder / "model", seconds / (count - 1)


if __name__ == "__main__":
    main()
