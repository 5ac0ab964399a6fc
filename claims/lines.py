"""The nine claims of the two papers: which commands each needs, what is compared, what holds.

    claim ──> jobs (commands of this repository) ──> records ──> one number with its interval

Memory-R1 (arXiv 2508.19828) makes claims 1 to 8, MEM1 (arXiv 2506.15841) the ninth. A *term* is a
sign and the jobs that are counted with it. So `[(1, trained), (-1, START)]` is how much better a
trained agent is than the start model, paired by question and by seed.

A difference *holds* if its interval (runs and dialogues drawn anew, `intervals.crossed`) lies
above 0. It *does not hold* if the interval lies below 0, and is else *not shown*. Two scores that
should be level are so if the interval stays within `LEVEL`. More is not needed if the interval ends
below `LEVEL`.

Of many intervals of 95 %, one or two miss the truth. So each line is decided twice: for itself, by
an interval of 95 % (`CONFIDENCE`), and together with all others, by one so wide that all of them
hold the truth at once in 95 % of the cases (`joint_confidence`, after Bonferroni).

All is learned and asked in a world of its own, of the seed `WORLD`. No choice of this project was
made there: rates, steps and start models were chosen on other worlds' dialogues. A new start model
wants a new seed, because nobody may have looked at its world.

Where this differs from the papers
1. Scores are exact match, not F1 or an LLM judge's, because exact match is what is trained for.
2. "Manager" and "answer agent" alone are scored over whole dialogues with the other one untrained,
   as in the papers' ablations. An answer agent learns on the banks of the manager that it is scored
   with (Algorithm 2).
3. The papers test carrying over on other benchmarks. Here it is tested on names, relations and
   lengths that no training dialogue had (`--data world-part`, `world-long`).
"""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from claims.runner import Job
from comparisons.intervals import Sample, crossed, crossed_of
from data import json_lines
from systems.own_past import HARNESSES
from training.options import EMBEDDED_MODEL
from world import never_told

SEEDS = (0, 1, 2)
SIZES = (19, 38, 76, 152, 304)  # training questions
WORLD = 53
ASKED = ("--data", f"world-{WORLD}")
PART = ("--data", f"world-part-{WORLD}")  # to learn from, some names and relations left out
LONG = ("--data", f"world-long-{WORLD}", "--limit", "171")  # nine dialogues of twice the length
GROWTH = 1.63  # the paper's ratio of MEM1's peaks, at 16 questions and at 2
LEVEL = 0.05  # exact match; what is closer is level
CONFIDENCE = 0.95  # of the interval of one line
DRAWS = 20_000  # of which an interval for all lines at once leaves out some thirty


@dataclass(frozen=True)
class Budget:
    """What the trainings of the claims are told beside the usual options; nothing by default."""

    label: str = ""  # ends the names of their folders
    manager: tuple[str, ...] = ()
    part_manager: tuple[str, ...] = ()  # claim 6, twelve runs
    sized_manager: tuple[str, ...] = ()  # claim 5, fifteen runs
    answer: tuple[str, ...] = ()
    mem1: tuple[str, ...] = ()

    def named(self, name: str) -> str:
        """A name, and behind it which budget it was."""
        return "-".join(filter(None, (name, self.label)))


USUAL = Budget()  # that of the commands in README.md
# Less may be enough, because runs are compared only with each other.
QUICK = Budget(
    "quick", manager=("--steps", "14"), part_manager=("--questions", "38", "--steps", "12"),
    sized_manager=("--questions", "38", "--steps", "8"),  # 304 questions once each
    answer=("--steps", "10"),
    # At half this rate twelve steps teach nothing about sixteen questions.
    mem1=("--steps", "12", "--lr", "6e-4", "--limit", "10"))


@dataclass(frozen=True)
class Line:
    """One line of the table: a claim, what the paper says, and what is measured here."""

    number: int
    claim: str
    paper: str
    jobs: tuple[Job, ...]
    # From the confidence of intervals: the numbers as text, and whether the claim holds.
    measure: Callable[[float], tuple[str, bool | None]]


# ---- The commands --------------------------------------------------------------------------------


def in_world(options: Sequence[str]) -> tuple[str, ...]:
    """The options, with the world of the claims where they name none."""
    return tuple(options) if "--data" in options else (*ASKED, *options)


def training(algorithm: str, agent: str, seed: int, *options: str, label: str = "",
             needs: tuple[Job, ...] = ()) -> Job:
    """Train one agent.

    Its own evaluation is short, because `scoring` scores it again over whole dialogues.
    """
    name = "-".join(filter(None, (algorithm, agent, label, str(seed))))
    return Job(name, (f"{algorithm}.py", "--agent", agent, "--seed", str(seed), *in_world(options),
                      "--limit", "19"), needs)


