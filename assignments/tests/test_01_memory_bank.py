"""Problem 1: the memory bank. python -m pytest assignments/tests/test_01_memory_bank.py"""

from __future__ import annotations

import numpy as np
import pytest
from course_helpers import plain, work

WORDS = ["dog", "cat", "boat", "jazz", "tea"]


class Embedder:
    """Counts of the five words above, not of length 1; keeps what it was asked."""

    def __init__(self):
        self.calls = []

    def __call__(self, texts):
        self.calls.append(list(texts))
        return np.array([[text.split().count(word) for word in WORDS] for text in texts],
                        dtype=np.float32)


def bank_of(*texts: str):
    """A bank of memories of Ann, and the embedder that counts its calls."""
    bank_class, embed = work("memory_bank.MemoryBank"), Embedder()
    bank = bank_class(embed, line=lambda memory: memory.text)
    if texts:
        bank.add_many([(text, "Ann", "1 May") for text in texts])
    embed.calls.clear()
    return bank, embed


def contents(bank) -> list[tuple]:
    return [(plain(m.id), plain(m.text), plain(m.speaker), plain(m.timestamp)) for m in bank]


def found_texts(memories) -> list[str]:
    assert type(memories) is list, "search returns a list"
    return [plain(memory.text) for memory in memories]


# ---- the operations ------------------------------------------------------------------------------


def test_add_many_numbers_and_keeps_the_order():
    bank, embed = bank_of()
    added = bank.add_many([("a dog", "Ann", "1 May"), ("a cat", "Ben", "2 May")])
    assert [m.id for m in added] == [0, 1], "ids count from 0, and add_many returns the memories"
    assert contents(bank) == [(0, "a dog", "Ann", "1 May"), (1, "a cat", "Ben", "2 May")]
    assert len(embed.calls) == 1, (
        f"{len(embed.calls)} calls of the embedder for two entries: all texts in one call, a model "
        "is much faster so")


def test_an_id_is_never_given_twice():
    bank, _ = bank_of("a dog", "a cat")
    bank.delete(1)
    assert bank.add("a boat", "Ann", "3 May").id == 2, (
        "the id of a deleted memory came back: an id in a log or a prompt would then mean two "
        "things; count on with self._next_id, not with the length")
    assert bank.add("jazz", "Ann", "4 May").id == 3, "two memories have one id: see above"


def test_adding_is_all_or_nothing():
    bank, embed = bank_of("a dog")
    with pytest.raises(ValueError):
        bank.add_many([("a cat", "Ann", "2 May"), ("  ", "Ann", "2 May")])
    assert contents(bank) == [(0, "a dog", "Ann", "1 May")], (
        "a blank memory was refused, but the one before it is in: check everything, change after")
    assert bank.add("a boat", "Ann", "3 May").id == 1, "a failed call used up an id"
    embed.calls.clear()
    assert bank.add_many([]) == [] and not embed.calls, "nothing to add, nothing to embed"


def test_update_keeps_id_speaker_and_place():
    bank, _ = bank_of("a dog", "a cat", "tea")
    bank.update(1, "a boat", "9 June")
    assert contents(bank)[1] == (1, "a boat", "Ann", "9 June"), (
        "text and date are new; id, speaker and place in the order stay")
    assert found_texts(bank.search("boat", 1)) == ["a boat"], (
        "the new text is not found: its vector was not made again")
    assert found_texts(bank.search("cat", 3, with_scores=False))[0] == "a dog", (
        "the old text is still found: its row is still alive")
    assert len(bank.search("cat", 9)) == 3, "a memory has two living rows: use _put"


def test_a_refused_update_changes_nothing():
    bank, _ = bank_of("a dog")
    with pytest.raises(ValueError):
        bank.update(0, "", "2 May")
    with pytest.raises(KeyError):
        bank.update(7, "a cat", "2 May")
    assert contents(bank) == [(0, "a dog", "Ann", "1 May")]


