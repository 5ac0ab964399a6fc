"""The results of a training run: scores on held-out tasks, and the files that it leaves.

`evaluate` scores greedy episodes of the agent that learns, on tasks that it did not learn from. A
manager also reads whole dialogues (`evaluate_test`). `validate` and `save_dialogue` note cases and
a whole dialogue, `save` writes the weights, and `finish` the pictures, summary.json and the model
card. No function of this module trains.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from backend import devices
from backend.files import release_locks, write_whole
from backend.lora import low_rank_layers
from memr1 import CHUNK, Progress, answer_all, build_banks
from metrics import summarise
from policy import Policy
from systems.own_past import HARNESSES
from training.checkpoints import FILE
from training.introduction import UNITS
from training.model_card import model_card
from training.pictures import (
    draw_curve,
    draw_objectives,
    objectives_table,
    table,
    transcripts,
    what_changed,
)
from training.run import Run, Task, count_questions, show_bar, with_bar
from training.tasks import answer_tasks
from training.timeline import reading
from trees import Episode
from world import named_world

CHECKPOINT = "checkpoint"  # the trained model, in the run folder
CASES = 12  # held-out cases that cases.jsonl follows
SCORED = 64  # tasks that are handed to the agent at a time, so that a bar moves


def score(episodes: Sequence[Episode]) -> dict:
    """The metrics of greedy episodes, over all and by category."""
    logs = [episode.log for episode in episodes]
    # The means are over questions; an episode of several questions lists them.
    rows = [row for log in logs for row in log.get("objectives", [log])]
    scores = summarise([row["answer"] for row in rows], [row["gold"] for row in rows],
                       [row["category"] for row in rows])
    merged = [log["merged"] for log in logs if "merged" in log]
    if merged:
        scores["second_pets_merged"] = sum(merged) / len(merged)
    scores |= operations_each(episodes)
    if any("verdict" in log for log in logs):
        scores["no_verdict"] = share_without_verdict(episodes)
    scores["reward"] = sum(episode.reward for episode in episodes) / max(len(episodes), 1)
    return scores


def operations_each(episodes: Sequence[Episode]) -> dict[str, float]:
    """A manager's operations of each kind, an episode, and its unusable entries or MEM1's turns.

    Empty for the answer agent, because every answer can be read.
    """
    logs, counts, names = [episode.log for episode in episodes], Counter(), []
    for log in logs:
        counts.update(log.get("operations", {}))
        counts["invalid"] += log.get("invalid", 0)
    if any("operations" in log for log in logs):
        names = ["ADD", "UPDATE", "DELETE", "NOOP", "invalid"]
    elif any("invalid" in log for log in logs):
        names = ["invalid"]
    return {name.lower(): counts[name] / len(logs) for name in names}


def share_without_verdict(episodes: Sequence[Episode]) -> float:
    """The share of answers about which the LLM judge that pays them wrote no verdict."""
    # A span of two answers has logged "correct, none", for example.
    verdicts = ", ".join(episode.log["verdict"] for episode in episodes).split(", ")
    return verdicts.count("none") / len(verdicts)


def describe(groups: Sequence[Sequence[Episode]]) -> dict[str, float]:
    """What a batch looks like: rewards, lengths, a manager's operations, and what did not fit."""
    episodes = [episode for group in groups for episode in group]
    rewards = torch.tensor([[float(e.reward) for e in group] for group in groups])  # (P, G)
    lengths = torch.tensor([sum(len(s.response_ids) for s in e.steps) for e in episodes])  # (E,)
    # Of a manager's frozen agent, the answers that the token limit ended: they pay 0 undeserved.
    cut = [episode.log["answer_cut"] for episode in episodes if "answer_cut" in episode.log]
    return {
        "reward": rewards.mean().item(),
        "reward_std": rewards.std().item() if rewards.numel() > 1 else 0.0,
        "no_signal": (rewards.amax(1) - rewards.amin(1) < 1e-4).float().mean().item(),
        "response_length": lengths.float().mean().item(),
        "finished": sum(e.steps[-1].finished for e in episodes if e.steps) / len(episodes),
        **operations_each(episodes),
        "dropped": sum(e.log.get("dropped", 0) for e in episodes) / len(episodes),
        **({"answer_cut": sum(cut) / len(cut)} if cut else {}),
        **({"no_verdict": share_without_verdict(episodes)} if "verdict" in episodes[0].log else {}),
    }


