"""Look at runs instead of reading them: one web page that needs nothing but itself.

    python report.py runs/grpo-manager                     writes runs/grpo-manager/report.html
    python report.py runs/grpo-manager runs/ppo-manager --out both.html       two runs on one page

The page holds the learning curves; the scores by question type, before and after; and a slider over
the training steps that shows the same held-out cases as they change. A manager's run also shows one
whole dialogue as a timeline of its memory, an answer agent's its candidates with the selected ones
marked, and MEM1's its turns, with what was dropped and the tokens in context.

    run folder ──read_run──> numbers and texts ──*_case, line_chart──> what is shown
                                                         └──report_template.html──> report.html

Texts of data and models are shown, never run: the template escapes them all, and the page tells the
browser to run no script but its own and to load nothing (Content-Security-Policy). The template is
Jinja2's, which comes with torch. A run that is still going on can be looked at, too.
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

from backend.devices import exit_with
from data import category_name
from mem1 import parse_turn
from prompts import parse_answer, parse_operations
from training.model_card import start_model

Part = TypeVar("Part")

# What the columns of metrics.csv mean, in the order in which they are drawn.
METRICS = {
    "reward": "mean of the step's samples: does it learn?",
    "loss": "nats a token of what is imitated",
    "no_signal": "share of groups in which all did equally well: they teach nothing",
    "kl": "drift from the start model, nats a token",
    "entropy": "near 0 it no longer explores",
    "reward_std": "spread of the rewards",
    "clip_fraction": "share of tokens whose gradient the clip stopped",
    "ratio_error": "sampling and scoring agree if under 1e-4",
    "grad_norm": "before clipping",
    "response_length": "tokens a response",
    "finished": "share that ended by themselves",
    "value_loss": "the critic's: half its squared error",
    "explained_variance": "of the critic: 1 if it foresaw all",
    "advantage_std": "before whitening; it shrinks as the critic learns",
    "add": "operations a decision", "update": "operations a decision",
    "delete": "operations a decision", "noop": "operations a decision",
    "invalid": "unusable outputs a decision",
}
UNDRAWN = ("lr", "seconds")  # the learning rate only falls, and time is that of the machine
SCORES = {  # of summary.json, below the question types
    "exact_match": "all, exact match", "reward": "all, reward", "f1": "all, F1",
    "bleu1": "all, BLEU-1", "second_pets_merged": "second pets merged",
    "whole_dialogues": "whole dialogues, exact match", "memories_per_dialogue": "memories, each"}


class ReportError(Exception):
    """A folder or file that is no run's; the message is one line."""


# ---- Reading a run folder ------------------------------------------------------------------------


@dataclass
class LoggedRun:
    """What a run folder holds; a part that is not there yet is empty."""

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


def part(path: Path, build: Callable[[str], Part], absent: Part) -> Part:
    """What `build` makes of a file's text, or `absent`. Raises ReportError that names the file."""
    try:
        return build(path.read_text(encoding="utf-8")) if path.exists() else absent
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError,
            RecursionError) as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        raise ReportError(f"{path}: not what a run writes ({reason}); is it cut off, or from "
                          "another version? Train again, or delete it") from error


def read_run(folder: Path) -> LoggedRun:
    """A run folder. Raises ReportError if it is none, or if a file in it is broken."""
    if not (folder / "config.json").is_file():
        raise ReportError(f"{folder}: no config.json there; give a run folder, as grpo.py, ppo.py "
                          "and sft.py name it in their last line")
    config = part(folder / "config.json", lambda text: dict(json.loads(text)), {})
    agent = config.get("agent", "manager")
    steps, scores, cases = part(folder / "cases.jsonl", lambda text: read_cases(text, agent),
                                ([], [], []))
    return LoggedRun(
        folder.as_posix(), config, part(folder / "metrics.csv", read_metrics, {}),
        part(folder / "summary.json", read_summary, {}), steps, scores, cases,
        part(folder / "dialogue.json", read_dialogue, {}))


