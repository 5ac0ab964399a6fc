"""Tests of devices.py: two processes take the step that one takes on all of their episodes.

    python -m pytest tests/test_devices.py        (some twenty seconds of one core)

The processes are started as torchrun starts them, by environment variables, and talk over gloo.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from canned import (
    FirstTokenAgent,
    distance,
    forkserver,
    make_run,
    metrics_of,
    random_episodes,
    refused,
    small_data,
)
from conftest import make_model, make_tokenizer
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

import grpo
import ppo
from backend import devices
from backend.lora import add_adapters, low_rank_layers
from grpo import GRPOOptions, token_weights
from policy import Policy
from ppo import PPOOptions, whiten
from training import results, run
from training.checkpoints import FILE, read
from training.state import RATIO_ERRORS
from trees import Row

N_RANKS = 2
pytestmark = pytest.mark.slow


# ---- Processes -----------------------------------------------------------------------------------

def as_rank(number: int, port: int, folder: Path, function, arguments: tuple) -> None:
    """One of the processes: what torchrun says to it, and its errors into a file."""
    os.environ.update(RANK=str(number), LOCAL_RANK=str(number), WORLD_SIZE=str(N_RANKS),
                      LOCAL_WORLD_SIZE=str(N_RANKS), MASTER_ADDR="localhost",
                      MASTER_PORT=str(port), TORCHELASTIC_RUN_ID="test")
    sys.stderr = open(folder / f"errors-{number}.txt", "w")
    torch.set_num_threads(1)
    devices.start()
    function(folder, *arguments)
    devices.end()


def together(folder: Path, function, *arguments) -> list[int]:
    """Run a function in all ranks; returns their exit codes."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    context = forkserver()
    started = [context.Process(target=as_rank, args=(number, port, folder, function, arguments))
               for number in range(N_RANKS)]
    for process in started:
        process.start()
    for process in started:
        process.join(120)
    return [process.exitcode for process in started]


def errors(folder: Path) -> str:
    return "\n".join(path.read_text() for path in sorted(folder.glob("errors-*.txt")))


# ---- The gradient --------------------------------------------------------------------------------

class ByTask:
    """Hands out the group of episodes that a task is the number of."""

    def __init__(self, groups: list):
        self.groups = groups

    def rollout(self, policy, tasks, group_size, temperature, generator=None):
        return [self.groups[task] for task in tasks]


def half_frozen(model: torch.nn.Module) -> None:
    """As with adapters: what is frozen has no gradient and is in nobody's sum."""
    for number, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(number % 2 == 1)


def with_adapters(model: torch.nn.Module) -> None:
    """Low-rank adapters that already learned something: at B = 0 the gradient of A would be 0."""
    add_adapters(model, 4)
    for layer in low_rank_layers(model).values():
        torch.nn.init.normal_(layer.lora_B, 0, 0.1)


CASES: dict[str, dict] = {
    "token": {}, "sequence": {"reduction": "sequence"}, "dropped": {"no_signal": "drop"},
    "frozen": {"freeze": half_frozen}, "adapters": {"freeze": with_adapters},
    "sharded": {"shard": True}, "sharded, frozen": {"shard": True, "freeze": half_frozen},
    "ppo": {"kind": PPOOptions}, "ppo, sharded": {"kind": PPOOptions, "shard": True},
    "ppo, shared critic, sharded": {"kind": PPOOptions, "critic": "shared", "shard": True},
}


class KeptCritic(ppo.Critic):
    """The last critic that a training made, and the gradient of its last update, whole."""

    gradient: list[torch.Tensor] = []

    def __init__(self, *given, **named):
        super().__init__(*given, **named)
        KeptCritic.last = self


def keep_and_clip(parameters, max_norm: float) -> float:
    """What ppo.py clips: first the critic's gradient, which the policy's updates then clear."""
    parameters = list(parameters)
    norm = devices.clip_gradients(parameters, max_norm)
    if {id(p) for p in parameters} == {id(p) for p in KeptCritic.last.parameters()}:
        KeptCritic.gradient = [devices.whole(p.grad).clone() for p in parameters
                               if p.grad is not None]
    return norm


def small_policy(seed: int = 0) -> Policy:
    # So few tokens a micro-batch that the ranks have different numbers of them.
    return Policy(make_model(seed=seed), make_tokenizer(), micro_batch_tokens=30)


