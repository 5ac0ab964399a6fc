"""What a command can be told: one class of options, its --help, and its defaults.

Each field of `Options` is an option: its name, default, line of help, limits and readers stand in
one place. A default of None depends on the model; --help prints the table of such defaults,
`PRESETS`. `parse_options` reads a command line into an options class. `resolve` fills in the
presets, and config.json keeps what it returns.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from backend.devices import exit_with, print_anything
from backend.gguf import SMOLLM2
from backend.loading import usual_precision
from backend.lora import base_name
from benchmarks.encoders import EMBEDDER_HELP, EMBEDDERS
from benchmarks.others import NAMES, OWN, form_of, has_observations
from data import DataError
from memr1 import PER_SPEAKER
from systems.own_past import HARNESSES
from world import named_world

EMBEDDED_MODEL = Path(__file__).resolve().parent.parent / "tiny"
EMBEDDED_MEM1 = EMBEDDED_MODEL / "mem1"
SHAPE = ("model_type", "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")

# ---- Defaults that depend on the model -----------------------------------------------------------

# With these the embedded models learn in two minutes on two cores (the shop takes longer).
TINY = {
    "data": "world", "steps": 20, "questions": 76, "kl": 0.1, "ppo_kl": 0.05,
    "lora": 0, "lr": 3e-4, "adapter_lr": 3e-3,
    "critic_lr": 1e-3, "adapter_critic_lr": 1e-3, "critic_epochs": 4,
    "max_new_tokens": 48, "precision": "float32", "checkpointing": False,
    "micro_batch_tokens": 16384,
}
# Adapters want some ten times the rate of all weights (Thinking Machines, LoRA Without Regret).
# A real critic gets two updates a batch, because each costs as much as an update of the policy. For
# tiny/ two are too few: its critic then explains nothing of the returns.
REAL = {
    "data": "locomo", "steps": 100, "questions": 24, "kl": 0.1, "ppo_kl": 0.05,
    "lora": 16, "lr": 1e-6, "adapter_lr": 1e-5,
    "critic_lr": 1e-5, "adapter_critic_lr": 1e-4, "critic_epochs": 2,
    "max_new_tokens": 512, "precision": "bfloat16", "checkpointing": None,
    "micro_batch_tokens": 16384,
}
PRESETS: dict[str, dict[str, Any]] = {
    # Many questions a step, because a large batch averages out what is true of one question only.
    "tiny/manager": TINY,
    "tiny/answer": {**TINY, "steps": 36, "questions": 24},
    # 160 tokens, because a state and an answer may each hold the answers to sixteen questions.
    # With a smaller KL, PPO forgets what only longer tasks need (docs/notes.md).
    "tiny/mem1": {**TINY, "steps": 20, "questions": 8, "kl": 0.05, "ppo_kl": 0.2, "lr": 4e-4,
                  "max_new_tokens": 160},
    "tiny/shop": {**TINY, "steps": 40, "questions": 16, "kl": 0.05, "max_new_tokens": 160},
    "real": REAL,
    "real/mem1": {**REAL, "kl": 0.05},
}


def presets_table() -> str:
    """The table as --help prints it: a row an option, a column a preset."""
    lines = ["defaults that depend on the model (adapter_lr and adapter_critic_lr with adapters, "
             "ppo_kl in ppo.py;",
             "a real model on a processor: bfloat16 where measured as faster, micro-batches of "
             "2048):", ""]
    lines.append(f"{'':<22}" + "".join(f"{name:<13}" for name in PRESETS).rstrip())
    for option_name in TINY:
        values = [preset[option_name] for preset in PRESETS.values()]
        cells = [f"{v:g}" if isinstance(v, float) else "as-needed" if v is None else str(v)
                 for v in values]
        lines.append(f"  {option_name:<20}" + "".join(f"{cell:<13}" for cell in cells).rstrip())
    return "\n".join(lines)


# ---- Options -------------------------------------------------------------------------------------


def option(default: Any, text: str, *choices: str, low: float | None = None,
           high: float | None = None, agents: tuple[str | None, ...] = ()):
    """A field of an options class: its default, its line in --help, and the values it may take.

    `low` and `high` are the least and the greatest value of a number. Without `low`, a whole number
    is at least 1, any other at least 0. `agents` are the values of --agent that read the option (of
    evaluate.py also None: no --agent). With () every run reads it.
    """
    return field(default=default, metadata={"help": text, "choices": choices, "low": low,
                                            "high": high, "agents": agents})


@dataclass
class Options:
    """The options of every training command; None stands for "depends on the model"."""

    model: str | None = option(None, "Hugging Face folder or hub name, a .gguf file, or smollm2; "
                                     "default: tiny/, and tiny/mem1/ for mem1")
    data: str | None = option(None, "world, world-part, world-29 (another world, of that seed), "
                                    "locomo or (mem1) hotpotqa, downloaded once, or a file "
                                    "(docs/own-data.md)")
    agent: str = option("manager", "which agent learns: manager, answer or mem1",
                        "manager", "answer", "mem1")
    facts: str | None = option(None, "manager and answer: of a turn: as said (turns), the data's "
                               "observations or llm; default: turns for the world (answer without "
                               "--manager: observations), observations where there are, else llm",
                               "turns", "observations", "llm", agents=("manager", "answer"))
    manager: str | None = option(None, "answer: learn on the banks that this model makes of the "
                                       "dialogues; default: on banks that keep every fact",
                                 agents=("answer",))
    answerer: str | None = option(None, "manager: the model whose answers pay; default: the start "
                                        "model", agents=("manager",))
    embedder: str = option("hashed", EMBEDDER_HELP)
    train_questions: int | None = option(None, "learn from the first so many questions, 19 to 304; "
                                               "default: 152 in the world, all of a file's")
    reward: str = option("exact_match", "manager and answer: what pays, exact_match, the softer f1 "
                                        "or the verdict of an LLM judge", "exact_match", "f1",
                         "judge", agents=("manager", "answer"))
    judge: str | None = option(None, "manager and answer: with --reward judge, the judge's folder "
                                     "or hub name, or its name at --judge-url",
                               agents=("manager", "answer"))
    judge_url: str | None = option(None, "manager and answer: base address of a server that speaks "
                                         "OpenAI's chat completions, for --judge; its key is "
                                         "in OPENAI_API_KEY",
                                   agents=("manager", "answer"))
    distill: bool = option(True, "manager and answer: select memories, then answer; or answer "
                                 "directly", agents=("manager", "answer"))
    memories: int = option(PER_SPEAKER, "manager and answer: memories of each speaker that the "
                                        "answer agent reads, 5 to 30", agents=("manager", "answer"))
    steps: int | None = option(None, "training steps, 10 to 200", low=0)
    # A slip of the finger would fill the memory before anything is sampled.
    questions: int | None = option(None, "questions a step, 8 to 128 (manager: decisions, mem1: "
                                         "tasks)", high=10_000)
    lr: float | None = option(None, "learning rate, 1e-6 to 1e-3", low=1e-12, high=1)
    lora: int | None = option(None, "rank of the adapters that learn, 8 to 64, the rest frozen; 0: "
                                    "all weights learn, as always with --shard", low=0)
    precision: str | None = option(None, "of the arithmetic (what learns is kept in float32): "
                                         "bfloat16 or float32", "bfloat16", "float32")
    checkpointing: bool | None = option(None, "compute layers again in the backward pass, for a "
                                              "tenth of their memory and a third more time; a real "
                                              "model's default: where half of the free memory is "
                                              "too small")
    micro_batch_tokens: int | None = option(None, "tokens in one forward and backward pass, 1024 "
                                                  "to 65536 (80 GB); changes no gradient; "
                                                  "other samples are drawn")
    max_new_tokens: int | None = option(None, "longest response, 48 to 512")
    max_grad_norm: float = option(1.0, "the gradient is scaled down to this norm, 0.5 to 2",
                                  low=1e-6)
    env: str = option("search", "mem1: search over a corpus, shop.py's web shop, or WebShop where "
                                "it is installed", "search", "shop", "webshop", agents=("mem1",))
    objectives: int = option(2, "mem1: questions in a training task, 1 to 4", agents=("mem1",))
    harness: str = option("mem1", "mem1: what stays in context: the last state (mem1), every turn "
                                  "(full_context), the last tokens (truncation), the turns "
                                  "most like the last (a_mem)",
                          *HARNESSES, agents=("mem1",))
    compare: bool = option(False, "mem1: train the other harnesses too, and score all four on "
                                  "tasks of 1 to 16 questions; several times as long",
                           agents=("mem1",))
    limit: int | None = option(None, "only so many questions (mem1: tasks) to validate and test, "
                                     "10 to 100, and no whole dialogues: a quick look")
    seed: int = option(0, "of the sampling and the order of the questions", low=0,
                       high=2**32 - 1)  # torch takes no larger one
    out: str | None = option(None, "run folder; default: runs/ALGORITHM-AGENT")
    save_every: int = option(0, "write resume.pt every so many steps, 5 to 50; 0: at Ctrl-C only "
                                "(with --judge, which may be gone at any step, every 5)",
                             low=0)
    resume: bool = option(False, "go on with the run in the folder, from its resume.pt")
    shard: bool = option(False, "under torchrun, cut weights, gradients and moments over all "
                                "devices (FSDP2)")
    tensorboard: bool = option(False, "also write scalars for TensorBoard")
    wandb: bool = option(False, "also log to Weights & Biases")


@dataclass
class SamplingOptions(Options):
    """What is added where a model learns from its own samples."""

    group_size: int = option(8, "sampled episodes a question, 4 to 16", high=1024)
    epochs: int = option(2, "updates from each batch of episodes, 1 to 4")
    temperature: float = option(1.0, "sampling temperature, 0.7 to 1.2", low=1e-3)
    span: int = option(1, "manager: decisions an episode, 1 to 16; from 2 on beside a memory that "
                          "the manager made itself (which takes time: it reads the dialogues "
                          "anew at each step), else beside a given one",
                       agents=("manager",))


# ---- From the command line -----------------------------------------------------------------------


def flag(name: str) -> str:
    """How an option is typed.

    >>> flag("group_size")
    '--group-size'
    """
    return "--" + name.replace("_", "-")


def add_option(parser: argparse.ArgumentParser, name: str, kind: type, default: Any,
               metadata: Mapping[str, Any]) -> None:
    """Tell the parser of one field; a boolean gets its --no- form too."""
    if kind is bool:
        parser.add_argument(flag(name), action=argparse.BooleanOptionalAction, default=default,
                            help=metadata["help"] + (" (default: on)" if default else ""))
        return
    default_text = "" if default is None else f" (default: {default})"
    parser.add_argument(flag(name), type=kind, default=default, metavar=kind.__name__.upper(),
                        help=metadata["help"] + default_text)


def refusal(name: str, value: Any, metadata: Mapping[str, Any]) -> str:
    """Why an option may not have this value; "" if it may."""
    choices, low, high = metadata["choices"], metadata["low"], metadata["high"]
    if value == "":
        return f"{flag(name)}: is empty"
    if choices and value is not None and value not in choices:
        return f"{flag(name)} {value}: must be one of {', '.join(choices)}"
    if type(value) in (int, float):
        least = low if low is not None else 1 if type(value) is int else 0
        if not least <= value < float("inf"):
            return f"{flag(name)} {value}: must be a finite number of at least {least:g}"
        if high is not None and value > high:
            return f"{flag(name)} {value}: must be at most {high}"
    return ""


def unread(name: str, value: Any, agent: str | None, metadata: Mapping[str, Any]) -> str:
    """Why an option that was given would change nothing in this run; "" if the run reads it."""
    agents = metadata["agents"]
    if not agents or agent in agents:
        return ""
    readers = "with --agent " + " or ".join(agents) if agents[0] else "without --agent"
    typed = flag(f"no_{name}") if value is False else flag(name)
    return f"{typed}: is read only {readers}; leave it out"


def parse_options(cls: type, description: str, argv: Sequence[str] | None):
    """Read a command line into an options class: --group-size for `group_size`, and so on.

    Stops the program with one line if an option has a wrong value, or one that nothing would read.
    """
    print_anything()
    fields = dataclasses.fields(cls)
    # Only options of training have presets; `lora` is one of them.
    epilog = presets_table() if any(f.name == "lora" for f in fields) else None
    parser = argparse.ArgumentParser(
        description=description, epilog=epilog, allow_abbrev=False,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(
            prog, max_help_position=28, width=100))
    parser.error = lambda message: exit_with(f"{message}; --help lists all options")
    for f in fields:
        # Types are text here, as in "int | None", since annotations are not evaluated.
        kind = {"int": int, "float": float, "bool": bool}.get(f.type.split(" ")[0], str)
        add_option(parser, f.name, kind, f.default, f.metadata)
    options = cls(**vars(parser.parse_args(argv)))
    for f in fields:
        value = getattr(options, f.name)
        reason = refusal(f.name, value, f.metadata)
        if not reason and value != f.default:
            reason = unread(f.name, value, getattr(options, "agent", None), f.metadata)
        if reason:
            parser.error(reason)
    return options


def named_path(option: str, value: Any) -> Path | None:
    """The file or folder that is there under the value of an option; None for a built-in name.

    A folder may be called world, as the world of `--data world` is, and has nothing to do with it.
    """
    if not value or not os.path.exists(value):
        return None
    built_in = {"data": named_world(value) or value in NAMES, "embedder": value in EMBEDDERS,
                "trajectories": False}.get(option, value == SMOLLM2)
    return None if built_in else Path(value)


def is_embedded(model: str) -> bool:
    """Whether a model is tiny/ or tiny/mem1/, as it is or trained: its shape says so.

    A checkpoint lies anywhere, so its place would say nothing. Adapters are what their base is.
    Such a model knows the words of the synthetic world, and the prompts that it was trained on.
    Its chat template leaves instructions out, so it can follow no other prompt.
    """
    shapes = []
    try:
        for folder in (Path(base_name(model)), EMBEDDED_MODEL, EMBEDDED_MEM1):
            config = json.loads((folder / "config.json").read_bytes())
            shapes.append([config.get(key) for key in SHAPE])
    except (OSError, ValueError, AttributeError):  # a name of the hub, or no model at all
        return False
    return shapes[0] in shapes[1:]


def preset_of(options: Any, model: str) -> dict[str, Any]:
    """The defaults of these options' model and agent, each under its option's own name."""
    agent = getattr(options, "agent", None) or "manager"
    in_shop = agent == "mem1" and getattr(options, "env", "search") != "search"
    if is_embedded(model):
        preset = dict(PRESETS["tiny/shop" if in_shop else f"tiny/{agent}"])
    else:
        preset = dict(PRESETS["real/mem1" if agent == "mem1" else "real"])
        preset["precision"] = getattr(options, "precision", None) or usual_precision()
        if not torch.cuda.is_available():
            preset["micro_batch_tokens"] = 2048  # more are no faster there, and take more memory
    if in_shop:
        preset["data"] = "world"  # because a shop needs no dialogues, none should be downloaded
    if getattr(options, "shard", False):
        preset["lora"] = 0
    # As many decisions a step, whether they come one by one or in spans.
    preset["questions"] = max(1, preset["questions"] // getattr(options, "span", 1))
    # In GRPO the KL is a term of the loss, in PPO a part of the rewards.
    ppo_kl = preset.pop("ppo_kl")
    preset["kl"] = ppo_kl if hasattr(options, "critic") else preset["kl"]
    rank = getattr(options, "lora", None)
    has_adapters = (preset["lora"] if rank is None else rank) > 0
    for name in ("lr", "critic_lr"):
        adapter_rate = preset.pop(f"adapter_{name}")
        preset[name] = adapter_rate if has_adapters else preset[name]
    return preset


def usual_facts(options: Any, data: str, model: str) -> str:
    """Where facts come from without --facts: observations only where the data has some.

    A conversation of one's own mostly has none: a real model extracts facts, the embedded one
    reads what was said. In the world a manager reads turns. An answer agent without a manager reads
    what one would write.
    """
    if named_world(data):
        is_answer = getattr(options, "agent", None) == "answer"
        return "observations" if is_answer and not options.manager else "turns"
    form = form_of(data)
    if form == "locomo" and has_observations(data):
        return "observations"
    return "turns" if form in ("locomo", *OWN) and is_embedded(model) else "llm"


def resolve(options: Any, algorithm: str):
    """Fill in what depends on the model and the data; works on any options class."""
    agent = getattr(options, "agent", None)
    values = {name: value for name, value in vars(options).items() if value is not None}
    values.setdefault("model", str(EMBEDDED_MEM1 if agent == "mem1" else EMBEDDED_MODEL))
    preset = preset_of(options, values["model"])
    # One limit serves all models, and a real one needs more room than tiny/ does.
    preset["max_new_tokens"] = max(
        preset_of(options, values[name])["max_new_tokens"]
        for name in ("model", "manager", "answerer") if name in values)
    for name, default in preset.items():
        if hasattr(options, name):
            values.setdefault(name, default)
    if hasattr(options, "facts"):
        try:
            values.setdefault("facts", usual_facts(options, values["data"], values["model"]))
        except DataError as error:  # a file of no form that can be read
            exit_with(str(error))
    if values.get("judge") and values.get("save_every") == 0:  # the run ends if the judge is gone
        values["save_every"] = 5
    # evaluate.py mostly runs without --agent; its folder is then named after the data.
    values.setdefault("out", f"runs/{algorithm}-{agent or Path(values['data']).stem}")
    return replace(options, **values)
