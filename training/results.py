"""What comes of a training run: scores on held-out tasks, and what stands in its folder at the end.

`evaluate` scores greedy episodes of the agent that learns, on tasks that it did not learn from. On
top of that come whole dialogues for a manager (`evaluate_test`) and tasks of 1 to 16 questions for
MEM1 (`compare_harnesses`). `evaluate_after` saves the weights; `finish` writes the rest of what
run.py lists, and prints.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from backend import devices
from mem1 import HARNESSES, TASKS, by_objectives
from memr1 import AnswerTask, answer_all, build_banks
from metrics import summarise
from policy import Policy
from training.checkpoints import FILE
from training.pictures import draw_curve, draw_objectives, objectives_table, table, transcripts
from training.run import Run, Task, prepare
from training.sharing import model_card
from training.timeline import reading
from trees import Episode
from world import KINDS

CASES = 12  # held-out cases that cases.jsonl follows


def score(episodes: Sequence[Episode]) -> dict:
    """The metrics of greedy episodes, over all and by category."""
    logs = [episode.log for episode in episodes]
    # An episode of several questions lists them; the means are over questions.
    rows = [row for log in logs for row in log.get("objectives", [log])]
    scores = summarise([row["answer"] for row in rows], [row["gold"] for row in rows],
                       [row["category"] for row in rows])
    merged = [log["merged"] for log in logs if "merged" in log]
    if merged:
        scores["second_pets_merged"] = sum(merged) / len(merged)
    scores["reward"] = sum(episode.reward for episode in episodes) / max(len(episodes), 1)
    return scores


def describe(groups: Sequence[Sequence[Episode]]) -> dict[str, float]:
    """What a batch looks like: rewards, lengths, and a manager's operations."""
    episodes = [episode for group in groups for episode in group]
    rewards = torch.tensor([[float(e.reward) for e in group] for group in groups])  # (P, G)
    lengths = torch.tensor([sum(len(s.response_ids) for s in e.steps) for e in episodes])  # (E,)
    operations = Counter()
    for episode in episodes:
        operations.update(episode.log.get("operations", {}))
    return {
        "reward": rewards.mean().item(),
        "reward_std": rewards.std().item() if rewards.numel() > 1 else 0.0,
        "no_signal": (rewards.amax(1) - rewards.amin(1) < 1e-4).float().mean().item(),
        "response_length": lengths.float().mean().item(),
        "finished": sum(e.steps[-1].finished for e in episodes if e.steps) / len(episodes),
        **{name.lower(): operations[name] / len(episodes)
           for name in ("ADD", "UPDATE", "DELETE", "NOOP", "invalid")},
    }


def evaluate(run: Run, tasks: Sequence[Task]) -> tuple[dict, list[Episode]]:
    """Greedy scores of the policy as it is now on some tasks."""
    with devices.gathered(run.policy.model, run.reference.model):
        groups = run.agent.rollout(run.policy, devices.spread(tasks), 1, temperature=0)
    episodes = [group[0] for group in devices.gather(groups)]
    return score(episodes), episodes


