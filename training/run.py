"""What a training run needs before its loop begins: data, tasks, run folder.

state.py goes with the loop. results.py scores, and writes what a run leaves behind:

    runs/NAME/config.json    every option as it was resolved
              resume.pt      an unfinished run, to go on with (checkpoints.py)
              metrics.csv    one line a training step
              samples.jsonl  the episodes of step 1 and of every tenth, as text
              lessons.jsonl  of sft.py: what it imitates
              cases.jsonl    the same dozen held-out cases at every validation, as text
              dialogue.jsonl a manager's: one held-out dialogue, read at four steps at most; not
                             with --limit
              curve.png      training reward and validation score over the steps
              objectives.png with --compare: MEM1's scores over the number of questions
              full_context/, truncation/, a_mem/    with --compare: the runs beside MEM1's
              verdicts.jsonl with --reward judge: every reply of the judge (of several devices
                             verdicts-0.jsonl and so on)
              checkpoint/    the trained policy, an ordinary Hugging Face folder with a model card
              summary.json   held-out scores before and after, time, memory
"""

from __future__ import annotations

import csv
import errno
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from backend import devices
from backend.devices import exit_with
from backend.files import write_whole
from backend.loading import (
    PolicyError,
    check_model,
    half_gain,
    is_out_of_memory,
    usual_precision,
)
from backend.lora import learned
from benchmarks.encoders import embedder_of
from benchmarks.shop import Goal, Store
from benchmarks.splits import SHOP_GOALS, shop_splits, shorten
from benchmarks.splits import splits as data_splits
from benchmarks.webshop import WebShopGoal, webshop_tasks
from data import DataError, Dialogue, OpenQuestion
from environments import Environment, Search, SearchTask, search_tasks
from mem1 import Mem1Agent
from memory_bank import Embedder
from memr1 import (
    AnswerAgent,
    AnswerTask,
    ManagerAgent,
    ManagerTask,
    Reading,
    SpanAgent,
    SpanTask,
    build_banks,
)
from metrics import f1, squad_exact_match
from policy import Policy, load_policy
from systems.own_past import mem1_agent
from training.checkpoints import (
    FILE,
    CheckpointError,
    check_resumable,
    fingerprint,
    identity,
    read,
    resume_command,
    scores_before,
)
from training.folders import begin_folder, hold_folder, settings_of
from training.introduction import first_screen, given_options
from training.judge import Ask, Judge, JudgeError, Server, from_policy
from training.judged import JUDGED
from training.kept import KeptPolicy
from training.options import Options, flag, is_embedded, resolve
from training.tasks import add_everything, answer_tasks, manager_tasks, span_tasks
from training.trackers import Tracker, TrackerError, tensorboard, wandb
from trees import Episode

Task = ManagerTask | SpanTask | AnswerTask | SearchTask | Goal | WebShopGoal
Agent = ManagerAgent | AnswerAgent | Mem1Agent
# With "judge" an episode is paid by exact match first, and then by the judge (judged.py).
REWARDS = {"exact_match": squad_exact_match, "f1": f1, "judge": squad_exact_match}
# MEM1's training questions are grouped anew so many times, because a model would learn a task that
# comes back unchanged by heart.
TRAINING_ROUNDS = 6
# What data must have for an agent to learn from it.
NEEDS = {"manager": "the 'evidence' of some question must name turns that state facts (with "
                    "--facts turns every turn does)",
         "answer": "some question must be asked",
         "mem1": "one dialogue needs --objectives {} questions or more"}


def check_models(*names: str | None) -> None:
    """Raise PolicyError if one of these models is not there; None is no model.

    For the beginning of a command: a mistyped name should not cost a download, or hours of work.
    """
    for name in filter(None, names):
        check_model(name)


def load_or_stop(name: str, options: Options | None = None) -> Policy:
    """The policy of a folder or hub name, with the options of its training, if it is trained.

    One that is not trained computes in float32 if it is an embedded model, and else in the usual
    precision. Stops the program with one line if there is no such model.
    """
    if options is None:
        settings = {"precision": "float32" if is_embedded(name) else usual_precision(),
                    "frozen": True}
    else:
        settings = {"lora": options.lora, "precision": options.precision,
                    "checkpointing": options.checkpointing,
                    "micro_batch_tokens": options.micro_batch_tokens}
    try:
        policy = load_policy(name, **settings)
    except PolicyError as error:
        exit_with(str(error))
    if policy.dtype == torch.bfloat16 and policy.device.type == "cpu":
        say_half()
    return policy


