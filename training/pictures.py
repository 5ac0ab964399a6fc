"""What a training run shows of itself: tables, transcripts and pictures.

    python -m training.pictures runs/grpo-manager runs/ppo-manager --out rewards.png

draws the rewards of two runs into one picture; ends with "saved to rewards.png".
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt

from backend.devices import exit_with, print_anything
from backend.files import check_writable, keep_old
from data import category_name
from trees import Episode

SCORES = {  # of summary.json, below the question types
    "exact_match": "all, exact match", "reward": "all, reward", "f1": "all, F1",
    "bleu1": "all, BLEU-1", "second_pets_merged": "second pets merged",
    "add": "ADD, a decision", "update": "UPDATE, a decision", "delete": "DELETE, a decision",
    "noop": "NOOP, a decision", "invalid": "unusable, an episode",
    "no_verdict": "no verdict of the judge",
    "whole_dialogues": "whole dialogues, exact match", "memories_per_dialogue": "memories, each"}

plt.switch_backend("agg")  # pictures go to files, so no screen is needed


def _panel(axes, title: str, x: Sequence[float], series: dict[str, Sequence[float]]) -> None:
    for label, y in series.items():
        if not y:  # a line of no points would still stand in the legend
            continue
        marker = "o" if len(y) == 1 else None  # a line through one point cannot be seen
        axes.plot(x[: len(y)], y, label=label, linewidth=1.6, marker=marker)
    axes.xaxis.get_major_locator().set_params(integer=True)  # no half steps
    axes.set_title(title, fontsize=10)
    axes.set_xlabel("training step")
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(fontsize=8)


def draw_curve(rows: Sequence[dict[str, float]], scores: dict[int, float], headline: str,
               title: str, path: Path, questions: int = 1, paid_by: str | None = None) -> None:
    """Draw the rewards over the steps, and beside them what else was logged.

    `rows` are lines of metrics.csv; `scores` are held-out scores at some steps, and `headline` is
    what they measure. MEM1's reward is a sum over the questions of a task, and its exact match a
    mean over them; so rewards are divided by `questions`, and both lines mean the same. Where they
    cannot, `paid_by` is the other score that the reward is, and each line bears its own name.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    steps = [row["step"] for row in rows]
    differ = paid_by not in (None, headline)
    if scores:
        left.plot(list(scores), list(scores.values()), "o--", color="C1",
                  label=f"validation: {headline}, greedy" if differ else "validation, greedy")
    logged = {name: [row[name] for row in rows if name in row]
              for name in ("reward", "kl", "entropy", "loss")}
    rewards = [reward / questions for reward in logged["reward"]]
    left.set_ylim(0, 1.02 * max([1.0, *rewards, *scores.values()]))
    label = (f"training reward: {paid_by}, sampled" if differ else
             "training reward, sampled" + ", a question" * (questions > 1))
    _panel(left, f"{paid_by} and {headline}" if differ else headline, steps, {label: rewards})
    if logged["loss"]:  # imitation has no reward, and no reference to drift from
        title_right, names = "loss (nats a token)", ["loss"]
    else:
        title_right = "drift from the start model, and entropy (nats a token)"
        names = ["kl", "entropy"]
    _panel(right, title_right, steps, {name: logged[name] for name in names})
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def table(before: dict, after: dict) -> str:
    """Held-out scores before and after, by question type."""
    lines = [f"{'held-out questions':<28}{'count':>6}{'before':>9}{'after':>8}"]
    for name, scores in before["by_category"].items():
        lines.append(f"{category_name(name):<28}{scores['count']:>6}{scores['exact_match']:>9.3f}"
                     f"{after['by_category'][name]['exact_match']:>8.3f}")
    for key, label in SCORES.items():
        if key in before:
            count = before["count"] if key == "exact_match" else ""
            lines.append(f"{label:<28}{count:>6}{before[key]:>9.3f}{after[key]:>8.3f}")
    return "\n".join(lines)


def what_changed(before: dict, after: dict, agent: str, headline: str) -> str:
    """What training changed, in one sentence; `headline` is the score that counts."""
    name = {"manager": "memory manager", "answer": "answer agent", "mem1": "MEM1"}[agent]
    count, right = before["count"], lambda scores: round(scores["exact_match"] * scores["count"])
    if headline != "exact_match":  # a purchase is right by degrees, an answer in other words
        unit = {"manager": "decisions", "answer": "questions", "mem1": "purchases"}[agent]
        return (f"Over {count:,} held-out {unit} the mean reward of the {name} went from "
                f"{before[headline]:.3f} to {after[headline]:.3f}.")
    gains = {kind: (after["by_category"][kind]["exact_match"] - scores["exact_match"])
             * scores["count"] for kind, scores in before["by_category"].items()}
    most = max(gains, key=gains.get, default=None)
    largest = (f"; the largest gain is in {category_name(most)}"
               if most is not None and len(gains) > 1 and gains[most] > 0 else "")
    return (f"Of {count:,} held-out questions, {right(before):,} were answered right with the "
            f"{name} as it was, and {right(after):,} with the trained one{largest}.")


