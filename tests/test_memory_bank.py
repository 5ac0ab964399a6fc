"""Tests of memory_bank.py: a brute-force oracle, files that break, hashed words.

    python -m pytest tests/test_memory_bank.py        (some five seconds)

How much of the evidence a search finds is tested in test_recall.py and test_world.py.
"""

from __future__ import annotations

import json
import math
import os
import re
import tempfile
import tracemalloc
import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from canned import printed_by_processes
from hypothesis import given, settings
from hypothesis import strategies as st

import memory_bank
from memory_bank import Memory, MemoryBank, hashed_words

# A text is one of the words, and its vector is drawn once. So the same word is an exact tie, and
# two different words are never within rounding of each other.
WORDS = ["ant", "bee", "cat", "dog", "elk", "zero"]
VECTORS = dict(zip(WORDS, np.random.default_rng(0).normal(size=(6, 37))))
VECTORS["zero"] = np.zeros(37)

PROPERTY = settings(max_examples=60, derandomize=True)


def toy_embed(texts: Sequence[str]) -> np.ndarray:
    """Vectors of very different lengths, one of them zero, by the last word of the text."""
    return np.array([5 * VECTORS[text.split()[-1]] for text in texts], np.float32)


def toy_bank(*texts: str) -> MemoryBank:
    """A bank of memories of speaker A, whose vectors are those of their words."""
    bank = MemoryBank(toy_embed, lambda memory: memory.text)
    bank.add_many([(text, "A", "1") for text in texts])
    return bank


@cache
def cosine(word: str, other: str) -> float:
    a, b = VECTORS[word], VECTORS[other]
    lengths = np.linalg.norm(a) * np.linalg.norm(b)
    return round(float(a @ b / lengths), 5) if lengths else 0.0


def brute_force(entries: dict[int, Memory], query: str, k: int, speaker: str | None) -> list[int]:
    """Ids of the k best, from the definition: cosine, then insertion order."""
    candidates = [m for m in entries.values() if speaker is None or m.speaker == speaker]
    # sorted() is stable and the dict is in insertion order, which is the tie break
    return [m.id for m in sorted(candidates, key=lambda m: -cosine(m.text, query))[:k]]


def ids(memories: Sequence[Memory]) -> list[int]:
    return [memory.id for memory in memories]


# ---- operations against an oracle ----------------------------------------------------------------

OPERATION = st.tuples(
    st.sampled_from(["add", "add", "add", "add", "update", "update", "delete", "copy"]),
    st.integers(0, 3), st.sampled_from(WORDS), st.sampled_from("AB"), st.integers(0, 10_000),
)


def apply(bank: MemoryBank, entries: dict[int, Memory], operation: str, word: str, speaker: str,
          pick: int) -> None:
    """One operation on a bank and on the plain dict that it has to agree with."""
    if operation == "add":
        memory = bank.add(word, speaker, f"day {pick}")
        assert memory.id not in entries, "an id that is in use was given to a new memory"
        entries[memory.id] = memory
    elif entries:
        target = sorted(entries)[pick % len(entries)]
        if operation == "update":
            entries[target] = replace(entries[target], text=word, timestamp=f"day {pick}")
            assert bank.update(target, word, f"day {pick}") == entries[target], (
                "an update keeps id and speaker, and takes the new text and date")
        elif operation == "delete":
            bank.delete(target)
            del entries[target]


def agrees(bank: MemoryBank, entries: dict[int, Memory]) -> None:
    assert list(bank) == list(entries.values()), (
        "iteration differs from insertion order: did an update move the memory to the end, "
        "or a copy share a dict with its original?")
    assert len(bank) == len(entries)
    for query in WORDS:
        for k in (1, 2, 3, 7, 1000):
            for speaker in (None, "A", "nobody"):
                results = bank.search(query, k, speaker)
                expected = brute_force(entries, query, k, speaker)
                asked = f"search({query!r}, k={k}, speaker={speaker})"
                assert len(results) == len(expected), (
                    f"{asked} gave {len(results)} memories, not {len(expected)}: is k off by one, "
                    "or the speaker ignored, or a dead row scored?")
                assert ids(results) == expected, (
                    f"{asked}: got {ids(results)}, brute force {expected}. Equal scores in another "
                    "order than the oldest first? A stale vector after update or delete?")
                assert results == [entries[i] for i in expected], "the right id, an outdated text"