def trained(folder: Path, agent, n_tasks: int, tasks=None, kind=GRPOOptions, freeze=None,
            saved=None, **options) -> tuple[Policy, list[dict]]:
    """Train a small model; the same call alone and in every rank."""
    torch.manual_seed(0)
    policy, reference = small_policy(), small_policy(seed=1)
    if freeze:
        freeze(policy.model)
    ppo.load_or_stop, ppo.Critic = lambda *given: small_policy(seed=2), KeptCritic
    ppo.clip_gradients = keep_and_clip
    if devices.world_size() == 1:
        options.pop("shard", None)
    torch.set_num_threads(1)
    one = make_run(policy, reference, agent, n_tasks, folder, tasks, kind=kind, **options)
    one.saved = saved
    if one.options.shard:
        devices.shard(policy)
        devices.shard(reference)
    rows, _ = (ppo if kind is PPOOptions else grpo).train(one)
    return policy, rows


def gradient(folder: Path, case: dict) -> tuple[list[torch.Tensor], list[torch.Tensor], dict]:
    """What a step leaves behind: gradients of policy and critic, whole, and its row."""
    groups = random_episodes(small_policy(), seed=5)
    for episode in groups[1]:
        episode.reward = 0.5  # a group without signal
    policy, rows = trained(folder, ByTask(groups), 3, group_size=4, kl=0.1, lr=1e-12,
                           **({"critic_lr": 1e-12} if "kind" in case else {}), epochs=2, **case)
    found = [devices.whole(p.grad) for p in policy.model.parameters() if p.grad is not None]
    return found, KeptCritic.gradient if "kind" in case else [], rows[0]


def both(folder: Path) -> None:
    """What the ranks do for the tests of gradients, and for those of whole steps below."""
    found = {name: gradient(folder / "ranks", case) for name, case in CASES.items()}
    found["steps"] = whole_steps(folder)
    found["sums"] = devices.add_up(Counter(kl=0.5, skipped=1))
    if devices.is_main():
        torch.save(found, folder / "found.pt")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("ranks")
    codes = together(folder, both)
    assert codes == [0, 0], errors(folder)
    return folder, torch.load(folder / "found.pt", weights_only=True)


@pytest.fixture
def found(ranks) -> dict[str, tuple]:
    return ranks[1]


@pytest.fixture
def alone():
    """`trained` changes what ppo.py makes its critic of."""
    kept = ppo.load_or_stop, ppo.Critic, ppo.clip_gradients
    n_threads = torch.get_num_threads()
    yield
    ppo.load_or_stop, ppo.Critic, ppo.clip_gradients = kept
    torch.set_num_threads(n_threads)


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_have_the_gradient_of_one(name, found, alone, tmp_path):
    policy, critic, row = gradient(tmp_path, CASES[name])
    off = distance(found[name][0], policy)
    assert len(found[name][0]) == len(policy) and off < 1e-5, (
        f"{name}: the gradient of two ranks is off by {off:.1e} of its size from that of one on "
        "the union. Divided by the tokens (or episodes) of one rank? Averaged, not summed, over "
        "ranks? Advantages whitened on one rank? A micro-batch left out?")
    assert bool(critic) == ("kind" in CASES[name]), f"{name}: the critic was not trained"
    if critic:
        assert distance(found[name][1], critic) < 1e-5, f"{name}: the critic's gradient"
    for column, value in row.items():
        if column not in ("seconds", *RATIO_ERRORS):
            assert found[name][2][column] == pytest.approx(value, rel=1e-4, abs=1e-6), (
                f"{name}: {column} is not that of the episodes of all ranks")
    for column in RATIO_ERRORS:
        assert found[name][2][column] == pytest.approx(row[column], rel=1e-3, abs=1e-6), (
            f"{column} is that of the tokens of all ranks, not a sum and not one rank's")


def test_an_update_that_all_ranks_left_out_counts_once(found):
    assert found["sums"] == {"kl": 1.0, "skipped": 1}, (
        "three skipped steps in a row end a run: added up over two ranks one would count as two, "
        "and three never be found")


# ---- Whole steps ---------------------------------------------------------------------------------

PROMPTS = [[5, 9, 14], [5, 9, 14]]  # one for each rank, and the same


class Recorded(FirstTokenAgent):
    """Remembers what this rank sampled."""

    def __init__(self):
        self.sampled = []

    def rollout(self, policy, tasks, group_size, temperature, generator=None):
        groups = super().rollout(policy, tasks, group_size, temperature, generator)
        if group_size > 1:
            self.sampled.append([[step.response_ids for e in g for step in e.steps]
                                 for g in groups])
        return groups