def evaluate(run: Run, tasks: Sequence[Task], progress: Progress = show_bar,
             ) -> tuple[dict, list[Episode]]:
    """Greedy scores of the policy as it is now on some tasks."""
    share, groups = devices.spread(tasks), []
    with devices.gathered(run.policy.model, run.reference.model):
        for start in progress(range(0, len(share), SCORED), "score"):
            groups += run.agent.rollout(run.policy, share[start:start + SCORED], 1, temperature=0)
    episodes = [group[0] for group in devices.gather(groups)]
    return score(episodes), episodes


def case_places(episodes: Sequence[Episode]) -> list[int]:
    """The places of a dozen episodes, equally many of each kind, the same at every step."""
    places_of_kind: dict[tuple, list[int]] = {}  # (question type, whether about a second pet)
    for place, episode in enumerate(episodes):
        kind = episode.log["category"], "merged" in episode.log
        places_of_kind.setdefault(kind, []).append(place)
    n_each = -(-CASES // max(len(places_of_kind), 1))
    # Evenly spaced, because neighbours are questions about the same dialogue.
    samples = [places[::max(1, len(places) // n_each)][:n_each]
               for places in places_of_kind.values()]
    # The first of each kind, then the second of each, and so on, until there are a dozen.
    ranked = sorted((rank, place) for places in samples for rank, place in enumerate(places))
    return sorted(place for _, place in ranked[:CASES])


def validate(run: Run, step: int) -> float:
    """The headline score on the validation tasks; a dozen of them go to cases.jsonl as text."""
    # Its bar comes late and goes again, because the bar of the training stands above it.
    scores, episodes = evaluate(run, run.validation, with_bar)
    headline = scores[run.headline]
    if not devices.is_main():
        return headline
    cases = [{"reward": episodes[place].reward, **episodes[place].log}
             for place in case_places(episodes)]
    with (run.folder / "cases.jsonl").open("a", encoding="utf-8") as file:
        line = {"step": step, "score": headline, "cases": cases}
        file.write(json.dumps(line, ensure_ascii=False) + "\n")
    for track in run.trackers:
        track(step, {"validation": headline})
    return headline


def save_dialogue(run: Run, step: int) -> None:
    """Let a manager as it is now read the first test dialogue; one line of dialogue.jsonl."""
    dialogue, options = run.test_dialogues[0], run.options
    with devices.gathered(run.policy.model, run.reference.model):
        if not devices.is_main():
            return
        record = reading(run.policy, run.agent.frozen, dialogue, run.embed, options.facts,
                         options.distill, options.memories, options.max_new_tokens,
                         with_bar, run.reference)
    with (run.folder / "dialogue.jsonl").open("a", encoding="utf-8") as file:
        line = {"step": step, "name": dialogue.name, **record}
        file.write(json.dumps(line, ensure_ascii=False) + "\n")


def evaluate_test(run: Run) -> tuple[dict, list[Episode]]:
    """Held-out scores; of a manager in the world also over whole dialogues, from an empty bank.

    The dialogues are left out with `--limit`.
    """
    scores, episodes = evaluate(run, run.test)
    options = run.options
    if options.agent == "manager" and named_world(options.data) and not options.limit:
        dialogues = devices.spread(run.test_dialogues)
        with devices.gathered(run.policy.model, run.reference.model):
            length = options.max_new_tokens
            banks = build_banks(run.policy, dialogues, run.embed, options.facts, show_bar,
                                max_new_tokens=length, extractor=run.reference).banks
            tasks = answer_tasks(dialogues, banks, options.memories)
            answers = []
            for start in show_bar(range(0, len(tasks), CHUNK), "answer"):
                answers += answer_all(run.agent.frozen, tasks[start:start + CHUNK],
                                      options.distill, max_new_tokens=length)
        rows = devices.gather([(answer.text, task.question.answer, task.question.category)
                               for answer, task in zip(answers, tasks)])
        sizes = devices.gather([len(bank) for bank in banks])
        scores["whole_dialogues"] = summarise(*zip(*rows))["exact_match"]
        scores["memories_per_dialogue"] = sum(sizes) / len(sizes)
    return scores, episodes


def evaluate_after(run: Run) -> tuple[dict, list[Episode]]:
    """Held-out scores of the trained policy, which the loop has saved, because scoring may fail."""
    print(f"the trained model is in {run.folder / CHECKPOINT}; its held-out scores follow")
    return evaluate_test(run)


def evaluate_before(run: Run) -> tuple[dict, list[Episode]]:
    """Held-out scores of the start model; a resumed run has them from its checkpoint."""
    if not run.before:
        print(f"the start model is scored first, on {len(run.test):,} held-out "
              f"{UNITS[run.options.agent]}")
        run.before = evaluate_test(run)
    return run.before


def peak_memory_bytes() -> int:
    """The most memory that this process ever held: of the GPU if it used one, else of the machine.

    0 on Windows, where Python cannot tell.
    """
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts in KiB


def save(policy: Policy, folder: Path) -> None:
    """Write a Hugging Face folder, whole or not at all, on one of all devices.

    Raises OSError, or the library's own SafetensorError, if the disk is full.
    """
    part = folder.with_name(f"{folder.name}.part")
    with devices.gathered(policy.model):
        # The parameters and not `state_dict`, which returns pieces even of a gathered model.
        sharded = hasattr(policy.model, "unshard")
        weights = dict(policy.model.named_parameters()) if sharded else None
        if not devices.is_main():
            return
        try:
            shutil.rmtree(part, ignore_errors=True)  # what a killed process left
            # If a file is in the way, mkdir raises; transformers would only log and save nothing.
            part.mkdir(parents=True)
            policy.save(part, weights)
            shutil.rmtree(folder, ignore_errors=True)  # this run's own, saved before it was resumed
            os.replace(part, folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)  # a half would take the room of resume.pt


def save_card(run: Run, scores: str) -> None:
    """Write the README.md of the checkpoint."""
    n_learned = run.n_chats or count_questions(run.train)
    model = run.policy.model
    adapted = model.config.name_or_path if low_rank_layers(model) else ""
    card = model_card(vars(run.options), run.algorithm, n_learned, scores, adapted)
    (run.folder / CHECKPOINT / "README.md").write_text(card, encoding="utf-8")


def finish(run: Run, before: tuple[dict, list[Episode]], after: tuple[dict, list[Episode]],
           history: Sequence[dict[str, float]], scores: dict[int, float],
           by_objectives: dict[str, dict[str, dict]] | None = None) -> dict:
    """Write model card, pictures and summary; print a table and three transcripts.

    `history` holds the rows of metrics.csv, `scores` the validation scores by step. `by_objectives`
    are MEM1's scores beside the other harnesses', where they were trained. Returns what
    summary.json holds.
    """
    options = run.options
    seconds = time.time() - run.started
    summary = {
        "algorithm": run.algorithm, "agent": options.agent, "model": options.model,
        "data": options.data, "steps": options.steps, "seconds": round(seconds, 1),
        "tokens_per_second": round(
            run.n_tokens / max(sum(row["seconds"] for row in history), 1e-9), 1),
        "peak_memory_bytes": peak_memory_bytes(),
        "train_questions": 0 if run.n_chats else count_questions(run.train),
        **({"train_chats": run.n_chats} if run.n_chats else {}),
        "test_questions": count_questions(run.test),
        "before": before[0], "after": after[0],
        "what_changed": what_changed(before[0], after[0], options.agent, run.headline),
    }
    if by_objectives:
        summary["by_objectives"] = by_objectives
    if not devices.is_main():
        return summary
    title = f"{run.algorithm.upper()}, {options.agent}, {options.data}, seed {options.seed}"
    headline = run.headline.replace("_", " ")
    change = f"{before[0][run.headline]:.3f} -> {after[0][run.headline]:.3f}"
    exact = run.headline == "exact_match"  # else the headline is the reward itself
    draw_curve(history, scores, headline, f"{title}: held-out {headline} {change}",
               run.folder / "curve.png",
               options.objectives if exact and options.agent == "mem1" else 1,
               options.reward.replace("_", " ") if exact and options.agent != "mem1" else None)
    write_whole(run.folder / "summary.json", (json.dumps(summary, indent=2) + "\n").encode())
    print("\n" + transcripts(before[1], after[1]))
    print("\n" + table(before[0], after[0]))
    if by_objectives:
        print("\n" + objectives_table(by_objectives))
        draw_objectives(by_objectives, title, run.folder / "objectives.png")
    save_card(run, table(before[0], after[0]))
    for folder in (run.folder, *(run.folder / harness for harness in HARNESSES)):
        (folder / FILE).unlink(missing_ok=True)  # because a finished run has nothing to resume
    release_locks()
    print(f"\n{summary['what_changed']}")
    print(f"\n{run.algorithm} {options.agent}: held-out {headline} {change} in {seconds:.0f} s, "
          f"{peak_memory_bytes() / 2**30:.1f} GiB; run folder {run.folder}")
    return summary
