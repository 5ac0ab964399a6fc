"""Look at runs instead of reading them: one web page that needs nothing but itself.

    python -m tools.report runs/grpo-manager
    python -m tools.report runs/grpo-manager runs/ppo-manager --out both.html      two runs at once

ends with "saved to runs/grpo-manager/report.html: open it in a browser".

The page begins with what happened, in one sentence. A manager's run goes on with one dialogue as a
timeline of its memory, which a slider moves through the training steps. In the synthetic world the
timeline marks and counts the mistakes, and the answers that each cost (training/oracle.py).

The learning curves follow, and the scores by question type, before and after. Another slider shows
the same held-out cases as they change. What a case shows depends on the agent:

- a manager's run shows what each operation did to the memory;
- an answer agent's run shows its candidate memories, the selected ones marked;
- a MEM1 run shows its turns, with what was dropped and the tokens in context.

    run folder ──read_run──> numbers and texts ──*_case, line_chart──> views of them
                                                         └──report_template.html──> report.html

Texts of data and models are shown, never run. The template escapes them all, and the page tells the
browser to run no script but its own and to load nothing (Content-Security-Policy). The template is
Jinja2's, which comes with torch. An unfinished run has a page, too.
"""

from __future__ import annotations

import argparse
import base64
import csv
import hashlib
import io
import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from jinja2 import Environment, FileSystemLoader, StrictUndefined, TemplateError
from markupsafe import Markup, escape

from backend.devices import exit_with, print_anything
from backend.files import keep_old, write_whole
from data import category_name, json_lines
from mem1 import parse_turn
from prompts import parse_answer, parse_operations
from training.folders import maker_of
from training.model_card import start_model
from training.oracle import KINDS
from training.pictures import SCORES

Content = TypeVar("Content")

# What the columns of metrics.csv mean. The page draws them in this order, and docs/metrics.md has
# the same texts (tests/test_report.py).
METRICS = {
    "reward": "mean reward of the step's samples (MEM1: a sum over the questions of a task)",
    "loss": "imitation: nats a token of the responses to imitate",
    "no_signal": "share of groups in which all samples did equally well: they teach nothing",
    "kl": "drift from the start model, nats a token",
    "entropy": "of the policy at sampled tokens, nats; near 0 it no longer explores",
    "reward_std": "spread of the step's rewards",
    "clip_fraction": "share of tokens whose gradient the clip stopped, in the last epoch",
    "ratio_error": "largest abs(ratio - 1) before the first update; sound if under 1e-4",
    "ratio_error_p99": "the same, its 99th percentile over tokens",
    "ratio_error_median": "the same, its median: in bfloat16 few tokens are far off",
    "grad_norm": "norm of the gradient before clipping",
    "skipped": "1 if an update was left out because its gradient was not finite",
    "response_length": "tokens that were written in an episode",
    "finished": "share of episodes whose last response ended by itself",
    "answer_cut": "share of the frozen agent's answers that the limit of tokens cut: most pay 0",
    "no_verdict": "share of answers about which the LLM judge wrote no verdict: they pay 0",
    "value_loss": "the critic's: half its squared error",
    "explained_variance": "of the critic: 1 if it foresaw all, 0 if no more than the mean",
    "advantage_std": "spread of the advantages before whitening: it shrinks as the critic learns",
    "add": "a manager's operations an episode", "update": "a manager's operations an episode",
    "delete": "a manager's operations an episode", "noop": "a manager's operations an episode",
    "invalid": "unusable outputs an episode, of a manager or MEM1",
    "dropped": "memories an episode (MEM1: turns) that the model lacks positions for; mostly 0",
    "lr": "learning rate: four steps of warm-up, under a line that falls towards a tenth",
    "seconds": "time of the step on this machine",
}
UNDRAWN = ("lr", "seconds")  # neither says anything about learning


class ReportError(Exception):
    """A folder or file that is no run's; the message is one line."""


# ---- Reading a run folder ------------------------------------------------------------------------


@dataclass
class LoggedRun:
    """What a run folder holds. Parts that an unfinished run lacks are empty."""

    name: str
    config: dict[str, Any]
    metrics: dict[str, list[tuple[float, float]]]  # column -> (step, value)
    summary: dict[str, Any]
    steps: list[int]  # of the validations
    scores: list[float]  # validation score at each
    cases: list[dict]  # a case each, as the template shows it: see `case_views`
    dialogue: dict[str, Any]

    @property
    def first_case(self) -> int:
        """The case to show first: one that training changed."""
        changed = [i for i, case in enumerate(self.cases)
                   if case["steps"][0]["reward"] != case["steps"][-1]["reward"]]
        return changed[0] if changed else 0

    @property
    def story(self) -> str:
        """What happened in the run, in one sentence."""
        if self.summary:
            return self.summary["what_changed"]
        if not self.steps:
            return "The run has not been scored yet."
        return (f"The run is not finished: at step {self.steps[-1]} of {self.config.get('steps')} "
                f"the validation score is {self.scores[-1]:.3f}, and at step {self.steps[0]} it "
                f"was {self.scores[0]:.3f}.")


