"""Other people's models (python_tests/accelerate/foreign.py), stock against the same after ``sd.accelerate``.

    forward          in evaluation mode, without a graph
    training step    forward, backward, fused Adam

``sd.accelerate`` has an example, so it measures each layer and leaves alone what is slower. "sdgan_ext NCHW" is held
against "eager", "sdgan_ext" against "eager channels_last".
"""

import copy
import sys
from pathlib import Path

import torch
from _harness import entry_points

import sdgan_ext as sd
from sdgan_ext.bench.cases import CHANNELS_LAST, EAGER, NCHW, OURS, Case

sys.path.insert(0, str(Path(__file__).parents[1] / "python_tests/accelerate"))
from foreign import FOREIGN  # noqa: E402

QUICK = ("dcgan-generator", "dcgan-discriminator")


def forward_of(model, x):
    model.eval()

    def forward(x):
        with torch.no_grad():
            return model(x)

    return forward, (x,)


def training_step_of(model, x):
    optimizer = torch.optim.Adam(model.parameters(), 1e-4, fused=True)

    def step(x):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()

    return step, (x,)


def case(name, what, contestant_of):
    foreign = FOREIGN[name]

    def build():
        model, x = foreign.large(), torch.randn(*foreign.large_input)
        if contestant_of is forward_of:
            model.eval()
        contestants = {}
        layouts = (EAGER, NCHW, torch.contiguous_format), (CHANNELS_LAST, OURS, torch.channels_last)
        for stock, ours, layout in layouts:
            images = x.contiguous(memory_format=layout)
            for contestant in (stock, ours):
                own = copy.deepcopy(model).to(memory_format=layout)
                if contestant == ours:
                    sd.accelerate(own, images)
                contestants[contestant] = contestant_of(own, images)
        return contestants

    shape = f"{name} {'x'.join(map(str, foreign.large_input))}, {what}"
    names = (EAGER, NCHW, CHANNELS_LAST, OURS)
    return Case("accelerate", shape, build, names, passes=("step",), compiled=None, budget=8.0, quick=name in QUICK)


CASES = [
    case(name, what, contestant_of)
    for name in FOREIGN
    for what, contestant_of in (("forward", forward_of), ("training step", training_step_of))
]

test_speed, main = entry_points("bench_accelerate", CASES)

if __name__ == "__main__":
    main()
