"""Published mistakes of other trainers, beyond one step of one mode (those: test_invariants.py).

The optimizers' state that a resume forgets, the founding document's single model, and what benchmarks/correctness.py
says of every mistake, on which docs/correctness.md rests.
"""

import csv
import sys
from pathlib import Path

import pytest
import torch
from tiny import make_config, make_dataset, make_model

from sdgan_ext.data import batches
from sdgan_ext.training import health
from sdgan_ext.training.config import MODES
from sdgan_ext.training.optimizers import make_optimizers
from sdgan_ext.training.state import list_checkpoints, load_checkpoint, save_checkpoint
from sdgan_ext.training.steps import train_step
from sdgan_ext.training.trainer import Trainer

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import correctness  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


# --------------------------------------------------------------------------------- the optimizers' state lost on resume
def train(out, mode, steps):
    config = make_config(mode=mode, steps=steps, checkpoint_every=steps)
    return Trainer(make_model(mode), config, out=out, progress=False).fit(make_dataset())


def resumed(out, mode, forget=()):
    """5 steps, a checkpoint without the optimizer state of the networks in ``forget``, and 5 more."""
    run = train(out, mode, 5)
    state = load_checkpoint(list_checkpoints(run.checkpoints)[-1])
    for name in forget:
        assert state["optimizers"][name]["state"], f"the checkpoint holds nothing of the {name}'s optimizer"
        state["optimizers"][name]["state"] = {}
    save_checkpoint(run.checkpoints, state)
    return weights(Trainer.resume(run.folder, steps=10, progress=False).fit(make_dataset()))


def weights(run):
    return load_checkpoint(list_checkpoints(run.checkpoints)[-1])["model"]


@pytest.mark.parametrize("mode", MODES)
def test_resume_needs_the_state_of_every_optimizer(tmp_path, mode):
    whole, again = weights(train(tmp_path, mode, 10)), resumed(tmp_path, mode)
    assert all(torch.equal(whole[key], again[key]) for key in whole)
    for name in MODES[mode]:
        forgetful = resumed(tmp_path, mode, [name])
        own = [key for key in whole if key.startswith(name) and key.endswith("weight") and whole[key].dim() > 1]
        same = [key for key in own if torch.allclose(whole[key], forgetful[key], rtol=1e-3)]
        assert own and not same, f"without its optimizer's state the {name} ends with the same {same}"


# -------------------------------------------------- one model trained to answer 1 (the founding document)
def made_brighter(count=64):
    """Real images that noise is not: bright."""
    return make_dataset(count).images.float().div(255).mul(0.5).add(0.5)


def play(take, steps=300):
    """(health at the end, norm of G's adversarial gradient at the end over that at the start), in mode "gan"."""
    model, config = make_model("gan"), make_config(mode="gan", lr_generator=5e-3, lr_discriminator=5e-3)
    optimizers, x = make_optimizers(model, config), made_brighter()
    noise = torch.Generator().manual_seed(0)
    norms = []
    for step in range(steps):
        rows = torch.arange(8) + 8 * step % 64
        images = correctness.forward(model, x[rows], config, step)
        loss = correctness.adversarial_loss(model, images)
        norms.append(correctness.norm(torch.autograd.grad(loss, list(model.generator.parameters()))))
        take(model, optimizers, x[rows], config, step, noise)
    return health.measure(model, config, x, torch.randn(64, 4, generator=noise)), norms[-1] / norms[0]


def test_one_model_trained_to_answer_1_learns_nothing():
    def combined(model, optimizers, x, config, step, noise):
        images = correctness.forward(model, x, config, step)
        correctness.take_step(model, optimizers, images, config, correctness.MISTAKES[-1])

    def ours(model, optimizers, x, config, step, noise):
        train_step(model, optimizers, x, config, step=step, generator=noise)

    assert correctness.MISTAKES[-1].combined
    numbers, left = play(combined)
    assert numbers["accuracy_fake"] == 0, "D knows a generated image"
    assert left < 0.05, "the generator still has a gradient"
    _, left = play(ours)
    assert left > 1, "the generator has no gradient in ours either"


# ------------------------------------------------------------------------------------------ what the page rests on
@pytest.fixture(scope="module")
def compared():
    """{name: what the command says of one step}, at weights that were trained a little."""
    dataset, found = make_dataset(256, 28), {}
    stream = batches(dataset, 32, seed=1)
    looked_at = next(stream)[0], next(stream)[0]
    for mode, right in correctness.RIGHT.items():
        model, optimizers, config = correctness.start(mode)
        correctness.train(model, optimizers, config, right, dataset, 0, 4)
        mine = [right, correctness.Step(f"plain, {mode}", mode), *(m for m in correctness.MISTAKES if m.mode == mode)]
        found |= {m.name: correctness.compare_gradients(model, looked_at, config, m) for m in mine}
    return found


def wrong(numbers):
    return {key[len("error_") :] for key, value in numbers.items() if key.startswith("error_") and value > 1e-4}


@pytest.mark.parametrize("name", ["right, gan", "plain, gan", "right, vae-gan", "plain, vae-gan"])
def test_without_a_mistake_the_gradients_are_right_and_both_losses_fall(compared, name):
    numbers = compared[name]
    assert not wrong(numbers)
    assert numbers["adversarial_after"] < numbers["adversarial_before"]
    assert numbers["d_loss_after"] < numbers["d_loss_before"]


@pytest.mark.parametrize(
    ("name", "whose"),
    [
        ("wrong-sign decoder", {"generator"}),
        ("D not stepped", set()),  # its gradients are right
        ("D's branch not detached", {"encoder", "generator"}),
        ("G's loss left in D's gradients", {"discriminator"}),
        ("gradients never cleared", {"encoder", "generator", "discriminator"}),
        ("reconstruction under no_grad", {"encoder", "generator"}),
        ("D never shown a real image", {"discriminator"}),
        ("one model trained to answer 1", {"discriminator"}),
    ],
)
def test_a_mistake_shows_in_the_gradients_of(compared, name, whose):
    assert {mistake.name for mistake in correctness.MISTAKES} <= compared.keys()
    assert wrong(compared[name]) == whose


def test_a_small_step_shows_which_way_a_mistake_goes(compared):
    sign = compared["wrong-sign decoder"]
    assert sign["adversarial_after"] > sign["adversarial_before"]
    unstepped = compared["D not stepped"]
    assert unstepped["d_loss_after"] == unstepped["d_loss_before"]
    for name in ("G's loss left in D's gradients", "one model trained to answer 1"):
        assert compared[name]["d_loss_after"] > compared[name]["d_loss_before"]


def test_the_page_and_the_committed_numbers_have_every_step():
    page = (ROOT / "docs" / "correctness.md").read_text()
    with (ROOT / "benchmarks" / "results" / "correctness.csv").open() as file:
        named = [row["step"] for row in csv.DictReader(file)]
    assert {mistake.name for mistake in correctness.MISTAKES} <= set(named)
    assert not [name for name in named if f"| {name} |" not in page]
