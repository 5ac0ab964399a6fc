"""Tests of tools/bench/: it times the step of grpo.py, counts right, and computes what is measured.

    python -m pytest tests/test_bench.py        (some eight seconds)
"""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from canned import CannedAgent, make_run, refused
from transformers import AutoModelForCausalLM, GPT2Config, Qwen2Config, Qwen3Config

import grpo
from backend.lora import add_adapters
from policy import load_policy
from tools.bench import __main__ as bench
from tools.bench import bank as bench_bank
from tools.bench.bank import Ready, measure_bank
from tools.bench.memory import computed, measured, memory_report, read_config, saved_bytes
from tools.bench.step import (
    CLIP,
    KL,
    LEARNING_RATE,
    OurStep,
    Setting,
    TurnsStep,
    arithmetic,
    config_only,
    random_folder,
    random_texts,
)
from trees import Episode, Step

SMALL = Setting(prompts=2, group=4, prompt_tokens=12, new_tokens=5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return random_folder(tmp_path_factory.mktemp("model"))


def config_folder(path: Path, kind=Qwen2Config, **sizes) -> Path:
    kind(**{"vocab_size": 2048, "hidden_size": 128, "intermediate_size": 384, "head_dim": 32,
            "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
            "tie_word_embeddings": True, "bos_token_id": None, "eos_token_id": 1,
            "architectures": [kind.__name__.replace("Config", "ForCausalLM")], **sizes,
            }).save_pretrained(path)
    return path


# ---- The step ------------------------------------------------------------------------------------

@torch.no_grad()
def drift(reference) -> None:
    """Make it another model than the policy, or the KL has no gradient."""
    for parameter in reference.model.parameters():
        parameter.mul_(1.5)


def test_the_timed_step_is_that_of_grpo(folder, tmp_path):
    step = OurStep(folder, SMALL)
    drift(step.reference)
    step()
    # The same responses through grpo.train, from the same weights: the weights must end the same.
    policy, reference = load_policy(folder), load_policy(folder)
    drift(reference)
    groups = [[Episode([s], float(s.response_ids[0] % 2), {
        "answer": "a", "gold": "a", "category": 1, "response": "", "prompt": "", "question": ""})
        for s in group] for group in step.groups]
    run = make_run(policy, reference, CannedAgent(groups), SMALL.prompts, tmp_path / "run",
                   group_size=SMALL.group, clip=CLIP, kl=KL, lr=4 * LEARNING_RATE,  # of 4 warm-ups
                   max_grad_norm=1.0, max_new_tokens=SMALL.new_tokens)
    grpo.train(run)
    moved = [(a - b).abs().max().item() for a, b in zip(
        step.policy.model.parameters(), load_policy(folder).model.parameters())]
    errors = [(a - b).abs().max().item() for a, b in zip(
        step.policy.model.parameters(), policy.model.parameters())]
    assert max(moved) > 0.5 * LEARNING_RATE, "the step moved nothing"
    assert max(errors) < 0.1 * LEARNING_RATE, "the bench times another step than grpo.py takes"


def test_lengths_are_exactly_those_asked_for(folder):
    step = OurStep(folder, SMALL)
    # All weights are drawn towards the end id: an honest bench must not stop there.
    with torch.no_grad():
        step.policy.model.get_input_embeddings().weight[1] *= 50
    seconds = step()
    assert set(seconds) == {"sampling", "reference", "update"} and min(seconds.values()) > 0
    assert [len(group) for group in step.groups] == [4, 4]
    for response in (s for group in step.groups for s in group):
        assert len(response.prompt_ids) == 12 and len(response.response_ids) == 5, "another length"
        assert not response.finished and len(response.log_probs) == 5, "it stopped at an end id"


def test_turns_carry_the_last_response_and_nothing_older(folder):
    step = TurnsStep(folder, SMALL, turns=3, info_tokens=4)
    step()
    first, *_ = step.groups[0]
    later = step.groups[0][2 * SMALL.group]  # the third turn of the same trajectory
    between = step.groups[0][SMALL.group]
    assert len(step.groups[0]) == 3 * SMALL.group
    assert later.prompt_ids == first.prompt_ids + between.response_ids + step.prompts[0][:4]


def test_arithmetic_against_pencil_and_paper(folder):
    policy = load_policy(folder)
    group = [Step([5, 6, 7], [8, 9], False), Step([5, 6, 7], [8, 10], False)]
    # W: 3 layers of queries and outputs 128 x 128, keys and values 128 x 64, MLP 3 x 128 x 384.
    weights, head, width = 3 * (2 * 128**2 + 2 * 128 * 64 + 3 * 128 * 384), 128 * 1024, 3 * 128
    # Sampling reads the prompt and each first response token; 4 tokens are drawn.
    sampling = 2 * weights * 5 + 2 * head * 4 + 4 * width * (1 + 2 + 3 + 4 + 4)
    # The tree reads 5 6 7 8, and scores two places: both responses begin with 8.
    reference = 2 * weights * 4 + 2 * head * 2 + 4 * width * (1 + 2 + 3 + 4)
    plain = 2 * weights * 8 + 2 * head * 4 + 4 * width * 2 * (1 + 2 + 3 + 4)
    assert arithmetic(policy, [group]) == {"sampling": sampling, "reference": reference,
                                           "update": 3 * reference, "plain": 5 * plain}


def test_random_texts_have_the_length_asked_for(folder):
    tokenizer = load_policy(folder).tokenizer
    texts = random_texts(tokenizer, 3, 17)
    assert [len(tokenizer.encode(text)) for text in texts] == [17] * 3 and len(set(texts)) == 3
    with pytest.raises(ValueError, match="--prompt-tokens -1"):
        random_texts(tokenizer, 1, -1)


# ---- Memory --------------------------------------------------------------------------------------

@pytest.mark.slow
def test_computed_and_measured_memory_agree(tmp_path):
    folder = config_folder(tmp_path / "config")
    assert config_only(folder)
    setting = Setting(prompts=8, group=8, prompt_tokens=100, new_tokens=12)
    found = measured(folder, setting)
    if found is None:
        pytest.skip("resident memory is read from /proc, which only Linux has")
    ratio = computed(read_config(folder), setting)["peak"] / found
    assert 0.85 < ratio < 1.15, f"computed / measured is {ratio:.2f}: a part is missing or doubled"


@pytest.mark.parametrize("kind, lora", [(Qwen2Config, 4), (Qwen3Config, 0)])
def test_what_is_kept_is_what_a_real_model_keeps(tmp_path, kind, lora):
    config = read_config(config_folder(tmp_path / "config", kind, num_hidden_layers=4))
    outside, layer = saved_bytes(config, replace(SMALL, lora=lora), 2, 20)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="tree").eval()
    if lora:
        add_adapters(model, lora)
    weights, found = {p.data_ptr() for p in model.parameters()}, {}

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in weights:
            found[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    ids = torch.zeros(2, 20, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.base_model(input_ids=ids, position_ids=ids, attention_mask=torch.zeros(2, 1, 20, 20),
                         use_cache=False)
    wanted = sum(tensor.untyped_storage().nbytes() for tensor in found.values())
    assert outside + 4 * layer == wanted, "what layers keep is counted wrongly"


@pytest.mark.slow
def test_memory_of_a_3b_is_computed_from_its_config_alone(tmp_path):
    folder = config_folder(  # Qwen2.5-3B
        tmp_path / "config", vocab_size=151936, hidden_size=2048, intermediate_size=11008,
        head_dim=128, num_hidden_layers=36, num_attention_heads=16, num_key_value_heads=2)
    setting = Setting(prompts=8, prompt_tokens=2000, new_tokens=256, lora=16, checkpointing=True,
                      precision="bfloat16", micro_batch_tokens=4096)
    config = read_config(folder)
    parts = computed(config, setting)
    assert parts["gradients"] == 4 * 29_933_568, "rank 16 beside every linear layer is 29.9 million"
    assert abs(parts["weights"] - (2 * 3.086e9 + 4 * 29.9e6)) < 1e7, "3.09 billion, 2 bytes each"
    report = memory_report("3B", config, setting, None)
    assert "24 GB: yes" in report and "8 GB: no" in report, report
    full = computed(config, Setting(prompts=8, prompt_tokens=2000, new_tokens=256))
    assert full["weights"] + full["gradients"] + full["optimizer"] > 60e9, "20 bytes a weight"
    assert full["activations"] > 5 * parts["activations"], "checkpointing saves most of them"


# ---- The bank, and the command line --------------------------------------------------------------

def test_the_bank_is_measured_without_embedding(monkeypatch):
    monkeypatch.setattr(bench_bank, "LEAST", 0.001)
    embed = Ready(5)
    assert np.allclose(np.linalg.norm(embed(["0", "4"]), axis=1), 1)
    assert embed(["3"]).shape == (1, bench_bank.DIMENSIONS)
    found = measure_bank(50)
    assert found["memories"] == 50 and all(value > 0 for value in found.values())
    has_faiss = importlib.util.find_spec("faiss") is not None
    assert ("faiss" in found) == has_faiss
    assert ("search, faiss flat" in bench_bank.bank_table([found])) == has_faiss


def test_growth_is_the_power():
    assert abs(bench.exponent({n: 3 * n**2 for n in (1, 4, 9)}) - 2) < 1e-9


def test_the_command_ends_with_one_line_of_all_figures(folder, capsys):
    bench.main(["--model", str(folder), "--prompts", "2", "--group", "2", "--prompt-tokens", "9",
                "--new-tokens", "3", "--repetitions", "1", "--json"])
    *table, last = capsys.readouterr().out.splitlines()
    figures = json.loads(last)
    assert [line.split()[0] for line in table[2:6]] == ["sampling", "reference", "update", "step"]
    assert figures["tokens_per_second"]["step"] == pytest.approx(12 / figures["seconds"]["step"])
    assert 0 < figures["share_of_rate"]["step"] < 1, "more than the machine can do"


@pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="TRL is not installed")
def test_trl_takes_turns(folder):
    figures = bench.main(["--model", str(folder), "--prompts", "2", "--group", "2", "--peer", "trl",
                          "--prompt-tokens", "9", "--new-tokens", "3", "--repetitions", "2"])
    assert len(figures["trl_all_steps"]) == len(figures["all_steps"]) == 2
    assert figures["ratio_to_trl"] > 0


@pytest.mark.parametrize("words, message", [
    (["--group", "1"], "--group 1: at least 2"), (["--model", "nowhere"], "no config.json"),
    (["--peer", "trl", "--lora", "4"], "leave out --lora"), (["--bank", "--memory"], "not allowed"),
    (["--curves", "--out", "nowhere/x.png"], "cannot be written"),
    (["--curves", "--out", "x"], "must end in .png"),
    (["--bank", "--sizes", "999999999999999"], "out of memory"),
    (["--speed"], "unrecognized arguments: --speed")])
def test_bad_options_are_one_line(words, message):
    assert message in refused("tools.bench.__main__", *words)


def test_the_memory_of_another_kind_of_model_is_not_guessed(tmp_path):
    GPT2Config(n_layer=1).save_pretrained(tmp_path)
    assert "built like Llama" in refused("tools.bench.__main__", "--memory", "--model", tmp_path)
