"""The rows of the table in docs/costs.md, each beside its peers, in turns.

    python -m tools.bench --table tiny --peer trl --peer-python trl/bin/python
    python -m tools.bench --table answers --peer llama.cpp
    python -m tools.bench --table real --peer ../older        a checkout of an earlier version

A row is one piece of work. Ours and each peer do it in a process of their own, one after another,
round after round (turns.py). A ratio is the median over rounds, because neighbours in time had the
same company on the machine. A peer is measured with the fastest of its settings that fits. One
that dies is a line of the table, and the bench goes on.

An earlier version is measured by its own command line: its bench for a step, its grpo.py for MEM1.
Each of its turns is a new process with a warm-up of its own.
"""

from __future__ import annotations

import csv
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from backend.devices import free_memory
from backend.gguf import SMOLLM2, SMOLLM2_INSTALL, model_folder, smollm2_file
from backend.loading import load_tokenizer
from prompts import answer_messages
from tools.bench.step import (
    CLIP,
    KL,
    LEARNING_RATE,
    MAX_GRAD_NORM,
    Setting,
    random_texts,
)
from tools.bench.turns import ROOT, Command, Contender, Died
from training.options import EMBEDDED_MODEL, Options, preset_of


@dataclass(frozen=True)
class Row:
    """A piece of work: `kind` is "step", "answers" or "mem1"."""

    title: str
    kind: str
    model: str
    setting: Setting


# What a real model gets here without any option; its precision is measured when a row is asked for.
_PRESET = preset_of(Options(precision="float32"), SMOLLM2)
_REAL = Setting(**{name: _PRESET[name] for name in ("lora", "checkpointing", "micro_batch_tokens")})
ROWS = {
    "real": Row("one GRPO step of SmolLM2-135M", "step", SMOLLM2,
                replace(_REAL, prompts=2, prompt_tokens=1000, new_tokens=32)),
    "real-long": Row("one GRPO step of SmolLM2-135M", "step", SMOLLM2,
                     replace(_REAL, prompts=8, prompt_tokens=2000, new_tokens=48)),
    "answers": Row("greedy answers of SmolLM2-135M", "answers", SMOLLM2,
                   Setting(prompts=60, group=1, prompt_tokens=875, new_tokens=20)),
    "tiny": Row("one GRPO step of tiny/", "step", str(EMBEDDED_MODEL), Setting()),
    "tiny-long": Row("one GRPO step of tiny/", "step", str(EMBEDDED_MODEL),
                     Setting(prompts=4, prompt_tokens=1000, new_tokens=32)),
    "mem1": Row("one step of grpo.py --agent mem1, tasks of two questions", "mem1", "",
                Setting(prompts=8)),
}
PEERS = {"trl": "step", "llama.cpp": "answers"}  # name -> the kind of work that it can do


@dataclass(frozen=True)
class PeerOptions:
    """Who is beside us, in which Python, with how much memory, and with which settings."""

    names: Sequence[str] = ()  # keys of PEERS, or folders of earlier versions
    python: str = sys.executable
    memory_bytes: int | None = None  # None: what the machine has
    setting: dict[str, Any] | None = None  # None: the fastest that fits


# ---- Who takes part ------------------------------------------------------------------------------


def ours(row: Row, folder: str, out: str, prompts: list[list[int]]) -> Contender | Command:
    """This project's contender for a row; `out` is a folder for what it writes."""
    if row.kind == "mem1":
        return mem1_run("ours", ROOT, Path(out))
    return Contender("ours", [sys.executable, "-m", "tools.bench.ours"], {
        "kind": row.kind, "folder": folder, "setting": asdict(row.setting), "prompts": prompts,
        "threads": torch.get_num_threads()})


