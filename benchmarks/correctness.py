"""What do the published mistakes cost? Trains the right step and each mistake from one seed and compares.

    python benchmarks/correctness.py [--data FOLDER|digits] [--steps 200] [--only TEXT] [--out FILE]

One thread, one to three minutes, the same numbers on the same machine every time. Prints three tables and writes
benchmarks/results/correctness.csv; docs/correctness.md explains both. The right step is sdgan_ext.training.steps; the
mistakes are one plain autograd step with a switch for each, which without a mistake has the right step's gradients
(python_tests/training/test_peers_mistakes.py).
"""

import argparse
import copy
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from _harness import conditions, write_rows
from torch.nn.functional import softplus

import sdgan_ext as sd
from sdgan_ext import data, evaluation
from sdgan_ext.training import steps
from sdgan_ext.training.config import MODES, TrainConfig
from sdgan_ext.training.optimizers import make_optimizers

RESULTS = Path(__file__).parent / "results" / "correctness.csv"
MODEL = sd.VAEGANConfig(
    image_size=28, latent_dim=16, encoder_channels=(16, 32), generator_channels=(32, 16),
    discriminator_channels=(16, 32),
)  # fmt: skip
TRAIN = dict(batch_size=64, lr_encoder=1e-3, lr_generator=1e-3, lr_discriminator=2e-4, gamma=0.01, ema_images=0, seed=0)
LOOKED_AT = 2000  # test images, and samples


@dataclass(frozen=True)
class Step:
    """A way to train, right by its defaults; every other value is a mistake.

    Attributes:
        name: of the row.
        mode: as in TrainConfig.
        wrong_sign: the decoder takes D's loss as its own.
        detach: D is shown its generated images as constants.
        clears: when gradients are set to zero: before each "phase", once at the start of a "step", by each "optimizer"
            after its own step, or "never".
        reconstruct: the reconstruction has a gradient.
        real: D is shown real images.
        step_discriminator: D's optimizer is called.
        combined: one loss, sp(-D(G(z))), for D and G: the founding document's.
    """

    name: str
    mode: str = "vae-gan"
    wrong_sign: bool = False
    detach: bool = True
    clears: str = "phase"
    reconstruct: bool = True
    real: bool = True
    step_discriminator: bool = True
    combined: bool = False


RIGHT = {mode: Step(f"right, {mode}", mode) for mode in ("vae-gan", "gan")}
MISTAKES = (
    Step("wrong-sign decoder", wrong_sign=True),
    Step("D not stepped", step_discriminator=False),
    Step("D's branch not detached", detach=False, clears="step"),
    Step("G's loss left in D's gradients", clears="optimizer"),
    Step("gradients never cleared", clears="never"),
    Step("reconstruction under no_grad", reconstruct=False),
    Step("D never shown a real image", real=False),
    Step("one model trained to answer 1", "gan", combined=True),
)


# ------------------------------------------------------------------------------------------------------- the steps
def set_gradients(phase, model, images, config, step):
    """Of phase "D" or "E+G", as ``step`` has them; a mistake's may be added to what is there."""
    if step in RIGHT.values():
        right = steps.discriminator_phase if phase == "D" else steps.encoder_generator_phase
        right(model, images, config)
        return
    if step.clears == "phase" or (step.clears == "step" and phase == "D"):
        model.zero_grad()
    if phase == "D":
        if not step.combined:
            loss = discriminator_loss(model, images, detach=step.detach, real=step.real)
            reached = [model.discriminator] if step.detach else [*model.children()]
            loss.backward(inputs=parameters(reached), retain_graph=True)
        return
    adversarial = adversarial_loss(model, images, step.wrong_sign)
    of_generator = adversarial
    if step.mode == "vae-gan":
        with torch.set_grad_enabled(step.reconstruct):
            rec = 0.5 * (images.reconstructed - images.real).square().sum() / len(images.real)
        of_generator = of_generator + config.gamma * rec
        of_encoder = config.kl_weight * images.kl + rec
        of_encoder.backward(inputs=parameters([model.encoder]), retain_graph=True)
    of_generator.backward(inputs=parameters([model.generator, model.discriminator]))


def discriminator_loss(model, images, *, detach=True, real=True):
    fakes = made(images)
    logits = torch.cat([model.discriminator(x.detach() if detach else x) for x in fakes])
    loss = softplus(logits).mean()
    return loss + softplus(-model.discriminator(images.real)).mean() if real else loss


def adversarial_loss(model, images, wrong_sign=False):
    """The sum over both kinds of images of sp(-D(x^)); with the wrong sign D's own terms."""
    logits = [model.discriminator(x) for x in made(images)]
    return sum(softplus(x if wrong_sign else -x).mean() for x in logits)


def made(images):
    return [x for x in (images.reconstructed, images.generated) if x is not None]


def parameters(networks):
    return [parameter for network in networks for parameter in network.parameters()]