def read_file(path: Path, parse: Callable[[str], Content], absent: Content) -> Content:
    """What `parse` makes of a file's text, or `absent` if there is no such file.

    Raises ReportError, which names the file, if the text is not what a run writes.
    """
    try:
        return parse(path.read_text(encoding="utf-8")) if path.exists() else absent
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError,
            RecursionError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        raise ReportError(f"{path}: not what a run writes ({reason}). The file may be cut off, or "
                          "from another version: train again, or delete it") from error


def read_run(folder: Path) -> LoggedRun:
    """A run folder. Raises ReportError if it is none, or if a file in it is broken."""
    if not (folder / "config.json").is_file():
        raise ReportError(f"{folder}: the folder holds no config.json; give a run folder, as "
                          "grpo.py, ppo.py and sft.py name it in their last line")
    if (maker := maker_of(folder)) not in ("training run", ""):
        raise ReportError(f"{folder}: no training run ({maker}), so there is no page of it; give "
                          "the folder that grpo.py, ppo.py or sft.py name in their last line")
    config = read_file(folder / "config.json", lambda text: dict(json.loads(text)), {})
    agent = config.get("agent", "manager")
    steps, scores, cases = read_file(folder / "cases.jsonl", lambda text: read_cases(text, agent),
                                     ([], [], []))
    return LoggedRun(
        folder.as_posix(), config, read_file(folder / "metrics.csv", read_metrics, {}),
        read_file(folder / "summary.json", read_summary, {}), steps, scores, cases,
        read_file(folder / "dialogue.jsonl", read_dialogue, {}))


def read_metrics(text: str) -> dict[str, list[tuple[float, float]]]:
    """Column of metrics.csv -> its finite (step, value) points; columns of METRICS come first.

    A last line without its end is left out: the run was killed while it wrote, or writes now.
    """
    points: dict[str, list[tuple[float, float]]] = {name: [] for name in METRICS}
    for row in csv.DictReader(io.StringIO(text[:text.rfind("\n") + 1])):
        step = float(row.pop("step"))
        for name, value in row.items():
            if name not in UNDRAWN and math.isfinite(float(value)):
                points.setdefault(name, []).append((step, float(value)))
    return {name: column for name, column in points.items() if column}


def read_summary(text: str) -> dict[str, Any]:
    """What the page shows of summary.json; its rows are label -> (before, after, count)."""
    summary = json.loads(text)
    before, after = summary["before"], summary["after"]
    rows = {category_name(int(name) if name.isdecimal() else name): (scores["exact_match"],
                                  after["by_category"][name]["exact_match"], scores["count"])
            for name, scores in before["by_category"].items()}
    rows |= {label: (before[key], after[key], before["count"] if key == "exact_match" else None)
             for key, label in SCORES.items() if key in before}
    return {"algorithm": str(summary["algorithm"]), "seconds": float(summary["seconds"]),
            "gib": summary["peak_memory_bytes"] / 2**30, "rows": rows,
            "what_changed": str(summary["what_changed"]),
            "by_objectives": summary.get("by_objectives", {})}


def read_cases(text: str, agent: str) -> tuple[list[int], list[float], list[dict]]:
    """Steps and scores of the validations in cases.jsonl, and the cases over all of them."""
    lines = [json.loads(line) for line in json_lines(text)]
    view = {"manager": manager_case, "answer": answer_case, "mem1": mem1_case}[agent]
    # zip turns a line a step, each with all cases, into one tuple a case, with all steps.
    cases = [case_view(logs, view) for logs in zip(*(line["cases"] for line in lines))]
    return [line["step"] for line in lines], [line["score"] for line in lines], cases


def case_view(logs: Sequence[dict], view: Callable[[dict], dict]) -> dict:
    """One case as the template shows it, from what was logged of it at each validation."""
    first = logs[0]
    questions = first.get("objectives", [0])  # a task of MEM1 has several; its reward counts them
    steps = [{"reward": log["reward"], "answer": log["answer"], **view(log)} for log in logs]
    # The candidates of an answer agent are the same at every step, so the page lists them once.
    for place, entry in enumerate(steps[0].get("candidates", [])):
        entry["picked"] = [number for number, step in enumerate(steps)
                           if step["candidates"][place]["selected"]]
    return {"question": first["question"], "gold": first["gold"], "steps": steps,
            "category": f"{first['category']} questions" if "objectives" in first
            else category_name(first["category"]),
            "best": max(len(questions), 1)}  # the highest reward there is


