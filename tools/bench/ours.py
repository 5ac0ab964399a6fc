"""The contender of this project: a GRPO step, or greedy answers, each turn once more.

Started by `python -m tools.bench --table`, which sends the request (turns.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from backend.lora import learned
from memr1 import greedy
from tools.bench.step import OurStep, Setting, bench_policy
from tools.bench.turns import Turns


def answers(folder: str, setting: Setting, prompts: list[list[int]],
            ) -> Callable[[], dict[str, float]]:
    """What answers all prompts and returns the seconds. Every answer has its full length."""
    policy = bench_policy(folder, setting, frozen=True)
    policy.end_ids = {-1}  # an id that no token has

    def turn() -> dict[str, float]:
        start = time.perf_counter()
        greedy(policy, prompts, setting.new_tokens)
        return {"answers": time.perf_counter() - start}
    return turn


def main() -> None:
    """Take turns until nobody asks for another."""
    turns = Turns()
    request = turns.request
    torch.set_num_threads(request["threads"])
    setting, n_learned = Setting(**request["setting"]), 0
    if request["kind"] == "answers":
        turn = answers(request["folder"], setting, request["prompts"])
    else:
        turn = OurStep(request["folder"], setting)
        n_learned = sum(p.numel() for p in learned(turn.policy.model))
    wanted = True
    while wanted:
        seconds = turn()
        on_gpu = torch.cuda.max_memory_allocated() if setting.device == "cuda" else None
        wanted = turns.report(seconds, on_gpu, n_learned=n_learned)


if __name__ == "__main__":
    main()