def take_step(model, optimizers, images, config, step):
    for phase, names in (("D", ["discriminator"]), ("E+G", ["encoder", "generator"])):
        set_gradients(phase, model, images, config, step)
        if step.combined:
            names = [] if phase == "D" else ["generator", "discriminator"]
        for name in names:
            if name in optimizers and (name != "discriminator" or step.step_discriminator):
                optimizers[name].step()
                if step.clears == "optimizer":
                    optimizers[name].zero_grad()


# ---------------------------------------------------------------------------------------- of one step, from one state
def compare_gradients(model, batches, config, step):
    """A step's gradients against the right one's at the same weights, and what small steps along them do.

    A step on the first of two ``batches`` goes before, in which nothing moves: it leaves what a mistake leaves.

    Returns:
        ``error_<network>``: |g - g_right| / |g_right|; ``adversarial_before``, ``adversarial_after``: G's adversarial
        loss around a step of G of the adversarial term alone (gamma 0), as long as lowers it by 0.5% in first order
        where the gradient is right; ``d_loss_before``, ``d_loss_after``: D's, likewise. The other networks stay.
    """
    right, row = RIGHT[step.mode], {}
    got, expected = (gradients(model, batches, config, which) for which in (step, right))
    for name in MODES[step.mode]:
        error = torch.cat([(a - b).flatten() for a, b in zip(got[name], expected[name], strict=True)]).norm()
        row[f"error_{name}"] = (error / norm(expected[name])).item()
    config = config.replace(gamma=0.0)
    got, expected = (gradients(model, batches, config, which) for which in (step, right))
    for name, loss, key in (
        ("generator", adversarial_loss, "adversarial"),
        ("discriminator", discriminator_loss, "d_loss"),
    ):
        moved = copy.deepcopy(model)
        before = measured(moved, batches[1], config, loss)
        if name == "generator" or step.step_discriminator:
            rate = 0.005 * before / norm(expected[name]).item() ** 2
            with torch.no_grad():
                for parameter, gradient in zip(getattr(moved, name).parameters(), got[name], strict=True):
                    parameter -= rate * gradient
        row |= {f"{key}_before": before, f"{key}_after": measured(moved, batches[1], config, loss)}
    return row


def gradients(model, batches, config, step):
    """{network: gradients} as the optimizers would get them, of the last batch."""
    model = copy.deepcopy(model)
    model.zero_grad()
    still = {name: torch.optim.SGD(getattr(model, name).parameters(), lr=0.0) for name in MODES[step.mode]}
    take_step(model, still, forward(model, batches[0], config, 1), config, step)
    images, found = forward(model, batches[1], config, 2), {}
    for phase, names in (("D", ["discriminator"]), ("E+G", ["encoder", "generator"])):
        set_gradients(phase, model, images, config, step)
        if step.combined:
            names = [] if phase == "D" else ["generator", "discriminator"]
        for name in set(names) & set(MODES[step.mode]):
            values = getattr(model, name).parameters()
            found[name] = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in values]
    return found


def norm(tensors):
    return torch.nn.utils.get_total_norm(tensors)


@torch.no_grad()
def measured(model, x, config, loss):
    model = copy.deepcopy(model)  # batch norm's statistics stay
    return loss(model, forward(model, x, config, 2)).item()


