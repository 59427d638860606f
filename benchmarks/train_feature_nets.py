"""Trains the feature nets that sdgan_ext/evaluation ships, and writes them with what there is to know about them.

    python benchmarks/train_feature_nets.py lenet --data FOLDER     # the four MNIST files; a minute
    python benchmarks/train_feature_nets.py photos --data FOLDER    # clothing128 and monet256 unpacked; a minute

One thread and fixed seeds: the same machine and torch give the same bytes. Another CPU may round elsewhere; the net
that is shipped is the one whose SHA-256 stands in sdgan_ext/evaluation/features.py, which this command prints.

`lenet` learns the ten digits of MNIST's training set. `photos` learns eleven classes, the ten kinds of clothes of the
photos (https://github.com/alexeygrigorev/clothing-dataset-small, CC0) and Monet's paintings (public domain), and beside
them which of five ways an image was spoilt (not, blurred, noisy, pixelated, colours shifted): the features of a
net that only separates clothes hardly change with what generated images get wrong. The second head is not kept.
"""

import argparse
import hashlib
import json
from pathlib import Path

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import nn

import sdgan_ext as sd
from sdgan_ext import data
from sdgan_ext.evaluation.features import LeNet, PhotoNet

NETS = Path(sd.__file__).parent / "evaluation" / "nets"
SPOILT = ("not", "blurred", "noisy", "pixelated", "colour-shifted")


def shift(images, most, generator):
    """Each image moved by up to `most` pixels, its border repeated."""
    padded = F.pad(images, (most,) * 4, mode="replicate")
    size = images.shape[-1]
    moves = torch.randint(0, 2 * most + 1, (len(images), 2), generator=generator).tolist()
    return torch.stack([x[:, i : i + size, j : j + size] for x, (i, j) in zip(padded, moves, strict=True)])


def optimise(parameters, loss_of, steps, rate, weight_decay=0.0):
    optimizer = torch.optim.AdamW(parameters, rate, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    for step in range(steps):
        optimizer.zero_grad()
        loss = loss_of()
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % 250 == 0:
            print(f"step {step + 1:,} of {steps:,}: loss {loss.item():.4f}", flush=True)


@torch.no_grad()
def accuracy(net, images, labels):
    net.eval()
    logits = torch.cat([net(data.to_float(part))[1] for part in images.split(500)])
    return (logits.argmax(1) == labels).float().mean().item()


def train_lenet(folder, epochs=8):
    train, test = data.open_dataset(folder), data.open_dataset(folder, split="test")
    net, chance = LeNet(tuple("0123456789")), torch.Generator().manual_seed(0)
    batches = data.batches(train, 128, seed=0)

    def loss_of():
        images, labels = next(batches)
        return F.cross_entropy(net(shift(images, 1, chance))[1], labels)

    optimise(net.parameters(), loss_of, epochs * len(train) // 128, 3e-3, 1e-2)
    return net, {"test_accuracy": accuracy(net, test.images, test.labels), "data": "MNIST, the 60,000 training images"}


def load_photos(folder):
    """((images, labels) to train on, the same to test on, class names): a sixth of the paintings are held out."""
    folder = Path(folder)
    classes = sorted(path.name for path in (folder / "clothing128" / "train").iterdir()) + ["painting"]
    monet = data.load_image_folder(folder / "monet256", 64, 3).images
    held = len(monet) // 6
    parts = []
    for split, paintings in (("train", monet[held:]), ("test", monet[:held])):
        photos = data.load_image_folder(folder / "clothing128" / split, 64, 3)
        labels = torch.cat([photos.labels, torch.full((len(paintings),), 10)])
        parts.append((torch.cat([photos.images, paintings]), labels))
    return *parts, tuple(classes)


def spoil(x, kinds, generator):
    """[N, 3, 64, 64] in [-1, 1], each in the way of its kind."""

    def blur(x, strength):
        return torch.lerp(x, F.avg_pool2d(F.pad(x, (2,) * 4, mode="replicate"), 5, 1), strength)

    strength = torch.rand(len(x), 1, 1, 1, generator=generator) * 0.8 + 0.2
    noise = torch.randn(x.shape, generator=generator)
    colour = torch.rand(len(x), 3, 1, 1, generator=generator) - 0.5
    ways = (
        lambda x, at: x,
        lambda x, at: blur(x, strength[at]),
        lambda x, at: x + 0.3 * strength[at] * noise[at],
        lambda x, at: torch.lerp(x, F.interpolate(F.avg_pool2d(x, 4), scale_factor=4), strength[at]),
        lambda x, at: x + strength[at] * colour[at],
    )
    spoilt = torch.empty_like(x)
    for kind, way in enumerate(ways):
        at = kinds == kind
        spoilt[at] = way(x[at], at)
    return spoilt.clamp(-1, 1)


def train_photos(folder, epochs=60, batch=64):
    (images, labels), (test_images, test_labels), classes = load_photos(folder)
    net, chance = PhotoNet(classes), torch.Generator().manual_seed(0)
    spoilt = nn.Linear(net.num_features, len(SPOILT))
    steps = epochs * len(images) // batch

    def draw():
        while True:
            yield from torch.randperm(len(images), generator=chance).split(batch)

    order = draw()

    def loss_of():
        net.train()
        pick = next(order)
        x = data.to_float(images[pick])
        flip = torch.rand(len(x), generator=chance) < 0.5
        x = shift(torch.where(flip[:, None, None, None], x.flip(3), x), 6, chance)
        gain = 0.8 + 0.4 * torch.rand(len(x), 1, 1, 1, generator=chance)
        kinds = torch.randint(0, len(SPOILT), (len(x),), generator=chance)
        features, logits = net(spoil((x * gain).clamp(-1, 1), kinds, chance))
        return F.cross_entropy(logits, labels[pick]) + 0.5 * F.cross_entropy(spoilt(features), kinds)

    optimise([*net.parameters(), *spoilt.parameters()], loss_of, steps, 4e-3, 2e-2)
    with torch.no_grad():
        chance.manual_seed(1)
        kinds = torch.randint(0, len(SPOILT), (len(test_images),), generator=chance)
        net.eval()
        features, _ = net(spoil(data.to_float(test_images), kinds, chance))
        accuracy_spoilt = (spoilt(features).argmax(1) == kinds).float().mean().item()
    facts = {
        "test_accuracy": accuracy(net, test_images, test_labels),
        "test_accuracy_spoilt": accuracy_spoilt,
        "data": "clothing128: 1,534 photos of the training split; monet256: 250 of 300 paintings; 64x64",
    }
    return net, facts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("net", choices=("lenet", "photos"))
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", default=NETS, type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(0)
    net, facts = {"lenet": train_lenet, "photos": train_photos}[args.net](args.data)
    facts = {key: f"{value:.4f}" if isinstance(value, float) else value for key, value in facts.items()}
    facts |= {
        "classes": ",".join(net.classes),
        "command": f"python benchmarks/train_feature_nets.py {args.net} --data FOLDER",
        "torch": torch.__version__,
    }
    state = {key: value.contiguous() for key, value in net.state_dict().items()}
    # One key: safetensors writes several in an order that changes from process to process, and with it the hash.
    content = safetensors.torch.save(state, metadata={"facts": json.dumps(facts)})
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / f"{args.net}.safetensors").write_bytes(content)
    print(facts)
    print(f"{len(content):,} bytes, SHA-256 {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    main()