def test_delete_removes_one_memory_for_good():
    bank, _ = bank_of("a dog", "a cat", "tea")
    bank.delete(1)
    assert [line[0] for line in contents(bank)] == [0, 2], "delete takes out the one with that id"
    assert found_texts(bank.search("cat", 3)) == ["a dog", "tea"], "the deleted one is still found"
    assert found_texts(bank.search("tea", 1)) == ["tea"], (
        "after a deletion another memory has the wrong vector: rows and ids are out of step")
    with pytest.raises(KeyError):
        bank.delete(1)
    bank.add("jazz", "Ann", "3 May")
    assert found_texts(bank.search("jazz", 1)) == ["jazz"], "a new row holds an old vector"
    assert found_texts(bank.search("cat", 1)) == ["a dog"], "the deleted one's row is still alive"


def test_dead_rows_are_left_behind():
    bank, _ = bank_of(*20 * ["a dog"], "a cat")
    for memory_id in range(20):
        bank.delete(memory_id)
        assert bank._n_rows <= 2 * len(bank), (
            f"{len(bank)} memories and {bank._n_rows} rows: each search reads all of the rows; "
            "call _move when fewer than half of them are alive")
    assert found_texts(bank.search("cat", 9)) == ["a cat"], "a row was lost, or a dead one kept"


def test_a_copy_is_independent():
    bank, _ = bank_of("a dog", "a cat")
    twin = bank.copy()
    twin.update(0, "tea", "2 May")
    twin.add("a boat", "Ann", "3 May")
    twin.delete(1)
    assert found_texts(list(bank)) == ["a dog", "a cat"], (
        "changing a copy changed the original's texts")
    [[found, score]] = bank.search("dog", 1, with_scores=True)
    assert found.text == "a dog" and score == pytest.approx(1, abs=1e-6), (
        "changing a copy changed the original's vectors: never write into a row, use _put")


# ---- search --------------------------------------------------------------------------------------


def test_scores_are_cosines():
    bank, _ = bank_of("dog dog dog cat", "dog", "cat cat")
    found = bank.search("dog", 3, with_scores=True)
    assert [memory.text for memory, _ in found] == ["dog", "dog dog dog cat", "cat cat"], (
        "a dot product of counts favours long texts: a cosine divides by both lengths")
    assert [score for _, score in found] == pytest.approx([1, 3 / 10 ** 0.5, 0], abs=1e-5), (
        "by hand: (3, 1) . (1, 0) / (sqrt(10) * 1)")
    assert all(type(score) is float for _, score in found), "scores are plain floats"


def test_equal_scores_come_oldest_first():
    bank, _ = bank_of("a dog", "one cat", "my dog", "the dog", "two cat")
    assert found_texts(bank.search("dog", 2)) == ["a dog", "my dog"], (
        "of equal scores the oldest comes first, also where the k-th is one of several")
    bank.update(0, "old dog", "2 May")
    assert found_texts(bank.search("dog", 3)) == ["old dog", "my dog", "the dog"], (
        "an update keeps the place in the order")
    assert found_texts(bank.search("boat", 9)) == [m.text for m in bank], (
        "a word that nobody has scores 0 everywhere: all memories, oldest first")


def test_the_speaker_is_chosen_before_the_best_are():
    bank, _ = bank_of("dog", "dog dog")
    bank.add("dog cat tea", "Ben", "2 May")
    assert found_texts(bank.search("dog", 2, speaker="Ben")) == ["dog cat tea"], (
        "the best two of all were taken first and Ben's came third: filter, then take the best")


def test_more_than_there_are_and_less_than_one():
    bank, _ = bank_of("a dog")
    assert found_texts(bank.search("dog", 60)) == ["a dog"], "k may be more than the bank holds"
    for k in (0, -1):
        with pytest.raises(ValueError):
            bank.search("dog", k)
    empty, _ = bank_of()
    assert empty.search("dog", 3) == [], "an empty bank finds nothing"
    assert bank.search("dog", 3, speaker="Ben") == [], "Ben said nothing"


def test_top_is_a_stable_sort_cut_at_k():
    top = work("memory_bank._top")
    draw = np.random.default_rng(0)
    for n in (1, 2, 7, 40):
        scores = draw.integers(0, 4, n).astype(np.float32)
        ids = draw.permutation(n)
        for k in (1, n // 2 + 1, n, n + 5):
            wanted = sorted(range(n), key=lambda i: (-scores[i], ids[i]))[:k]
            assert plain(top(scores, ids, k)) == wanted, (
                f"scores {scores.tolist()}, k {k}: among equal ones the lowest id wins; "
                "np.argpartition alone picks any of them")