def say_other_start(policy: Policy, name: str, agent: str | None) -> None:
    """Say that an embedded model was made for other agents, as tiny/ is if it shall be MEM1.

    Its scores are then 0 or nearly so, and look like those of a broken program.
    """
    if not is_embedded(name):
        return
    # In the tokenizer of tiny/mem1/ each of MEM1's tags is one token.
    of_mem1 = len(policy.tokenizer.encode("<IS>", add_special_tokens=False)) == 1
    if of_mem1 != (agent == "mem1"):
        own, other = ("MEM1", "tiny/") if of_mem1 else ("Memory-R1's agents", "tiny/mem1/")
        print(f"{name} was made for {own} and never read such prompts; take {other}",
              file=sys.stderr)


@cache
def say_half() -> None:
    """Say once what a processor gains or loses by bfloat16, measured or typed."""
    print("computing in bfloat16, in which this processor multiplies "
          f"{half_gain():.1f} times as fast as in float32")


def judge_or_stop(options: Any) -> tuple[Ask, str]:
    """What asks the LLM judge of --judge and --judge-url, and what the judge is known by.

    That is its name on a server, or the fingerprint of its weights. Stops the program with one line
    if it cannot be used.
    """
    try:
        if options.judge_url:
            return Server(options.judge_url, options.judge).ask, options.judge
    except JudgeError as error:
        exit_with(str(error))
    policy = load_or_stop(options.judge)
    return from_policy(policy), fingerprint(policy)


def embedder_or_stop(name: str) -> Embedder:
    """The embedder that `--embedder` names; stops the program with one line if it is not there."""
    try:
        return embedder_of(name)
    except ValueError as error:
        exit_with(str(error))


def stop_without_facts(data: str, facts: str, dialogues: Sequence[Dialogue]) -> None:
    """Stop the program with one line where facts are to be observations and nobody wrote any.

    A file in LoCoMo's form may lack them. A manager would read nothing, and score 0.
    """
    if facts == "observations" and dialogues and not any(
            turn.facts for dialogue in dialogues for turn in dialogue.turns):
        exit_with(f"{data}: holds no observations to read; use --facts turns, or llm with a real "
                  "model")


@dataclass
class Run:
    """A resolved run: models, tasks, and the folder that keeps what happens."""

    options: Options
    algorithm: str
    policy: Policy
    reference: Policy  # the start model, frozen: for KL, and mostly the manager's answer agent
    agent: Agent
    train: list[Task]
    validation: list[Task]
    test: list[Task]
    test_dialogues: list[Dialogue] | list[OpenQuestion]
    embed: Embedder
    folder: Path
    train_banks: Reading | None = None  # of an answer agent, with the turns behind each memory
    started: float = field(default_factory=time.time)
    n_tokens: int = 0  # response tokens trained on
    n_chats: int = 0  # to imitate, of --trajectories; `train` is then not learned from
    identity: dict[str, Any] = field(default_factory=dict)  # what must be equal for --resume
    saved: dict[str, Any] | None = None  # the checkpoint to go on from
    before: tuple[dict, list[Episode]] | None = None  # the start model's held-out scores
    trackers: list[Tracker] = field(default_factory=list)  # of --tensorboard and --wandb

    @property
    def headline(self) -> str:
        """The score to follow: exact match, but the reward of a shop and of a judge.

        Purchases are right by degrees, and to a judge answers are right in other words.
        """
        in_a_shop = self.options.agent == "mem1" and self.options.env != "search"
        return "reward" if in_a_shop or self.options.judge else "exact_match"

    def log_step(self, row: dict[str, float]) -> None:
        """Append one line to metrics.csv."""
        if not devices.is_main():
            return
        path = self.folder / "metrics.csv"
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, row)
            if file.tell() == 0:
                writer.writeheader()
            writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
        for track in self.trackers:
            track(row["step"], row)

    def log_samples(self, step: int, groups: Iterable[Iterable[Episode]]) -> None:
        """Append episodes to samples.jsonl, as text."""
        if not devices.is_main():
            return
        with (self.folder / "samples.jsonl").open("a", encoding="utf-8") as file:
            for index, group in enumerate(groups):
                for episode in group:
                    line = {"step": step, "group": index, "reward": episode.reward, **episode.log}
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def batches(self, items: Sequence | None = None) -> Iterable[list]:
        """Endless batches of training tasks, or of `items`: each comes once before any comes again.

        A batch keeps the order of the tasks. So questions about one dialogue are neighbours, and
        can share a packed row.
        """
        items = self.train if items is None else items
        order = random.Random(self.options.seed)
        places: list[int] = []
        while True:
            while len(places) < self.options.questions:
                places += order.sample(range(len(items)), len(items))
            yield [items[place] for place in sorted(places[: self.options.questions])]
            places = places[self.options.questions:]


