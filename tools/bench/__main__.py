"""What a training step, the memory bank and a model cost: time, arithmetic, memory.

    python -m tools.bench                        one GRPO step of a random model of 0.7M, by phase
    python -m tools.bench --table --peer trl llama.cpp       the table of docs/costs.md, beside both
    python -m tools.bench --bank                 search, add, update, delete, copy of many memories
    python -m tools.bench --memory --model tiny  GiB by part, computed from config.json and measured
    python -m tools.bench --curves --out docs/pictures/costs.png    how time grows with what

How each is measured stands in step.py, table.py, bank.py and memory.py beside this file. Times are
medians of several repetitions behind a warm-up; of the curves they are the fastest. The load of the
machine is printed with them, because other work on the same cores makes all of them longer.
`--json` ends with one line of all figures.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path

import torch
from transformers.utils.logging import disable_progress_bar

from backend.devices import exit_with, print_anything
from backend.gguf import SMOLLM2, GgufError, model_folder
from backend.loading import PolicyError, usual_precision
from tools.bench.bank import bank_table, measure_bank
from tools.bench.memory import computed, measured, memory_report, read_config
from tools.bench.step import (
    PHASES,
    OurStep,
    Setting,
    TurnsStep,
    arithmetic,
    matmul_rate,
    random_folder,
)
from tools.bench.table import PEERS, ROWS, PeerOptions, bench_row
from training.pictures import check_picture, draw_costs
from training.results import peak_memory_bytes
from training.run import launch

TOKENS_A_MEMORY = 33  # 60 memories of LoCoMo are about 2,000 tokens of Qwen's


def bench_step(folder: Path, setting: Setting, repetitions: int) -> dict:
    """Time the step, print a line a phase; returns the figures."""
    step = OurStep(folder, setting)
    step()  # a warm-up
    rate, steps = matmul_rate(setting), [step() for _ in range(repetitions)]
    totals = [sum(seconds.values()) for seconds in steps]
    work = arithmetic(step.policy, step.groups)
    plain, n_tokens = work.pop("plain"), setting.prompts * setting.group * setting.new_tokens
    seconds = {phase: statistics.median(one[phase] for one in steps) for phase in PHASES}
    seconds["step"], work["step"] = statistics.median(totals), sum(work.values())
    figures = {"seconds": seconds, "flop": {**work, "plain": plain}, "matmul_flop_per_second": rate,
               "tokens_per_second": {name: n_tokens / time for name, time in seconds.items()},
               "share_of_rate": {name: work[name] / seconds[name] / rate for name in seconds},
               "all_steps": totals, "peak_memory_bytes": peak_memory_bytes()}
    n_weights = sum(p.numel() for p in step.policy.model.parameters())
    learns = f"LoRA {setting.lora}" if setting.lora else "all learn"
    precision = "bfloat16" if setting.half else "float32"
    print(f"{n_weights / 1e6:.3g}M weights, {learns}, {precision}, {setting.device}, "
          f"{torch.get_num_threads()} threads; {setting.prompts} x {setting.group}, "
          f"{setting.prompt_tokens} + {setting.new_tokens} tokens; median of {repetitions}, load "
          f"{os.getloadavg()[0]:.1f}; matrix products here: {rate / 1e9:.4g} GFLOP/s")
    print_step(figures)
    return figures


def print_step(figures: dict) -> None:
    """Print time, tokens and arithmetic of each phase, and what plain rows would cost."""
    print(f"{'phase':<12}{'seconds':>9}{'response tokens/s':>19}{'GFLOP':>10}"
          f"{'share of that rate':>20}")
    for phase, time in figures["seconds"].items():
        print(f"{phase:<12}{time:>9.3f}{figures['tokens_per_second'][phase]:>19,.0f}"
              f"{figures['flop'][phase] / 1e9:>10.4g}{figures['share_of_rate'][phase]:>20.3f}")
    plain, packed = figures["flop"]["plain"], figures["flop"]["step"]
    print(f"in plain rows the step would take {plain / 1e9:.4g} GFLOP, {plain / packed:.2f} "
          f"times as many; peak memory {figures['peak_memory_bytes'] / 2**30:.2f} GiB")


def bench_memory(folder: Path, setting: Setting) -> dict:
    """Print what a step would hold and, on a GPU or with a small model, what it held."""
    config = read_config(folder)
    parts = computed(config, setting)
    room = torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else 4 * 2**30  # bytes
    fits = parts["peak"] < room
    n_bytes = measured(folder, setting) if fits else None
    print(memory_report(str(folder), config, setting, n_bytes))
    if not fits:
        print(f"  not measured: the peak would be more than the {room / 2**30:.0f} GiB of room")
    elif n_bytes is None:
        print("  not measured: only Linux tells the memory of a process, in /proc/self/status")
    return {**parts, "measured": n_bytes}


def bench_table(options: argparse.Namespace) -> dict:
    """Measure rows of the table; returns their figures by row."""
    peers = PeerOptions(
        options.peer, options.peer_python,
        None if options.peer_memory is None else int(options.peer_memory * 2**30),
        options.peer_setting)
    figures = {}
    # A row keeps what it says itself, such as a real model's defaults, where nothing was typed.
    typed = {name: getattr(options, name) for name in ("precision", "micro_batch_tokens")
             if getattr(options, name) != getattr(Setting, name)}
    for name in options.table or ROWS:
        usual = {"precision": usual_precision()} if ROWS[name].model == SMOLLM2 else {}
        setting = replace(ROWS[name].setting, **{**usual, **typed})
        figures[name] = bench_row(
            name, replace(ROWS[name], setting=setting), options.repetitions, peers)
    return {"table": figures}


# ---- Cost curves ---------------------------------------------------------------------------------


def objectives_setting(base: Setting, n: int) -> tuple[Setting, int]:
    """A MEM1 task of n questions: 14 tokens each, a state of 8 an answer; and its turns."""
    return replace(base, prompt_tokens=14 * n + 8, new_tokens=8 * n + 20), 2 * n + 2


def curves() -> dict[str, tuple[str, dict[int, Callable[[Path], OurStep]], str]]:
    """Name -> (axis, the steps to time by size, why they grow as they do)."""
    base = Setting(prompts=4)
    turns = replace(base, prompts=2, prompt_tokens=36, new_tokens=36)
    questions = replace(base, prompts=2)
    return {
        "group size": ("responses a prompt (4 prompts, 96 + 24 tokens)", {
            n: lambda folder, n=n: OurStep(folder, replace(base, group=n))
            for n in (2, 4, 8, 16, 32)},
            "below 1 while the shared prompt weighs most; above where a branch's mask spans all "
            "others of its row, up to the row budget"),
        "prompt length": ("prompt tokens (4 x 8, 24 new)", {
            n: lambda folder, n=n: OurStep(folder, replace(base, prompt_tokens=n))
            for n in (64, 128, 256, 512, 1024, 2048)},
            "below 1: a prompt is read once for 8 responses; attention's square shows last"),
        "memories": (f"memories in the prompt ({TOKENS_A_MEMORY} tokens each, 4 x 8, 24 new)", {
            n: lambda folder, n=n: OurStep(
                folder, replace(base, prompt_tokens=40 + TOKENS_A_MEMORY * n))
            for n in (5, 10, 20, 40, 60)},
            "as the prompt: 60 memories are about 2,000 tokens"),
        "turns": ("turns of a MEM1 trajectory (2 x 8, constant state)", {
            n: lambda folder, n=n: TurnsStep(folder, turns, n) for n in (1, 2, 4, 8, 16)},
            "near 1: each turn reads a context of constant size"),
        "objectives": ("questions of a MEM1 task (2 x 8)", {
            n: lambda folder, n=n: TurnsStep(folder, *objectives_setting(questions, n))
            for n in (1, 2, 4, 8)},
            "towards 2: twice the questions are twice the turns, and task and state twice as long"),
        "model size": ("width of the 3 layers (4 x 8, 96 + 24 tokens)", {
            n: lambda folder, n=n: OurStep(random_folder(folder.parent / f"width-{n}", n), base)
            for n in (64, 128, 256, 512, 1024)},
            "towards 2: the weights of a layer are the square of its width"),
    }


def exponent(times: dict[int, float]) -> float:
    """The slope of a straight line through log time over log size: 1 is linear, 2 quadratic."""
    x, y = ([math.log(value) for value in values] for values in (times, times.values()))
    return statistics.linear_regression(x, y).slope


def bench_curves(folder: Path, out: Path, repetitions: int) -> dict:
    """Time the steps of all curves, print each with its growth, draw them."""
    figures, panels = {}, {}
    for name, (axis, steps, reason) in curves().items():
        step_of = {size: make(folder) for size, make in steps.items()}
        for step in step_of.values():
            step()  # a warm-up
        # All sizes in each round, and the fastest of the rounds: other work on the machine only
        # adds time, and not to all sizes alike.
        rounds = [{size: sum(step().values()) for size, step in step_of.items()}
                  for _ in range(repetitions)]
        times = {size: min(seconds[size] for seconds in rounds) for size in step_of}
        power = exponent(times)
        figures[name] = {"seconds": times, "exponent": power}
        panels[name] = (axis, times, power)
        print(f"{name:<14}" + "  ".join(f"{n}: {time:.3f} s" for n, time in times.items())
              + f"  grows with the power {power:.2f} ({reason})", flush=True)
    draw_costs(panels, out)
    print(f"saved to {out}; load {os.getloadavg()[0]:.1f}")
    return figures


# ---- Command line --------------------------------------------------------------------------------


def json_object(text: str) -> dict:
    """A dictionary from JSON. Raises ArgumentTypeError, whose message argparse prints."""
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text}: copy one that the bench prints, such as "
                                         '{"batch": 4, "checkpointing": false}')
    return value


# Options that are whole numbers of a `Setting`, and their help.
NUMBERS = {"prompts": "prompts a step", "group": "responses to each", "prompt_tokens": "of each",
           "new_tokens": "of each response", "lora": "rank of the adapters; 0: all weights learn",
           "micro_batch_tokens": "tokens in one forward and backward pass"}


def make_parser() -> argparse.ArgumentParser:
    """The options of all benches; `check` says which bench reads which."""
    parser = argparse.ArgumentParser(prog="python -m tools.bench", allow_abbrev=False,
                                     description="Measure what things cost.")
    parser.error = lambda message: exit_with(f"{message}; --help lists all options")
    parser.add_argument("--model", type=Path, metavar="FOLDER",
                        help="a model's folder, or one with only its config.json: random weights "
                             "(default: a random Qwen2 of 0.7M)")
    for name, text in NUMBERS.items():
        parser.add_argument("--" + name.replace("_", "-"), type=int, default=getattr(Setting, name),
                            metavar="INT", help=f"{text} (default: {getattr(Setting, name)})")
    parser.add_argument("--precision", choices=["bfloat16", "float32"],
                        help="default: bfloat16 on a GPU, else float32")
    parser.add_argument("--checkpointing", action="store_true",
                        help="compute layers again in the backward pass")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--table", nargs="*", choices=list(ROWS), metavar="ROW",
                      help="rows of the table in docs/costs.md, in processes of their own: "
                           f"{', '.join(ROWS)} (default: all)")
    what.add_argument("--bank", action="store_true", help="the memory bank instead of a step")
    what.add_argument("--memory", action="store_true", help="memory of a step instead of its time")
    what.add_argument("--curves", action="store_true", help="how the time of a step grows")
    parser.add_argument("--peer", nargs="+", default=[], metavar="PEER",
                        help="--table: trl, llama.cpp, or the folder of an earlier version")
    parser.add_argument("--peer-python", default=sys.executable, metavar="FILE",
                        help="--table: the Python that has trl or cyllama (default: this one)")
    parser.add_argument("--peer-memory", type=float, metavar="GIB",
                        help="--table: what a peer may take (default: what is free)")
    parser.add_argument("--peer-setting", type=json_object, metavar="JSON",
                        help="--table: of the peer, as the bench prints it (default: the fastest "
                             "that fits, each tried for one turn)")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 100_000, 1_000_000],
                        metavar="INT", help="--bank: numbers of memories")
    parser.add_argument("--out", type=Path, default=Path("costs.png"),
                        help="--curves: the picture, a .png (default: costs.png)")
    parser.add_argument("--repetitions", type=int, default=5, metavar="INT",
                        help="behind a warm-up (default: 5)")
    parser.add_argument("--json", action="store_true", help="end with one line of all figures")
    return parser


def check(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Stop the program with one line for a wrong value, or an option that the bench does not read.
    """
    mode = next((name for name in ("bank", "memory", "curves") if getattr(options, name)), "step")
    mode = mode if options.table is None else "table"
    setting = {f.name for f in fields(Setting)}
    reads = {"bank": {"sizes"}, "memory": {"model", *setting},
             "curves": {"model", "out", "repetitions"}, "step": {"model", "repetitions", *setting},
             "table": {"table", "peer", "peer_python", "peer_memory", "peer_setting",
                       "repetitions", "precision", "micro_batch_tokens"}}
    for name, value in vars(options).items():
        is_switch = name in ("bank", "memory", "curves", "json")
        if not is_switch and name not in reads[mode] and value != parser.get_default(name):
            readers = " or ".join(
                "without --bank, --memory, --curves and --table" if m == "step" else f"with --{m}"
                for m in reads if name in reads[m])
            parser.error(f"--{name.replace('_', '-')}: is read only {readers}; leave it out")
    for name in (*NUMBERS, "repetitions"):
        least = {"lora": 0, "group": 2}.get(name, 1)
        if getattr(options, name) < least:
            parser.error(f"--{name.replace('_', '-')} {getattr(options, name)}: at least {least}")
    if options.peer_memory is not None and not 0.1 <= options.peer_memory < math.inf:
        parser.error(f"--peer-memory {options.peer_memory:g}: at least 0.1")
    if min(options.sizes) < 2:
        parser.error(f"--sizes {min(options.sizes)}: at least 2")
    for name in ("peer_python", "peer_memory", "peer_setting"):
        if not options.peer and getattr(options, name) != parser.get_default(name):
            parser.error(f"--{name.replace('_', '-')}: is read only with --peer; leave it out")
    for name in options.peer:
        if name in PEERS and options.table and not any(
                ROWS[row].kind == PEERS[name] for row in options.table):
            parser.error(f"--peer {name}: does no work of these rows ({', '.join(options.table)}); "
                         "leave it out")
        if name not in PEERS and not any(
                (Path(name) / place).exists() for place in ("bench.py", "tools/bench")):
            parser.error(f"--peer {name}: is neither {' nor '.join(PEERS)} nor a folder with an "
                         "earlier version")
    if options.curves:
        check_picture(options.out)  # before minutes of work


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked; `folder` is that of the model, None without one."""
    print_anything()
    parser = make_parser()
    options = parser.parse_args(argv)
    check(options, parser)
    options.folder = None
    if options.model:
        try:
            options.folder = Path(model_folder(options.model))
        except GgufError as error:
            parser.error(str(error))
        if not (options.folder / "config.json").is_file():
            parser.error(f"--model {options.model}: no config.json in it; give a model's folder")
    return options


def main(argv: Sequence[str] | None = None) -> dict:
    """Run one of the benches; returns its figures."""
    options = parse(argv)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # before the first tokenizer
    disable_progress_bar()
    setting = Setting(**{f.name: getattr(options, f.name) for f in fields(Setting)})
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or random_folder(Path(temporary))
        try:
            if options.bank:
                figures = {"bank": [measure_bank(n) for n in options.sizes]}
                print(bank_table(figures["bank"]) + f"\nload {os.getloadavg()[0]:.1f}")
            elif options.memory:
                figures = bench_memory(folder, setting)
            elif options.table is not None:
                figures = bench_table(options)
            elif options.curves:
                figures = bench_curves(folder, options.out, options.repetitions)
            else:
                figures = bench_step(folder, setting, options.repetitions)
        except MemoryError as error:
            exit_with(f"out of memory ({' '.join(str(error).split())[:150]}); take smaller sizes")
        except (PolicyError, OSError, ValueError) as error:
            exit_with(" ".join(str(error).split())[:300])
    if options.json:
        settings = {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items()}
        print(json.dumps({**settings, "threads": torch.get_num_threads(),
                          "load": os.getloadavg()[0], **figures}))
    return figures


if __name__ == "__main__":
    launch(main)