def peer(name: str, row: Row, folder: str, prompts: list[list[int]],
         options: PeerOptions) -> Callable[[dict[str, Any]], Contender]:
    """What starts TRL or llama.cpp with one of its settings."""
    setting = row.setting
    common = {"threads": torch.get_num_threads(), "new_tokens": setting.new_tokens}
    if name == "trl":
        module = "tools.bench.trl_peer"
        texts = random_texts(load_tokenizer(folder), setting.prompts, setting.prompt_tokens)
        request = {**common, "folder": folder, "texts": texts, "prompts": setting.prompts,
                   "group": setting.group, "lora": setting.lora, "half": setting.half, "kl": KL,
                   "clip": CLIP, "learning_rate": LEARNING_RATE, "max_grad_norm": MAX_GRAD_NORM}
    else:
        module = "tools.bench.llama_peer"
        request = {**common, "file": str(smollm2_file()), "prompts": prompts}

    def start(settings: dict[str, Any]) -> Contender:
        # A GPU's driver maps more addresses than there is memory, so nothing is limited there.
        limit = None if torch.cuda.is_available() else (
            options.memory_bytes or free_memory(torch.device("cpu")) or None)
        return Contender(f"{name} {json.dumps(settings)}", [options.python, "-m", module],
                         {**request, **settings}, limit)
    return start