def read_metrics(text: str) -> dict[str, list[tuple[float, float]]]:
    """The columns of metrics.csv as finite points over the steps; those explained come first."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in METRICS}
    for row in csv.DictReader(io.StringIO(text)):
        step = float(row.pop("step"))
        for name, value in row.items():
            if name not in UNDRAWN and math.isfinite(float(value)):
                found.setdefault(name, []).append((step, float(value)))
    return {name: points for name, points in found.items() if points}


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
            "by_objectives": summary.get("by_objectives", {})}


def read_cases(text: str, agent: str) -> tuple[list[int], list[float], list[dict]]:
    """Steps and scores of the validations in cases.jsonl, and the cases over all of them."""
    lines = [json.loads(line) for line in text.splitlines() if line.strip()]
    view = {"manager": manager_case, "answer": answer_case, "mem1": mem1_case}[agent]
    cases = []
    for logs in zip(*(line["cases"] for line in lines)):  # one case at every step
        cases.append({"question": logs[0]["question"], "gold": logs[0]["gold"],
                      # A task of MEM1 has as many questions as its "category" says.
                      "category": f"{logs[0]['category']} questions" if "objectives" in logs[0]
                      else category_name(logs[0]["category"]),
                      "best": max(len(logs[0].get("objectives", [0])), 1),  # the highest reward
                      "steps": [{"reward": log["reward"], "answer": log["answer"], **view(log)}
                                for log in logs]})
        listed = cases[-1]["steps"][0].get("candidates", [])
        for place, entry in enumerate(listed):  # they are the same at every step: listed once
            entry["picked"] = [i for i, step in enumerate(cases[-1]["steps"])
                               if step["candidates"][place]["selected"]]
    return [line["step"] for line in lines], [line["score"] for line in lines], cases


def read_dialogue(text: str) -> dict[str, Any]:
    """dialogue.json, turn by turn: what the start model and the trained one made of each."""
    record = json.loads(text)
    rows = []
    for before, after in zip(record["before"]["turns"], record["after"]["turns"]):
        facts = [fact["fact"] for fact in after["facts"]]
        done = [[(f["changes"], f["invalid"]) for f in turn["facts"]] for turn in (before, after)]
        rows.append({"date": after["date"], "facts": facts, "sides": (before, after),
                     "same_facts": facts == [fact["fact"] for fact in before["facts"]],
                     "differs": done[0] != done[1] or before["questions"] != after["questions"]})
    tally = {when: [sum(q[when]["right"] for turn in record[side]["turns"]
                        for q in turn["questions"]) for side in ("before", "after")]
             for when in ("before", "after", "end")}
    return {"name": record["name"], "rows": rows, "tally": tally,
            "asked": sum(len(turn["questions"]) for turn in record["after"]["turns"]),
            "banks": [record["before"]["bank"], record["after"]["bank"]]}


# ---- One held-out case at one step ---------------------------------------------------------------


def manager_case(log: dict) -> dict:
    """A decision: the memories shown, the fact, and each operation with the entry it changed."""
    *listed, fact = log["prompt"].splitlines()[1:]  # each on a line of its own: prompts.one_line
    shown = [line.split(": ", 1)[1] for line in listed if ": " in line]  # "- none": no memory
    operations, invalid = parse_operations(log["response"], len(shown))
    return {"shown": shown, "fact": fact.removeprefix("New fact: "), "invalid": invalid,
            "operations": [{"event": o.event, "before": "" if o.number is None else shown[o.number],
                            "after": o.text} for o in operations],
            "response": log["response"], "answer_response": log["answer_response"]}


def answer_case(log: dict) -> dict:
    """An answer: the candidates with marks, and what was selected that is none of them."""
    written = [" ".join(re.sub(r"^\s*- ", "", line).split())
               for line in parse_answer(log["response"])[0].splitlines()]
    selected = [line for line in written if line not in ("", "none")]
    candidates, speaker = [], ""
    for line in log["prompt"].splitlines():
        if line.startswith("Memories of "):
            speaker = line.removeprefix("Memories of ").removesuffix(":")
        elif line.startswith("- ") and ": " in line:
            date, text = line[2:].split(": ", 1)
            candidates.append({"speaker": speaker, "date": date, "text": text,
                               "selected": text in selected})
    known = {entry["text"] for entry in candidates}
    return {"candidates": candidates, "selected": selected, "response": log["response"],
            "invented": [line for line in selected if line not in known]}


def mem1_case(log: dict) -> dict:
    """A trajectory: what each turn wrote and got back, what was dropped, and tokens in context.

    `all_tokens` is what would be in context had every turn been kept, up to a token or two. The
    size of a turn is what it added to the first prompt in which it stands, so all that is needed
    are the lengths of the prompts that were made.
    """
    turns: list[dict] = []
    for place, (turn, text) in enumerate(zip(log["turns"], log["response"].split("\n"))):
        base, past = log["turns"][0]["read_tokens"], turns[place - turn["kept"]:place]
        if past:
            past[-1]["tokens"] = turn["read_tokens"] - base - sum(t["tokens"] for t in past[:-1])
        parsed = parse_turn(text, "mem1") or parse_turn(text, "full_context")
        noted = [parse_turn(text, kind)[0] for kind in ("mem1", "full_context")] if parsed else []
        gone = place - turn["kept"]  # turns 0 .. gone - 1 are no longer in context
        before = place - 1 - log["turns"][place - 1]["kept"] if place else 0
        turns.append({
            "note": "".join(noted), "action": parsed[1] if parsed else "",
            "text": parsed[2] if parsed else text, "info": turn["info"], "tokens": 0,
            "in_context": turn["read_tokens"] + turn["written_tokens"],
            "all_tokens": base + sum(t["tokens"] for t in turns) + turn["written_tokens"],
            "dropped": [(n + 1, turns[n]) for n in range(max(before, 0), gone)]})
    return {"turns": turns, "most": max((t["all_tokens"] for t in turns), default=1)}


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
    too, and every point says its numbers when pointed at.
    """
    xs = [x for points in lines.values() for x, _ in points]
    ys = [y for points in lines.values() for _, y in points]
    marks_y = ticks(min(0.0, *ys), max(ys))
    marks_x = list(range(len(places))) or [m for m in ticks(min(xs), max(xs)) if m <= max(xs)]
    x_low, x_high = min(xs), max(max(xs), min(xs) + 1)
    y_low, y_high = marks_y[0], max(marks_y[-1], marks_y[0] + 1e-12)

    def at(x: float, y: float) -> tuple[str, str]:
        across = LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)
        return (f"{across:.1f}",
                f"{HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM):.1f}")

    ends = "; ".join(f"{names[key]} from {points[0][1]:.3g} to {points[-1][1]:.3g}"
                     for key, points in lines.items())
    out = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
           f'aria-label="{escape(f"{title}: {ends}")}">']
    for mark in marks_y:
        _, y = at(x_low, mark)
        out.append(f'<path class="grid" d="M{LEFT} {y}H{WIDTH - RIGHT}"/>'
                   f'<text x="{LEFT - 5}" y="{y}" dy="4" text-anchor="end">{mark:g}</text>')
    for mark in marks_x:
        if x_low <= mark <= x_high:
            label = escape(places[mark]) if places else f"{mark:g}"
            out.append(f'<text x="{at(mark, y_low)[0]}" y="{HEIGHT - 6}" '
                       f'text-anchor="middle">{label}</text>')
    for key, points in lines.items():
        path = "L".join(" ".join(at(x, y)) for x, y in points)
        out.append(f'<g class="line c{key % COLORS}"><path d="M{path}"/>')
        for x, y in points:
            cx, cy = at(x, y)
            name, place = escape(names[key]), escape(places[int(x)]) if places else f"{x:g}"
            out.append(f'<circle cx="{cx}" cy="{cy}" r="2.5"><title>{name}, {place}: {y:.4g}'
                       "</title></circle>")
        out.append("</g>")
    return Markup("".join([*out, "</svg>"]))