def scoring(manager: Job | None, answerer: Job | None, *options: str) -> Job:
    """Whole dialogues, read and answered by two agents; None is the start model."""
    parts = ["of", manager.name if manager else "start", answerer.name if answerer else "start",
             *(option.lstrip("-") for option in options)]
    command = ["evaluate.py"]
    for flag, job in (("--manager", manager), ("--answerer", answerer)):
        command += [flag, job.checkpoint] if job else []
    return Job("-".join(parts), (*command, *in_world(options)),
               tuple(j for j in (manager, answerer) if j))


def ruled(rule: str) -> Job:
    """Whole dialogues, read by a rule of rules_and_mem0.py and answered by the start model."""
    return Job(f"of-{rule}", ("evaluate.py", "--systems", rule, *ASKED))


# ---- What is measured ----------------------------------------------------------------------------

Question = tuple[str, int]  # (dialogue, number of the question in it)


def answers(job: Job) -> dict[Question, dict[str, Any]]:
    """The record of every question that a scoring command asked."""
    lines = json_lines((job.folder / "records.jsonl").read_text(encoding="utf-8"))
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)  # of each dialogue
    for record in map(json.loads, lines):
        if "questions" in record:  # `--systems`: one line a dialogue, the last of the newest model
            rows[record["dialogue"]] = record["questions"]
        else:
            rows[record["dialogue"]].append(record)
    return {(dialogue, number): row for dialogue, of_dialogue in rows.items()
            for number, row in enumerate(of_dialogue)}


def right(row: dict[str, Any]) -> float:
    """Exact match of one answer."""
    return float(row["exact_match"])


def words(row: dict[str, Any]) -> float:
    """How long one answer is."""
    return float(len(row["answer"].split()))


Terms = Sequence[tuple[int, Sequence[Job]]]  # (sign, one job a seed, or one for all seeds)
Value = Callable[[dict[str, Any]], float]  # a number of one record
Filter = Callable[[str], bool]  # whether a question is counted
Effect = tuple[float, float, float]  # (mean, low, high)


def every_question(question: str) -> bool:
    """True: the filter that counts them all."""
    return True


def interval(terms: Terms, counts: Filter = every_question, value: Value = right,
             confidence: float = CONFIDENCE) -> Effect:
    """The signed sum of some scores, paired by question and by seed: (mean, low, high)."""
    scores = []  # (S, N): a row for each seed
    for seed in range(max(len(jobs) for _, jobs in terms)):
        # A job that stands for all seeds is paired with each of the others.
        signed_rows = [(sign, answers(jobs[seed % len(jobs)])) for sign, jobs in terms]
        keys = [key for key, row in signed_rows[0][1].items() if counts(row["question"])]
        scores.append([sum(sign * value(rows[key]) for sign, rows in signed_rows) for key in keys])
    return crossed(scores, [dialogue for dialogue, _ in keys], DRAWS, confidence=confidence)


def effect_text(effect: Effect, digits: int = 3) -> str:
    """An effect and its interval as text."""
    mean, low, high = effect
    return f"{mean:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})"


def above_zero(effect: Effect) -> bool | None:
    """True if the whole interval is above 0, False if below, else None."""
    _, low, high = effect
    return True if low > 0 else False if high < 0 else None


def level(effect: Effect) -> bool | None:
    """True if the whole interval is within LEVEL of 0, False if all of it is outside, else None."""
    _, low, high = effect
    if -LEVEL <= low and high <= LEVEL:
        return True
    return False if low > LEVEL or high < -LEVEL else None


def no_more(effect: Effect) -> bool | None:
    """True if the whole interval is at most LEVEL, False if all of it is above, else None."""
    _, low, high = effect
    return True if high <= LEVEL else False if low > LEVEL else None


def difference(number: int, claim: str, paper: str, terms: Terms, baseline: Sequence[Job] = (),
               counts: Filter = every_question,
               verdict: Callable[[Effect], bool | None] = above_zero, value: Value = right) -> Line:
    """A line about one signed sum of scores; `baseline` is scored too, to say what it rose from."""
    jobs = tuple(job for _, jobs_of_term in terms for job in jobs_of_term)

    def measure(confidence: float) -> tuple[str, bool | None]:
        effect, text = interval(terms, counts, value, confidence), ""
        if baseline:
            text = f"{interval([(1, baseline)], counts, value)[0]:.3f}, "
        return text + effect_text(effect), verdict(effect)

    return Line(number, claim, paper, (*jobs, *baseline), measure)


def rewards(job: Job) -> list[float]:
    """The mean training reward of each step of a run."""
    with (job.folder / "metrics.csv").open(newline="") as file:
        return [float(row["reward"]) for row in csv.DictReader(file)]


