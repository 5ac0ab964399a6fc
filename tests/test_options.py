"""Tests of training/options.py: --help, what is refused in one line, and presets.

    python -m pytest tests/test_options.py        (some ten seconds)
"""

from __future__ import annotations

import dataclasses
import importlib
import io
import json
import re
import shutil
import sys

import pytest
from canned import call, refused

import grpo
import ppo
from backend.lora import add_adapters, save_adapters
from evaluate import EvaluateOptions
from policy import load_policy
from training.options import (
    EMBEDDED_MEM1,
    EMBEDDED_MODEL,
    PRESETS,
    TINY,
    Options,
    is_embedded,
    option,
    parse_options,
    presets_table,
    resolve,
)

COMMANDS = ("grpo", "ppo", "evaluate")


def options_class(name: str) -> type:
    module = importlib.import_module(name)
    (found,) = [value for value in vars(module).values() if dataclasses.is_dataclass(value)
                and value.__name__.endswith("Options") and value.__module__ == name]
    return found


# ---- options -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMMANDS)
def test_help_lists_every_option(name):
    code, text, _ = call(name, "--help")
    assert code == 0, "--help must end with exit code 0"
    for f in dataclasses.fields(options_class(name)):
        spelled = "--" + f.name.replace("_", "-")
        assert re.search(rf"^  {spelled}\b", text, re.MULTILINE), f"--help has no entry {spelled}"
        words = f.metadata["help"]
        assert len(words) > 8 and "\n" not in words, f"{spelled}: says nothing in --help"
        assert str(f.type).split(" ")[0] not in ("int", "float") or f.name == "seed" or re.search(
            r"\d", words), f"{spelled}: its help names no typical value"


@pytest.mark.parametrize("name", COMMANDS)
@pytest.mark.parametrize("arguments, expected", [
    (["--no-such-option", "1"], "--no-such-option"),
    (["--ste", "3"], "--ste"),  # no abbreviations: what is typed is what is in --help
    (["--limit", "0"], "--limit 0"),
    (["--limit", "many"], "many"),
    (["--distill", "maybe"], "maybe"),  # a switch: --distill or --no-distill
    (["--facts", "guesses"], "turns, observations, llm"),
    (["--data", "no/such/file.json"], "no/such/file.json"),
])
def test_bad_arguments_of_every_command(name, arguments, expected):
    assert expected in refused(name, *arguments), "the line does not name what was wrong"


@pytest.mark.parametrize("arguments, expected", [
    (["--group-size", "1"], "at least 2"),
    (["--agent", "x"], "manager, answer"),
    (["--steps", "-1"], "--steps -1"),
    (["--epochs", "0"], "--epochs 0"),
    (["--group-size", "999999999"], "--group-size 999999999"),  # fills the memory
    (["--questions", "999999999"], "--questions 999999999"),
    (["--lora", "-1"], "--lora -1"),
    (["--precision", "half"], "bfloat16, float32"),
    (["--micro-batch-tokens", "0"], "--micro-batch-tokens 0"),
    (["--lr", "0"], "--lr 0"),
    (["--lr", "nan"], "--lr nan"),
    (["--lr", "inf"], "--lr inf"),
    (["--lr", "1e300"], "--lr 1e+300"),  # an overflow inside of Adam
    (["--kl", "-0.1"], "--kl -0.1"),
    (["--clip", "nan"], "--clip nan"),
    (["--temperature", "0"], "--temperature 0"),
    (["--reduction", "mean"], "token, sequence, constant"),
    (["--normalise", "yes"], "yes"),
    (["--compare"], "--agent mem1"),
    (["--seed", 2**32], "--seed 4294967296"),
    (["--clip", "2"], "--clip 2"),
    (["--out", ""], "--out: is empty"),
    (["--lora", "1000"], "--lora 1000"),
    (["--model", "no/such", "--data", "locomo"], "no/such"),
])
def test_bad_numbers_and_choices_of_grpo(arguments, expected):
    assert expected in refused("grpo", *arguments), "the line does not name what was wrong"