def transcripts(before: Sequence[Episode], after: Sequence[Episode], count: int = 3) -> str:
    """Held-out cases that training changed for the better, second pets first, as text.

    `before` and `after` are episodes of the same tasks, in the same order.
    """
    pairs = list(zip(before, after))
    better = [(old, new) for old, new in pairs if new.reward > old.reward]
    better.sort(key=lambda pair: not pair[1].log.get("merged", False))  # stable: else in order

    def kind(pair: tuple[Episode, Episode]) -> tuple[str, str]:
        return pair[1].log["category"], str(pair[1].log.get("operations"))

    chosen: list[tuple[Episode, Episode]] = []
    for pair in better:  # one of each kind of question and operation, where there is a choice
        if len(chosen) < count and kind(pair) not in map(kind, chosen):
            chosen.append(pair)
    for pair in [*better, *pairs]:
        if len(chosen) < count and pair not in chosen:
            chosen.append(pair)
    return "\n\n".join(_transcript(old, new) for old, new in chosen)


def _transcript(before: Episode, after: Episode) -> str:
    prompt = after.log["prompt"].splitlines()
    if len(prompt) > 12:  # an answer agent's sixty memories: those that it selects are enough
        prompt = [f"({len(prompt)} lines of memories and question)"]
    responses = [f"  {name:<7}{line}" for name, episode in (("before", before), ("after", after))
                 for line in episode.log["response"].splitlines()]
    return "\n".join([
        *prompt, *responses, f"  question {after.log['question']}  gold: {after.log['gold']}",
        f"  answer before: {before.log['answer']}  after: {after.log['answer']}"])


def objectives_table(scores: dict[str, dict[str, dict]]) -> str:
    """Exact match and peak tokens by the number of questions, as text.

    `scores`: number of questions -> harness -> scores, as `harnesses.by_objectives` gives them.
    """
    lines = [f"{'questions a task':<18}{'harness':<14}{'EM, sum':>9}{'F1, sum':>9}"
             f"{'peak':>7}{'with prompt':>13}{'seconds':>9}"]
    for count, by_harness in scores.items():
        for harness, means in by_harness.items():
            lines.append(f"{count:<18}{harness:<14}{means['exact_match']:>9.2f}{means['f1']:>9.2f}"
                         f"{means['peak_tokens']:>7.0f}{means['peak_tokens_with_prompt']:>13.0f}"
                         f"{means['seconds']:>9.2f}")
    return "\n".join(lines)