def settings_of(name: str, row: Row) -> list[dict[str, Any]]:
    """The settings of a peer that are tried."""
    if name == "llama.cpp":
        return [{"at_once": n} for n in (1, 4, 16)]
    n_responses = row.setting.prompts * row.setting.group
    batches = [n_responses // parts for parts in (1, 4, 16) if n_responses % parts == 0]
    return [{"batch": batch, "checkpointing": again} for again in (False, True)
            for batch in batches]


def fastest_setting(name: str, start: Callable[[dict[str, Any]], Contender],
                    settings: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The setting whose first turn took least; prints what became of each. None: none fits."""
    seconds: dict[str, float] = {}
    for setting in settings:
        # To compute layers again costs time and saves memory: needless where it fits without.
        if setting.get("checkpointing") and json.dumps({**setting, "checkpointing": False}) in (
                seconds):
            continue
        contender = start(setting)
        try:
            seconds[json.dumps(setting)] = total(contender.turn())
            print(f"  tried {contender.name}: {seconds[json.dumps(setting)]:.3f} s", flush=True)
        except Died as death:
            print(f"  tried {contender.name}: {death}", flush=True)
            if "killed for memory" not in str(death):
                return None
        finally:
            contender.close()
    return json.loads(min(seconds, key=seconds.get)) if seconds else None


def mem1_run(name: str, folder: Path, out: Path) -> Command:
    """The second step of a run of grpo.py, as its metrics.csv tells; the first is the warm-up."""
    out = out / f"mem1-{name}"

    def read(_: str) -> dict[str, Any]:
        with (out / "metrics.csv").open(newline="") as file:
            *_, last = csv.DictReader(file)
        summary = json.loads((out / "summary.json").read_text("utf-8"))
        return {"seconds": {"step": float(last["seconds"])},
                "peak_memory_bytes": summary["peak_memory_bytes"]}

    return Command(name, [sys.executable, "grpo.py", "--agent", "mem1", "--questions", "8",
                          "--steps", "2", "--limit", "1", "--out", str(out)], folder, read)


def older_version(name: str, row: Row, folder: str, out: str) -> Command:
    """An earlier version of this project in a folder, by its own commands."""
    home, setting = Path(name).resolve(), row.setting
    if row.kind == "mem1":
        return mem1_run(name.replace(os.sep, "-"), home, Path(out))
    bench = ["bench.py"] if (home / "bench.py").is_file() else ["-m", "tools.bench"]
    command = [sys.executable, *bench, "--model", folder, "--repetitions", "1", "--json"]
    for option in ("prompts", "group", "prompt_tokens", "new_tokens", "lora",
                   "micro_batch_tokens"):
        command += ["--" + option.replace("_", "-"), str(getattr(setting, option))]
    if setting.checkpointing is not False:  # earlier versions knew no "as needed"
        command.append("--checkpointing")
    if setting.precision:
        command += ["--precision", setting.precision]

    def read(printed: str) -> dict[str, Any]:
        figures = json.loads(printed.splitlines()[-1])
        return {"seconds": {"step": figures["seconds"]["step"]},
                "peak_memory_bytes": figures["peak_memory_bytes"]}
    return Command(name, command, home, read)


# ---- What they read ------------------------------------------------------------------------------


def answer_prompts(folder: str, setting: Setting) -> list[list[int]]:
    """Prompts that begin with the answer agent's instructions; random words are all the rest."""
    tokenizer = load_tokenizer(folder)
    instructions = tokenizer.apply_chat_template(
        answer_messages("", {}, distill=False)[:1], tokenize=False)
    head = tokenizer.encode(instructions, add_special_tokens=False)
    texts = random_texts(tokenizer, setting.prompts, setting.prompt_tokens - len(head))
    return [head + tokenizer.encode(text) for text in texts]


# ---- In turns ------------------------------------------------------------------------------------


def total(report: dict[str, Any]) -> float:
    """Seconds of all phases."""
    return sum(report["seconds"].values())


def in_turns(contenders: Sequence[Contender | Command], repetitions: int,
             ) -> dict[str, dict[str, Any]]:
    """By contender the `reports` of its turns behind a warm-up, and why it `died`, or None."""
    found = {c.name: {"reports": [], "died": None} for c in contenders}
    try:
        for _ in range(1 + repetitions):
            for contender in contenders:
                mine = found[contender.name]
                if mine["died"] is None:
                    try:
                        mine["reports"].append(contender.turn())
                    except Died as death:
                        mine["died"] = str(death)
    finally:
        for contender in contenders:
            contender.close()
    for mine in found.values():
        del mine["reports"][:1]  # the warm-up
    return found


def figures_of(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By contender: median `seconds`, `phases`, `peak_memory_bytes`, `ratio` to ours, and `died`.

    The ratio is the median over rounds, a peer's seconds by ours.
    """
    own = [total(report) for report in found["ours"]["reports"]]
    figures = {}
    for name, mine in found.items():
        reports = mine["reports"]
        if mine["died"] or not reports:
            figures[name] = {"died": mine["died"]}
            continue
        all_seconds = [total(report) for report in reports]
        ratios = [seconds / our_seconds for seconds, our_seconds in zip(all_seconds, own)]
        figures[name] = {
            "seconds": statistics.median(all_seconds), "all_seconds": all_seconds, "died": None,
            "phases": {phase: statistics.median(r["seconds"][phase] for r in reports)
                       for phase in reports[0]["seconds"]},
            "peak_memory_bytes": max(r["peak_memory_bytes"] or 0 for r in reports),
            "ratio": statistics.median(ratios) if ratios else None}
    return figures


def print_figures(figures: dict[str, dict[str, Any]]) -> None:
    """Print a line a contender."""
    for name, mine in figures.items():
        if mine["died"]:
            print(f"  {name}: {mine['died']}")
            continue
        line = (f"  {name:<44}{mine['seconds']:>9.3f} s"
                f"{mine['peak_memory_bytes'] / 2**30:>8.2f} GiB")
        if len(mine["phases"]) > 1:
            line += "   " + ", ".join(f"{p} {s:.3f}" for p, s in mine["phases"].items())
        if name != "ours" and mine["ratio"]:
            line += f"   {mine['ratio']:.2f} times ours"
        print(line, flush=True)


def bench_row(name: str, row: Row, repetitions: int, options: PeerOptions) -> dict[str, Any]:
    """Measure a row beside its peers and print it; returns the figures by contender."""
    setting, folder, prompts = row.setting, "", []
    work = f"{setting.prompts} x {setting.group}"
    if row.kind != "mem1":
        work += f", {setting.prompt_tokens:,} + {setting.new_tokens} tokens"
        work += ", bfloat16" if setting.half else ", float32"
        again = "as needed" if setting.checkpointing is None else setting.checkpointing
        work += f", LoRA {setting.lora}, layers computed again: {again}" if setting.lora else ""
    print(f"{name}: {row.title}, {work}; {torch.get_num_threads()} threads, median of "
          f"{repetitions}, load {os.getloadavg()[0]:.1f}", flush=True)
    if row.model == SMOLLM2 and smollm2_file() is None:
        print(f"  not measured: {SMOLLM2_INSTALL}")
        return {}
    if row.model:
        folder = model_folder(row.model)
    if row.kind == "answers":
        prompts = answer_prompts(folder, setting)
    with tempfile.TemporaryDirectory() as out:
        contenders = []
        for other in options.names:
            if other not in PEERS and row.kind != "answers":
                contenders.append(older_version(other, row, folder, out))
            elif PEERS.get(other) == row.kind:
                start = peer(other, row, folder, prompts, options)
                best = options.setting or fastest_setting(other, start, settings_of(other, row))
                if best:
                    contenders.append(start(best))
        contenders.insert(0, ours(row, folder, out, prompts))
        figures = figures_of(in_turns(contenders, repetitions))
    print_figures(figures)
    return figures