def whole_steps(folder: Path) -> dict:
    """Really sampled steps: plain, sharded, and sharded with a stop after the second."""
    found = {}
    options = {"steps": 4, "questions": 2, "group_size": 8, "lr": 1e-2, "epochs": 2}
    for name, extra in (("plain", {}), ("sharded", {"shard": True}),
                        ("ppo", {"shard": True, "kind": PPOOptions})):
        agent = Recorded()
        policy, rows = trained(folder / name, agent, 2, PROMPTS, **options, **extra)
        shares = devices.gather([agent.sampled])
        weights = [devices.whole(p.detach()) for p in policy.model.parameters()]
        found[name] = shares, rows, weights
    # Interrupted and resumed: by another state, which knows what the file holds and no more.
    again = {**options, "shard": True, "kind": PPOOptions, "save_every": 2}
    written, run.Run.log_step = run.Run.log_step, interrupted
    try:
        trained(folder / "again", Recorded(), 2, PROMPTS, **again)
    except SystemExit as stopped:
        found["code"] = stopped.code
    run.Run.log_step = written
    policy, rows = trained(folder / "again", Recorded(), 2, PROMPTS,
                           saved=read(folder / "again", {}), **again)
    found["again"] = rows, [devices.whole(p.detach()) for p in policy.model.parameters()]
    return found


def interrupted(self, row) -> None:
    if row["step"] == 2 and not devices.is_main():  # one hears it, all must stop
        os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def stepped(ranks) -> tuple[Path, dict]:
    return ranks[0], ranks[1]["steps"]


def test_ranks_sample_different_responses(stepped):
    folder, found = stepped
    (first, second), _, _ = found["plain"]
    assert [len(groups) for groups in first] == [1] * 4, "a question a rank and step"
    assert all(a != b for a, b in zip(first, second)), (
        "both ranks drew the same responses to the same prompt: seed by rank")


def test_one_rank_writes_what_all_have_sampled(stepped):
    folder, found = stepped
    steps = [row["step"] for row in metrics_of(folder / "plain")]
    assert steps == list("1234"), "written by every rank, or by none"
    lines = [json.loads(line) for line in
             (folder / "plain" / "samples.jsonl").read_text().splitlines()]
    assert Counter((line["step"], line["group"]) for line in lines) == {(1, 0): 8, (1, 1): 8}


def test_sharded_steps_are_plain_steps(stepped):
    _, found = stepped
    (shares, rows, weights), (other, other_rows, other_weights) = found["plain"], found["sharded"]
    assert shares == other, (
        "sharded weights sampled something else: were they gathered whole, and again after the "
        "optimizer's step?")
    assert distance(other_weights, weights) < 1e-4, "another update with sharded weights"
    for row, same in zip(rows, other_rows):
        assert row["ratio_error"] < 1e-4 and same["ratio_error"] < 1e-4
    assert rows[-1]["kl"] > 1e-3, "the test itself: nothing was learned"


def test_a_sharded_run_is_resumed_bit_for_bit(stepped):
    folder, found = stepped
    (_, _, weights), (rows_again, weights_again) = found["ppo"], found["again"]
    assert found["code"] == 130, "one rank was interrupted: all save and stop after that step"
    assert [row["step"] for row in rows_again] == [1, 2, 3, 4]
    assert all(torch.equal(a, b) for a, b in zip(weights, weights_again)), (
        "not the weights of the straight run: are moments, critic and every rank's random state "
        "whole in the file?")
    saved = torch.load(folder / "again" / FILE, weights_only=True)
    plain = {name: tuple(p.shape) for name, p in small_policy().model.named_parameters()}
    assert {name: tuple(p.shape) for name, p in saved["modules"]["policy"].items()
            if name in plain} == plain, "pieces in the file: other numbers of ranks cannot read it"


# ---- A whole command, and a rank that dies -------------------------------------------------------

def command(folder: Path, *argv: str) -> None:
    """grpo.py in every rank; the second kills itself in its third step when told to."""
    results.draw_curve = lambda *picture: None
    written = run.Run.log_step

    def log_step(self, row):
        written(self, row)
        if "--save-every" in argv and row["step"] == 3 and devices.rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)

    run.Run.log_step = log_step
    sys.argv = ["grpo.py", *argv]
    run.launch(lambda: grpo.main(argv))