def draw_objectives(scores: dict[str, dict[str, dict]], title: str, path: Path) -> None:
    """Draw exact match and peak tokens over the number of questions, a line a harness."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    counts = [int(count) for count in scores]
    for panel, name, label in zip(axes, ("exact_match", "peak_tokens"),
                                  ("questions answered right", "peak tokens in context")):
        for harness in next(iter(scores.values())):
            panel.plot(counts, [scores[str(count)][harness][name] for count in counts], "o-",
                       label=harness.replace("_", " "), linewidth=1.6, markersize=4)
        panel.set_xscale("log", base=2)
        panel.set_xticks(counts, counts)
        panel.set_xlabel("questions in a task")
        panel.set_title(label, fontsize=10)
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8)
    axes[1].set_yscale("log")
    figure.suptitle(title, fontsize=11)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_banks(banks: dict[str, dict[str, list[float]]], path: Path) -> None:
    """Draw how a memory evolves over the turns of a dialogue, a line a manager.

    `banks`: name of the manager -> the columns of `training.oracle.over_turns`.
    """
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    for panel, column, title in zip(axes, ("size", "held", "right"), (
            "memories in the bank", "share of the right memories\nthat are in the bank",
            "share of the bank\nthat is right")):
        for name, columns in banks.items():
            panel.plot(range(1, len(columns[column]) + 1), columns[column], label=name,
                       linewidth=1.6)
        if column == "size":
            right = next(iter(banks.values()))["right size"]
            panel.plot(range(1, len(right) + 1), right, "--", color="0.4", label="the right memory",
                       linewidth=1.4)
        panel.set_ylim(bottom=0, top=None if column == "size" else 1.02)
        panel.set_xlabel("turns read")
        panel.set_title(title, fontsize=10)
        panel.grid(alpha=0.3)
        panel.legend(fontsize=8, loc="upper left" if column == "size" else "lower left")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_bars(scores: dict[str, tuple[float, float | None, float | None]], path: Path) -> None:
    """Draw exact match by system, the first on top.

    `scores`: system -> (mean, low end of its interval, high end); None is no interval.
    """
    figure, axes = plt.subplots(figsize=(7, 0.8 + 0.34 * len(scores)), layout="constrained")
    names = list(reversed(scores))  # matplotlib draws the first bar at the bottom
    means = [scores[name][0] for name in names]
    below = [math.nan if low is None else abs(mean - low)
             for mean, low, _ in map(scores.get, names)]
    above = [math.nan if high is None else abs(mean - high)
             for mean, _, high in map(scores.get, names)]
    axes.barh(names, means, xerr=[below, above], color="C0", ecolor="0.3", capsize=3, height=0.65)
    axes.set_xlim(0, 1)
    axes.set_xlabel("exact match, with its 95 % interval")
    axes.grid(alpha=0.3, axis="x")
    axes.set_axisbelow(True)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_costs(curves: dict[str, tuple[str, dict[int, float], float]], path: Path) -> None:
    """Draw the seconds of a step over what makes the step larger, a panel each, both axes log.

    `curves`: title -> (label of the axis, seconds by size, the power that the time grows with).
    """
    n_columns = -(-len(curves) // 2)  # two lines of panels, because a page is narrow
    figure, axes = plt.subplots(2, n_columns, figsize=(3.2 * n_columns, 6), sharey=True,
                                squeeze=False, layout="constrained")
    for panel in axes.flat[len(curves):]:
        panel.set_visible(False)
    for panel, (name, (label, times, power)) in zip(axes.flat, curves.items()):
        sizes = list(times)
        panel.loglog(sizes, list(times.values()), "o-", markersize=4, linewidth=1.6,
                     label=f"measured: power {power:.2f}")
        last = times[sizes[-1]]  # the dashed line goes through the last point
        panel.loglog(sizes, [last * size / sizes[-1] for size in sizes], "--", color="0.6",
                     linewidth=1, label="linear")
        panel.set_xticks(sizes, [f"{size:,}" for size in sizes])
        panel.minorticks_off()
        panel.set_xlabel(label, fontsize=8)
        panel.set_title(name, fontsize=10)
        panel.grid(alpha=0.3)
        panel.legend(fontsize=7, loc="upper left")
    for first in axes[:, 0]:
        first.set_ylabel("seconds a step")
    keep_old(path)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def rewards_of(folder: Path) -> tuple[str, int, list[float]]:
    """The algorithm of a run, the samples of a step, and the mean reward of each step.

    Raises ValueError if the folder is not that of a finished run of grpo.py or ppo.py.
    """
    try:
        options = json.loads((folder / "config.json").read_text())
        algorithm = json.loads((folder / "summary.json").read_text())["algorithm"]
        with (folder / "metrics.csv").open(newline="") as file:
            rewards = [float(row["reward"]) for row in csv.DictReader(file)]
        if not rewards:
            raise ValueError("metrics.csv has no step")
        return algorithm, options["questions"] * options["group_size"], rewards
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder}: is not the folder of a finished run of grpo.py or ppo.py "
                         f"({error})") from None


def draw_rewards(folders: Sequence[Path], path: Path) -> None:
    """Draw the training reward of runs over the samples they trained on, a colour an algorithm.

    Runs of one algorithm, such as seeds, share a colour; each point is a mean of five steps. Raises
    ValueError as `rewards_of` does, and OSError if the picture cannot be written.
    """
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    colors: dict[str, str] = {}
    for folder in folders:
        algorithm, samples_a_step, rewards = rewards_of(folder)
        last_five = [rewards[max(0, i - 4):i + 1] for i in range(len(rewards))]
        label = None if algorithm in colors else algorithm.upper()  # one entry in the legend
        color = colors.setdefault(algorithm, f"C{len(colors)}")
        axes.plot([samples_a_step * (i + 1) for i in range(len(rewards))],
                  [sum(window) / len(window) for window in last_five], color=color, label=label,
                  linewidth=1.4, marker="o" if len(rewards) == 1 else None)
    axes.set_xlabel("samples trained on")
    axes.set_ylabel("training reward")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    keep_old(path)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def check_picture(path: Path) -> None:
    """Stop the program with one line if no picture can be written at `path`."""
    if path.suffix != ".png":
        exit_with(f"--out {path}: the name of a picture must end in .png")
    try:
        check_writable(path)
    except OSError as error:
        exit_with(f"--out {path}: the file cannot be written ({error.strerror}); choose another")


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the rewards of some runs into one picture."""
    print_anything()
    parser = argparse.ArgumentParser(prog="python -m training.pictures", allow_abbrev=False,
                                     description="Compare runs in one picture.")
    parser.error = lambda message: exit_with(f"{message}; --help lists all options")
    parser.add_argument("runs", nargs="+", type=Path, help="run folders of grpo.py and ppo.py")
    parser.add_argument("--out", type=Path, metavar="FILE", default=Path("rewards.png"),
                        help="the picture, a .png (default: rewards.png)")
    options = parser.parse_args(argv)
    check_picture(options.out)
    try:
        draw_rewards(options.runs, options.out)
    except (OSError, ValueError) as error:
        exit_with(str(error))
    print(f"saved to {options.out}")


if __name__ == "__main__":
    main()