def curves(runs: Sequence[LoggedRun]) -> list[tuple[str, str, Markup]]:
    """(name, what it means, chart) of everything that was logged, all runs in one chart each."""
    names, found = [run.name for run in runs], []
    validation = {i: list(zip(run.steps, run.scores)) for i, run in enumerate(runs) if run.steps}
    if validation:
        found.append(("validation", "greedy, on questions that are not trained on",
                      line_chart("validation score", validation, names)))
    logged = dict.fromkeys(column for run in runs for column in run.metrics)
    for column in sorted(logged, key=[*METRICS, *logged].index):
        lines = {i: run.metrics[column] for i, run in enumerate(runs) if column in run.metrics}
        found.append((column, METRICS.get(column, ""), line_chart(column, lines, names)))
    return found


def objectives(run: LoggedRun) -> tuple[list[str], list[tuple[str, Markup]]]:
    """MEM1 beside its two harnesses over the number of questions: their names, and the charts."""
    scores = run.summary.get("by_objectives", {})
    if not scores:
        return [], []
    harnesses = list(next(iter(scores.values())))
    names = [name.replace("_", " ") for name in harnesses]
    return names, [
        (title, line_chart(title, {key: [(x, by[harness][name]) for x, by in
                                         enumerate(scores.values())]
                                   for key, harness in enumerate(harnesses)}, names, list(scores)))
        for name, title in (("exact_match", "questions answered right, by questions in a task"),
                            ("peak_tokens", "peak tokens in context, by questions in a task"))]