def long_tasks(options: Options, splits: Sequence[Sequence[Dialogue]], embed: Embedder,
               ) -> tuple[Callable[[], Environment], list[list[Task]]]:
    """MEM1's environment and its tasks to train, validate and test on."""
    if options.env == "search":
        return Search, [search_tasks(split, options.objectives, embed,
                                     TRAINING_ROUNDS if split is splits[0] else 1)
                        for split in splits]
    if options.env == "shop":
        return Store, list(shop_splits())
    try:
        return webshop_tasks(SHOP_GOALS)
    except ImportError as error:
        exit_with(f"--env webshop: WebShop is not installed here ({error}); see "
                  "github.com/princeton-nlp/WebShop, or take --env shop")


def count_questions(tasks: Sequence[Task]) -> int:
    """The number of different questions, because one may judge two of a manager's decisions."""
    distinct: set[int] = set()  # objects, because two dialogues may ask in the same words
    for task in tasks:
        if isinstance(task, (SearchTask, SpanTask)):  # they have several each
            distinct.update(map(id, task.questions))
        elif isinstance(task, (ManagerTask, AnswerTask)):
            distinct.add(id(task.question))
        else:
            distinct.add(id(task))  # a purchase
    return len(distinct)


def show_bar(steps: range, name: str) -> tqdm:
    """The steps behind a progress bar, on one of all devices."""
    return tqdm(steps, desc=name, ncols=100, disable=not devices.is_main())


def with_bar(items: Sequence, name: str) -> Iterable:
    """The items behind a progress bar, which shows only if they take more than two seconds."""
    return tqdm(items, desc=name, ncols=100, delay=2, leave=False, disable=not devices.is_main())


def banks_of(options: Options, parts: Sequence[Sequence[Dialogue]], reader: KeptPolicy | None,
             extractor: KeptPolicy | None, embed: Embedder) -> list[Reading]:
    """The banks that an answer agent reads, for the dialogues of each part: see `--manager`."""
    if options.manager:
        # All parts in one call, because a manager reads any number of dialogues in step.
        reading = build_banks(reader, [dialogue for part in parts for dialogue in part], embed,
                              options.facts, show_bar, max_new_tokens=options.max_new_tokens,
                              extractor=extractor)
        banks, sources = iter(reading.banks), iter(reading.sources)
        print(f"banks of {options.manager}: {len(reading.banks)} dialogues, "
              f"{reading.counts['facts']:,} facts, {sum(map(len, reading.banks)):,} memories; "
              f"{reader.n_kept:,} responses from disk, {reader.n_new:,} new")
        return [Reading(list(islice(banks, len(part))), list(islice(sources, len(part))),
                        reading.counts) for part in parts]
    return [add_everything(with_bar(part, "banks"), embed, options.facts, extractor,
                           options.max_new_tokens) for part in parts]


def memory_r1(options: Options, splits: Sequence[Sequence[Dialogue]], reference: Policy,
              embed: Embedder) -> tuple[Agent, list[list[Task]], Reading | None, dict[str, str]]:
    """An agent of Memory-R1, its tasks to train, validate and test on, and its training banks.

    Last comes the fingerprint of the model that --manager or --answerer names.
    """
    stop_without_facts(options.data, options.facts, [d for d in splits[0] if d.questions])
    reader, extractor, fingerprints = None, None, {}
    if options.manager:
        reader = KeptPolicy(load_or_stop(options.manager))
        say_other_start(reader.policy, options.manager, "manager")
        fingerprints = {"the model of --manager": fingerprint(reader.policy)}
    if options.facts == "llm":
        extractor = KeptPolicy(reference)
    # Responses that one rank has kept on disk the others find there. Without them nobody waits.
    turns = devices.main_first() if reader or extractor else nullcontext()
    length, reward = options.max_new_tokens, REWARDS[options.reward]
    if options.limit:  # to make tasks of dialogues that nobody asks about may take minutes
        splits = [splits[0], *(shorten(part, options.limit, None) for part in splits[1:])]
    if options.agent == "answer":
        with turns:
            readings = banks_of(options, splits, reader, extractor, embed)
        kind = JUDGED[AnswerAgent] if options.judge else AnswerAgent
        agent = kind(options.distill, reward, max_new_tokens=length)
        return agent, [answer_tasks(part, reading.banks, options.memories)
                       for part, reading in zip(splits, readings)], readings[0], fingerprints
    frozen = reference
    if options.answerer:
        frozen = load_or_stop(options.answerer)
        say_other_start(frozen, options.answerer, "answer")
        frozen.model.requires_grad_(False)
        fingerprints = {"the model of --answerer": fingerprint(frozen)}
    span = getattr(options, "span", 1)  # imitation knows none
    kind = SpanAgent if span > 1 else ManagerAgent
    kind = JUDGED[kind] if options.judge else kind
    agent = kind(frozen, options.distill, reward, options.memories, max_new_tokens=length)
    with turns:
        tasks = [span_tasks(part, embed, options.facts, span, extractor, length)
                 if span > 1 and part is splits[0] else
                 manager_tasks(with_bar(part, "decisions"), embed, options.facts, extractor, length,
                               guards=part is splits[0]) for part in splits]
    n_questions = sum(len(dialogue.questions) for dialogue in splits[0])
    n_left_out = n_questions - count_questions(tasks[0])
    if n_left_out:
        print(f"{n_left_out} of {n_questions} questions to learn from are left out: no turn of "
              "their evidence states a fact")
    return agent, tasks, None, fingerprints