def case_places(episodes: Sequence[Episode]) -> list[int]:
    """The places of a dozen cases among them, of each kind as many: the same at every step."""
    kinds: dict[tuple, list[int]] = {}  # by question type, and second pets by themselves
    for place, episode in enumerate(episodes):
        kinds.setdefault((episode.log["category"], "merged" in episode.log), []).append(place)
    each = -(-CASES // max(len(kinds), 1))
    spread = [places[::max(1, len(places) // each)][:each] for places in kinds.values()]
    in_turn = sorted((turn, place) for places in spread for turn, place in enumerate(places))
    return sorted(place for _, place in in_turn[:CASES])


def validate(run: Run, step: int) -> float:
    """The headline score on the validation tasks; a dozen of them go to cases.jsonl as text."""
    scores, episodes = evaluate(run, run.validation)
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


def evaluate_test(run: Run) -> tuple[dict, list[Episode]]:
    """Held-out scores; of a manager in the world also over whole dialogues, from an empty bank.

    The dialogues are left out with `--limit`.
    """
    scores, episodes = evaluate(run, run.test)
    if run.options.agent == "manager" and run.options.data in KINDS and not run.options.limit:
        dialogues = devices.spread(run.test_dialogues)
        with devices.gathered(run.policy.model, run.reference.model):
            banks = build_banks(run.policy, dialogues, run.embed, run.options.facts).banks
            asked = [AnswerTask(bank, question, dialogue.speakers)
                     for bank, dialogue in zip(banks, dialogues)
                     for question in dialogue.questions]
            answers = answer_all(run.reference, asked, run.options.distill == "on")
        rows = devices.gather([(answer.text, task.question.answer, task.question.category)
                               for answer, task in zip(answers, asked)])
        sizes = devices.gather([len(bank) for bank in banks])
        scores["whole_dialogues"] = summarise(*zip(*rows))["exact_match"]
        scores["memories_per_dialogue"] = sum(sizes) / len(sizes)
    return scores, episodes


def evaluate_after(run: Run) -> tuple[dict, list[Episode]]:
    """Held-out scores of the trained policy. It is saved first: nothing here can lose it."""
    save(run.policy, run.folder / "checkpoint")
    return evaluate_test(run)


def evaluate_before(run: Run) -> tuple[dict, list[Episode]]:
    """Held-out scores of the start model; a resumed run has them from its checkpoint."""
    run.before = run.before or evaluate_test(run)
    return run.before


def count_questions(tasks: Sequence[Task]) -> int:
    """Different questions: a manager's in training judges two decisions, MEM1 answers several."""
    return len({id(question) for task in tasks
                for question in getattr(task, "questions", (getattr(task, "question", task),))})


def peak_memory_bytes() -> int:
    """The most this process ever held: on the GPU if it held anything there, else resident.

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


def compare_harnesses(run: Run, train: Callable[[Run], Any]) -> dict[str, dict[str, dict]]:
    """A trained MEM1 beside the same start model, trained alike with other memories of its past.

    Number of questions -> harness -> scores. The others' run folders are inside this one's, each
    with its own resume.pt: one that was finished trains no step when resumed.
    """
    found = {}
    for harness in HARNESSES:
        policy = run.policy
        if harness != run.options.harness:
            folder = run.folder / harness
            begun = run.options.resume and (folder / FILE).exists()
            if not begun:
                (folder / FILE).unlink(missing_ok=True)  # of an older run in the folder above
            other = prepare(replace(run.options, harness=harness, out=str(folder), resume=begun),
                            run.algorithm)
            train(other)
            policy = other.policy
            save(policy, other.folder / "checkpoint")
        with devices.gathered(policy.model):  # all devices do the same: what is timed here is one
            found[harness] = by_objectives(policy, harness, run.test_dialogues, run.embed,
                                           run.options.max_new_tokens,
                                           run.options.limit or TASKS)
        if harness != run.options.harness and devices.is_main():
            save_card(other, objectives_table({n: {harness: s} for n, s in found[harness].items()}))
    counts = next(iter(found.values()))
    return {count: {harness: found[harness][count] for harness in found} for count in counts}


def save(policy: Policy, folder: Path) -> None:
    """Write a Hugging Face folder, by one of all devices."""
    if devices.is_main():
        folder.mkdir(parents=True, exist_ok=True)  # a file in its place would only be logged
    with devices.gathered(policy.model):
        # `state_dict` of a sharded model returns pieces whatever is gathered; this does not.
        sharded = hasattr(policy.model, "unshard")
        weights = dict(policy.model.named_parameters()) if sharded else None
        if devices.is_main():
            policy.save(folder, weights)


def save_card(run: Run, scores: str) -> None:
    """Write the README.md of the checkpoint."""
    card = model_card(vars(run.options), run.algorithm, count_questions(run.train), scores)
    (run.folder / "checkpoint" / "README.md").write_text(card, encoding="utf-8")


def save_dialogue(run: Run) -> None:
    """Let the start model and the trained one read the first test dialogue, fact by fact."""
    dialogue, options = run.test_dialogues[0], run.options
    record = {"name": dialogue.name, "speakers": dialogue.speakers}
    with devices.gathered(run.policy.model, run.reference.model):
        if not devices.is_main():
            return
        for when, manager in (("before", run.reference), ("after", run.policy)):
            record[when] = reading(manager, run.reference, dialogue, run.embed, options.facts,
                                   options.distill == "on")
    (run.folder / "dialogue.json").write_text(
        json.dumps(record, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def finish(run: Run, before: tuple[dict, list[Episode]], after: tuple[dict, list[Episode]],
           rows: Sequence[dict[str, float]], scores: dict[int, float],
           train: Callable[[Run], Any]) -> dict:
    """Write model card, pictures and summary; print a table and three transcripts.

    Returns what summary.json holds. For MEM1 `train` is called again for each of the harnesses it
    is compared with.
    """
    options = run.options
    if options.agent == "manager" and not options.limit:
        save_dialogue(run)
    compared = {}
    if options.agent == "mem1" and options.env == "search" and options.harness == "mem1":
        compared = {"by_objectives": compare_harnesses(run, train)}
    seconds = time.time() - run.started
    title = f"{run.algorithm.upper()}, {options.agent}, {options.data}, seed {options.seed}"
    headline = run.headline.replace("_", " ")
    summary = {
        "algorithm": run.algorithm, "agent": options.agent, "model": options.model,
        "data": options.data, "steps": options.steps, "seconds": round(seconds, 1),
        "tokens_per_second": round(run.n_tokens / max(sum(r["seconds"] for r in rows), 1e-9), 1),
        "peak_memory_bytes": peak_memory_bytes(),
        "train_questions": count_questions(run.train),
        "test_questions": count_questions(run.test),
        "before": before[0], "after": after[0], **compared,
    }
    if not devices.is_main():
        return summary
    draw_curve(rows, scores, headline, title, run.folder / "curve.png")
    (run.folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    print("\n" + transcripts(before[1], after[1]))
    print("\n" + table(before[0], after[0]))
    if compared:
        print("\n" + objectives_table(compared["by_objectives"]))
        draw_objectives(compared["by_objectives"], title, run.folder / "objectives.png")
    save_card(run, table(before[0], after[0]))
    for folder in (run.folder, *(run.folder / harness for harness in HARNESSES)):
        (folder / FILE).unlink(missing_ok=True)  # finished: nothing to go on with
    print(f"\n{run.algorithm} {options.agent}: held-out {headline} "
          f"{before[0][run.headline]:.3f} -> {after[0][run.headline]:.3f} in {seconds:.0f} s, "
          f"{peak_memory_bytes() / 2**30:.1f} GiB; run folder {run.folder}")
    return summary
