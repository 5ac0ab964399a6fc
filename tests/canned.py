"""Agents, episodes, processes, commands and an oracle that several test files share."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import importlib
import io
import itertools
import json
import math
import multiprocessing
import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import torch

from grpo import GRPOOptions
from memory_bank import hashed_words
from policy import Policy
from training.options import resolve
from training.run import Run
from trees import Episode, Step

ROOT = Path(__file__).resolve().parent.parent


def forkserver():
    """A way to start processes that have torch and this project loaded already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["grpo", "ppo", "conftest", "torch.distributed.fsdp"])
    return context


def printed_by_processes(script: str) -> set[str]:
    """What two Pythons print that hash strings otherwise: one text, unless hash() decides it."""
    return {subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True,
                           env={**os.environ, "PYTHONHASHSEED": seed}, check=True).stdout
            for seed in "12"}


def call(name: str | Callable, *arguments: object) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of a module's main, or of a function, run in this process."""
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main = name if callable(name) else importlib.import_module(name).main
            main([str(argument) for argument in arguments])
        except SystemExit as stopped:
            code = stopped.code
    return code, out.getvalue(), err.getvalue()


def refused(name: str | Callable, *arguments: object) -> str:
    """The one line with which a command refuses its arguments."""
    code, out, err = call(name, *arguments)
    typed = f"{name} {' '.join(map(str, arguments))}"
    assert code == 2, f"{typed}: exit code {code}, expected 2"
    # The libraries' own progress bars and warnings are not ours to silence.
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, f"{typed}: expected one line of error, got {err!r}"
    assert "Traceback" not in err + out, f"{typed}: a traceback tells a student nothing"
    return lines[0]


def metrics_of(folder: Path) -> list[dict[str, str]]:
    """The rows of a run folder's metrics.csv."""
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def small_data(path: Path, *questions: str) -> Path:
    """Three conversations of one turn in LoCoMo's format: training, validation, test."""
    conversation = {"speaker_a": "Ann", "speaker_b": "Bob", "session_1_date_time": "8 May, 2023",
                    "session_1": [{"dia_id": "D1:1", "speaker": "Ann", "text": "I ski."}]}
    asked = [{"question": question, "answer": "Ann", "category": 4, "evidence": ["D1:1"]}
             for question in questions]
    path.write_text(json.dumps([{"sample_id": name, "conversation": conversation, "qa": asked}
                                for name in "abc"]))
    return path


class Scripted(Policy):
    """A policy whose response is `respond(user message)`; ids are letters.

    It remembers the sizes of its `batches` and the user messages that it `read`.
    """

    def __init__(self, respond: Callable[[str], str]):
        self.respond, self.model = respond, torch.nn.Module()
        self.batches, self.read, self.positions = [], [], math.inf
        self._thinking_marks = {}
        self.tokenizer = SimpleNamespace(  # every word is one token
            encode=lambda text, add_special_tokens: text.split(), eos_token_id=0,
            added_tokens_decoder={})

    def encode(self, messages: Sequence[dict[str, str]]) -> list[int]:
        return [ord(letter) for letter in messages[-1]["content"]]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(map(chr, ids))

    def sample(self, prompts, group_size=1, max_new_tokens=64, temperature=1.0, generator=None,
               stop_texts=()):
        self.batches.append(len(prompts))
        texts = [self.decode(prompt) for prompt in prompts]
        self.read += texts
        return [[Step(prompt, [ord(letter) for letter in self.respond(text)], True)
                 for _ in range(group_size)] for prompt, text in zip(prompts, texts)]

    def save(self, folder: Path, weights: object = None) -> None:
        folder.mkdir(exist_ok=True)


class CannedAgent:
    """Hands out the same episodes whatever the policy is."""

    def __init__(self, groups: list[list[Episode]]):
        self.groups = groups

    def rollout(self, policy, tasks, group_size, temperature, generator=None):
        return self.groups[: len(tasks)]