def forward(model, x, config, seed):
    return steps.forward(model, x, config, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------------------------------ of a training
def start(mode):
    torch.manual_seed(0)
    config = TrainConfig(mode=mode, **TRAIN)
    model = sd.VAEGAN(MODEL.for_mode(mode)).train()
    return model, make_optimizers(model, config), config


def train(model, optimizers, config, step, dataset, first, last, watch=None):
    """Steps ``first`` to ``last``; batch and noise of a step follow from its number.

    Returns:
        ``last``, or the number of the step whose images were not finite.
    """
    stream = data.batches(dataset, config.batch_size, seed=config.seed, start=first)
    for number in range(first, last):
        images = forward(model, next(stream)[0], config, number)
        if not all(x.isfinite().all() for x in made(images)):
            return number
        if watch is not None:
            watch(images)
        take_step(model, optimizers, images, config, step)
    return last


@torch.no_grad()
def judge(model, config, net, real, real_features):
    """Who wins, what is reconstructed, and how far 2,000 samples are from as many test images."""
    made = model.sample(len(real), seed=0)
    row = {"lenet_fd": evaluation.frechet_distance(real_features, evaluation.apply_net(net, made).features)}
    with model._evaluating():
        logits = {"real": model.discriminator(real), "noise": model.discriminator(torch.rand_like(real) * 2 - 1)}
        logits["fake"] = model.discriminator(made)
    row |= {
        "accuracy_real": (logits["real"] > 0).float().mean().item(),
        "accuracy_fake": (logits["fake"] <= 0).float().mean().item(),
        "accuracy_noise": (logits["noise"] <= 0).float().mean().item(),
        "logit_margin": (logits["real"].mean() - logits["fake"].mean()).item(),
    }
    if config.mode == "vae-gan":
        row["mse"] = (model.reconstruct(real) - real).square().mean().item()
    return row


def adversarial_gradient(model, x, config):
    """Norm of G's adversarial gradient, of the right form, at the weights that were reached."""
    model = copy.deepcopy(model)
    loss = adversarial_loss(model, forward(model, x, config, 2))
    return norm(torch.autograd.grad(loss, parameters([model.generator]))).item()


def resume(dataset, half, judge):
    """2N steps against N, a checkpoint, and N more; with the optimizers' state and without."""
    step = RIGHT["vae-gan"]
    model, optimizers, config = start(step.mode)
    train(model, optimizers, config, step, dataset, 0, half)
    saved = copy.deepcopy((model.state_dict(), {name: adam.state_dict() for name, adam in optimizers.items()}))
    ends = {}
    for name in ("2N steps", "resumed", "resumed without optimizer state"):
        mse = []
        if name != "2N steps":
            model, optimizers, config = start(step.mode)
            model.load_state_dict(saved[0])
        if name == "resumed":
            for key, adam in optimizers.items():
                adam.load_state_dict(copy.deepcopy(saved[1][key]))

        def watch(images, mse=mse):
            mse.append((images.reconstructed - images.real).square().mean().item())

        train(model, optimizers, config, step, dataset, half, 2 * half, watch)
        ends[name] = torch.cat([p.detach().flatten() for p in model.parameters()])
        way = torch.cat([saved[0][key].flatten() for key, _ in model.named_parameters()]) - ends["2N steps"]
        yield {
            "step": name,
            "weights_off": ((ends[name] - ends["2N steps"]).norm() / way.norm()).item(),
            "mse_before": mse[0],
            "mse_worst_of_20": max(mse[:20]),
            **judge(model, config),
        }


# ---------------------------------------------------------------------------------------------------------- the report
def show(title, rows, columns):
    print(f"\n{title}\n" + " " * 32 + "".join(f"{column:>21}" for column in columns))
    for row in rows:
        cells = ["" if row.get(column) is None else f"{row[column]:.4g}" for column in columns]
        print(f"{row['step']:32}" + "".join(f"{cell:>21}" for cell in cells), flush=True)


def main():
    folder = os.environ.get("SDGAN_TEST_DATA")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data",
        default=str(Path(folder, "mnist")) if folder else "digits",
        help="folder of the MNIST files, or digits: rendered ones (default: mnist in SDGAN_TEST_DATA, else digits)",
    )
    parser.add_argument("--steps", type=int, default=200, help="of each training; an even number")
    parser.add_argument("--only", default="", help="the mistakes whose name contains it")
    parser.add_argument("--out", type=Path, default=RESULTS, help="the CSV")
    args = parser.parse_args()
    torch.set_num_threads(1)
    dataset, test = (data.open_dataset(args.data, split=split) for split in ("train", "test"))
    real = next(data.batches(test, LOOKED_AT, seed=0))[0]
    batches = real[:64], real[64:128]
    net = evaluation.load_net("lenet")
    real_features = evaluation.apply_net(net, real).features

    def judged(model, config):
        return judge(model, config, net, real, real_features)

    rows, trained = [], {}
    for step in (*RIGHT.values(), *(mistake for mistake in MISTAKES if args.only in mistake.name)):
        model, optimizers, config = start(step.mode)
        finite = train(model, optimizers, config, step, dataset, 0, args.steps)
        trained.setdefault(step.mode, model)
        row = {"step": step.name, **compare_gradients(trained[step.mode], batches, config, step)}
        row["finite_steps"] = finite
        if finite == args.steps:
            row |= {**judged(model, config), "adversarial_gradient": adversarial_gradient(model, batches[1], config)}
        rows.append(row)
        print(step.name, flush=True)
    resumed = list(resume(dataset, args.steps // 2, judged))

    errors = [f"error_{name}" for name in ("encoder", "generator", "discriminator")]
    around = [f"{key}_{when}" for key in ("adversarial", "d_loss") for when in ("before", "after")]
    reached = [
        "finite_steps",
        "accuracy_real",
        "accuracy_fake",
        "accuracy_noise",
        "logit_margin",
        "adversarial_gradient",
        "mse",
    ]
    show("one step, at the weights of the right training", rows, errors + around)
    show(f"after {args.steps} steps", rows, [*reached, "lenet_fd"])
    of_resume = ["weights_off", "mse_before", "mse_worst_of_20", "mse", "lenet_fd"]
    show(f"N = {args.steps // 2}", resumed, of_resume)
    columns = ["step", *errors, *around, *reached, "lenet_fd", *of_resume[:3]]
    same = {"steps": args.steps, "data": "mnist" if args.data != "digits" else args.data, **conditions()}
    write_rows(args.out, [{column: row.get(column, "") for column in columns} | same for row in rows + resumed])


if __name__ == "__main__":
    main()
