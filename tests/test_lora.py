"""Tests of lora.py and of real models' families: Qwen2.5, Qwen3 and Llama-3 in miniature.

    python -m pytest tests/test_lora.py        (some ten seconds)

Each family is a random model of its kind with a tokenizer and chat template like its own, goes
through a folder, learns a step with adapters and is saved. With `peft` installed, it reads what is
written here, and the other way round; without, those tests are skipped.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from math import inf
from pathlib import Path

import pytest
import torch
from canned import FirstTokenAgent, make_run
from conftest import CHAT_TEMPLATE, make_model, make_tokenizer
from safetensors.torch import load_file, save_file
from tokenizers import processors
from transformers import AutoModelForCausalLM

import grpo
import policy as policy_module
import ppo
from backend.loading import PolicyError
from backend.lora import (
    FREE_KEYS,
    HARMLESS_VALUES,
    AdapterError,
    LowRank,
    adapters,
    add_adapters,
    bytes_a_token,
    checkpoint_layers,
    empty_model,
    learned,
    linear_layers,
    low_rank_layers,
)
from grpo import GRPOOptions
from policy import Policy, head_log_probs, load_policy, picked_log_probs
from ppo import PPOOptions
from training.checkpoints import fingerprint
from training.options import parse_options, resolve
from training.run import prepare
from trees import Step, tree_mask

CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where is Tom?"}]

# What each family's own template does, shortened.
QWEN25 = ("{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are Qwen.<|im_end|>\n"
          "{% endif %}" + CHAT_TEMPLATE)
QWEN3 = CHAT_TEMPLATE.replace(
    "assistant\n{% endif %}", "assistant\n{% if enable_thinking is defined and enable_thinking is "
    "false %}<think>\n\n</think>\n\n{% endif %}{% endif %}")
LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}"
    "<|end_header_id|>\n\n{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}")
NO_SYSTEM = ("{% if messages[0]['role'] == 'system' %}"
             "{{ raise_exception('System role not supported') }}{% endif %}" + CHAT_TEMPLATE)
LLAMA_TOKENS = ("<|finetune_right_pad_id|>", "<|begin_of_text|>", "<|end_of_text|>",
                "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>", "<|eot_id|>")
QWEN_ASKED = ("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhere is Tom?<|im_end|>\n"
              "<|im_start|>assistant\n")

# kind and shape of the model; its tokenizer; the end ids of its generation config; the chat in full
FAMILIES = {
    "Qwen2.5": ("qwen2", {"tie_word_embeddings": True}, {"chat_template": QWEN25}, [2, 0],
                QWEN_ASKED),
    "Qwen3": ("qwen3", {"tie_word_embeddings": False, "head_dim": 16}, {"chat_template": QWEN3},
              [2, 0], QWEN_ASKED + "<think>\n\n</think>\n\n"),
    "Llama-3": ("llama", {"tie_word_embeddings": False, "num_key_value_heads": 1},
                {"chat_template": LLAMA3, "special_tokens": LLAMA_TOKENS,
                 "eos_token": "<|eot_id|>", "bos_token": "<|begin_of_text|>"}, [2, 5, 6],
                "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
                "<|start_header_id|>user<|end_header_id|>\n\nWhere is Tom?<|eot_id|>"
                "<|start_header_id|>assistant<|end_header_id|>\n\n"),
    "no system": ("llama", {}, {"chat_template": NO_SYSTEM}, [2],
                  "<|im_start|>user\nBe brief.\n\nWhere is Tom?<|im_end|>\n"
                  "<|im_start|>assistant\n"),
    # Not a tree but plain rows: attention sees six tokens back.
    "a window": ("mistral", {"sliding_window": 6}, {}, [2], QWEN_ASKED),
}


def family_folder(name: str, folder: Path) -> tuple[Path, list[int], str]:
    """An ordinary folder of a small model of a family; its end ids and the chat it should show."""
    kind, shape, tokenizer, ends, asked = FAMILIES[name]
    model = make_model(kind, **shape)
    model.generation_config.eos_token_id = ends
    model.save_pretrained(folder)
    tokenizer = make_tokenizer(**tokenizer)
    if name == "Llama-3":  # its tokenizer puts this before every text, and the template does too
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 1)])
    tokenizer.save_pretrained(folder)
    return folder, ends, asked


def steps_of(seed: int = 0) -> list[list[Step]]:
    """Two groups whose members share a prompt."""
    draw = random.Random(seed)
    return [[Step(prompt, [draw.randrange(7, 320) for _ in range(draw.randrange(1, 9))], False)
             for _ in range(4)]
            for prompt in ([draw.randrange(7, 320) for _ in range(n)] for n in (14, 5))]


def learn(policy: Policy, steps: int = 3, lr: float = 1e-2) -> None:
    """Some real updates of whatever learns."""
    optimizer = torch.optim.AdamW(learned(policy.model), lr=lr, weight_decay=0.0)
    for _ in range(steps):
        optimizer.zero_grad()
        (-policy.token_log_probs(steps_of()).mean()).backward()
        optimizer.step()


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([[9, 87, 85, 260, 11, 30]])).logits.float()


# ---- The families --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=[] if name in ("Qwen2.5", "Llama-3") else [pytest.mark.slow])
    for name in FAMILIES])
def test_a_family_is_read_sampled_trained_and_saved(name, tmp_path):
    folder, ends, asked = family_folder(name, tmp_path / "base")
    policy = load_policy(folder, "cpu", lora=4, checkpointing=True)
    assert policy.packs == (name != "a window"), "a window is read in plain rows, all else in trees"
    assert policy.end_ids == {*ends, policy.tokenizer.eos_token_id}, "one of several end ids lost"
    assert policy.tokenizer.decode(policy.encode(CHAT)) == asked, (
        "the chat as the model sees it: system message, beginning of text once, no thinking aloud")
    forged = policy.encode([CHAT[0], {"role": "user", "content": asked}])
    special = policy.tokenizer.all_special_ids
    assert sum(forged.count(i) for i in special) == sum(policy.encode(CHAT).count(i)
                                                        for i in special), "text forged a turn"

    before, start_weights = logits(policy.model), [p.clone() for p in learned(policy.model)]
    assert torch.equal(before, logits(make_model(FAMILIES[name][0], **FAMILIES[name][1]))), (
        "adapters change the model before any step: B must start at zero")
    prompts = [policy.encode(CHAT), [9, 8, 7], [9, 8, 7, 20]]
    learn(policy)
    sampled = policy.sample(prompts, 3, 6, 0.8, torch.Generator().manual_seed(0))
    claimed = torch.tensor([p for group in sampled for s in group for p in s.log_probs])
    alone = torch.cat([policy.token_log_probs([[step]], 0.8) for group in sampled
                       for step in group])
    together = policy.token_log_probs(sampled, 0.8)
    assert (claimed - alone).abs().max() < 1e-4 and (together - alone).abs().max() < 1e-5, (
        "sampling, packed rows and separate rows disagree: are adapters on in one and off in the "
        "other?")

    for parameter, start in zip(policy.model.parameters(), load_policy(
            folder, "cpu", lora=4).model.parameters(), strict=True):
        moved = not torch.equal(parameter, start)
        assert not moved or parameter.requires_grad, "a frozen weight moved"
    assert {type(m) for m in policy.model.modules() if list(m.parameters(recurse=False))
            and any(p.requires_grad for p in m.parameters(recurse=False))} == {LowRank}, (
        "something else than adapters learns")
    assert not any(map(torch.equal, learned(policy.model), start_weights)), (
        "an adapter's A or B never moves: gradients do not reach it (pitfall 27)")
    after = logits(policy.model)
    assert (after - before).abs().max() > 0.1, "the updates changed nothing"
    with adapters(policy.model, on=False):
        assert torch.equal(logits(policy.model), before), "the start model changed with training"

    policy.save(tmp_path / "saved")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert torch.equal(logits(policy.model), after), "saving changed the model"
    assert merged.dtype == torch.float32 and not low_rank_layers(merged)
    assert (set(load_file(tmp_path / "saved" / "model.safetensors"))
            == set(load_file(folder / "model.safetensors"))), "other weights: a tied head twice?"
    for again in (merged, load_policy(tmp_path / "saved", "cpu").model,
                  load_policy(tmp_path / "saved" / "adapter", "cpu").model):
        assert (logits(again) - after).abs().max() < 1e-4, (
            "what was saved is another model: scale, transposed product, or a tied head")
    twice = {key: 2 * p for key, p in policy.model.named_parameters()}  # without a tied head
    policy.save(tmp_path / "given", twice)
    given = AutoModelForCausalLM.from_pretrained(tmp_path / "given")
    assert torch.equal(given.get_input_embeddings().weight,
                       2 * merged.get_input_embeddings().weight), "not the weights given"
    assert load_policy(tmp_path / "saved", "cpu").end_ids == policy.end_ids, "end ids lost"
    assert all(p.requires_grad for p in load_policy(tmp_path / "saved" / "adapter",
                                                    "cpu").model.parameters()), "left frozen"


# ---- Adapters ------------------------------------------------------------------------------------


def test_the_correction_is_the_papers(monkeypatch):
    torch.manual_seed(0)
    base = torch.nn.Linear(6, 5)
    layer = LowRank(base, rank=2, alpha=6)
    torch.nn.init.normal_(layer.lora_B)
    x = torch.randn(3, 4, 6)
    weights = base.weight + 6 / 2 * layer.lora_B @ layer.lora_A  # Eq. 3, scaled by alpha / r
    wanted = torch.nn.functional.linear(x, weights, base.bias)
    assert (layer(x) - wanted).abs().max() < 1e-5, "y = W x + b + alpha / r B A x"
    assert (base.weight + layer.correction() - weights).abs().max() < 1e-6


def test_every_linear_layer_but_the_head_has_an_adapter():
    for kind, tied in (("qwen2", True), ("llama", False)):
        model = make_model(kind, tie_word_embeddings=tied)
        names = set(linear_layers(model))
        assert {name.rpartition(".")[2] for name in names} == {
            "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
        assert len(names) == 7 * 2, "seven layers in each of two blocks"
        count = sum(4 * (layer.in_features + layer.out_features)
                    for layer in linear_layers(model).values())
        for counted in (model, empty_model(model.config)):
            add_adapters(counted, 4)
            assert sum(p.numel() for p in learned(counted)) == count, (
                "rank times (in + out) of each layer, also counted without weights")


def test_adapters_go_off_and_come_back(tiny_policy):
    policy = tiny_policy()
    add_adapters(policy.model, 2)
    start = logits(policy.model)
    learn(policy)
    trained, model = logits(policy.model), policy.model
    with adapters(model, on=False):
        with adapters(model, on=False):
            assert torch.equal(logits(model), start)
        assert torch.equal(logits(model), start), "the inner block switched them on too early"
        with adapters(model, on=True):
            assert torch.equal(logits(model), trained)
        assert torch.equal(logits(model), start), "on inside off is not undone"
        with pytest.raises(RuntimeError), adapters(model, on=True):
            raise RuntimeError
        assert torch.equal(logits(model), start), "an exception leaves them as they were inside"
    assert torch.equal(logits(model), trained), "they stay off behind the block"


@pytest.mark.parametrize("kind", ["qwen2", "mistral"])
def test_the_start_of_a_policy_is_a_view_and_stays_what_it_was(tiny_policy, kind):
    window = {"sliding_window": 6} if kind == "mistral" else {}  # read in plain rows
    policy, fresh, groups = tiny_policy(kind, **window), tiny_policy(kind, **window), steps_of()
    add_adapters(policy.model, 2)
    view = policy.start()
    learn(policy)
    wanted = fresh.token_log_probs(groups).detach()
    assert view.model is policy.model, "the reference is a second model in memory"
    assert torch.equal(view.token_log_probs(groups), wanted), "the reference learned too"
    assert (policy.token_log_probs(groups) - wanted).abs().max() > 0.01, "the policy did not"
    draws = [torch.Generator().manual_seed(3) for _ in range(2)]
    assert (view.sample([[9, 8, 7]], 4, 6, 1.0, draws[0])
            == fresh.sample([[9, 8, 7]], 4, 6, 1.0, draws[1])), "it samples with adapters"
    hidden = [p.read(p.rows(groups))[0] for p in (view, fresh)]
    assert torch.equal(*hidden), "its states are those with adapters"


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_second_set_learns_alone_on_the_same_weights(tiny_policy, checkpointing):
    policy, groups = tiny_policy(), steps_of()
    add_adapters(policy.model, 2)
    checkpoint_layers(policy.model, 0 if checkpointing else inf)
    learn(policy)
    trained, start = (p.token_log_probs(groups).detach() for p in (policy, policy.start()))
    critic = policy.second()
    assert torch.equal(critic.token_log_probs(groups), start), "it begins with the trained adapters"
    mine, theirs = (dict(p.model.named_parameters()) for p in (policy, critic))
    for name, parameter in mine.items():
        assert (parameter is theirs[name]) == ("lora" not in name), (
            f"{name}: frozen weights are shared, adapters are not")
    # The gradient goes to the one that was asked, also when its layers run again later.
    gradients = []
    for wrapped in (checkpointing, False):
        checkpoint_layers(critic.model, 0 if wrapped else inf)
        loss = critic.token_log_probs(groups).sum()
        policy.token_log_probs(groups)
        gradients.append(torch.autograd.grad(loss, learned(critic.model)))
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(*gradients)), "of another set"
    learn(critic)
    assert torch.equal(policy.token_log_probs(groups), trained), "the critic moved the policy"


def test_a_weight_moves_at_a_rate_of_a_millionth(model_folder):
    """Pitfall 37: in bfloat16 a weight is rounded back; float32 weights and adapters move."""
    for lora in (0, 4):
        policy = load_policy(model_folder, "cpu", lora=lora, precision="bfloat16")
        assert policy.dtype == torch.bfloat16 and policy.packs
        assert {p.dtype for p in learned(policy.model)} == {torch.float32}, "what learns is float32"
        frozen = {p.dtype for p in policy.model.parameters() if not p.requires_grad}
        assert frozen == ({torch.bfloat16} if lora else set()), "what is frozen is bfloat16"
        before = [p.detach().clone() for p in learned(policy.model)]
        learn(policy, steps=2, lr=1e-6)
        moved = torch.cat([(a != b).flatten() for a, b in zip(before, learned(policy.model))])
        assert moved.float().mean() > 0.3, (
            f"{moved.float().mean():.0%} of what should learn moved at 1e-6 with --lora {lora}")
    half = Policy(make_model().bfloat16(), make_tokenizer())  # what the test is there to catch
    before = [p.detach().clone() for p in half.model.parameters()]
    learn(half, steps=2, lr=1e-6)
    moved = torch.cat([(a != b).flatten() for a, b in zip(before, half.model.parameters())])
    assert moved.float().mean() < 0.2, "bfloat16 weights move as well: the test shows nothing"


def test_what_adapters_learned_is_not_rounded_away_by_who_reads_it(model_folder, tmp_path):
    trained = load_policy(model_folder, "cpu", lora=2, precision="bfloat16")
    draw = torch.Generator().manual_seed(0)
    for layer in low_rank_layers(trained.model).values():
        layer.lora_B.data = 1e-3 * torch.randn(layer.lora_B.shape, generator=draw)
    trained.save(tmp_path / "checkpoint")
    read = load_policy(tmp_path / "checkpoint", "cpu", precision="bfloat16", frozen=True)
    assert {p.dtype for n, p in read.model.named_parameters() if "lora_" not in n} == {
        torch.bfloat16}, "a model that nobody trains takes twice the memory"
    for name, weights in trained.model.state_dict().items():
        assert name in read.model.state_dict(), (
            f"{name} is missing: the adapters went into the weights, where rounding takes them")
        assert torch.equal(read.model.state_dict()[name], weights), (
            f"{name}: bfloat16 keeps little of a small correction, so another model is tested")
    assert torch.equal(read.token_log_probs(steps_of()), trained.token_log_probs(steps_of()))
    exact = load_policy(tmp_path / "checkpoint", "cpu", precision="float32", frozen=True)
    assert not low_rank_layers(exact.model), "float32 weights hold all: nothing to keep apart"
    (tmp_path / "checkpoint" / "adapter" / "adapter_config.json").write_text('{"use_dora": true}')
    other = load_policy(tmp_path / "checkpoint", "cpu", precision="bfloat16", frozen=True)
    assert not low_rank_layers(other.model), "adapters of another program are not asked for"


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_positions_are_not_rounded_with_the_weights(precision, model_folder, tmp_path):
    policy = load_policy(model_folder, "cpu", lora=2, precision=precision)
    policy.save(tmp_path / "merged")
    wanted = dict(load_policy(model_folder, "cpu", precision="float32").model.named_buffers())
    assert wanted, "a model without frequencies shows nothing"
    for folder in (model_folder, tmp_path / "merged", tmp_path / "merged" / "adapter"):
        read = load_policy(folder, "cpu", precision=precision, frozen=True).model
        for name, buffer in read.named_buffers():
            assert torch.equal(buffer, wanted[name]), (
                f"{folder}: {name} has other frequencies, so far tokens seem nearer than they are")


@pytest.mark.parametrize("lora", [0, 4])
def test_bfloat16_arithmetic_is_close_and_consistent(model_folder, monkeypatch, lora):
    exact = load_policy(model_folder, "cpu")
    policy = load_policy(model_folder, "cpu", lora=lora, precision="bfloat16", checkpointing=True)
    wanted, got = (p.token_log_probs(steps_of()).detach() for p in (exact, policy))
    assert got.dtype == torch.float32, "log-probs are float32"
    assert 1e-4 < (got - wanted).abs().mean() < 0.1, "not bfloat16, or not the same model"
    sampled = policy.sample([[9, 8, 7], [9, 8, 7, 5], [30]], 8, 8, 1.0,
                            torch.Generator().manual_seed(0))
    claimed = torch.tensor([p for group in sampled for s in group for p in s.log_probs])
    errors = (policy.token_log_probs(sampled) - claimed).abs()
    assert errors.mean() < 0.1, f"sampled and scored differ by {errors.mean():.2f} nats"
    assert policy.start().token_log_probs(steps_of()).sub(wanted).abs().mean() < 0.1
    monkeypatch.setattr(policy_module, "tree_mask",
                        lambda ends, dtype: (tree_mask(ends, dtype) == 0).to(dtype))
    assert not load_policy(model_folder, "cpu", lora=lora, precision="bfloat16").packs, (
        "rounding is no reason to trust a wrong mask")


# ---- GRPO and PPO with adapters ------------------------------------------------------------------


PROMPTS = [[5, 9, 14], [5, 9, 30, 31], [40, 41, 42, 43, 44], [7, 8]]


@pytest.mark.parametrize("algorithm, critic", [
    (grpo, ""), pytest.param(ppo, "own", marks=pytest.mark.slow),
    pytest.param(ppo, "shared", marks=pytest.mark.slow)])
def test_an_algorithm_learns_with_adapters_alone(tiny_policy, tmp_path, algorithm, critic):
    policy = tiny_policy()
    add_adapters(policy.model, 4)
    options = {"kind": PPOOptions, "critic": critic, "critic_lr": 1e-2} if critic else {}
    run = make_run(policy, tiny_policy(), FirstTokenAgent(), 4, tmp_path / "run", PROMPTS,
                   steps=8, group_size=16, lr=2e-2, kl=0.01, max_grad_norm=1.0, lora=4, **options)
    run.reference = policy.start()
    rows, _ = algorithm.train(run)
    assert rows[-1]["reward"] > rows[0]["reward"] + 0.2, [row["reward"] for row in rows]
    assert abs(rows[0]["kl"]) < 1e-6 < rows[1]["kl"], "the reference is not the start model"
    assert all(row["ratio_error"] < 1e-4 for row in rows), "sampling and scoring differ"
    start = make_model()
    with adapters(policy.model, on=False):
        assert torch.equal(logits(policy.model), logits(start)), "the frozen weights moved"


@pytest.mark.parametrize("algorithm", [grpo, ppo])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_rounding_is_not_clipped(model_folder, tmp_path, monkeypatch, algorithm, precision):
    policy = load_policy(model_folder, "cpu", lora=4, precision=precision)
    calls, inner = [], grpo.clipped_loss

    def clipped_loss(log_probs, old_log_probs, *rest):
        calls.append((log_probs.detach().clone(), old_log_probs.clone()))
        return inner(log_probs, old_log_probs, *rest)

    monkeypatch.setattr(algorithm, "clipped_loss", clipped_loss)
    how = {"kind": PPOOptions, "critic": "shared"} if algorithm is ppo else {}
    run = make_run(policy, load_policy(model_folder, "cpu"), FirstTokenAgent(), 4,
                   tmp_path / "run", PROMPTS, steps=1, epochs=2, group_size=8, lr=1e-2, kl=0.01,
                   lora=4, **how)
    run.reference = policy.start()
    [row] = algorithm.train(run)[0]
    (scored, sampled), *first, (moved, old) = calls
    error = (scored - sampled).exp().sub(1).abs()
    assert row["ratio_error"] == pytest.approx(error.max().item(), rel=1e-5, abs=1e-7), (
        "ratio_error is to show how far sampling and scoring are apart")
    assert not torch.equal(moved, old), "the test itself: the second epoch has other weights"
    if precision == "float32":
        assert not first and torch.equal(old, sampled), "scored twice for the same numbers"
    else:
        assert error.max() > 1e-3, "the test itself: nothing was rounded"
        assert first and torch.equal(*first[0]), "rounding is clipped in the first epoch"
        assert torch.equal(old, scored), "rounding is clipped in the second epoch"


@pytest.mark.parametrize("algorithm", [grpo, ppo])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_nothing_is_clipped_before_an_update(model_folder, tmp_path, algorithm, precision):
    policy = load_policy(model_folder, "cpu", lora=4, precision=precision)
    how = {"kind": PPOOptions, "critic": "shared"} if algorithm is ppo else {}
    run = make_run(policy, load_policy(model_folder, "cpu"), FirstTokenAgent(), 4,
                   tmp_path / "run", PROMPTS, steps=1, epochs=1, group_size=8, clip=1e-3, lora=4,
                   **how)
    run.reference = policy.start()
    [row] = algorithm.train(run)[0]
    assert (row["ratio_error"] > 1e-3) == (precision == "bfloat16"), "the test itself"
    assert row["clip_fraction"] == 0, "clip_fraction counts rounding, which clipped nothing"


def test_the_command_gives_a_real_model_adapters_and_tiny_none(model_folder, tmp_path):
    options = parse_options(GRPOOptions, "", ["--model", str(model_folder), "--data", "world"])
    options = resolve(options, "grpo")
    assert (options.lora, options.checkpointing, options.lr) == (16, None, 1e-5), "a real model"
    tiny = resolve(parse_options(GRPOOptions, "", []), "grpo")
    assert (tiny.lora, tiny.checkpointing, tiny.lr) == (0, False, 3e-4), "the embedded model"
    run = prepare(replace(options, agent="mem1", env="shop", out=str(tmp_path / "run"),
                          micro_batch_tokens=512, checkpointing=True), "grpo")
    assert run.reference.model is run.policy.model and not run.reference.adapted, (
        "with adapters the reference is the same model without them")
    ranks = {len(layer.lora_A) for layer in low_rank_layers(run.policy.model).values()}
    assert ranks == {16}, f"--lora 16 gave adapters of the ranks {ranks}: it did not arrive"
    assert run.policy.micro_batch_tokens == 512 and learned(run.policy.model), (
        "frozen as a whole, or an option that is not handed on")
    assert any("forward" in vars(m) for m in run.policy.model.modules()), (
        "--checkpointing did not arrive")


# ---- Computed again instead of kept --------------------------------------------------------------


def kept_bytes(compute: Callable[[], torch.Tensor]) -> tuple[int, torch.Tensor]:
    """What a forward pass keeps for the backward one, parameters aside; and its result."""
    found = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, torch.nn.Parameter):
            storage = tensor.untyped_storage()
            found[storage.data_ptr()] = (storage.nbytes(), tensor)  # alive: no address comes twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = compute()
    return sum(size for size, _ in found.values()), result


def test_the_head_in_pieces_is_the_head(tiny_policy):
    """Also where many tokens share a place, none do, and the last piece is short."""
    torch.manual_seed(0)
    head = torch.nn.Linear(16, 500)
    draw = random.Random(0)
    for places, chunks in ((1, (1,)), (7, (1, 3, 7, 8)), (90, (1, 32, 45, 89))):
        at = torch.tensor([*range(places), *(draw.randrange(places) for _ in range(40))])
        at = at[torch.randperm(len(at))]
        targets = torch.randint(500, (len(at),))
        hidden = torch.randn(places, 16, requires_grad=True)
        weights = torch.randn(len(at))
        wanted, entropies = picked_log_probs(head(hidden), at, targets, 0.7)
        assert torch.allclose(wanted, (head(hidden) / 0.7).log_softmax(-1)[at, targets])
        asked = [hidden, *head.parameters()]
        gradients = torch.autograd.grad((wanted * weights).sum(), asked)
        for chunk in chunks:
            size, (got, spread) = kept_bytes(
                lambda: head_log_probs(head, hidden, at, targets, 0.7, chunk))
            assert (got - wanted).abs().max() < 1e-6, f"pieces of {chunk} of {places} places"
            assert torch.allclose(spread, entropies, atol=1e-5) and not spread.requires_grad
            for a, b in zip(torch.autograd.grad((got * weights).sum(), asked), gradients):
                assert (a - b).abs().max() < 1e-5 * b.abs().max(), f"gradient, pieces of {chunk}"
            if chunk < places:
                assert size < places * 500 * 4 / 3, f"{size} bytes: logits are kept"


def test_pieces_layers_and_the_row_budget_change_memory_only(tiny_policy):
    for kind, options in (("qwen2", {"attention_dropout": 0.5}), ("llama", {}),
                          ("mistral", {"sliding_window": 6})):
        policy, groups = tiny_policy(kind, num_hidden_layers=6, **options), steps_of()

        def compute(policy: Policy = policy) -> tuple[int, torch.Tensor, list[torch.Tensor]]:
            size, result = kept_bytes(lambda: policy.token_log_probs(groups, 0.9))
            return size, result, torch.autograd.grad(
                (result * torch.arange(len(result))).mean(), list(policy.model.parameters()))

        size, wanted, gradients = compute()
        policy.head_chunk = 3
        checkpoint_layers(policy.model)
        checkpoint_layers(policy.model)  # twice is once
        assert not policy.model.training, "training mode switches dropout on (pitfall 39)"
        small, got, found = compute()
        error = (got - wanted).abs().max() / wanted.abs().max()
        assert error < 1e-6, f"{kind}: other log-probs"
        for a, b in zip(found, gradients):
            assert (a - b).abs().max() <= 1e-5 * b.abs().max(), f"{kind}: another gradient"
        if policy.packs:
            assert small < size / 4, f"{kind}: {small} of {size} bytes are still kept"
        draws = [torch.Generator().manual_seed(0) for _ in range(2)]
        again = policy.sample([[9, 8, 7]], 3, 6, 1.0, draws[0])
        checkpoint_layers(policy.model, inf)
        assert again == policy.sample([[9, 8, 7]], 3, 6, 1.0, draws[1]), "sampling changed"
        policy.head_chunk = 10 ** 6
        assert compute()[0] == size, "off is not off"


def test_layers_are_computed_again_for_many_tokens_only(tiny_policy):
    policy, sizes = tiny_policy(num_hidden_layers=6), {}
    few, many = ([[Step([7] * length, [8, 9], False)]] for length in (9, 29))
    for most in (inf, 10, 0):
        checkpoint_layers(policy.model, most)
        sizes[most] = [kept_bytes(lambda: policy.token_log_probs(steps))[0]
                       for steps in (few, many)]
    assert sizes[10] == [sizes[inf][0], sizes[0][1]], (
        "10 tokens at most keep everything, 30 keep what goes into each layer")
    assert sizes[0][1] < sizes[inf][1] / 3, "the test itself: nothing was saved"


def test_what_layers_keep_is_counted_before_it_is_kept(tiny_policy):
    policy = tiny_policy(num_hidden_layers=6)
    steps = [[Step([7] * 200, [8], False)]]
    kept = kept_bytes(lambda: policy.token_log_probs(steps))[0]
    assert bytes_a_token(policy.model) * 200 == pytest.approx(kept, rel=0.3), (
        "a micro-batch would take another part of the memory than half of what is free")


def test_adapters_are_no_part_of_what_a_token_keeps(model_folder):
    policy = load_policy(model_folder, "cpu", lora=16, precision="bfloat16")
    once = bytes_a_token(policy.model)
    add_adapters(policy.model, 16)
    assert bytes_a_token(policy.model) - once == 2 * 16 * len(low_rank_layers(policy.model)), (
        "A x is kept with a token, two bytes a rank; copies of A and B are not, and to count them "
        "has layers computed again without need")


def test_a_model_that_is_to_decide_keeps_as_much_as_is_free(model_folder, monkeypatch):
    asked = []
    monkeypatch.setattr(policy_module, "checkpoint_layers",
                        lambda model, most=0: asked.append(most))
    for free in (0.0, 2e9, 4e9):
        monkeypatch.setattr(policy_module, "free_memory", lambda device, free=free: free)
        load_policy(model_folder, "cpu", lora=4, checkpointing=None)
    assert asked[0] == 0 < asked[1] == asked[2] / 2, "half of what is free, in tokens"
    load_policy(model_folder, "cpu", checkpointing=False)
    load_policy(model_folder, "cpu", checkpointing=True)
    assert asked[3:] == [0], "given, it is not decided"


def test_a_small_micro_batch_bounds_the_rows_too(tiny_policy):
    policy = tiny_policy(micro_batch_tokens=60)
    group = [Step([7] * 50, [draw] * 9, False) for draw in range(10, 16)]
    assert sorted(len(row.input_ids) for row in policy.rows([group])) == [58] * 6, (
        "a row of up to 4096 tokens does not fit a micro-batch of 60")


# ---- Files ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory) -> tuple[Policy, Path, Path]:
    """A policy with trained adapters, the folder of its start, and where it is saved."""
    folder = tmp_path_factory.mktemp("trained")
    make_model().save_pretrained(folder / "model")
    make_tokenizer().save_pretrained(folder / "model")
    policy = load_policy(folder / "model", "cpu", lora=4)
    learn(policy)
    policy.save(folder / "run")
    return policy, folder / "model", folder / "run"


@pytest.fixture
def trained(trained_once, tmp_path) -> tuple[Policy, Path, Path]:
    """The same with a copy of what was saved, for a test to break."""
    policy, base, saved = trained_once
    return policy, base, shutil.copytree(saved, tmp_path / "run")


def test_merged_weights_are_not_rounded(model_folder, tmp_path):
    policy = load_policy(model_folder, "cpu", lora=4, precision="bfloat16")
    learn(policy, steps=1, lr=1e-4)
    policy.save(tmp_path / "run")
    merged = load_file(tmp_path / "run" / "model.safetensors")
    name, layer = next(iter(low_rank_layers(policy.model).items()))
    found = merged[f"{name}.weight"] - layer.base.weight.float()
    assert merged[f"{name}.weight"].dtype == torch.float32
    assert (found - layer.correction()).abs().max() < 1e-2 * layer.correction().abs().max(), (
        "the correction is lost in the rounding of the weights")


def test_peft_reads_our_adapters(trained):
    peft = pytest.importorskip("peft", reason="the peft library is not installed")
    policy, base, saved = trained
    theirs = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base),
                                            saved / "adapter")
    assert (logits(theirs) - logits(policy.model)).abs().max() < 1e-4, "another model in peft"
    assert (logits(theirs.merge_and_unload()) - logits(policy.model)).abs().max() < 1e-4


# Every key, and every value of `HARMLESS_VALUES`, that `saved_config` lets pass, as PEFT writes it:
# (arguments of its LoraConfig, changes of the file that it saves). Compared with peft 0.21.2; the
# merged logits of both were equal.
ACCEPTED = {
    "r, lora_alpha": ({"r": 1, "lora_alpha": 2.5}, {}),
    "lora_alpha 0": ({"lora_alpha": 0}, {}),
    "lora_dropout": ({"lora_dropout": 0.5}, {}),
    "target_modules": ({"target_modules": ".*layers.(0.*k_proj|1.*up_proj)"}, {}),
    "target_modules all": ({"target_modules": "all-linear"}, {}),
    "exclude_modules": ({"exclude_modules": ["down_proj"]}, {}),
    "layers_to_transform, layers_pattern": (
        {"layers_to_transform": [1], "layers_pattern": "layers"}, {}),
    "task_type": ({"task_type": "CAUSAL_LM"}, {}),
    "task_type None, auto_mapping": ({}, {"task_type": None, "auto_mapping": {
        "base_model_class": "Qwen2ForCausalLM",
        "parent_library": "transformers.models.qwen2.modeling_qwen2"}}),
    "inference_mode": ({}, {"inference_mode": False}),
    "peft_version": ({}, {"peft_version": "0.1"}),
    "megatron_core": ({"megatron_core": "megatron.core"}, {}),
    "loftq_config": ({"loftq_config": {"loftq_bits": 4}}, {}),
    "eva_config": ({}, {"eva_config": {"rho": 2.0, "tau": 0.9}}),
    "runtime_config": ({}, {"runtime_config": {"ephemeral_gpu_offload": True}}),
    "qalora_group_size": ({"qalora_group_size": 8}, {}),
    "bias none, peft_type LORA": ({"bias": "none"}, {"peft_type": "LORA"}),
    "revision None": ({"revision": None}, {}),
    "revision main": ({"revision": "main"}, {}),
    **{f"init_lora_weights {way}": ({"init_lora_weights": way}, {})
       for way in (True, False, "gaussian", "eva", "orthogonal")},
}


def test_whatever_is_accepted_was_compared():
    names = " ".join(ACCEPTED)
    values = [f"{key} {value}" for key, ways in HARMLESS_VALUES.items() for value in ways]
    absent = [name for name in [*FREE_KEYS - {"base_model_name_or_path"}, *values]
              if name not in names]
    assert not absent, f"{absent}: compare with peft what is read here, or refuse it"


@pytest.mark.parametrize("name", ACCEPTED)
def test_we_read_pefts_adapters(name, model_folder, tmp_path):
    peft = pytest.importorskip("peft", reason="the peft library is not installed")
    arguments, changes = ACCEPTED[name]
    wanted = {"r": 4, "lora_alpha": 5, "target_modules": ["q_proj", "down_proj"], **arguments}
    torch.manual_seed(1)
    theirs = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(model_folder),
                                 peft.LoraConfig(**wanted))
    for parameter_name, parameter in theirs.named_parameters():
        if "lora_" in parameter_name:
            torch.nn.init.normal_(parameter, 0, 0.3)
    theirs.save_pretrained(tmp_path / "peft")
    path = tmp_path / "peft" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    # As others read the files: what an initialisation takes off the weights is in none of them.
    start = AutoModelForCausalLM.from_pretrained(model_folder)
    merged = peft.PeftModel.from_pretrained(start, tmp_path / "peft").merge_and_unload()
    ours = load_policy(tmp_path / "peft", "cpu").model
    assert (logits(ours) - logits(merged)).abs().max() < 1e-5, "rank, alpha or a name"
    moved = (logits(ours) - logits(make_model())).abs().max()
    assert (moved > 1) == (wanted["lora_alpha"] > 0), "adapters that change nothing show nothing"


def test_an_alpha_of_0_is_no_alpha_left_out(trained):
    _, base, saved = trained
    path = saved / "adapter" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "lora_alpha": 0}))
    assert torch.equal(logits(load_policy(saved / "adapter", "cpu").model),
                       logits(load_policy(base, "cpu").model)), "0 was taken for the default"


def spoil(adapter: Path, how: str) -> None:
    """Break a folder of adapters in one way."""
    path = adapter / "adapter_config.json"
    config = json.loads(path.read_text())
    weights = load_file(adapter / "adapter_model.safetensors")
    if how == "not JSON":
        path.write_text("{")
    elif how == "a list":
        path.write_text("[]")
    elif how == "no weights":
        (adapter / "adapter_model.safetensors").unlink()
    elif how == "cut":
        (adapter / "adapter_model.safetensors").write_bytes(b"cut")
    elif how in ("use_dora", "base_model_name_or_path", "r"):
        change = {"use_dora": True, "base_model_name_or_path": "no/such", "r": 5}
        path.write_text(json.dumps({**config, how: change[how]}))
    else:
        first = min(weights)
        changed = {"a lost half": {}, "another layer": {first.replace("layers.0", "layers.7"):
                                                        weights[first]},
                   "a foreign weight": {first: weights[first], "score.weight": torch.ones(2)}}[how]
        del weights[first]
        save_file({**weights, **changed}, adapter / "adapter_model.safetensors")


@pytest.mark.parametrize("how, says", [
    ("not JSON", "adapter_config.json"), ("a list", "adapter_config.json"),
    ("no weights", "adapter_model.safetensors"), ("cut", "header"), ("use_dora", "use_dora"),
    ("base_model_name_or_path", "no/such"), ("r", "has the size"), ("a lost half", "lora_B"),
    ("another layer", "lora_B"), ("a foreign weight", "lora_B")])
def test_broken_adapters_are_one_line(trained, how, says):
    _, _, saved = trained
    spoil(saved / "adapter", how)
    with pytest.raises(PolicyError, match=says) as caught:
        load_policy(saved / "adapter", "cpu")
    assert "\n" not in str(caught.value) and str(saved) in str(caught.value), "one line, the folder"


@pytest.mark.parametrize("key, value", [
    *(("init_lora_weights", way) for way in (
        "pissa", "pissa_niter_4", "olora", "corda", "lora_ga", "loftq")),
    ("alora_invocation_tokens", [5, 6]), ("layer_replication", [[0, 2], [1, 2]]),
    ("peft_type", "IA3"), ("bias", "all"), ("lora_bias", True), ("modules_to_save", ["lm_head"]),
    ("use_rslora", True), ("use_qalora", True), ("rank_pattern", {"q_proj": 2}),
    ("alpha_pattern", {"q_proj": 2}), ("fan_in_fan_out", True), ("revision", "v2"),
    ("trainable_token_indices", [3]), ("target_parameters", ["experts"]),
    ("a_key_of_next_year", "on")])
def test_adapters_that_may_change_more_than_their_layers_are_refused(trained, key, value):
    _, _, saved = trained
    path = saved / "adapter" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(PolicyError, match=key) as caught:
        load_policy(saved / "adapter", "cpu")
    assert "\n" not in str(caught.value), "logits would be off by 0.35 to 14, without a word"


def test_keys_that_change_nothing_are_read(trained):
    policy, _, saved = trained
    path = saved / "adapter" / "adapter_config.json"
    harmless = {"peft_version": "0.21.2", "auto_mapping": None, "modules_to_save": None,
                "use_dora": False, "rank_pattern": {}, "layer_replication": None, "revision": None,
                "megatron_core": "megatron.core", "loftq_config": {}, "lora_bias": False,
                "a_key_of_next_year": None}
    for way in (True, False, "gaussian", "eva", "orthogonal"):
        path.write_text(json.dumps({**json.loads(path.read_text()), **harmless,
                                    "init_lora_weights": way}))
        assert (logits(load_policy(saved / "adapter", "cpu").model)
                - logits(policy.model)).abs().max() < 1e-4, f"{way}: another model"


@pytest.mark.parametrize("folder", ["checkpoint", "checkpoint/adapter"])
@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_a_second_run_goes_on_from_all_that_the_first_learned(precision, folder, model_folder,
                                                             tmp_path):
    def drawn(policy: Policy, seed: int) -> Policy:
        """With a small correction, of which bfloat16 weights would keep little."""
        draw = torch.Generator().manual_seed(seed)
        for parameter in learned(policy.model):
            parameter.data = 0.03 * torch.randn(parameter.shape, generator=draw)
        return policy

    first = drawn(load_policy(model_folder, "cpu", lora=2, precision=precision), 0)
    first.save(tmp_path / "checkpoint")
    second = load_policy(tmp_path / folder, "cpu", lora=3, precision=precision)
    assert {len(p) for n, p in second.model.named_parameters()
            if p.requires_grad and "lora_A" in n} == {3}, "the first run's adapters learn on"
    wanted = first.token_log_probs(steps_of()).detach()
    near = 0 if precision == "bfloat16" else 1e-4
    for start in (second, second.start()):
        assert (start.token_log_probs(steps_of()) - wanted).abs().max() <= near, (
            "the second run starts elsewhere: the first's correction was rounded, or is switched "
            "off with the new adapters")
    read = load_policy(tmp_path / folder, "cpu", precision=precision, frozen=True)
    if precision == "bfloat16":
        assert fingerprint(second.start()) == fingerprint(read), (
            "the same start model has two names: kept answers would be judged again")
        moved = load_policy(model_folder, "cpu", precision=precision, frozen=True)
        assert fingerprint(second.start()) != fingerprint(moved), (
            "the first run's adapters are no part of the start model")
    drawn(second, 1)
    assert (second.token_log_probs(steps_of()) - wanted).abs().max() > 1e-3, "nothing was added"
    assert (second.start().token_log_probs(steps_of()) - wanted).abs().max() <= near
    critic = second.second()
    assert (critic.token_log_probs(steps_of()) - wanted).abs().max() <= near, (
        "a second set starts from what the first run learned")
    second.save(tmp_path / "again")
    config = json.loads((tmp_path / "again" / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"]) == (5, 10), "both runs stand in one file"
    assert config["base_model_name_or_path"] == str(model_folder), "the model they belong to"
    wanted = second.token_log_probs(steps_of()).detach()
    for saved in (tmp_path / "again", tmp_path / "again" / "adapter"):
        read = load_policy(saved, "cpu", precision=precision, frozen=True)
        assert (read.token_log_probs(steps_of()) - wanted).abs().max() <= near, (
            "the file holds another correction than the run had")


@pytest.mark.parametrize("lora", [0, 3])
def test_another_programs_adapters_stand_on_those_of_our_checkpoint(lora, model_folder, tmp_path):
    """PEFT takes checkpoint/ for an ordinary folder, and names it as the base of its adapters."""
    ours = load_policy(model_folder, "cpu", lora=2, precision="bfloat16")
    for layer in low_rank_layers(ours.model).values():
        torch.nn.init.normal_(layer.lora_B, 0, 1e-3)
    ours.save(tmp_path / "run")
    theirs = load_policy(tmp_path / "run", "cpu", lora=4, precision="float32")
    theirs.save(tmp_path / "theirs")
    above = tmp_path / "theirs" / "adapter"
    config = json.loads((above / "adapter_config.json").read_text())
    weights = {key: tensor[2:] if "lora_A" in key else torch.zeros_like(tensor[:, 2:]).contiguous()
               for key, tensor in load_file(above / "adapter_model.safetensors").items()}
    save_file(weights, above / "adapter_model.safetensors")  # the last ranks, which add nothing
    (above / "adapter_config.json").write_text(json.dumps({
        **config, "r": 4, "lora_alpha": 8, "base_model_name_or_path": str(tmp_path / "run")}))
    read = load_policy(above, "cpu", lora=lora, precision="bfloat16", frozen=not lora)
    assert torch.equal(read.token_log_probs(steps_of()), ours.token_log_probs(steps_of())), (
        "our run's own adapters were rounded away with the weights")
    read.save(tmp_path / "saved")
    again = load_policy(tmp_path / "saved" / "adapter", "cpu", precision="bfloat16", frozen=True)
    assert torch.equal(again.token_log_probs(steps_of()), ours.token_log_probs(steps_of()))


@pytest.mark.parametrize("how", ["no weights", "cut", "r", "another layer", "a lost half"])
@pytest.mark.parametrize("lora", [0, 3])
def test_adapters_that_do_not_fit_leave_the_checkpoint_as_it_is(trained, how, lora):
    _, _, saved = trained
    wanted = load_policy(saved, "cpu", precision="float32")
    spoil(saved / "adapter", how)
    read = load_policy(saved, "cpu", lora=lora, precision="float32")
    assert (logits(read.model) - logits(wanted.model)).abs().max() < 1e-4, (
        "the weights alone are the model, and half of what is taken out is missing")
    load_policy(saved, "cpu", precision="bfloat16", frozen=True)


def test_models_that_differ_in_alpha_alone_have_two_names(trained):
    _, _, saved = trained
    path = saved / "adapter" / "adapter_config.json"
    names = []
    for alpha in (8, 80):
        path.write_text(json.dumps({**json.loads(path.read_text()), "lora_alpha": alpha}))
        for lora in (0, 2):
            policy = load_policy(saved / "adapter", "cpu", lora=lora, precision="bfloat16",
                                 frozen=not lora)
            names.append(fingerprint(policy.start() if lora else policy))
    assert names[0] == names[1] != names[2] == names[3], (
        "the kept answers of one would be taken for the other's")


def test_runs_on_top_of_each_other_may_have_a_rank_above_any_layer(model_folder, tmp_path):
    widest = max(min(layer.weight.shape) for layer in linear_layers(make_model()).values())
    with pytest.raises(PolicyError, match=f"above {widest}"):
        load_policy(model_folder, "cpu", lora=widest + 1)
    with pytest.raises(AdapterError, match=f"above {widest}"):
        add_adapters(empty_model(make_model().config), widest + 1)  # as `tools.bench --memory` does
    for run in ("first", "second"):
        policy = load_policy(model_folder, "cpu", lora=widest, precision="bfloat16")
        policy.save(tmp_path / run)
        model_folder = tmp_path / run
    read = load_policy(model_folder, "cpu", precision="bfloat16", frozen=True)
    assert {len(layer.lora_A) for layer in low_rank_layers(read.model).values()} == {2 * widest}


def test_adapters_on_some_layers_are_padded_where_others_stand_on_them(model_folder, tmp_path):
    torch.manual_seed(0)
    policy = load_policy(model_folder, "cpu", precision="float32")
    add_adapters(policy.model, 2, alpha=3, names=[next(iter(linear_layers(policy.model)))])
    [below] = low_rank_layers(policy.model).values()
    torch.nn.init.normal_(below.lora_B)
    wanted = logits(policy.model)
    add_adapters(policy.model, 4)
    assert (logits(policy.model) - wanted).abs().max() < 1e-4, "the first adapters' own scale"
    for layer in low_rank_layers(policy.model).values():
        torch.nn.init.normal_(layer.lora_B, 0, 0.1)
    policy.save(tmp_path / "run")
    for saved in (tmp_path / "run", tmp_path / "run" / "adapter"):
        read = load_policy(saved, "cpu", precision="float32")
        assert (logits(read.model) - logits(policy.model)).abs().max() < 1e-4, (
            "a rank that layers do not share, or another scale than in the run")


def test_a_model_without_linear_layers_is_refused(tmp_path):
    make_model("gpt2", n_layer=1).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(PolicyError, match="--lora 0"):
        load_policy(tmp_path, "cpu", lora=4)