def task_scores(jobs: Sequence[Job], count: int, harness: str, metric: str) -> Sample:
    """A metric of every task of so many questions, by run, and the corpus of each task."""
    tasks = [json.loads((job.folder / "summary.json").read_text())
             ["by_objectives"][str(count)][harness]["tasks"] for job in jobs]
    return ([[row[metric] for row in of_run] for of_run in tasks],
            [row["corpus"] for row in tasks[0]])


# ---- The claims ----------------------------------------------------------------------------------


START = (scoring(None, None),)


def managers(budget: Budget, algorithm: str = "grpo", label: str = "",
             options: Sequence[str] | None = None) -> list[Job]:
    """A manager trained with each seed; with the budget's usual options unless told others."""
    options = budget.manager if options is None else options
    return [training(algorithm, "manager", seed, *options, label=budget.named(label))
            for seed in SEEDS]


def answerers(budget: Budget, label: str = "", *options: str,
              beside: Sequence[Job] = ()) -> list[Job]:
    """An answer agent trained with each seed, on the banks of a manager.

    The manager is the start model, or the one of the same seed in `beside`.
    """
    return [training("grpo", "answer", seed, "--manager",
                     beside[seed].checkpoint if beside else str(EMBEDDED_MODEL), *budget.answer,
                     *options, label=budget.named(label), needs=tuple(beside[seed:seed + 1]))
            for seed in SEEDS]


def alone(jobs: Sequence[Job], *options: str) -> list[Job]:
    """Trained managers with the start model's answers."""
    return [scoring(job, None, *options) for job in jobs]


def answering(jobs: Sequence[Job], *options: str) -> list[Job]:
    """Trained answer agents over what the start model's manager keeps."""
    return [scoring(None, job, *options) for job in jobs]


def both_agents(budget: Budget) -> list[Line]:
    """Claims 1 to 4; figures here and below are F1 in percent on LoCoMo, LLaMA-3.1-8B."""
    trained = managers(budget)
    grpo, ppo = alone(trained), alone(managers(budget, "ppo"))
    answer = answering(answerers(budget))
    both, direct = ([scoring(manager, answerer, *options) for manager, answerer in zip(
        trained, answerers(budget, label, *options, beside=trained))]
        for label, options in (("beside", ()), ("beside-direct", ("--no-distill",))))
    return [
        difference(1, "a manager trained by GRPO beats the untrained one", "26.7 -> 33.0",
                   [(1, grpo), (-1, START)], START),
        difference(1, "so does one trained by PPO", "26.7 -> 32.5", [(1, ppo), (-1, START)]),
        *(difference(1, f"{name} beats the rule that {what}", "not compared",
                     [(1, jobs), (-1, (ruled(rule),))], (ruled(rule),))
          for name, jobs in (("GRPO", grpo), ("PPO", ppo))
          for rule, what in (("add-everything", "adds everything"), ("overwrite", "overwrites"))),
        difference(2, "a trained answer agent beats static retrieval", "26.7 -> 37.5",
                   [(1, answer), (-1, START)], START),
        difference(3, "selecting memories first helps on top", "41.0 -> 45.0",
                   [(1, both), (-1, direct)]),
        difference(4, "the answer agent gains more with the trained manager", "+10.1, +19.7",
                   [(1, both), (-1, grpo), (-1, answer), (1, START)])]


def few_questions(budget: Budget) -> Line:
    """Claim 5: more than 152 training questions bring no more than LEVEL."""
    sized = {size: alone(managers(budget, label=str(size), options=(
        "--train-questions", str(size), *budget.sized_manager))) for size in SIZES}

    def measure(confidence: float) -> tuple[str, bool | None]:
        scores = ", ".join(f"{interval([(1, jobs)])[0]:.3f}" for jobs in sized.values())
        more = interval([(1, sized[304]), (-1, sized[152])], confidence=confidence)
        return f"{scores}; {effect_text(more)}", no_more(more)

    sizes = ", ".join(map(str, SIZES))
    return Line(5, f"152 training questions are enough: {sizes}; 304 - 152", "152",
                tuple(job for jobs in sized.values() for job in jobs), measure)


def carrying_over(budget: Budget) -> list[Line]:
    """Claim 6: questions about what no training dialogue had."""
    options_of_part = (*PART, *budget.part_manager)
    part = {name: managers(budget, name, "part", options_of_part)
            for name in ("grpo", "ppo", "sft")}
    overwriting = managers(budget, "sft", "part-overwrites",
                           (*options_of_part, "--expert-overwrites"))
    novelties = {
        "relations": ((), lambda question: "relation" in never_told(question)),
        "names": ((), lambda question: "name" in never_told(question)),
        "longer dialogues": (LONG, lambda question: True)}
    lines = []
    for name, paper in (("grpo", "43.9 -> 45.2"), ("ppo", "43.9 -> 43.6")):
        for what, (options, counts) in novelties.items():
            lines.append(difference(
                6, f"{name.upper()} carries over to {what} never trained on", "on MSC, LongMemEval",
                [(1, alone(part[name], *options)), (-1, (scoring(None, None, *options),))],
                counts=counts))
        lines += [difference(
            6, f"and beats Memory-SFT there ({name.upper()}, names and relations){expert}", figures,
            [(1, alone(part[name])), (-1, alone(imitators))],
            counts=lambda question: bool(never_told(question)))
            for expert, figures, imitators in (
                ("", paper, part["sft"]),
                (", of an expert that overwrites", "not compared", overwriting))]
    return lines