class FirstTokenAgent:
    """Really samples, and pays for responses that begin with an odd token."""

    def rollout(self, policy, tasks, group_size, temperature, generator=None):
        groups = policy.sample(tasks, group_size, 6, temperature, generator)
        return [[Episode([step], float(step.response_ids[0] % 2), dict(LOG)) for step in group]
                for group in groups]


PROMPTS = [[5, 9, 14], [5, 9, 30, 31], [40, 41, 42, 43, 44], [7, 8]]
LOG = {"answer": "a", "gold": "a", "category": 1, "response": "", "prompt": "", "question": ""}


def make_run(policy: Policy, reference: Policy, agent, n_tasks: int, folder: Path,
             tasks: Sequence | None = None, kind: type = GRPOOptions, **options) -> Run:
    """A run around any agent, with the tasks 0, 1, ... unless others are given.

    `kind` are the options of the algorithm.
    """
    folder.mkdir(exist_ok=True)
    settings_ = {"model": "none", "data": "world", "steps": 1, "epochs": 1, "questions": n_tasks,
                 "group_size": 2, "max_grad_norm": 1e9, "max_new_tokens": 6, "lr": 1e-3, "out": "x",
                 "lora": 0}
    known = {f.name for f in dataclasses.fields(kind)}
    settings_ = {name: value for name, value in settings_.items() if name in known}
    resolved = resolve(kind(**{**settings_, **options}), "test")
    reference.model.requires_grad_(False)
    tasks = list(tasks or range(n_tasks))
    return Run(resolved, "test", policy, reference, agent, tasks, tasks[:1], [], [],
               hashed_words(), folder)


def random_episodes(policy: Policy, seed: int, temperature: float = 1.0) -> list[list[Episode]]:
    """Three groups of four episodes, of one or two steps, some of which end with the padding id.

    The old log-probs are up to 0.4 off the policy's at this temperature: some tokens are clipped.
    """
    draw = random.Random(seed)
    groups = []
    for _ in range(3):
        shared = [draw.randrange(3, 320) for _ in range(draw.randrange(2, 12))]
        group = []
        for place in range(4):
            steps = []
            for _ in range(draw.choice([1, 1, 2])):
                own = [draw.randrange(3, 320) for _ in range(draw.choice([0, 0, 4]))]
                response = [draw.randrange(3, 320) for _ in range(draw.randrange(0, 5))]
                finished = draw.random() < 0.7 or not response
                response += [draw.choice([0, 2])] if finished else []
                steps.append(Step(shared + own, response, finished))
            reward = float(place % 2) if draw.random() < 0.8 else 0.5
            group.append(Episode(steps, reward, dict(LOG)))
        groups.append(group)
    for episode in itertools.chain(*groups):
        with torch.no_grad():
            episode.steps = [
                Step(s.prompt_ids, s.response_ids, s.finished,
                     [p + draw.uniform(-0.4, 0.4)
                      for p in policy.token_log_probs([[s]], temperature).tolist()])
                for s in episode.steps]
    return groups


def plain_log_probs(model: Policy | torch.nn.Module, step: Step,
                    temperature: float = 1.0) -> torch.Tensor:
    """The oracle: one row, no packing, the model's own forward pass, a loop over the tokens."""
    model = model.model if isinstance(model, Policy) else model
    logits = model(torch.tensor([step.prompt_ids + step.response_ids])).logits[0] / temperature
    first = len(step.prompt_ids) - 1  # the place whose logits predict the first token
    return torch.stack([logits[first + i].log_softmax(-1)[token]
                        for i, token in enumerate(step.response_ids)])


def scaled_down(gradient: Sequence[torch.Tensor], max_norm: float) -> list[torch.Tensor]:
    """The oracle of --max-grad-norm: the same direction, and at most this length."""
    norm = math.sqrt(sum(part.square().sum().item() for part in gradient))
    return [part * min(1.0, max_norm / norm) for part in gradient]


def distance(found: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> float:
    """Largest difference between two gradients, relative to the largest entry."""
    largest = max(g.abs().max().item() for g in wanted)
    return max((a - b).abs().max().item() for a, b in zip(found, wanted)) / largest