def test_a_rank_that_dies_ends_the_run_and_leaves_it_resumable(tmp_path):
    make_model().save_pretrained(tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    small_data(tmp_path / "data.json", "Who skis?", "Who sings?", "Who swims?")
    argv = ["--shard", *(f"--{key}={value}" for key, value in {
        "model": tmp_path / "model", "data": tmp_path / "data.json", "agent": "answer",
        "questions": 3, "group-size": 4, "steps": 4, "max-new-tokens": 5, "kl": 0.1,
        "out": tmp_path / "run"}.items())]
    codes = together(tmp_path, command, *argv, "--save-every", "2")
    said = errors(tmp_path)
    assert codes == [1, -signal.SIGKILL], f"{codes}: {said}"
    assert said.count("error: ") == 1 and "--resume" in said and "torchrun" in said, said
    assert "Traceback" not in said, said
    codes = together(tmp_path, command, *argv, "--resume")
    assert codes == [0, 0], errors(tmp_path)
    assert [row["step"] for row in metrics_of(tmp_path / "run")] == list("1234")
    weights = load_file(tmp_path / "run" / "checkpoint" / "model.safetensors")
    shapes = {name: p.shape for name, p in small_policy().model.named_parameters()}
    assert {name: weights[name].shape for name in shapes} == shapes, "a piece, not the whole model"
    assert json.loads((tmp_path / "run/summary.json").read_text())["after"]["count"] == 3


# ---- Pure functions ------------------------------------------------------------------------------

@given(st.lists(st.integers()), st.integers(1, 9))
def test_every_item_has_one_rank(items, n_ranks):
    place, shares = [0], []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(devices, "world_size", lambda: n_ranks)
        patched.setattr(devices, "rank", lambda: place[0])
        for place[0] in range(n_ranks):
            shares.append(devices.spread(items))
    assert [item for share in shares for item in share] == items, "lost, doubled or out of order"
    assert max(map(len, shares)) - min(map(len, shares)) <= 1, "one rank has more than it must"


def test_alone_everything_is_as_it_was():
    values, sums = torch.tensor([1.0, 2.0]), Counter(kl=0.5, skipped=1)
    assert devices.world_size() == 1 and devices.is_main() and devices.own_seed(7) == 7
    assert devices.all_of(values) is values and devices.gather([1]) == [1]
    assert devices.add_up(sums) == sums and devices.spread([3, 4]) == [3, 4]
    batches = [[Row()], [Row(), Row()]]
    assert list(devices.in_step(batches, [Row()])) == batches
    weight = torch.nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([3.0, 4.0])
    assert devices.clip_gradients([weight], 1.0) == pytest.approx(5)
    assert weight.grad.tolist() == pytest.approx([0.6, 0.8])


def test_seeds_of_ranks_differ_where_it_counts(monkeypatch):
    seeds = []
    for number in range(1000):
        monkeypatch.setattr(devices, "rank", lambda: number)
        seeds += [devices.own_seed(seed) % 2**32 for seed in range(3)]
    assert len(set(seeds)) == len(seeds), "a CPU generator keeps 32 bits of a seed: two are equal"


@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), min_size=1, max_size=3))
def test_weights_of_a_rank_are_those_in_the_whole_batch(ranks):
    everyone = torch.tensor([length for lengths in ranks for length in lengths])
    for reduction in ("token", "sequence", "constant"):
        parts = [token_weights(torch.tensor(lengths), reduction, 9, everyone) for lengths in ranks]
        assert torch.allclose(torch.cat(parts), token_weights(everyone, reduction, 9)), reduction


def test_advantages_are_whitened_over_all_ranks():
    everyone = torch.tensor([1.0, 2.0, 6.0, 7.0])
    parts = [whiten(everyone[:1], everyone), whiten(everyone[1:], everyone)]
    assert torch.allclose(torch.cat(parts), whiten(everyone))


def test_one_device_cannot_shard(tmp_path):
    assert "torchrun" in refused(grpo.main, "--shard", "--out", tmp_path / "run")


def test_the_free_memory_is_that_of_the_container(monkeypatch):
    files = {"/proc/meminfo": "MemTotal: 9 kB\nMemAvailable:   1000000 kB\n"}

    def read_text(path: Path) -> str:
        if str(path) not in files:
            raise FileNotFoundError(path)
        return files[str(path)]

    monkeypatch.setattr(Path, "read_text", read_text)
    cpu = torch.device("cpu")
    assert devices.free_memory(cpu) == 1_024_000_000
    files["/sys/fs/cgroup/memory.current"] = "400000000\n"
    for limit, free in (("max", 1_024_000_000), ("500000000", 100_000_000), ("300000000", 0)):
        files["/sys/fs/cgroup/memory.max"] = limit + "\n"
        assert devices.free_memory(cpu) == free, "what the machine has, not what this process may"
    files.clear()
    assert devices.free_memory(cpu) == 0, "nobody can tell"