def read_dialogue(text: str) -> dict[str, Any]:
    """dialogue.jsonl, turn by turn: what the manager made of each at several steps of training."""
    readings = [json.loads(line) for line in json_lines(text)]
    if not readings:
        return {}
    rows = []
    # zip turns a line a step, each with all turns, into one tuple a turn, with all steps.
    for sides in zip(*(reading["turns"] for reading in readings)):
        facts = [[fact["fact"] for fact in side["facts"]] for side in sides]
        effects = [([(fact["changes"], fact["invalid"]) for fact in side["facts"]],
                    side["questions"], side["mistakes"]) for side in sides]
        is_same = all(effect == effects[0] for effect in effects)
        rows.append({
            "date": sides[0]["date"], "facts": facts[0], "sides": sides, "same": is_same,
            "same_facts": all(others == facts[0] for others in facts),
            "eventless": is_same and not sides[0]["mistakes"]})
    columns = [dialogue_column(reading) for reading in readings]
    return {"name": readings[0]["name"], "rows": rows, "columns": columns, "kinds": KINDS,
            "steps": [reading["step"] for reading in readings],
            "n_questions": sum(len(row["sides"][0]["questions"]) for row in rows),
            "story": dialogue_story(columns)}


def dialogue_column(reading: dict) -> dict[str, Any]:
    """The counts of one reading; "mistakes" is kind -> (how many, answers that they cost).

    It is None where the data does not know the right memory.
    """
    questions = [question for turn in reading["turns"] for question in turn["questions"]]
    n_right = {when: sum(question[when]["right"] for question in questions)
               for when in ("after", "end")}
    column = {"n_right": n_right, "bank": reading["bank"], "mistakes": None}
    if all(turn["mistakes"] is not None for turn in reading["turns"]):
        mistakes = [mistake for turn in reading["turns"] for mistake in turn["mistakes"]]
        column["mistakes"] = {
            kind: (len(of_kind), sum(len(mistake["cost"]) for mistake in of_kind))
            for kind in KINDS
            for of_kind in [[mistake for mistake in mistakes if mistake["kind"] == kind]]}
        column["n_cost"] = sum(cost for _, cost in column["mistakes"].values())
        column["n_other"] = len(questions) - n_right["end"] - column["n_cost"]
    return column


def dialogue_story(columns: Sequence[dict]) -> str:
    """One sentence that compares the first reading with the last."""
    first, last = columns[0], columns[-1]
    if first["mistakes"] is None:
        return (f"At the end {first['n_right']['end']} answers are right before training, and "
                f"{last['n_right']['end']} after it.")
    counts = [sum(n for n, _ in column["mistakes"].values()) for column in (first, last)]
    return (f"Before training {counts[0]} mistakes of the memory cost {first['n_cost']} answers; "
            f"after training {counts[1]} cost {last['n_cost']}.")


# ---- One held-out case at one step ---------------------------------------------------------------


def manager_case(log: dict) -> dict:
    """A decision: the memories in the prompt, the fact, and what each operation did to an entry."""
    # The first line of the prompt is a heading, the last one the fact. Between them each memory has
    # a line of its own (prompts.one_line); "- none" stands for an empty list.
    *entries, fact = log["prompt"].splitlines()[1:]
    memories = [line.split(": ", 1)[1] for line in entries if ": " in line]
    operations, n_invalid = parse_operations(log["response"], len(memories))
    return {"memories": memories, "fact": fact.removeprefix("New fact: "), "invalid": n_invalid,
            "operations": [{
                "event": operation.event, "after": operation.text,
                "before": "" if operation.number is None else memories[operation.number]}
                for operation in operations],
            "response": log["response"], "answer_response": log["answer_response"]}


def answer_case(log: dict) -> dict:
    """An answer: the candidates with marks, and selected lines that are no candidate."""
    lines = [" ".join(re.sub(r"^\s*- ", "", line).split())
             for line in parse_answer(log["response"])[0].splitlines()]
    selected = [line for line in lines if line not in ("", "none")]
    candidates, speaker = [], ""
    for line in log["prompt"].splitlines():
        if line.startswith("Memories of "):
            speaker = line.removeprefix("Memories of ").removesuffix(":")
        elif line.startswith("- ") and ": " in line:
            date, text = line[2:].split(": ", 1)
            candidates.append({"speaker": speaker, "date": date, "text": text,
                               "selected": text in selected})
    candidate_texts = {entry["text"] for entry in candidates}
    return {"candidates": candidates, "selected": selected, "response": log["response"],
            "invented": [line for line in selected if line not in candidate_texts]}