def mem1(options: Options, splits: Sequence[Sequence[Dialogue]], embed: Embedder,
         ) -> tuple[Agent, list[list[Task]]]:
    """MEM1, and its tasks to train, validate and test on."""
    environment, tasks = long_tasks(options, splits, embed)
    agent = mem1_agent(options.harness, embed, is_embedded(options.model), environment,
                       max_new_tokens=options.max_new_tokens)
    return agent, tasks


def check_options(options: Options) -> None:
    """Stop the program where options exclude each other, or the run folder, with one line."""
    n_devices, folder = devices.world_size(), Path(options.out)
    if options.shard and n_devices == 1:
        exit_with("--shard: there is one device; start with torchrun --nproc-per-node 4, or so")
    if options.shard and options.lora:
        exit_with(f"--shard --lora {options.lora}: what adapters leave to cut up fits one device; "
                  "take one of the two")
    if (options.reward == "judge") != bool(options.judge):
        exit_with("--reward judge and --judge go together: --judge names the model that judges")
    if options.judge_url and not options.judge:
        exit_with("--judge-url needs --judge: the name of a model there")
    if options.judge and not options.judge.isprintable():  # it is printed, and saved as text
        exit_with("--judge: the name holds characters that cannot be printed")
    if options.questions < n_devices:
        exit_with(f"--questions {options.questions}: fewer than the {n_devices} devices they are "
                  "for")
    if options.env != "search":  # a shop has goals of its own, and no questions
        for name in ("compare", "embedder", "objectives", "train_questions"):
            if getattr(options, name) != getattr(Options, name):
                exit_with(f"{flag(name)}: is read only with --env search; leave it out")
        if options.data != "world":  # what a shop's preset says
            exit_with("--data: is read only with --env search; leave it out")
    if not options.resume and (folder / FILE).exists():
        exit_with(f"{folder} holds an unfinished run: go on with it (--resume), delete {FILE} "
                  "there, or choose another --out")


def open_folder(options: Options) -> Path:
    """Make and lock the run folder before any work; what an earlier run left stays as it is.

    Stops the program if the folder is not for this run (`hold_folder`), or if --resume has nothing
    to go on from.
    """
    if options.resume:
        try:
            check_resumable(Path(options.out))
        except CheckpointError as error:
            exit_with(str(error))
    return hold_folder(options, "training run", moves=not options.resume)


def start_folder(folder: Path, options: Options, this_run: dict[str, Any]) -> dict[str, Any] | None:
    """Begin an empty run folder, or go on: returns the checkpoint of --resume, None for a new run.

    Stops the program if --resume meets another run in the folder.
    """
    saved = None
    if options.resume:
        try:
            saved = read(folder, this_run)
        except CheckpointError as error:
            exit_with(str(error))
    else:
        begin_folder(folder)
    if devices.is_main() and not (saved and settings_of(folder, "config.json")):
        settings = json.dumps({**vars(options), "resume": False}, indent=2) + "\n"
        write_whole(folder / "config.json", settings.encode())
    return saved


def start_trackers(folder: Path, options: Options, n_rows: int) -> list[Tracker]:
    """TensorBoard and Weights & Biases, if asked for; a resumed run has logged `n_rows` steps."""
    trackers: list[Tracker] = []
    if not devices.is_main():
        return trackers
    try:
        if options.tensorboard:
            trackers.append(tensorboard(folder, n_rows))
        if options.wandb:
            trackers.append(wandb(folder, vars(options)))
    except TrackerError as error:
        exit_with(str(error))
    return trackers


