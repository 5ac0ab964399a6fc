"""What a training command can be told: one class of options, its --help, and its defaults.

Each field of `Options` is an option: its name, its default and its line of help in one place.
`parse_options` reads the command line into such a class; `resolve` fills in what depends on the
model and the data, and what it returns is what config.json keeps.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from backend.devices import exit_with
from benchmarks.others import LOADERS
from mem1 import HARNESSES
from policy import usual_precision
from world import KINDS

EMBEDDED_MODEL = Path(__file__).resolve().parent.parent / "tiny"
EMBEDDED_MEM1 = EMBEDDED_MODEL / "mem1"


def option(default, text: str, *choices: str, bare: str | None = None):
    """A field of an options class: its default, its line in --help, and the values it may take.

    `bare` is the value of the option where it is given without one.
    """
    return field(default=default, metadata={"help": text, "choices": choices, "bare": bare})


@dataclass
class Options:
    """The options of every training command; None stands for "depends on the model"."""

    model: str | None = option(None, "Hugging Face folder or hub name; default: tiny/, and "
                                     "tiny/mem1/ for mem1")
    data: str | None = option(None, "world, world-part, locomo or (mem1) hotpotqa, downloaded "
                                    "once, or a file of theirs; default: world for the embedded "
                                    "model, else locomo")
    agent: str = option("manager", "which agent learns: manager, answer or mem1",
                        "manager", "answer", "mem1")
    facts: str | None = option(None, "of a turn: as said (turns), the data's observations or llm; "
                               "default: turns for the world, observations for LoCoMo, else llm",
                               "turns", "observations", "llm")
    train_questions: int | None = option(None, "learn from the first so many questions, 19 to 304; "
                                               "default: 152 in the world, all of a file's")
    reward: str = option("exact_match", "manager and answer: what pays, exact_match or the softer "
                                        "f1", "exact_match", "f1")
    distill: str = option("on", "on: select memories, then answer; off", "on", "off")
    steps: int | None = option(None, "training steps, 10 to 200; default: 20 (answer: 36, mem1: "
                                     "40), or 100 if not tiny/")
    questions: int | None = option(None, "questions a step, 8 to 128; default: 76 (answer: 24, "
                                         "mem1: 8) with tiny/, else 24")
    lr: float | None = option(None, "learning rate; default: 1e-6, or 3e-4 with tiny/; of adapters "
                                     "ten times as much")
    lora: int | None = option(None, "rank of the adapters that learn, 8 to 64, the rest frozen; 0: "
                                     "all weights learn; default: 0 with tiny/ or --shard on, "
                                     "else 16")
    precision: str | None = option(None, "of the arithmetic (what learns is kept in float32): "
                                         "bfloat16 or float32; default: float32 with tiny/ and "
                                         "on a CPU, else bfloat16", "bfloat16", "float32")
    checkpointing: str | None = option(None, "on: compute layers again in the backward pass, for a "
                                             "tenth of their memory and a third more time; off; "
                                             "default: off with tiny/, else on", "on", "off")
    micro_batch_tokens: int = option(16384, "tokens in one forward and backward pass, 2048 (8 GB) "
                                            "to 65536 (80 GB); never changes a result")
    max_new_tokens: int | None = option(None, "longest response; default: 48 (mem1: 160), or 512 "
                                              "if not tiny/")
    max_grad_norm: float = option(1.0, "the gradient is scaled down to this norm, 0.5 to 2")
    env: str = option("search", "mem1: search over a corpus, shop.py's web shop, or WebShop where "
                                "it is installed", "search", "shop", "webshop")
    objectives: int = option(2, "mem1: questions in a training task, 1 to 4")
    harness: str = option("mem1", "mem1: what stays in context: the last state (mem1), every turn "
                                  "(full_context), the last tokens (truncation)",
                          *HARNESSES)
    limit: int | None = option(None, "only so many questions (mem1: tasks) to validate and test, "
                                     "10 to 100, and no whole dialogues: a quick look")
    seed: int = option(0, "of the sampling and the order of the questions")
    out: str | None = option(None, "run folder; default: runs/ALGORITHM-AGENT")
    save_every: int = option(0, "write resume.pt every so many steps, 5 to 50; 0: at Ctrl-C only")
    resume: bool = option(False, "go on with the run in the folder, from its resume.pt")
    shard: str = option("off", "on: under torchrun, cut weights, gradients and moments over all "
                               "devices (FSDP2)", "on", "off")
    tensorboard: bool = option(False, "also write scalars for TensorBoard")
    wandb: bool = option(False, "also log to Weights & Biases")


@dataclass
class SamplingOptions(Options):
    """What is added where a model learns from its own samples."""

    group_size: int = option(8, "sampled episodes a question, 4 to 16")
    epochs: int = option(2, "updates from each batch of episodes, 1 to 4")
    temperature: float = option(1.0, "sampling temperature, 0.7 to 1.2")


# The least value of an option; of others 1 for whole numbers, 0 for the rest.
LEAST = {"seed": 0, "steps": 0, "save_every": 0, "lora": 0, "lr": 1e-12, "temperature": 1e-3,
         "max_grad_norm": 1e-6, "clip": 1e-3, "critic_lr": 1e-12}
# The greatest, where there is one; torch takes no larger seed.
MOST = {"seed": 2**32 - 1, "gamma": 1, "lam": 1, "clip": 1}


def parse_options(cls: type, description: str, argv: Sequence[str] | None):
    """Read the command line into an options class: --group-size for `group_size`, and so on."""
    parser = argparse.ArgumentParser(
        description=description, allow_abbrev=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=28, width=100))
    parser.error = lambda message: exit_with(f"{message}; --help lists all options")
    for f in dataclasses.fields(cls):
        name, text = "--" + f.name.replace("_", "-"), f.metadata["help"]
        kind = {"int": int, "float": float}.get(str(f.type).split(" ")[0], str)
        shown = "" if f.default is None else f" (default: {f.default})"
        kinds = {"type": kind, "default": f.default, "metavar": kind.__name__.upper()}
        if f.metadata["bare"]:
            kinds |= {"nargs": "?", "const": f.metadata["bare"]}
        parser.add_argument(name, help=text + shown,
                            **(kinds if f.type != "bool" else {"action": "store_true"}))
    options = cls(**vars(parser.parse_args(argv)))
    for f in dataclasses.fields(cls):
        name, value = "--" + f.name.replace("_", "-"), getattr(options, f.name)
        choices = f.metadata["choices"]
        if choices and value is not None and value not in choices:
            parser.error(f"{name} {value}: must be one of {', '.join(choices)}")
        least = LEAST.get(f.name, 1 if type(value) is int else 0)
        if type(value) in (int, float) and not least <= value < float("inf"):
            parser.error(f"{name} {value}: must be a finite number of at least {least:g}")
        if type(value) in (int, float) and value > MOST.get(f.name, value):
            parser.error(f"{name} {value}: must be at most {MOST[f.name]}")
        if value == "":
            parser.error(f"{name}: is empty")
    return options


def resolve(options, algorithm: str):
    """Fill in what depends on the model and the data."""
    agent = getattr(options, "agent", "")
    own = EMBEDDED_MEM1 if agent == "mem1" else EMBEDDED_MODEL
    model = options.model or str(own)
    embedded = Path(model).resolve() in (EMBEDDED_MODEL.resolve(), EMBEDDED_MEM1.resolve())
    # Two minutes of the embedded model. Larger batches of a manager's short decisions average out
    # more of what is true of single questions only.
    steps, questions = {"answer": (36, 24), "mem1": (40, 8)}.get(agent, (20, 76))
    shop = agent == "mem1" and getattr(options, "env", "search") != "search"  # needs no dialogues
    lora = getattr(options, "lora", None)
    if lora is None:
        lora = 0 if embedded or getattr(options, "shard", "off") == "on" else 16
    # Adapters want some ten times the rate of all weights (Thinking Machines, LoRA Without Regret).
    lr = (3e-3 if lora else 3e-4) if embedded else (1e-5 if lora else 1e-6)
    critic_lr = 1e-3 if embedded else (1e-4 if lora else 1e-5)
    defaults = {"model": model, "data": "world" if embedded or shop else "locomo",
                "steps": steps if embedded else 100, "questions": questions if embedded else 24,
                "lora": lora, "lr": lr, "kl": 0.05 if agent == "mem1" else 0.1,
                "checkpointing": "off" if embedded else "on",
                "precision": "float32" if embedded else usual_precision(),
                "critic_lr": critic_lr,
                # Two explain nothing of tiny/'s returns. Of a real model, where each costs as much
                # as an update of the policy, more were not tried.
                "critic_epochs": 4 if embedded else 2,
                # A state and an answer that hold sixteen answers each need 160.
                "max_new_tokens": (160 if agent == "mem1" else 48) if embedded else 512}
    given = {name: value for name, value in vars(options).items() if value is not None}
    values = {**{name: defaults[name] for name in defaults if hasattr(options, name)}, **given}
    # Only LoCoMo comes with observations; its files are taken for such.
    others = {name: "llm" for name in LOADERS if name != "locomo"}
    values.setdefault("facts", "turns" if values["data"] in KINDS else
                      others.get(values["data"], "observations"))
    # Without an agent, as evaluate.py mostly is, the folder is named after the data.
    values.setdefault("out", f"runs/{algorithm}-{values.get('agent') or Path(values['data']).stem}")
    # A command declares only the options that it reads.
    return replace(options, **{name: value for name, value in values.items()
                               if hasattr(options, name)})