def mem1_case(log: dict) -> dict:
    """A trajectory: what each turn wrote and got back, what was dropped, and tokens in context.

    `all_tokens` is the context had every turn been kept, up to a token or two. The size of a turn
    is what it adds to the first prompt that holds it, so the lengths of the prompts are enough.
    """
    logged = log["turns"]
    turns: list[dict] = []
    for place, (turn, text) in enumerate(zip(logged, log["response"].split("\n"))):
        # The places of turns that were in context before this one, and are no longer.
        left = {*logged[place - 1]["kept"], place - 1} - set(turn["kept"]) if place else set()
        in_prompt = [turns[other] for other in turn["kept"]]
        if in_prompt:
            others = sum(earlier["tokens"] for earlier in in_prompt[:-1])
            in_prompt[-1]["tokens"] = turn["read_tokens"] - logged[0]["read_tokens"] - others
        # The note is MEM1's state, or else full context's thinking; a turn may have neither.
        parsed = parse_turn(text, "mem1") or parse_turn(text, "full_context")
        notes = [parse_turn(text, kind)[0] for kind in ("mem1", "full_context")] if parsed else []
        turns.append({
            "note": next(filter(None, notes), ""), "action": parsed[1] if parsed else "",
            "text": parsed[2] if parsed else text, "info": turn["info"], "tokens": 0,
            "in_context": turn["read_tokens"] + turn["written_tokens"],
            "all_tokens": logged[0]["read_tokens"] + turn["written_tokens"]
            + sum(earlier["tokens"] for earlier in turns),
            "dropped": [(other + 1, turns[other]) for other in sorted(left)]})
    return {"turns": turns, "most": max((turn["all_tokens"] for turn in turns), default=1)}


# ---- Charts --------------------------------------------------------------------------------------

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 320, 180, 44, 10, 10, 24  # of a chart, in its own units
COLORS = 6  # in the template


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers from `low` or below to `high` or above.

    >>> ticks(0, 0.93), ticks(3, 17)
    ([0.0, 0.5, 1.0], [0, 5, 10, 15, 20])
    """
    rough = max(high - low, 1e-9 * max(abs(high), 1e-3)) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-6), math.ceil(high / step - 1e-6)
    digits = max(0, -math.floor(math.log10(step)))
    return [round(n * step, digits) if digits else int(n * step) for n in range(first, last + 1)]


def line_chart(title: str, lines: dict[int, Sequence[tuple[float, float]]],
               names: Sequence[str], places: Sequence[str] = ()) -> Markup:
    """Lines of (x, y) points as SVG; a line's key is its color and the place of its name.

    `places` are names of x = 0, 1, ...; without them x is a number. Lines differ in their dashes,
    too, and every point says its numbers when the pointer is over it.
    """
    xs = [x for points in lines.values() for x, _ in points]
    ys = [y for points in lines.values() for _, y in points]
    marks_y = ticks(min(0.0, *ys), max(ys))
    marks_x = list(range(len(places))) or [m for m in ticks(min(xs), max(xs)) if m <= max(xs)]
    x_low, x_high = min(xs), max(max(xs), min(xs) + 1)
    y_low, y_high = marks_y[0], max(marks_y[-1], marks_y[0] + 1e-12)

    def across(x: float) -> str:
        return f"{LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT):.1f}"

    def down(y: float) -> str:  # SVG's y grows downwards
        share = (y - y_low) / (y_high - y_low)
        return f"{HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM):.1f}"

    ends = "; ".join(f"{names[key]} from {points[0][1]:.3g} to {points[-1][1]:.3g}"
                     for key, points in lines.items())
    svg = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
           f'aria-label="{escape(f"{title}: {ends}")}">']
    for mark in marks_y:
        svg.append(f'<path class="grid" d="M{LEFT} {down(mark)}H{WIDTH - RIGHT}"/><text x='
                   f'"{LEFT - 5}" y="{down(mark)}" dy="4" text-anchor="end">{mark:g}</text>')
    for mark in marks_x:
        if x_low <= mark <= x_high:
            label = escape(places[mark]) if places else f"{mark:g}"
            svg.append(f'<text x="{across(mark)}" y="{HEIGHT - 6}" text-anchor="middle">{label}'
                       "</text>")
    for key, points in lines.items():
        path = "L".join(f"{across(x)} {down(y)}" for x, y in points)
        svg.append(f'<g class="line c{key % COLORS}"><path d="M{path}"/>')
        for x, y in points:
            place = escape(places[int(x)]) if places else f"{x:g}"
            svg.append(f'<circle cx="{across(x)}" cy="{down(y)}" r="2.5"><title>'
                       f"{escape(names[key])}, {place}: {y:.4g}</title></circle>")
        svg.append("</g>")
    return Markup("".join([*svg, "</svg>"]))


def curves(runs: Sequence[LoggedRun]) -> list[tuple[str, str, Markup]]:
    """(name, what it means, chart) of everything that was logged, all runs in one chart each."""
    names, charts = [run.name for run in runs], []
    validation = {i: list(zip(run.steps, run.scores)) for i, run in enumerate(runs) if run.steps}
    if validation:
        charts.append(("validation", "greedy, on questions that are not trained on",
                       line_chart("validation score", validation, names)))
    columns = dict.fromkeys(column for run in runs for column in run.metrics)
    for column in sorted(columns, key=[*METRICS, *columns].index):
        lines = {i: run.metrics[column] for i, run in enumerate(runs) if column in run.metrics}
        charts.append((column, METRICS.get(column, ""), line_chart(column, lines, names)))
    return charts


def objectives(run: LoggedRun) -> tuple[list[str], list[tuple[str, Markup]]]:
    """The names of MEM1's harnesses, and (title, chart) over the number of questions."""
    scores = run.summary.get("by_objectives", {})  # number of questions -> harness -> means
    if not scores:
        return [], []
    harnesses = list(next(iter(scores.values())))
    names = [harness.replace("_", " ") for harness in harnesses]
    charts = []
    for metric, title in (("exact_match", "questions answered right, by questions in a task"),
                          ("peak_tokens", "peak tokens in context, by questions in a task")):
        lines = {key: [(x, means[harness][metric]) for x, means in enumerate(scores.values())]
                 for key, harness in enumerate(harnesses)}
        charts.append((title, line_chart(title, lines, names, list(scores))))
    return names, charts


