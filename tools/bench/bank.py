"""The memory bank at a thousand, a hundred thousand and a million memories, beside faiss.

Vectors of 384 dimensions (MiniLM's) are drawn beforehand and handed out by an embedder that only
looks them up: the time of embedding is not counted. Searching has to read every vector once, so the
yardstick is the time numpy takes to do no more than that, the sum of the whole matrix.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np

from memory_bank import MemoryBank

DIMENSIONS, BEST = 384, 60  # of a vector; memories that a search asks for
LEAST = 0.3  # seconds to time each thing


def seconds_of(*calls: Callable[[], object]) -> list[float]:
    """The median time of each call, over at least three rounds and `LEAST` seconds a call.

    The calls take turns, so that other work on the machine slows all of them alike. One warm-up of
    each is left out.
    """
    times: list[list[float]] = [[] for _ in calls]
    while len(times[0]) < 4 or sum(map(sum, times)) < LEAST * len(calls):
        for call, seconds in zip(calls, times):
            start = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - start)
    return [statistics.median(seconds[1:]) for seconds in times]


class Ready:
    """An embedder that looks vectors up: text "7" gets row 7."""

    def __init__(self, n_rows: int):
        draw = np.random.default_rng(0)
        self.rows = draw.standard_normal((n_rows, DIMENSIONS), dtype=np.float32)
        self.rows /= np.linalg.norm(self.rows, axis=1, keepdims=True)

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        return self.rows[[int(text) for text in texts]]


def measure_bank(n: int) -> dict[str, float]:
    """Seconds of a search, and operations per second, in a bank of `n` memories."""
    embed = Ready(n + 1)
    bank = MemoryBank(embed, line=lambda memory: memory.text)
    start = time.perf_counter()
    for first in range(0, n, 1000):  # as a program would that reads a file
        bank.add_many([(str(i), "Anna" if i % 2 else "Ben", "8 May 2023")
                       for i in range(first, min(first + 1000, n))])
    figures = {"memories": n, "fill": n / (time.perf_counter() - start)}
    query = str(n)  # the row behind those of the memories
    calls = {"read": embed.rows[:n].sum,
             "search": lambda: bank.search(query, BEST),
             "speaker": lambda: bank.search(query, BEST, speaker="Anna"),
             **faiss_search(embed.rows[:n], embed.rows[n:])}
    figures.update(zip(calls, seconds_of(*calls.values())))

    many = min(n, 1000)
    ids = iter(np.random.default_rng(1).permutation(n).tolist())
    figures["add"] = rate(many, lambda _: bank.add("0", "Anna", ""))
    figures["update"] = rate(many // 2, lambda _: bank.update(next(ids), "1", ""))
    figures["delete"] = rate(many // 2, lambda _: bank.delete(next(ids)))
    figures["copy"] = 1 / seconds_of(bank.copy)[0]
    return figures


def rate(count: int, call: Callable[[int], object]) -> float:
    """Calls per second."""
    start = time.perf_counter()
    for i in range(count):
        call(i)
    return count / (time.perf_counter() - start)


def faiss_search(rows: np.ndarray, query: np.ndarray) -> dict[str, Callable[[], object]]:
    """The same search in faiss's exact index; nothing where faiss is not installed."""
    try:
        import faiss
    except ImportError:
        return {}
    index = faiss.IndexFlatIP(DIMENSIONS)
    index.add(rows)
    return {"faiss": lambda: index.search(query, min(BEST, len(rows)))}


def bank_table(measured: Sequence[dict[str, float]]) -> str:
    """What was measured, as text: a column a size."""
    milliseconds = {"read": "read the matrix once", "search": "search",
                    "speaker": "search, one speaker of two", "faiss": "search, faiss flat"}
    per_second = {"fill": "fill, 1,000 at a time", "add": "add", "update": "update",
                  "delete": "delete", "copy": "copy"}
    lines = [f"{'memories':<30}" + "".join(f"{m['memories']:>12,}" for m in measured)]
    for name, label in {**milliseconds, **per_second}.items():
        if name in measured[0]:
            unit, text = ("ms", [f"{1000 * m[name]:>12.3f}" for m in measured]) if (
                name in milliseconds) else ("/s", [f"{m[name]:>12,.0f}" for m in measured])
            lines.append(f"{label + ', ' + unit:<30}" + "".join(text))
    return "\n".join(lines)