# ---- The page ------------------------------------------------------------------------------------


def script_hash(script: str) -> str:
    """How a Content-Security-Policy names the one script that may run."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def shown_option(name: str, value: object) -> str:
    """An option's value for the page; where a model lies on somebody's disk is nobody's concern."""
    return start_model(value) if name == "model" and value else "" if value is None else str(value)


def render(runs: Sequence[LoggedRun]) -> str:
    """The page of some runs."""
    pages = Environment(loader=FileSystemLoader(Path(__file__).resolve().parent), autoescape=True,
                        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    pages.filters["script_hash"] = script_hash
    options = dict.fromkeys(name for run in runs for name in run.config)
    rows = dict.fromkeys(label for run in runs for label in run.summary.get("rows", {}))
    return pages.get_template("report_template.html").render(
        runs=runs, curves=curves(runs), objectives=[objectives(run) for run in runs],
        score_rows=rows, colors=COLORS,
        options={name: [shown_option(name, run.config.get(name)) for run in runs]
                 for name in options})


def main(argv: Sequence[str] | None = None) -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description="Make one web page of training runs.",
                                     allow_abbrev=False)
    parser.error = lambda message: exit_with(f"{message}; --help lists all options")
    parser.add_argument("runs", nargs="+", type=Path, help="run folders of grpo.py, ppo.py, sft.py")
    parser.add_argument("--out", type=Path, metavar="FILE",
                        help="the page (default: report.html in the first run folder)")
    options = parser.parse_args(argv)
    out = options.out or options.runs[0] / "report.html"
    try:
        found = [read_run(folder) for folder in options.runs]
        try:
            page = render(found)
        except (TemplateError, ValueError, KeyError, TypeError) as error:
            raise ReportError(f"{', '.join(map(str, options.runs))}: a file there lacks something "
                              f"({error}); was it made by another version? Train again") from error
        # A half of a surrogate pair, which JSON can spell, becomes a character reference.
        out.write_text(page, encoding="utf-8", errors="xmlcharrefreplace")
    except ReportError as error:
        exit_with(str(error))
    except OSError as error:
        exit_with(f"cannot write {out} ({error.strerror}); choose another --out")
    print(f"saved to {out}: open it in a browser")


if __name__ == "__main__":
    main()