# ---- The page ------------------------------------------------------------------------------------


def script_hash(script: str) -> str:
    """How a Content-Security-Policy names the one script that may run."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def option_text(name: str, value: object) -> str:
    """An option's value for the page; of a model's folder only the name, not the path to it."""
    if value is None:
        return ""
    return start_model(value) if name == "model" and value else str(value)


def render(runs: Sequence[LoggedRun]) -> str:
    """The page of some runs, as HTML."""
    pages = Environment(loader=FileSystemLoader(Path(__file__).resolve().parent), autoescape=True,
                        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    pages.filters["script_hash"] = script_hash
    options = dict.fromkeys(name for run in runs for name in run.config)
    rows = dict.fromkeys(label for run in runs for label in run.summary.get("rows", {}))
    return pages.get_template("report_template.html").render(
        runs=runs, curves=curves(runs), objectives=[objectives(run) for run in runs],
        score_rows=rows, colors=COLORS,
        options={name: [option_text(name, run.config.get(name)) for run in runs]
                 for name in options})


def main(argv: Sequence[str] | None = None) -> None:
    """Write the page."""
    print_anything()
    parser = argparse.ArgumentParser(prog="python -m tools.report", allow_abbrev=False,
                                     description="Make one web page of training runs.")
    parser.error = lambda message: exit_with(f"{message}; --help lists all options")
    parser.add_argument("runs", nargs="+", type=Path, help="run folders of grpo.py, ppo.py, sft.py")
    parser.add_argument("--out", type=Path, metavar="FILE",
                        help="the page (default: report.html in the first run folder)")
    options = parser.parse_args(argv)
    out = options.out or options.runs[0] / "report.html"
    folders = ", ".join(map(str, options.runs))
    try:
        page = render([read_run(folder) for folder in options.runs])
        # A half of a surrogate pair, which JSON can spell, becomes a character reference.
        content = page.encode("utf-8", errors="xmlcharrefreplace")
        keep_old(out, content)
        write_whole(out, content)
    except ReportError as error:
        exit_with(str(error))
    except (TemplateError, ValueError, KeyError, TypeError) as error:
        exit_with(f"{folders}: a file there lacks something ({' '.join(str(error).split())}); "
                  "another version may have written it: train again")
    except OSError as error:
        exit_with(f"--out {out}: the file cannot be written ({error.strerror}); choose another")
    print(f"saved to {out}: open it in a browser")


if __name__ == "__main__":
    main()