@pytest.mark.parametrize("typed, readers", [
    ("grpo --objectives 4", "with --agent mem1"),
    ("ppo --agent answer --env shop", "with --agent mem1"),
    ("sft --harness truncation", "with --agent mem1"),
    ("sft --compare", "with --agent mem1"),
    ("grpo --agent mem1 --facts llm", "with --agent manager or answer"),
    ("ppo --agent mem1 --memories 5", "with --agent manager or answer"),
    ("grpo --agent answer --answerer tiny", "with --agent manager"),
    ("grpo --manager tiny", "with --agent answer"),
    ("grpo --agent mem1 --reward f1", "with --agent manager or answer"),
    ("grpo --agent mem1 --no-distill", "with --agent manager or answer"),
    ("grpo --agent mem1 --env shop --objectives 4", "with --env search"),
    ("grpo --agent mem1 --env shop --train-questions 19", "with --env search"),
    ("grpo --agent mem1 --env shop --data locomo", "with --env search"),
    ("sft --trajectories chats.jsonl --train-questions 19", "without --trajectories"),
    ("grpo --agent mem1 --env shop --compare", "with --env search"),
    ("evaluate --agent mem1 --manager tiny", "without --agent"),
    ("evaluate --agent mem1 --answerer tiny", "without --agent"),
    ("evaluate --agent mem1 --turns 20", "without --agent"),
    ("evaluate --agent mem1 --facts llm", "without --agent"),
    ("evaluate --agent mem1 --no-distill", "without --agent"),
    ("evaluate --objectives 8", "with --agent mem1"),
])
def test_an_option_that_the_run_does_not_read_is_refused(typed, readers, tmp_path):
    name, *arguments = typed.split()
    unread = next(word for word in reversed(arguments) if word.startswith("--"))
    line = refused(name, *arguments, "--out", tmp_path / "run")
    assert f"{unread}: is read only {readers}" in line, (
        f"{typed}: {line!r}; a student would believe that {unread} was tried")


@pytest.mark.parametrize("typed, said", [
    ("--bank --prompts 9", "--prompts: is read only with --memory or without --bank"),
    ("--bank --model tiny", "--model: is read only with --memory or with --curves or without"),
    ("--memory --sizes 5", "--sizes: is read only with --bank"),
    ("--curves --lora 8", "--lora: is read only with --memory or without"),
    ("--out x.png", "--out: is read only with --curves"),
    ("--memory --repetitions 9", "--repetitions: is read only with --curves or without --bank"),
    ("--table --prompts 9", "--prompts: is read only with --memory or without --bank"),
    ("--peer trl", "--peer: is read only with --table"),
])
def test_a_bench_refuses_what_it_does_not_read(typed, said):
    assert said in refused("tools.bench.__main__", *typed.split())


@pytest.mark.parametrize("name", ["grpo", "evaluate", "comparisons.compare", "comparisons.recall",
                                  "claims.__main__", "tools.report", "training.pictures",
                                  "tools.bench.__main__", "making.manager"])
def test_no_character_ends_a_command(name, monkeypatch):
    """A log file on Windows: its 256 characters do not hold all that a model writes."""
    log = io.TextIOWrapper(io.BytesIO(), encoding="cp1252", errors="strict")
    monkeypatch.setattr(sys, "stdout", log)
    with pytest.raises(SystemExit):
        importlib.import_module(name).main(["--help"])
    print("\u2192 \u4eac", file=sys.stdout)  # a transcript, hours later
    log.flush()
    assert log.buffer.getvalue().decode("cp1252").rstrip().endswith("? ?"), (
        "a run would end here, after all its training, and again with --resume")


def test_numbers_words_and_switches_are_read():
    @dataclasses.dataclass
    class Some:
        count: int | None = option(None, "how many, 1 to 9")
        rate: float = option(0.5, "how fast, 0 to 1")
        loud: bool = option(False, "with noise")
        kind: str = option("a", "which, 1 or 2", "a", "b")

    assert parse_options(Some, "", []) == Some(None, 0.5, False, "a"), "defaults changed"
    found = parse_options(Some, "", "--count 3 --rate 0 --loud --kind b".split())
    assert found == Some(3, 0.0, True, "b"), "an option was read wrong or as text"