def algorithms_and_rewards(budget: Budget) -> list[Line]:
    """Claims 7 and 8."""
    grpo, ppo = managers(budget), managers(budget, "ppo")
    exact, softer = (answering(answerers(budget, *options))
                     for options in ((), ("f1", "--reward", "f1")))
    return [
        Line(7, "GRPO learns faster at first (reward, first half)", "Figure 7", (*grpo, *ppo),
             lambda confidence: race(grpo, ppo, confidence)),
        difference(7, "PPO ends level", "Figure 7", [(1, alone(ppo)), (-1, alone(grpo))],
                   verdict=level),
        difference(8, "paid by exact match, not by F1, it is right more often",
                   "judge: 33.7 -> 41.1",
                   [(1, exact), (-1, softer)]),
        difference(8, "and answers by so many words shorter", "not given",
                   [(1, softer), (-1, exact)], value=words)]


def race(first: Sequence[Job], second: Sequence[Job], confidence: float) -> tuple[str, bool | None]:
    """By how much the first runs are ahead in the reward of the first half of their steps.

    Step and seed make a pair: both algorithms meet the same questions there.
    """
    leads = [[a - b for a, b in zip(rewards(one), rewards(other))]
             for one, other in zip(first, second)]  # (S, steps)
    half = len(leads[0]) // 2
    effect = crossed([of_run[:half] for of_run in leads], range(half), DRAWS, confidence=confidence)
    return effect_text(effect), above_zero(effect)


def mem1(budget: Budget) -> list[Line]:
    """Claim 9; the paper's figures are its 7B model's, against Qwen2.5-14B-Instruct."""
    name = budget.named("grpo-mem1")
    jobs = tuple(Job(f"{name}-{seed}", (
        "grpo.py", "--agent", "mem1", "--seed", str(seed), *ASKED, "--compare", *budget.mem1))
        for seed in SEEDS)

    def growth(confidence: float) -> tuple[str, bool | None]:
        peaks = [task_scores(jobs, count, "mem1", "peak_tokens") for count in (16, 2)]
        ratio, low, high = crossed_of(lambda at_16, at_2: at_16 / at_2, peaks, DRAWS,
                                      confidence=confidence)
        return (f"{ratio:.2f} ({low:.2f} to {high:.2f})",
                True if high <= GROWTH else False if low > GROWTH else None)

    def lead(count: int, confidence: float) -> tuple[str, bool | None]:
        (own, corpora), *others = [task_scores(jobs, count, harness, "exact_match")
                                   for harness in HARNESSES]  # MEM1 itself first
        best, _ = max(others, key=lambda sample: sum(map(sum, sample[0])))
        leads = [[a - b for a, b in zip(*of_run)] for of_run in zip(own, best)]  # (S, tasks)
        effect = crossed(leads, corpora, DRAWS, confidence=confidence)
        return effect_text(effect, 2), above_zero(effect)

    def carried(count: int, confidence: float) -> tuple[str, bool | None]:
        samples = [task_scores(jobs, n, "mem1", "exact_match") for n in (count, 2)]
        effect = crossed_of(lambda more, few: more - few, samples, DRAWS, confidence=confidence)
        return effect_text(effect, 2), above_zero(effect)

    return [
        Line(9, "MEM1's context is bounded: its peak at 16 questions over that at 2", str(GROWTH),
             jobs, growth),
        *(Line(9, f"answers ahead of the best other harness at {count}", paper, jobs,
               partial(lead, count)) for count, paper in
          ((2, "-0.02"), (4, "not given"), (8, "+0.32"), (16, "+1.40"))),
        *(Line(9, f"answers more at {count} than at the 2 it was trained on", paper, jobs,
               partial(carried, count)) for count, paper in ((4, "not given"), (8, "+1.16")))]


def every_line(budget: Budget = USUAL) -> list[Line]:
    """All nine claims."""
    return [*both_agents(budget), few_questions(budget), *carrying_over(budget),
            *algorithms_and_rewards(budget), *mem1(budget)]


def joint_confidence() -> float:
    """That of each line's interval, for all to hold the truth at once (Bonferroni)."""
    return 1 - (1 - CONFIDENCE) / len(every_line())
