"""MEM1 beside the same agent with full context or truncation, over more and more questions.

MEM1 (arXiv 2506.15841) shows in its Table 1 that its context stays nearly as it is while the
number of questions in a task grows from 1 to 16, and that of other agents grows with it.
`by_objectives` measures one agent so: how many questions it answers right, and what it had in
context.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from data import Dialogue, OpenQuestion
from environments import search_tasks
from mem1 import Mem1Agent
from memory_bank import Embedder
from metrics import context_sizes, objectives_scores
from policy import Policy

OBJECTIVES = (1, 2, 4, 8, 16)  # questions in a task
TASKS = 27  # of each number of questions


def by_objectives(policy: Policy, harness: str,
                  sources: Sequence[Dialogue] | Sequence[OpenQuestion], embed: Embedder,
                  max_new_tokens: int = 160, limit: int = TASKS,
                  counts: Sequence[int] = OBJECTIVES) -> dict[str, dict[str, float]]:
    """Greedy scores by the number of questions in a task: {"2": {"exact_match": 1.4, ...}, ...}.

    Each is a mean over at most `limit` tasks: of `objectives_scores` (exact match and F1 are sums,
    0 .. the number of questions), of `context_sizes` (tokens), and of seconds a task. A number of
    questions that is more than the sources have is left out.
    """
    scores = {}
    agent = Mem1Agent(harness=harness, max_new_tokens=max_new_tokens)
    for n_objectives in counts:
        tasks = search_tasks(sources, n_objectives, embed)[:limit]
        if not tasks:
            continue
        start = time.time()
        episodes = [group[0] for group in agent.rollout(policy, tasks, 1, temperature=0)]
        seconds = (time.time() - start) / len(tasks)
        rows = [{**objectives_scores(episode.log["answer"], task.answers),
                 **context_sizes([len(step.prompt_ids) for step in episode.steps],
                                 [len(step.response_ids) for step in episode.steps])}
                for task, episode in zip(tasks, episodes)]
        means = {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
        scores[str(n_objectives)] = {**means, "seconds": seconds, "count": len(tasks)}
    return scores