# ---- what depends on the model and the data ------------------------------------------------------


def test_resolve():
    embedded = resolve(Options(), "grpo")
    assert (embedded.data, embedded.facts) == ("world", "turns"), (
        "the embedded model learns in the synthetic world, from turns as they were said")
    # The folder by another name is the same model.
    assert resolve(Options(model=str(EMBEDDED_MODEL / ".." / "tiny")), "grpo").data == "world"
    answer = resolve(Options(agent="answer"), "grpo")
    assert answer.facts == "observations", "its bank holds what a manager would write of a turn"
    with_manager = resolve(Options(agent="answer", manager="some/model"), "grpo")
    assert with_manager.facts == "turns", "a manager of the world reads turns"
    shopping = resolve(Options(model="some/hub-model", agent="mem1", env="shop"), "grpo")
    assert shopping.data == "world", "a shop needs no dialogues: nothing is to be downloaded"
    other = resolve(Options(model="some/model", agent="answer"), "ppo")
    assert (other.data, other.facts) == ("locomo", "observations")
    assert other.lr < embedded.lr and other.max_new_tokens > embedded.max_new_tokens
    assert other.out == "runs/ppo-answer" and embedded.out == "runs/grpo-manager"
    adapted, full = (resolve(ppo.PPOOptions(model="some/model", lora=rank), "ppo")
                     for rank in (None, 0))
    assert adapted.lr > full.lr and adapted.critic_lr > full.critic_lr, (
        "adapters, the critic's too, want some ten times the rate of all weights")
    given = resolve(Options(model="some/model", data="world", steps=0, lr=0.1, facts="llm",
                            out="here", max_new_tokens=7), "grpo")
    assert (given.data, given.steps, given.lr, given.facts, given.out, given.max_new_tokens) == (
        "world", 0, 0.1, "llm", "here", 7), "an option that was given was overwritten"
    assert resolve(Options(data="my.json"), "grpo").facts == "observations"
    # None is "all", or "no other model".
    open_ended = ("limit", "train_questions", "manager", "answerer", "judge", "judge_url")
    assert None not in {v for k, v in vars(embedded).items() if k not in open_ended}, (
        "something is still undecided; config.json would not tell what was run")


def test_a_real_agent_beside_the_embedded_model_may_answer_at_length(model_folder):
    for role in ("manager", "answerer"):
        options = resolve(EvaluateOptions(data="world", **{role: str(model_folder)}), "evaluate")
        assert options.max_new_tokens == 512, f"the {role}'s responses would be cut at 48"
    assert resolve(EvaluateOptions(answerer=str(EMBEDDED_MODEL)), "evaluate").max_new_tokens == 48


def test_what_a_model_is_decides_and_not_where_it_lies(tmp_path):
    """README's own command goes on from a checkpoint of tiny/, which is no real model."""
    for agent, start in (("manager", EMBEDDED_MODEL), ("mem1", EMBEDDED_MEM1)):
        checkpoint = tmp_path / agent / "checkpoint"
        shutil.copytree(start, checkpoint)
        moved = resolve(Options(agent=agent, model=str(checkpoint)), "grpo")
        wanted = resolve(Options(agent=agent), "grpo")
        for name in ("data", "lr", "steps", "max_new_tokens", "lora"):
            assert getattr(moved, name) == getattr(wanted, name), (
                f"--{name}: {start} trained on is taken for a real model")
    config = json.loads((EMBEDDED_MODEL / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "hidden_size": 64}))
    assert resolve(Options(model=str(tmp_path)), "grpo").data == "locomo", "another model"