def splits_or_stop(options: Options) -> list[Sequence[Dialogue]]:
    """The data's parts to train, validate and test on, once every model's name was checked.

    Stops the program with one line if a model is not there or the data cannot be used.
    """
    local_judge = None if options.judge_url else options.judge
    try:
        check_models(options.model, options.manager, options.answerer, local_judge)
        splits = data_splits(options.data, options.train_questions)
    except (PolicyError, DataError) as error:
        exit_with(str(error))
    if isinstance(splits[0][0], OpenQuestion) and options.agent != "mem1":
        exit_with(f"--data {options.data}: questions without a dialogue; they are for --agent mem1")
    return splits


def prepare(options: Options, algorithm: str) -> Run:
    """Load model and data, build the tasks, make the folder. Stops the program on bad input."""
    devices.start()
    given = given_options(options)
    options = resolve(options, algorithm)
    check_options(options)
    torch.manual_seed(options.seed)
    splits = splits_or_stop(options)
    # Before an earlier run is moved aside.
    ask, known_by = judge_or_stop(options) if options.judge else (None, "")
    folder = open_folder(options)  # before the minutes that models and banks take
    policy = load_or_stop(options.model, options)
    say_other_start(policy, options.model, options.agent)
    if options.lora:
        reference = policy.start()
    else:
        reference = load_or_stop(options.model, options)
        reference.model.requires_grad_(False)
    embed = embedder_or_stop(options.embedder)
    train_banks, fingerprints = None, {}
    if options.agent == "mem1":
        agent, (train, validation, test) = mem1(options, splits, embed)
    else:
        agent, (train, validation, test), train_banks, fingerprints = memory_r1(
            options, splits, reference, embed)
    if not train or not test:  # for example because no question of a manager's names its evidence
        # Questions are cut off before it is known which are usable.
        cut = (train and options.limit and options.agent != "mem1"
               and options.limit < sum(len(dialogue.questions) for dialogue in splits[2]))
        exit_with(f"{options.data}: no usable question to {'test on' if train else 'learn from'}; "
                  + NEEDS[options.agent].format(options.objectives)
                  + (f", or --limit {options.limit} must be higher" if cut else ""))
    fingerprints["the start model"] = fingerprint(policy)
    if options.judge:
        fingerprints["the model of --judge"] = known_by
    this_run = identity(options, algorithm, fingerprints, len(train))
    with devices.main_first():  # no rank opens a file in the folder before it has been begun
        saved = start_folder(folder, options, this_run)
    if options.judge:
        rank = f"-{devices.rank()}" if devices.world_size() > 1 else ""
        agent.judge = Judge(options.judge, ask, folder / f"verdicts{rank}.jsonl")
    trackers = start_trackers(folder, options, len(saved["rows"]) if saved else 0)
    print(first_screen(
        options, given, algorithm, (len(train), len(validation[: options.limit]),
                                    len(test[: options.limit])),
        sum(p.numel() for p in policy.model.parameters()),
        sum(p.numel() for p in learned(policy.model))) + "\n")
    if options.shard:
        devices.shard(policy)
        if reference.model is not policy.model:
            devices.shard(reference)
    return Run(options, algorithm, policy, reference, agent, train, validation[: options.limit],
               test[: options.limit], splits[2], embed, folder, train_banks, identity=this_run,
               saved=saved, before=scores_before(saved), trackers=trackers)


def launch(main: Callable[[], Any]) -> None:
    """Call a script's main; what ends it from outside takes one line and is no traceback."""
    try:
        main()
        devices.end()
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except Exception as error:
        if devices.is_lost_rank(error):
            if devices.rank() < 2:  # at least one of ranks 0 and 1 is alive; the others are silent
                print("\nerror: another device's process has died, or torchrun was told to stop; "
                      f"go on from the last checkpoint (--save-every) with: {resume_command()}",
                      file=sys.stderr, flush=True)
            os._exit(1)  # at once, because closing the broken connection could wait for ever
        if is_out_of_memory(error):
            exit_with("out of memory: lower --micro-batch-tokens; a run that was saved "
                      f"(--save-every) goes on with {resume_command()} --micro-batch-tokens 1024")
        if isinstance(error, JudgeError):
            exit_with(f"{error}; once a step was saved (--save-every), the run goes on with "
                      f"{resume_command()}")
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EFBIG):
            exit_with(f"cannot write any more ({error.strerror}): make room on the disk; what was "
                      "written so far is in the run folder (--out)")
        if isinstance(error, (OSError, PolicyError)):  # as weights that became NaN
            exit_with(str(error))
        raise
