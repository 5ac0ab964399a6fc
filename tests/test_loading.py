"""Tests of backend/loading.py and backend/heads.py: what loads, what is refused, what others read.

    python -m pytest tests/test_loading.py        (some ten seconds)
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from conftest import ROOT, make_model, make_tokenizer
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from backend import loading
from backend.heads import whole_head
from backend.loading import (
    PolicyError,
    add_old_rope,
    as_policy_error,
    check_version,
    is_out_of_memory,
    load_tokenizer,
    save_tokenizer,
    usual_precision,
)
from grpo import GRPOOptions
from policy import Policy, load_policy
from training import options as training_options
from training import run
from training.options import EMBEDDED_MEM1, EMBEDDED_MODEL, preset_of
from trees import Step

TEXT = "Where does Sarah live? <query> 12"


@pytest.mark.parametrize("installed", ["4.57.6", "5.22.9", "6.0.0", "6.0.0.dev0"])
def test_a_transformers_that_was_not_tried_is_refused_at_once(installed):
    with pytest.raises(PolicyError, match=r"transformers>=5\.23,<6") as refusal:
        check_version(installed)
    assert installed in str(refusal.value) and "\n" not in str(refusal.value)
    assert "transformers>=5.23,<6" in (ROOT / "requirements.txt").read_text(), (
        "requirements.txt admits other versions than the check")


def test_every_transformers_that_requirements_admit_is_taken():
    for installed in ("5.23.0", "5.24.0", "5.40.1", "5.24.0.dev0"):
        check_version(installed)
    check_version()


# ---- Precision -----------------------------------------------------------------------------------

@pytest.mark.parametrize("gain, ranks, wanted, measured", [
    (2.2, 1, "bfloat16", 1), (0.2, 1, "float32", 1), (1.1, 1, "float32", 1),
    (2.2, 3, "float32", 0)])
def test_a_real_model_computes_in_what_is_measured_to_be_faster(
        gain, ranks, wanted, measured, monkeypatch):
    gains = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(loading, "half_gain", lambda: gains.append(gain) or gain)
    monkeypatch.setattr(loading, "world_size", lambda: ranks)
    assert usual_precision() == wanted, (
        "a processor without bfloat16 takes six times as long in it; ranks may not differ")
    assert len(gains) == measured, "it is measured only where it decides"


def test_what_is_measured_is_a_ratio_of_times(monkeypatch):
    """With a clock that takes 1 for each product in float32, and a quarter in bfloat16."""
    now, n_threads, n_products = [0.0], torch.get_num_threads(), [0]

    def linear(tokens: torch.Tensor, weight: torch.Tensor) -> None:
        assert torch.get_num_threads() == 1 and tokens.shape[1] == weight.shape[1]
        n_products[0] += 1
        now[0] += 1.0 if tokens.dtype == torch.float32 else 0.25

    monkeypatch.undo()  # the tests' own "never faster"
    monkeypatch.setattr(loading.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(torch.nn.functional, "linear", linear)
    loading.half_gain.cache_clear()
    try:
        assert loading.half_gain() == 4.0, "how many times as fast bfloat16 is, not the reverse"
        measured = n_products[0]
        assert loading.half_gain() == 4.0 and n_products[0] == measured, "measured again"
    finally:
        loading.half_gain.cache_clear()
    assert torch.get_num_threads() == n_threads, "the number of threads was left at one"


def test_embedded_models_compute_in_float32_and_real_ones_as_measured(
        model_folder, monkeypatch, capsys):
    monkeypatch.setattr(run, "usual_precision", lambda: "bfloat16")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    run.say_half.cache_clear()
    lines: list[str] = []
    for name, wanted in ((EMBEDDED_MODEL, torch.float32), (EMBEDDED_MEM1, torch.float32),
                         (model_folder, torch.bfloat16)):
        for _ in range(2):
            assert run.load_or_stop(str(name)).dtype == wanted, name
            lines += capsys.readouterr().out.splitlines()
    assert len(lines) == 1 and "bfloat16" in lines[0], f"the choice is said in one line: {lines}"
    options = GRPOOptions(model=str(model_folder))
    monkeypatch.setattr(training_options, "usual_precision", lambda: "bfloat16")
    assert preset_of(options, options.model)["precision"] == "bfloat16"
    monkeypatch.setattr(training_options, "usual_precision", lambda: pytest.fail("measured"))
    options.precision = "float32"
    assert preset_of(options, options.model)["precision"] == "float32", "what is typed counts"
    assert preset_of(GRPOOptions(), str(EMBEDDED_MODEL))["precision"] == "float32"


# ---- Checkpoints elsewhere -----------------------------------------------------------------------

def saved_config(folder: Path, name: str) -> dict:
    return json.loads((folder / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("start, wanted", [
    ("Qwen2Tokenizer", "Qwen2Tokenizer"), ("PreTrainedTokenizerFast", "PreTrainedTokenizerFast"),
    ("TokenizersBackend", "PreTrainedTokenizerFast"), (None, "PreTrainedTokenizerFast")])
def test_a_saved_tokenizer_names_a_class_that_transformers_4_has(tmp_path, start, wanted):
    make_tokenizer().save_pretrained(tmp_path / "start")
    config = saved_config(tmp_path / "start", "tokenizer_config.json") | {"tokenizer_class": start}
    (tmp_path / "start" / "tokenizer_config.json").write_text(
        json.dumps({key: value for key, value in config.items() if value is not None}))
    tokenizer = load_tokenizer(tmp_path / "start")
    save_tokenizer(tokenizer, tmp_path / "saved")
    config = saved_config(tmp_path / "saved", "tokenizer_config.json")
    assert config["tokenizer_class"] == wanted, "transformers 4 knows no TokenizersBackend"
    assert not isinstance(config.get("extra_special_tokens"), list), (
        "transformers 4 wants a dictionary here, and fails at a list")
    again = load_tokenizer(tmp_path / "saved")
    assert again.encode(TEXT) == tokenizer.encode(TEXT), "other ids than before"
    assert again.all_special_ids == tokenizer.all_special_ids, "a special token became ordinary"
    assert again.chat_template == tokenizer.chat_template


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}


@pytest.mark.parametrize("kind, rope, wanted", [
    ("qwen2", {"rope_type": "default"}, {"rope_scaling": None}),
    ("llama", LLAMA3, {"rope_scaling": LLAMA3}),
    ("phi", {"rope_type": "default", "partial_rotary_factor": 0.25},
     {"rope_scaling": None, "partial_rotary_factor": 0.25})])
def test_rotary_settings_have_the_names_of_transformers_4_too(tmp_path, kind, rope, wanted):
    config = make_model(kind, rope_parameters={**rope, "rope_theta": 3e5}).config
    config.save_pretrained(tmp_path)
    add_old_rope(tmp_path)
    saved = saved_config(tmp_path, "config.json")
    for key, value in {"rope_theta": 3e5, **wanted}.items():
        assert saved.get(key, "absent") == value, (
            f"transformers 4 reads its default for {key}: another model of the same weights")
    assert AutoConfig.from_pretrained(tmp_path).rope_parameters == config.rope_parameters, (
        "transformers 5 reads other settings than before")


def test_rotary_settings_of_each_kind_of_layer_stay_as_they_are(tmp_path):
    for kind, options in (("gemma3_text", {"head_dim": 8}), ("gpt2", {})):
        make_model(kind, **options).config.save_pretrained(tmp_path)
        before = (tmp_path / "config.json").read_bytes()
        add_old_rope(tmp_path)
        assert (tmp_path / "config.json").read_bytes() == before


def test_every_folder_that_is_written_has_both_forms(tmp_path, model_folder):
    for lora in (0, 2):
        load_policy(model_folder, "cpu", lora=lora).save(tmp_path / f"saved{lora}")
    for folder in (tmp_path / "saved0", tmp_path / "saved2", ROOT / "tiny", ROOT / "tiny" / "mem1"):
        config = saved_config(folder, "config.json")
        assert config["rope_theta"] == config["rope_parameters"]["rope_theta"], folder
        assert (saved_config(folder, "tokenizer_config.json")["tokenizer_class"]
                == "PreTrainedTokenizerFast"), folder


# ---- Refused in one line -------------------------------------------------------------------------

def test_tokens_behind_the_embedding_matrix_are_refused(tmp_path):
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["<memory>"])
    make_model(vocab_size=len(tokenizer) - 1).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(PolicyError, match="embeddings") as caught:
        load_policy(tmp_path, "cpu")
    assert "\n" not in str(caught.value) and str(len(tokenizer) - 1) in str(caught.value), (
        "an added token is an IndexError at the first prompt that has it")


def folder_with(folder: Path, **changes: object) -> Path:
    """The model of two layers with a config.json that says something else."""
    make_model().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    config = saved_config(folder, "config.json") | changes
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("changes, said", [
    ({"num_hidden_layers": 1, "layer_types": ["full_attention"]}, "12 weights of layers"),
    ({"num_hidden_layers": 3, "layer_types": ["full_attention"] * 3}, "lacks 12 weights"),
    ({"vocab_size": 300}, r"weight: \(320, 32\) there, \(300, 32\)"),
    ({"hidden_size": 64}, "other sizes")], ids=["layer", "layers", "vocabulary", "width"])
def test_weights_that_do_not_fit_are_one_line(tmp_path, changes, said, capfd):
    folder = folder_with(tmp_path, **changes)
    capfd.readouterr()
    with pytest.raises(PolicyError, match=said) as caught:
        load_policy(folder, "cpu")
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)
    assert "".join(capfd.readouterr()) == "", "the library prints a table of its own"


def test_weights_beside_the_language_model_may_be_left_out(tmp_path):
    folder = folder_with(tmp_path)
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "vision.layers.0.weight": torch.zeros(2)}, folder / "model.safetensors",
              metadata={"format": "pt"})
    load_policy(folder, "cpu")


@pytest.mark.parametrize("kind, options", [
    ("mamba", {}), ("llama4_text", {"num_local_experts": 2, "intermediate_size_mlp": 64})])
def test_layers_that_cannot_have_adapters_are_refused(tmp_path, kind, options):
    make_model(kind, **options).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    assert not load_policy(tmp_path, "cpu").packs
    with pytest.raises(PolicyError, match="--lora 0") as caught:
        load_policy(tmp_path, "cpu", lora=2)
    assert "\n" not in str(caught.value), "one line"


@pytest.mark.parametrize("error, is_one", [
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
    (RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't "
                  "allocate memory: you tried to allocate 4096 bytes"), True),
    (RuntimeError("HIP out of memory"), True), (MemoryError(), True),
    (RuntimeError("size mismatch"), False), (ValueError("out of memory"), False)])
def test_running_out_of_memory_is_told_from_a_broken_folder(error, is_one):
    assert is_out_of_memory(error) == is_one
    with pytest.raises(type(error) if is_one else PolicyError), as_policy_error("folder"):
        raise error


# ---- Heads ---------------------------------------------------------------------------------------

# What a model does behind its head; whether trees suit it.
FAMILIES = {
    "granite": ({"logits_scaling": 8.0}, True), "cohere": ({"logit_scale": 0.25}, True),
    "gemma2": ({"head_dim": 8, "final_logit_softcapping": 3.0, "sliding_window": 8}, False),
    "cohere2": ({"logit_scale": 0.25, "sliding_window": 8}, False),
    "gemma3_text": ({"head_dim": 8, "sliding_window": 8}, False),
    "mistral": ({"sliding_window": 8}, False), "phi3": ({"sliding_window": 8}, False),
}


@pytest.mark.parametrize("kind", FAMILIES)
def test_logits_are_made_where_a_token_is_scored_and_nowhere_else(kind):
    options, packs = FAMILIES[kind]
    policy = Policy(make_model(kind, **options), make_tokenizer())
    assert policy.packs == packs, f"{kind}: {policy.why_plain}"
    prompt = [(7 * i) % 300 + 10 for i in range(40)]
    group = [Step(prompt, [8, 9, 10 + i, 11, 12], False) for i in range(3)]
    wanted = torch.cat([
        (policy.model(input_ids=torch.tensor([prompt + step.response_ids])).logits[0, 39:44] / 0.7)
        .log_softmax(-1)[range(5), step.response_ids] for step in group])
    gradient = torch.autograd.grad(wanted.sum(), policy.model.get_output_embeddings().weight)[0]
    places: list[int] = []
    handle = policy.model.get_output_embeddings().register_forward_hook(
        lambda module, inputs, logits: places.append(logits.numel() // logits.shape[-1]))
    for chunk in (1000, 4):
        places.clear()
        policy.head_chunk = chunk
        scored = policy.token_log_probs([group], 0.7)
        assert (scored - wanted).abs().max() < 1e-5, f"{kind}: scaled or capped logits are lost"
        assert sum(places) <= 15, f"{sum(places)} places have logits for 15 scored tokens"
        assert max(places) <= chunk, "the logits of all scored places at once"
        found = torch.autograd.grad(scored.sum(), policy.model.get_output_embeddings().weight)[0]
        assert (found - gradient).abs().max() < 1e-4 * gradient.abs().max(), f"{kind}: a gradient"
    places.clear()
    with torch.no_grad():
        hidden, _ = policy.read(policy.rows([group]))
    handle.remove()
    assert not places and hidden.shape[1] == 32, "a critic reads states and needs no logits"


def test_the_whole_head_is_what_the_model_does_behind_its_trunk():
    model = make_model("cohere", logit_scale=0.25)
    ids = torch.tensor([[5, 9, 14, 30]])
    hidden = model.base_model(input_ids=ids).last_hidden_state[0]
    assert torch.equal(whole_head(model, hidden), model(input_ids=ids).logits[0])
    assert (model.lm_head(hidden) - model(input_ids=ids).logits[0]).abs().max() > 0.1, (
        "the test itself: nothing happens behind the head")
    assert model.base_model(input_ids=ids).last_hidden_state.shape[1] == 4, "the model was changed"