def test_the_embedded_model_is_known_by_all_its_forms(tmp_path, model_folder):
    """Presets, prompts of other systems, the chat and evaluate.py ask this one function."""
    policy = load_policy(EMBEDDED_MODEL)
    user = {"role": "user", "content": "a"}
    instructed = policy.encode([{"role": "system", "content": "b"}, user])
    assert instructed == policy.encode([user]), (
        "tiny/ reads instructions now: why do the other systems ask it in a compact form?")
    add_adapters(policy.model, 2)
    save_adapters(policy.model, tmp_path / "adapter")
    for model in (EMBEDDED_MODEL, EMBEDDED_MEM1, tmp_path / "adapter"):
        assert is_embedded(str(model)), f"{model} knows only the words of the world"
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "adapter_config.json").write_text("{")
    for model in (model_folder, tmp_path / "broken", "smollm2", "no/such", "model.gguf"):
        assert not is_embedded(str(model)), f"{model} is small or broken, and not tiny/"


def test_a_file_is_read_as_the_benchmark_of_its_form(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text('[{"question_date": "2023/05/20"}]')
    for data in ("longmemeval", str(path)):
        assert resolve(Options(data=data), "grpo").facts == "llm", (
            f"{data}: the same data by name and by path must have facts from one source")


def test_of_ones_own_conversation_a_real_model_extracts_facts(tmp_path):
    least = [{"sample_id": "us", "conversation": {
        "session_1_date_time": "8 May", "session_1": [{"speaker": "Ann", "text": "I ski."}]}}]
    for name, text in (("least.json", json.dumps(least)), ("chat.txt", "24/12/23, 18:05 - Ann: I"),
                       ("list.json", '[{"role": "user", "content": "I ski."}]')):
        path = tmp_path / name
        path.write_text(text)
        assert resolve(Options(data=str(path), model="some/model"), "grpo").facts == "llm", (
            f"{name}: holds no observations, and a model is there that can extract facts")
        assert resolve(Options(data=str(path)), "grpo").facts == "turns", (
            f"{name}: the embedded model never learned to extract facts")
    path.write_text("no form at all")
    assert "What can be read" in refused("grpo", "--data", path)
    assert "What can be read" in refused("evaluate", "--data", path)


def test_presets_are_one_table_in_plain_sight():
    """What --help prints is what a run gets, for every option and model that the table names."""
    shown = presets_table()
    assert shown in call("grpo", "--help")[1], "--help does not print the presets"
    header, *rows = shown.splitlines()[3:]
    assert header.split() == list(PRESETS)
    for line in rows:
        name, *values = line.split()
        for preset, value in zip(PRESETS, values):
            wanted = {None: "as-needed"}.get(PRESETS[preset][name], str(PRESETS[preset][name]))
            assert wanted in (value, str(float(value)) if value[0].isdigit()
                              else value), f"{preset}, {name}"
    assert {line.split()[0] for line in rows} == set(TINY), "an option without a row"
    assert all(set(preset) == set(TINY) for preset in PRESETS.values()), "another set of options"
    for column, agent, env in (("manager", "manager", "search"), ("answer", "answer", "search"),
                               ("mem1", "mem1", "search"), ("shop", "mem1", "shop")):
        resolved = resolve(ppo.PPOOptions(agent=agent, env=env), "ppo")
        preset = PRESETS[f"tiny/{column}"]
        differing = {name for name in preset if not name.startswith("adapter_")
                     and "kl" not in name and getattr(resolved, name) != preset[name]}
        assert not differing, f"tiny/{column}: a run gets other values of {differing}"
        grpos = resolve(grpo.GRPOOptions(agent=agent, env=env), "grpo")
        assert (grpos.kl, resolved.kl) == (preset["kl"], preset["ppo_kl"]), (
            "the KL weighs in GRPO's loss, or in PPO's rewards: two scales")


def test_a_switch_has_two_forms():
    for typed, value in (("--distill", True), ("--no-distill", False)):
        assert parse_options(Options, "", [typed]).distill is value
    assert parse_options(Options, "", []).distill, "distillation is the default"
    assert resolve(parse_options(Options, "", ["--no-checkpointing", "--model", "some/model"]),
                   "grpo").checkpointing is False, "a given no is overwritten by the preset"
