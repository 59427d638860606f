"""Two hosts, a network namespace each: they follow one process, and a link that is cut and comes back costs no run.

Needs Linux, root and ``ip`` of iproute2. The hosts share their folders, as hosts of one training must.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch.distributed as dist
from safetensors.torch import load_file

from sdgan_ext._env import peer_timeout
from sdgan_ext.cli import main
from sdgan_ext.training.distributed import Processes

pytestmark = pytest.mark.skipif(not dist.is_gloo_available(), reason="this torch has no gloo")

STEPS, CUT, EVERY = 50, 30, 8
COMMAND = (
    f"train --data digits --preset mnist-small --sync-batch-norm true --batch-size 4 --latent-dim 4 --feature-layer 0 "
    f"--steps {STEPS} --log-every 1 --checkpoint-every {EVERY} --encoder-channels 4 --generator-channels 4 "
    "--discriminator-channels 4"
).split()
ADDRESSES = ("192.0.2.1", "192.0.2.2")  # of documentation: no host has them

#: In the first start, both wait before a step until the link is cut, and then take it.
SCRIPT = """
import os, sys, time
from pathlib import Path
import torch
from sdgan_ext.cli import main
from sdgan_ext.training import trainer

cut_at = int(sys.argv[1])
torch.set_num_threads(1)
real_step = trainer.train_step


def train_step(*arguments, step, **options):
    if step == cut_at:
        Path(f"waiting {os.environ['RANK']}").touch()
        while not Path("cut").exists():
            time.sleep(0.05)
    return real_step(*arguments, step=step, **options)


trainer.train_step = train_step
sys.exit(main(sys.argv[2:]))
"""


def ip(*words):
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True, timeout=20)


@pytest.fixture
def hosts():
    """The names of two namespaces, each with one end of a link and an address."""
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need Linux, root and ip of iproute2")
    names = [f"sdgan{os.getpid()}{end}" for end in "ab"]
    try:
        try:
            for name in names:
                ip("netns", "add", name)
            ip("link", "add", "end0", "netns", names[0], "type", "veth", "peer", "name", "end1", "netns", names[1])
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
        for i, (name, address) in enumerate(zip(names, ADDRESSES, strict=True)):
            ip("-n", name, "addr", "add", f"{address}/24", "dev", f"end{i}")
            for device in ("lo", f"end{i}"):
                ip("-n", name, "link", "set", device, "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def launch(folder, host, i):
    """torchrun's agent on a host, in a session of its own; what it and its process say goes to a file."""
    agent = (
        f"-m torch.distributed.run --nnodes 2 --nproc-per-node 1 --max-restarts 3 --rdzv-backend c10d --rdzv-id one "
        f"--rdzv-endpoint {ADDRESSES[0]}:29400 --local-addr {ADDRESSES[i]} "
        f"--rdzv-conf is_host={int(i == 0)},join_timeout=120,read_timeout=120"
    ).split()
    variables = {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": f"end{i}",
        "SDGAN_PEER_TIMEOUT": "8",
    }
    with (folder / f"host {i}.txt").open("w") as said:
        return subprocess.Popen(
            ["ip", "netns", "exec", host, sys.executable, *agent, "script.py", str(CUT), *COMMAND, "--out", "runs"],
            cwd=folder,
            env={**os.environ, **variables},
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def wait_until(condition, agents, seconds, what):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {seconds} s"
        assert all(agent.poll() is None for agent in agents), f"{what}: an agent has ended"
        time.sleep(0.1)


def test_a_cut_link_ends_in_a_sentence_and_the_restart_follows_one_process(hosts, tmp_path, monkeypatch):
    (tmp_path / "script.py").write_text(SCRIPT)
    agents = [launch(tmp_path, host, i) for i, host in enumerate(hosts)]

    def said():
        return [(tmp_path / f"host {i}.txt").read_text() for i in (0, 1)]

    try:
        waiting = [tmp_path / f"waiting {rank}" for rank in (0, 1)]
        wait_until(lambda: all(map(Path.exists, waiting)), agents, 120, "the steps before the cut")
        ip("-n", hosts[1], "link", "set", "end1", "down")
        (tmp_path / "cut").touch()
        wait_until(lambda: all("has lost another one" in text for text in said()), agents, 60, "the sentence")
        ip("-n", hosts[1], "link", "set", "end1", "up")
        codes = [agent.wait(timeout=150) for agent in agents]
    finally:
        for agent in agents:
            if agent.poll() is None:
                os.killpg(agent.pid, signal.SIGKILL)
                agent.wait()
        print(*said(), sep="\n" + "-" * 80 + "\n")  # pytest shows it where the test fails
    assert codes == [0, 0]
    for rank, text in enumerate(said()):
        (line,) = (line for line in text.splitlines() if "has lost another one" in line)
        assert f"process {rank} of 2 has lost another one" in line and "Timed out" in line
        assert "Traceback" not in text
    (run,) = (tmp_path / "runs").iterdir()
    assert re.search(rf"^start \d by torchrun: {run} goes on from step {CUT // EVERY * EVERY}$", said()[0], re.M)
    assert said()[0].count(f"{STEPS} steps taken") == 1

    monkeypatch.chdir(tmp_path)
    assert main([*COMMAND, "--out", "alone"]) == 0
    (alone,) = (tmp_path / "alone").iterdir()
    logs = [[json.loads(line) for line in (folder / "log.jsonl").open()] for folder in (run, alone)]
    assert [entry["step"] for entry in logs[0]] == list(range(1, STEPS + 1))
    for entry, want in zip(*logs, strict=True):
        losses = [key for key in want if key.startswith(("discriminator/", "encoder_generator/"))]
        losses = [key for key in losses if key not in ("discriminator/real", "discriminator/fake")]  # logits, around 0
        assert len(losses) > 5
        assert [entry[key] for key in losses] == pytest.approx([want[key] for key in losses], rel=1e-4)
    got, want = (load_file(folder / "model/model.safetensors") for folder in (run, alone))
    for key, value in want.items():
        error = (got[key] - value).double().norm() / value.double().norm().clamp_min(1e-3)
        assert error < 1e-4, (key, error)


@pytest.mark.parametrize("value", ["soon", "0", "-1", "nan", "1e9"])
def test_a_timeout_that_is_none_is_refused(monkeypatch, capsys, value):
    monkeypatch.setenv("SDGAN_PEER_TIMEOUT", value)
    with pytest.raises(ValueError, match=f"SDGAN_PEER_TIMEOUT is '{value}'; it must be a number of seconds"):
        peer_timeout()
    assert main(["train", "--data", "digits", "--dry-run"]) == 2
    assert "SDGAN_PEER_TIMEOUT" in capsys.readouterr().err


def test_the_variable_is_how_long_a_process_is_waited_for(monkeypatch):
    asked = SimpleNamespace(timeout=None)

    def rendezvous(url, timeout):
        asked.timeout = timeout
        raise RuntimeError("no")

    monkeypatch.setattr(dist, "rendezvous", rendezvous)
    for variable, argument, seconds in ((None, None, 600), ("45", None, 45), ("45", 3, 3)):
        if variable is not None:
            monkeypatch.setenv("SDGAN_PEER_TIMEOUT", variable)
        with pytest.raises(Exception, match="has lost another one"):
            Processes(timeout=argument)
        assert asked.timeout.total_seconds() == seconds