@PROPERTY
@given(st.lists(OPERATION, max_size=60))
def test_any_operations_on_a_bank_and_its_copies_agree_with_brute_force(operations):
    """Up to four banks, copies of each other, change in turn; each must agree with its own dict."""
    pairs = [(MemoryBank(toy_embed, lambda m: m.text), {})]
    try:
        for operation, place, *details in operations:
            bank, entries = pairs[place % len(pairs)]
            if operation == "copy" and len(pairs) < 4:
                pairs.append((bank.copy(), dict(entries)))
            else:
                apply(bank, entries, operation, *details)
        for bank, entries in pairs:
            agrees(bank, entries)
    except LookupError as error:
        raise AssertionError("rows and ids are out of step: did a deletion leave its row alive, or "
                             "does a copy share `_rows` or `_ids` with its original?") from error


def test_a_score_is_the_dot_product_of_two_unit_vectors_to_the_last_bit():
    """Also among dead rows, after a move, and for memories that differ by rounding only."""
    draw = np.random.default_rng(2)
    vectors = (draw.normal(size=384) + 1e-5 * draw.normal(size=(300, 384))).astype(np.float32)
    bank = MemoryBank(lambda texts: vectors[[int(text) for text in texts]], lambda m: m.text)
    bank.add_many([(str(i), "AB"[i % 2], "") for i in range(200)])
    for i in range(0, 200, 3):
        bank.update(i, str(299 - i // 3), "")
    for i in range(0, 200, 7):
        bank.delete(i)
    unit = memory_bank.unit_rows(vectors)
    for speaker in (None, "A"):
        results = bank.search("250", 1000, speaker, with_scores=True)
        expected = {m.id: np.vecdot(unit[int(m.text)], unit[250]) for m in bank
                    if speaker in (None, m.speaker)}
        assert {memory.id: score for memory, score in results} == expected, (
            "a score depends on the row's place, or on the vectors beside it")
        order = sorted(expected, key=lambda i: (-expected[i], i))
        for k in (1, 10, 60, 1000):
            assert ids(bank.search("250", k, speaker)) == order[:k], (
                f"k={k}: the best are chosen by scores that are rounded")


def test_ids_are_never_reused(tmp_path):
    bank = toy_bank("ant", "bee", "cat")
    for memory in list(bank):
        bank.delete(memory.id)
    twin = bank.copy()
    bank.save(tmp_path / "bank.json")
    again = MemoryBank.load(tmp_path / "bank.json", toy_embed, lambda m: m.text)
    for name, other in (("the bank", bank), ("its copy", twin), ("the loaded bank", again)):
        assert other.add("dog", "A", "2").id == 3, f"{name} gave a deleted memory's id to a new one"


# ---- what copies and growth cost -----------------------------------------------------------------

def test_copies_share_their_vectors_while_the_bank_goes_on():
    """A bank that is copied before each of 60 turns, as on LoCoMo: one matrix's memory, not 60."""
    bank, copies = MemoryBank(hashed_words()), []
    tracemalloc.start()
    for n in range(60):
        bank.add_many([(f"dog{n} cat{i}", "A", "1") for i in range(5)])
        copies.append(bank.copy())
        copies[-1].search("dog7", 3)
    n_bytes = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    matrix = 300 * 2048 * 4
    # The vectors also lie in the embedder's cache. All matrices up to this size are two more of
    # the capacity, which is twice the size at most.
    assert n_bytes < 6 * matrix, (
        f"60 copies hold {n_bytes / matrix:.0f} times the last one's matrix: are vectors copied?")
    for n, twin in enumerate(copies):
        assert len(twin) == 5 * (n + 1) and len(twin.search("dog7", 1000)) == len(twin), (
            "a copy finds what was added to its original later")


def test_a_bank_and_its_copies_never_write_into_rows_that_both_read():
    bank = toy_bank(*WORDS)
    copies = [bank.copy() for _ in range(3)]
    copies.append(copies[0].copy())
    banks, before = [bank, *copies], bank.search("ant", 6, with_scores=True)
    for changed in range(5):
        banks[changed].add("ant", "A", "2")
        banks[changed].update(0, "zero", "2")
        banks[changed].delete(1)
        banks[changed].add("bee", "A", "3")
        for other in banks[changed + 1:]:
            assert other.search("ant", 6, with_scores=True) == before, (
                f"bank {changed} wrote into rows that another bank reads")
    for one in banks:
        assert ids(one.search("ant", 1)) == [6] and ids(one.search("bee", 1)) == [7]


def test_growth_is_amortised_and_dead_rows_stay_few():
    bank, arrays = toy_bank("ant"), []
    for i in range(3000):
        bank.add(WORDS[i % 6], "A", "1")
        bank.update(i, WORDS[i % 5], "2")
        if i % 3 == 0:
            bank.delete(i)
        if not arrays or bank._vectors is not arrays[-1]:
            arrays.append(bank._vectors)
    assert len(arrays) < 25, f"the rows moved {len(arrays)} times in 3,000 insertions"
    for memory in list(bank)[:-10]:
        bank.delete(memory.id)
    assert bank._n_rows <= 2 * len(bank), (
        f"a search of {len(bank)} memories reads {bank._n_rows} rows: dead ones are never left")


# ---- what is refused, and what the message says --------------------------------------------------

def test_unknown_ids_and_k_below_one_are_refused():
    bank = toy_bank("ant")
    for operation in (lambda: bank.update(7, "ant", "1"), lambda: bank.delete(7), lambda: bank[7]):
        with pytest.raises(KeyError, match="no memory with id 7 among the 1"):
            operation()
    for k in (0, -1):
        for one in (bank, MemoryBank(toy_embed)):
            with pytest.raises(ValueError, match=f"k is {k}"):
                one.search("ant", k)
    assert bank.add_many([]) == [] and ids(bank) == [0]


def is_clean(entry: tuple) -> bool:
    """Whether a bank may hold an entry: three strings that UTF-8 can hold, and a text."""
    return (all(isinstance(field, str) for field in entry) and bool(entry[0].strip())
            and not any("\ud800" <= letter <= "\udfff" for field in entry for letter in field))


HOSTILE = st.one_of(st.text(st.characters(), max_size=8), st.sampled_from([
    "", " \n", "half \ud83d", "\ud83d\udc15", "🐕", '"\\', "\x00", "\u2028", None, 3, b"a", ["a"]]))


@PROPERTY
@given(st.lists(st.tuples(HOSTILE, HOSTILE, HOSTILE), max_size=8))
def test_any_text_is_refused_whole_or_survives_a_file(entries):
    bank = MemoryBank(hashed_words(dimensions=16))
    bank.add("first", "A", "1")
    for entry in entries:
        before = list(bank)
        if is_clean(entry):
            assert bank.add_many([("ant", "A", "1"), entry])[1].id == len(before) + 1
            assert bank.update(0, entry[0], entry[2]).text == entry[0]
            continue
        with pytest.raises(ValueError, match="(text|speaker|timestamp) is (.|\n)*(UTF-8|say some)"):
            bank.add_many([("ant", "A", "1"), entry])
        if not is_clean((entry[0], "A", entry[2])):
            with pytest.raises(ValueError, match="(text|timestamp) is "):
                bank.update(0, entry[0], entry[2])
        assert list(bank) == before, "a refused operation left something behind"
    assert bank.add("last", "A", "1").id == len(bank) - 1, "a refused operation used up an id"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bank.json"
        bank.save(path)
        loaded = MemoryBank.load(path, bank.embed)
    assert list(loaded) == list(bank), "a text did not survive its file"


@pytest.mark.parametrize("output", [
    np.full((1, 37), np.nan), np.full((1, 37), np.inf), np.zeros((2, 37)), np.zeros((1, 36)),
    np.zeros(37), np.float32(1)])
def test_an_embedder_that_fails_is_caught_before_anything_changes(output):
    bank = toy_bank("ant")
    bank.embed = lambda texts: output
    for operation in (lambda: bank.add("bee", "A", "1"), lambda: bank.update(0, "bee", "1"),
                      lambda: bank.search("bee", 1)):
        with pytest.raises(ValueError, match=r"the embedder made .*finite"):
            operation()
    bank.embed = toy_embed
    agrees(bank, {0: Memory(0, "ant", "A", "1")})


# ---- files ---------------------------------------------------------------------------------------

def unicode_bank() -> MemoryBank:
    bank = MemoryBank(hashed_words())
    bank.add_many([("Zoë mag Käse 🧀", "Zoë", "1 五月 2023"), ("gone", "B", "1 May 2023"),
                   ('"quoted"\n\tand \\ broken', "B", ""), ("Иван играет в шахматы", "Иван", "x")])
    bank.delete(1)
    bank.update(0, "Zoë mag keinen Käse", "2 May 2023")
    return bank


@pytest.mark.parametrize("make", [unicode_bank, lambda: MemoryBank(hashed_words())])
def test_save_and_load_give_the_same_bank(tmp_path, make):
    bank, path = make(), tmp_path / "bank.json"
    with pytest.raises(FileNotFoundError):
        MemoryBank.load(path, hashed_words())
    bank.save(path)
    bank.save(path)
    assert list(tmp_path.iterdir()) == [path], "not just the one file was written"
    loaded = MemoryBank.load(str(path), hashed_words())
    assert list(loaded) == list(bank), "a text, an id or the order did not survive"
    for query in ("Käse", "шахматы", "quoted"):
        assert (loaded.search(query, 9, with_scores=True)
                == bank.search(query, 9, with_scores=True)), "other vectors than before"
    assert loaded.add("new", "A", "1") == bank.add("new", "A", "1")
    loaded.update(loaded.add("newer", "A", "1").id, "newest", "2")
    assert loaded.search("newest", 1)[0].text == "newest", "a loaded bank cannot be changed"


def test_the_vectors_of_a_loaded_bank_are_those_of_its_own_embedder_and_line(tmp_path):
    texts = []

    def embed(batch):
        texts.append(list(batch))
        return toy_embed(batch)

    bank = MemoryBank(hashed_words())
    bank.add_many([("ant", "A", "bee"), ("bee", "B", "cat")])
    bank.save(tmp_path / "bank.json")
    loaded = MemoryBank.load(tmp_path / "bank.json", embed, lambda memory: memory.timestamp)
    assert texts == [["bee", "cat"]], f"embedded {texts}: all lines in one call"
    assert ids(loaded.search("cat", 1)) == [1], "the vectors are not made of `line`"


@pytest.mark.parametrize("function", ["replace", "fsync"])
def test_a_crash_in_the_middle_of_saving_leaves_the_old_bank(tmp_path, monkeypatch, function):
    path, bank = tmp_path / "bank.json", unicode_bank()
    bank.save(path)
    before = list(bank)
    bank.add("never saved", "A", "1")

    def crash(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr(os, function, crash)
    with pytest.raises(OSError, match="disk full"):
        bank.save(path)
    monkeypatch.undo()
    assert list(MemoryBank.load(path, hashed_words())) == before, (
        "a failed save left neither the old bank nor a whole new one: write beside, then replace")
    assert list(tmp_path.iterdir()) == [path], "a failed save left its temporary file"
    bank.save(path)
    assert list(MemoryBank.load(path, hashed_words())) == list(bank)


def change(record: dict, **fields) -> bytes:
    return json.dumps({**record, **fields}).encode()


ENTRY = {"id": 0, "text": "t", "speaker": "A", "timestamp": "1"}
BREAKAGES = {
    "cut off": ("(whole file)", lambda r: json.dumps(r).encode()[:-20]),
    "not utf-8": ("(whole file)", lambda r: b"\xff\xfe\xfa"),
    "empty": ("(whole file)", lambda r: b""),
    "nested": ("(whole file)", lambda r: b"[" * 200_000),
    "a list": ("(whole file)", lambda r: b"[1]"),
    "an older file": ("vectors", lambda r: change(r, vectors="bank.json.0123456789abcdef.npz")),
    "no memories": ("memories", lambda r: change({"next_id": 1})),
    "memory without speaker": ("memories", lambda r: change(r, memories=[{"id": 0, "text": "t"}])),
    "extra field": ("memories", lambda r: change(r, memories=[{**ENTRY, "mood": "x"}])),
    "blank text": ("memories", lambda r: change(r, memories=[{**ENTRY, "text": " "}])),
    "half a character": ("memories", lambda r: change(r, memories=[{**ENTRY, "text": "\ud83d"}])),
    "id is text": ("next_id", lambda r: change(r, memories=[{**ENTRY, "id": "0"}])),
    "id is true": ("next_id", lambda r: change(r, memories=[{**ENTRY, "id": True}])),
    "id below 0": ("next_id", lambda r: change(r, memories=[{**ENTRY, "id": -1}])),
    "id twice": ("next_id", lambda r: change(r, memories=[ENTRY, ENTRY])),
    "id at next_id": ("next_id", lambda r: change(r, next_id=3)),
    "id beyond 64 bits": ("next_id", lambda r: change(r, next_id=2**64)),
    "no id is left for the next": ("next_id", lambda r: change(r, next_id=2**63 - 1)),
    "next_id is no number": ("next_id", lambda r: change(r, next_id=None)),
    "no next_id": ("next_id", lambda r: change({"memories": [ENTRY]})),
}


@pytest.mark.parametrize("name", BREAKAGES)
def test_a_broken_file_is_refused(tmp_path, name):
    path = tmp_path / "bank.json"
    unicode_bank().save(path)
    field, breakage = BREAKAGES[name]
    path.write_bytes(breakage(json.loads(path.read_bytes())))
    with pytest.raises(ValueError) as caught:
        MemoryBank.load(path, hashed_words())
    message = str(caught.value)
    for part in ("bank.json", f"field {field!r}", "build the bank"):
        assert part in message, f"{name}: name file, field, remedy; no {part!r} in: {message}"


@PROPERTY
@given(st.data())
def test_a_damaged_file_is_refused_with_that_one_error_or_read(data):
    """A few bytes are overwritten, or the end is lost: there is no other exception."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bank.json"
        unicode_bank().save(path)
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(0, 3))):
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(
                st.sampled_from(b'0-9"{}[]:,\\ue\xff\x00'))
        path.write_bytes(content[:data.draw(st.integers(0, 2 * len(content)))])
        try:
            assert len(MemoryBank.load(path, hashed_words())) <= 3
        except ValueError as error:
            assert "bank.json, field" in str(error) and "build the bank" in str(error), error


# ---- hashed words --------------------------------------------------------------------------------

@pytest.mark.parametrize("family", [
    "lives lived living live", "dogs dog", "cities city", "stopped stops stopping stop",
    "movies movie", "misses missed missing miss", "studies studied studying study",
    "dances danced dancing dance", "calls called calling call"])
def test_forms_of_a_word_share_a_stem(family):
    words = family.split()
    stems = {word: memory_bank.words_of(word) for word in words}
    assert len({tuple(s) for s in stems.values()}) == 1, f"different stems: {stems}"


def test_names_are_never_merged():
    """The synthetic world's look-alike pairs; a stemmer takes Simone for Simon."""
    names = "Simon Simone Louis Louise Maria Marie James Jame Anna Hanna".split()
    assert len({tuple(memory_bank.words_of(name)) for name in names}) == len(names), (
        "two names became one word: are capitalised words stemmed?")
    assert memory_bank.words_of("Simone's dogs bark at Simon’s 3 cats.") == [
        "simone", "dog", "bark", "simon", "3", "cat"]
    assert not hashed_words()(["is it the", "...", ""]).any(), "words that say nothing are no words"


def test_word_weights_are_those_of_the_docstring():
    corpus = ["dog dog cat", "dog fish", "dog"]
    vector = hashed_words(corpus, dimensions=4096)(["cat dog dog"])[0]  # two columns are in use
    weights = sorted(abs(vector[np.flatnonzero(vector)]))
    dog = (1 + math.log(2)) * (1 + math.log(4 / 4))
    cat = 1 + math.log(4 / 2)
    length = math.hypot(dog, cat)
    assert np.allclose(weights, sorted([dog / length, cat / length])), (
        "a repeated word counts 1 + ln count; df counts texts, not occurrences")
    uniform = hashed_words()(["cat dog fish"])[0]
    assert np.allclose(abs(uniform[np.flatnonzero(uniform)]), 1 / math.sqrt(3))


@settings(max_examples=60, derandomize=True)
@given(st.lists(st.text(max_size=30), min_size=1, max_size=6), st.integers(1, 40))
def test_hashed_vectors_are_unit_or_zero_and_do_not_depend_on_the_batch(texts, dimensions):
    vectors = hashed_words(texts, dimensions)(texts)
    assert vectors.shape == (len(texts), dimensions) and vectors.dtype == np.float32
    lengths = np.linalg.norm(vectors, axis=1)
    assert np.all((abs(lengths - 1) < 1e-5) | (lengths == 0)), lengths
    for text, vector in zip(texts, vectors):
        assert np.array_equal(hashed_words(texts, dimensions)([text])[0], vector)


def test_two_processes_make_the_same_vectors_and_the_same_order():
    script = ("import hashlib, memory_bank as m; "
              "e = m.hashed_words(['a b', 'Käse im Haus']);"
              "t = [f'word{i % 7} Käse {i % 3} thing{i}' for i in range(50)];"
              "b = m.MemoryBank(e); b.add_many([(x, 'A', '1 May') for x in t]);"
              "print(hashlib.sha256(e(t).tobytes()).hexdigest(),"
              "[x.id for x in b.search('word3 Käse 2', 20)])")
    runs = printed_by_processes(script)
    assert len(runs) == 1, f"the vectors depend on Python's hash(): {runs}"


def test_each_text_is_embedded_once_and_the_cache_is_safe(monkeypatch):
    embedded = []

    def embed(texts):
        embedded.extend(texts)
        return toy_embed(texts)

    monkeypatch.setattr(memory_bank, "CACHED_TEXTS", 3)
    look_up = memory_bank.remembered(embed)
    first = look_up(["ant", "bee", "ant"])
    assert embedded == ["ant", "bee"], f"embedded {embedded}: each distinct text once"
    assert np.allclose(np.linalg.norm(first, axis=1), 1), "the rows are not of length 1"
    expected = first.copy()
    first[:] = 7  # a caller may write into what it was given
    assert np.array_equal(look_up(["ant", "bee", "ant"]), expected), "the cache is not a copy"
    assert embedded == ["ant", "bee"], "the cache forgets"
    more = ["cat", "ant", "dog", "elk", "bee"]  # more than the cache may hold
    assert np.allclose(look_up(more), memory_bank.unit_rows(toy_embed(more))), "rows mixed up"
    assert np.array_equal(look_up(["bee", "ant", "bee"]), expected[[1, 0, 1]])


def test_wrong_arguments_of_hashed_words():
    with pytest.raises(ValueError, match="corpus must be a list"):
        hashed_words("one text")
    with pytest.raises(ValueError, match="dimensions"):
        hashed_words(dimensions=0)


# ---- languages without spaces --------------------------------------------------------------------

# One conversation in four languages: what Anna says, and a question to each sentence in its order.
TALKS = {
    "English": (
        ["I adopted a dog named Rex.", "I work in a bakery near the harbour.",
         "My sister moved to Oslo in March.", "I am allergic to peanuts.",
         "We watched a film about whales.", "I am learning to play the violin."],
        ["Which dog did she adopt?", "In which bakery does she work?",
         "When did her sister move to Oslo?", "Is she allergic to peanuts?",
         "Was the film about whales good?", "Does she play the violin?"]),
    "Chinese": (
        ["我收养了一只叫雷克斯的狗。", "我在港口附近的面包店工作。", "我妹妹三月搬到了奥斯陆。",
         "我对花生过敏。", "我们看了一部关于鲸鱼的电影。", "我在学拉小提琴。"],
        ["她收养了什么狗？", "她在哪家面包店工作？", "她妹妹什么时候搬到奥斯陆？",
         "她对花生过敏吗？", "关于鲸鱼的电影怎么样？", "她会拉小提琴吗？"]),
    "Japanese": (
        ["レックスという犬を引き取りました。", "港の近くのパン屋で働いています。",
         "妹は三月にオスロへ引っ越しました。", "私はピーナッツアレルギーです。",
         "クジラの映画を見ました。", "バイオリンを習っています。"],
        ["彼女はどんな犬を引き取りましたか？", "彼女はどのパン屋で働いていますか？",
         "妹はいつオスロへ引っ越しましたか？", "ピーナッツは食べられますか？",
         "クジラの映画はどうでしたか？", "バイオリンは弾けますか？"]),
    "Thai": (
        ["ฉันรับเลี้ยงสุนัขชื่อเร็กซ์", "ฉันทำงานที่ร้านเบเกอรี่ใกล้ท่าเรือ",
         "น้องสาวของฉันย้ายไปออสโลในเดือนมีนาคม", "ฉันแพ้ถั่วลิสง", "เราดูหนังเกี่ยวกับปลาวาฬ",
         "ฉันกำลังเรียนไวโอลิน"],
        ["เธอรับเลี้ยงสุนัขอะไร", "เธอทำงานที่ร้านเบเกอรี่ไหน", "น้องสาวย้ายไปออสโลเมื่อไหร่",
         "เธอแพ้ถั่วลิสงไหม", "หนังเกี่ยวกับปลาวาฬเป็นอย่างไร", "เธอเล่นไวโอลินได้ไหม"]),
}


def recall_of_talk(language: str) -> float:
    """The share of questions whose sentence is found first, without a corpus and with one."""
    said, questions = TALKS[language]
    n_found = 0
    for corpus in (None, [f"8 May 2023 Anna: {text}" for text in said]):
        bank = MemoryBank(hashed_words(corpus))
        bank.add_many((text, "Anna", "8 May 2023") for text in said)
        n_found += sum(bank.search(question, 1)[0].text == text
                       for text, question in zip(said, questions))
    return n_found / (2 * len(said))


def test_a_conversation_is_found_in_every_language_as_in_english():
    recalls = {language: recall_of_talk(language) for language in TALKS}
    assert recalls["English"] >= 0.95 and min(recalls.values()) >= recalls["English"], (
        f"{recalls}: where no space is written a sentence must not be one word")


@pytest.mark.parametrize("text, words", [
    ("北京。", ["北", "京", "北京"]), ("Rex住在Oslo", ["rex", "住", "在", "住在", "oslo"]),
    ("ปลา", ["ป", "ล", "า", "ปล", "ลา"]), ("ชื่อ", ["ช", "ื", "่", "อ", "ชื", "ื่", "่อ"]),
    ("レー", ["レ", "ー", "レー"]), ("我_1 ok", ["我", "1", "ok"])])
def test_words_where_no_space_is_written(text, words):
    assert memory_bank.words_of(text) == words, (
        "letters, then pairs; a tone mark is part of its word; Latin words and digits stay whole")


def test_a_name_is_found_however_unicode_spells_it():
    for name in ("André", "Zoë", "Nguyễn", "が"):
        spelt = unicodedata.normalize("NFD", name)
        assert memory_bank.words_of(spelt) == memory_bank.words_of(name), (
            f"{name}: e and an accent are the same name as é")


@pytest.mark.parametrize("text, words", [
    ("राम रोम", ["राम", "रोम"]), ("தமிழ்", ["தமிழ்"]), ("বাংলা", ["বাংলা"]),
    ("❤️ a\u0301", ["á"])])
def test_a_vowel_sign_cuts_no_word(text, words):
    assert memory_bank.words_of(text) == words, (
        "cut at their vowel signs, two names of the same consonants are one word")


def test_vowel_points_are_left_out():
    for pointed, plain in (("كَتَبَ", "كتب"), ("שָׁלוֹם", "שלום")):
        assert memory_bank.words_of(pointed) == memory_bank.words_of(plain) == [plain], (
            "a question is written without points, and would not find a memory that has them")


def english_words(text: str) -> list[str]:
    """`words_of` as it was when it knew scripts with spaces only."""
    words = []
    for word in re.findall(r"[^\W_]+", text):
        if word.lower() not in memory_bank.STOP_WORDS:
            words.append(word.lower() if word[0].isupper() else memory_bank._stem(word.lower()))
    return words


ENGLISH = "Jones lives Cities stopped Misses studying is 3rd Anna's 10 calling".split()


@PROPERTY
@given(st.text(st.characters(max_codepoint=127)) | st.text(st.characters(max_codepoint=0x24F))
       | st.lists(st.sampled_from(ENGLISH), min_size=1).map(" ".join))
def test_latin_text_has_the_words_that_it_had(text):
    assert memory_bank.words_of(text) == english_words(text), (
        "other languages must not move an English vector by a bit")
