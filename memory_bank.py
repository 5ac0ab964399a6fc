"""The external memory of Memory-R1: dated sentences to add, update, delete and search.

A memory is a sentence with a speaker and a date. A bank turns each into a vector of length 1 and
finds those most similar to a query by cosine. Memory-R1 (arXiv 2508.19828) uses it twice: the
manager looks up what is already known about a new fact (Alg. 3), and the answer agent reads the 30
best memories of each speaker (Alg. 2). Nothing here is trained, and nothing knows of models.

    bank = MemoryBank(hashed_words())
    buddy = bank.add("Sarah has a dog named Buddy", "Sarah", "8 May 2023")
    bank.update(buddy.id, "Sarah has dogs named Buddy and Scout", "2 June 2023")
    bank.search("What dogs does Sarah have?", k=5)

Where this differs from the paper
1. What is embedded is the memory with its date and speaker (`memory_line`), not its text alone:
   questions name people and dates.
2. Algorithm 3 updates or deletes the whole retrieved set. The paper's prompt goes entry by entry,
   by id, and so does the bank.
3. One bank holds both speakers, and `search(..., speaker=...)` asks for one of them; the authors'
   code keeps two banks a conversation. (On raw turns, 30 of each speaker hold 0.75 of the evidence,
   the 60 best of both 0.76.) Ids are small integers instead of UUIDs.
"""

from __future__ import annotations

import glob
import hashlib
import io
import json
import math
import os
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np  # 2.0 or newer, for np.vecdot

# ---- Texts become vectors ------------------------------------------------------------------------

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


def remembered(embed: Embedder) -> Embedder:
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

    return remembered(embed)


# ---- The bank ------------------------------------------------------------------------------------

TOGETHER = 32  # queries that are searched at once; their scores take 4 n bytes each
FEW = 8  # queries below which a matrix product is no faster (the agents ask one at a time)


@dataclass(frozen=True)
class Memory:
    """One entry of a bank. Raises ValueError if its text is blank or a field is no clean string."""

    id: int  # unique in its bank, kept by updates, never given to another memory
    text: str
    speaker: str
    timestamp: str  # as written in the data: "1:56 pm on 8 May, 2023"

    def __post_init__(self) -> None:
        for field in ("text", "speaker", "timestamp"):
            value = getattr(self, field)
            # A model that writes "\ud83d" in JSON makes half a character, which no file can hold.
            if not isinstance(value, str) or re.search("[\ud800-\udfff]", value):
                raise ValueError(f"{field} is {value!r}: it must be a string that UTF-8 can hold")
        if not self.text.strip():
            raise ValueError(f"text is {self.text!r}: a memory must say something; to remove one, "
                             "use delete")


def memory_line(memory: Memory) -> str:
    """The string that is embedded for a memory: "8 May 2023 Sarah: Sarah has a dog".

    A `data.Turn` has the same three fields and will do too, which is handy for the corpus of
    `hashed_words`. With it, the ten best of LoCoMo's raw turns hold 0.53 of the evidence if the
    text alone is embedded, 0.54 with the speaker and 0.57 with speaker and date.
    """
    return f"{memory.timestamp} {memory.speaker}: {memory.text}"


class MemoryBank:
    """Memories in the order of insertion, with one unit vector each.

    `embed` makes the vectors, out of the strings that `line` makes of the memories. An operation
    that raises leaves the bank as it was. Iterating gives the memories, oldest insertion first.
    """

    def __init__(self, embed: Embedder, line: Callable[[Memory], str] = memory_line) -> None:
        self.embed, self.line = embed, line
        self._next_id = 0
        # Both in the order of insertion: a dict keeps the place of a key whose value is replaced.
        self._memories: dict[int, Memory] = {}
        self._rows: dict[int, int] = {}  # id -> row of the arrays
        # The n memories fill the first n rows, in any order, so that a search reads those and
        # nothing else.
        self._vectors = np.empty((0, 0), np.float32)  # (capacity, d)
        self._ids = np.empty(0, np.int64)  # (capacity,)
        self._voices = np.empty(0, np.int64)  # (capacity,) who spoke, as numbered by:
        self._speakers: dict[str, int] = {}
        self._shared_rows = 0  # the first so many; another bank reads them, or may fill them

    def __len__(self) -> int:
        return len(self._memories)

    def __iter__(self) -> Iterator[Memory]:
        return iter(self._memories.values())

    def __getitem__(self, memory_id: int) -> Memory:
        """The memory with this id. Raises KeyError if it was deleted or never added."""
        if memory_id not in self._memories:
            raise KeyError(f"no memory with id {memory_id!r} among the {len(self)} of this bank: "
                           "deleted or never added; use the id of a memory that `search` returned")
        return self._memories[memory_id]

    def add(self, text: str, speaker: str, timestamp: str) -> Memory:
        """Insert one memory at the end and return it with its new id."""
        return self.add_many([(text, speaker, timestamp)])[0]

    # Problem 1
    def add_many(self, entries: Iterable[tuple[str, str, str]]) -> list[Memory]:
        """Insert `(text, speaker, timestamp)` entries, embedded in one call; all or none.

        Raises ValueError as `Memory` does, or if the embedder returned anything but vectors.
        """
        # Everything that can fail comes before the first change.
        added = [Memory(memory_id, *entry)
                 for memory_id, entry in enumerate(entries, start=self._next_id)]
        if not added:
            return []
        vectors = self._embed([self.line(memory) for memory in added])  # (n, d)
        self._make_writable(len(self), len(self) + len(added), vectors.shape[1])
        self._put(added, vectors)
        self._next_id += len(added)
        return added

    # Problem 1
    def update(self, memory_id: int, text: str, timestamp: str) -> Memory:
        """Overwrite text and date; id, speaker and place in the order stay.

        Raises KeyError if the id is unknown, and ValueError as `add_many` does.
        """
        memory = Memory(memory_id, text, self[memory_id].speaker, timestamp)
        vectors, row = self._embed([self.line(memory)]), self._rows[memory_id]  # (1, d)
        self._make_writable(row, len(self), vectors.shape[1])
        self._vectors[row] = vectors[0]
        self._memories[memory_id] = memory
        return memory

    # Problem 1
    def delete(self, memory_id: int) -> None:
        """Remove a memory; the cost does not grow with the bank. KeyError if unknown."""
        self[memory_id]
        row, last = self._rows[memory_id], len(self) - 1
        if row != last:  # the last row fills the gap
            self._make_writable(row, len(self), self._vectors.shape[1])
            for array in (self._vectors, self._ids, self._voices):
                array[row] = array[last]
            self._rows[int(self._ids[row])] = row
        del self._memories[memory_id], self._rows[memory_id]

    # Problem 1
    def search(self, query: str | Sequence[str], k: int, speaker: str | None = None,
               with_scores: bool = False) -> list:
        """The k memories most similar to the query, best first; all of them if there are fewer.

        A list of queries gives a list of such lists, and is embedded in one call. `speaker` leaves
        out what others said; `with_scores` gives pairs `(memory, cosine)`. Equal scores come oldest
        insertion first; a query that shares no word with any memory scores 0 everywhere. Raises
        ValueError if k < 1, or if the embedder returned anything but vectors.
        """
        if k < 1:
            raise ValueError(f"k is {k}: ask for one memory or more")
        queries = [query] if isinstance(query, str) else list(query)
        vectors, ids = self._vectors[:len(self)], self._ids[:len(self)]  # (n, d), (n,)
        chosen = slice(None)  # of the rows
        if speaker is not None:
            chosen = np.flatnonzero(self._voices[:len(self)] == self._speakers.get(speaker, -1))
        results = []
        asked = self._embed(queries) if len(ids[chosen]) and queries else np.empty((0, 0))  # (q, d)
        for start in range(0, len(asked), TOGETHER):
            for rows, scores in _nearest(vectors, asked[start : start + TOGETHER], chosen, k):
                scored = ids[rows]  # (m,)
                best = _top(scores, scored, k)
                found = [self._memories[memory_id] for memory_id in scored[best].tolist()]
                results.append(list(zip(found, scores[best].tolist())) if with_scores else found)
        results = results or [[] for _ in queries]  # nothing to search
        return results[0] if isinstance(query, str) else results

    def copy(self) -> MemoryBank:
        """An independent bank with the same memories, ids and embedder.

        Cheap, because a training step copies thousands: the vectors stay shared until one of the
        two writes into them, and only then are copied (4 n d bytes: 0.8 MB for 100 memories of
        2,048). This bank may go on adding: new rows stand behind those that the copy reads.
        """
        twin = MemoryBank(self.embed, self.line)
        twin._next_id, twin._memories = self._next_id, self._memories.copy()
        twin._rows, twin._speakers = self._rows.copy(), self._speakers.copy()
        twin._vectors, twin._ids, twin._voices = self._vectors, self._ids, self._voices
        self._shared_rows = max(self._shared_rows, len(self))
        twin._shared_rows = len(self._vectors)  # the room behind too: only this bank may fill that
        return twin

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the memories to `path` as JSON, and the vectors to a .npz file beside it.

        A crash at any moment leaves the old bank or the new one, never a mixture: the vectors go
        first, to a file named after their content, and the JSON that names this file goes last.
        """
        path = Path(path)
        vectors = self._vectors[list(self._rows.values())]  # (n, d), oldest insertion first
        content = io.BytesIO()
        np.savez_compressed(content, vectors=vectors)  # hashed words are nearly all zeros
        vectors_name = f"{path.name}.{_digest(vectors)}.npz"
        _write_and_rename(path.with_name(vectors_name), content.getvalue())
        record = {"next_id": self._next_id, "vectors": vectors_name,
                  "memories": [asdict(memory) for memory in self]}
        _write_and_rename(path, json.dumps(record, ensure_ascii=False, indent=1).encode())
        # Vectors of earlier saves, which no file names any more.
        for old in path.parent.glob(f"{glob.escape(path.name)}.{'[0-9a-f]' * 16}.npz"):
            if old.name != vectors_name:
                old.unlink()

    @classmethod
    def load(cls, path: str | os.PathLike[str], embed: Embedder,
             line: Callable[[Memory], str] = memory_line) -> MemoryBank:
        """Read what `save` wrote, with the `embed` and `line` that the bank was saved with.

        Raises FileNotFoundError if `path` does not exist, and ValueError, naming file, field and
        remedy, if a file is broken or holds vectors that this embedder would not make.
        """
        bank = cls(embed, line)
        memories, bank._next_id, vectors = _read(Path(path))
        if memories:
            # Cosines between two embedders mean nothing, and no error would ever say so. Embedding
            # one memory again tells them apart; 0.01, because other hardware rounds differently.
            again = bank._embed([line(memories[0])])  # (1, d)
            if again.shape[1] != vectors.shape[1] or np.abs(again - vectors[:1]).max() > 0.01:
                raise ValueError(f"{path}, field 'vectors': made by another embedder; load it with "
                                 "the embedder, corpus and line that the bank was saved with")
            bank._make_writable(0, len(memories), vectors.shape[1])
            bank._put(memories, vectors)
        return bank

    def _embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors (n, d) of the texts; ValueError if the embedder returned anything else."""
        vectors = np.atleast_1d(np.asarray(self.embed(texts), dtype=np.float32))
        width = self._vectors.shape[1] or vectors.shape[-1]  # any width is right for the first
        if vectors.shape != (len(texts), width) or not np.isfinite(vectors).all():
            raise ValueError(f"the embedder made NaN, infinity or shape {vectors.shape}; it must "
                             f"make finite numbers of shape ({len(texts)}, {width})")
        return unit_rows(vectors)

    def _put(self, memories: Sequence[Memory], vectors: np.ndarray) -> None:
        """Write new memories behind the others; the arrays have room."""
        rows = slice(len(self), len(self) + len(memories))
        self._vectors[rows] = vectors
        self._ids[rows] = [memory.id for memory in memories]
        self._voices[rows] = [self._speakers.setdefault(memory.speaker, len(self._speakers))
                              for memory in memories]
        for row, memory in enumerate(memories, start=rows.start):
            self._memories[memory.id], self._rows[memory.id] = memory, row

    def _make_writable(self, first: int, n_rows: int, width: int) -> None:
        """Give the arrays `n_rows` rows or more, of which those from `first` on are ours alone."""
        if first < self._shared_rows or n_rows > len(self._vectors):
            # Twice what is needed: over many insertions a row is moved once or twice on average.
            capacity, n = 2 * n_rows, len(self._rows)
            for name, shape in (("_vectors", (capacity, width)), ("_ids", capacity),
                                ("_voices", capacity)):
                old = getattr(self, name)
                new = np.empty(shape, old.dtype)
                if n:
                    new[:n] = old[:n]
                setattr(self, name, new)
            self._shared_rows = 0


def _nearest(vectors: np.ndarray, queries: np.ndarray, chosen: np.ndarray | slice, k: int,
             ) -> Iterator[tuple[np.ndarray | slice, np.ndarray]]:
    """For each of `queries` (q, d): rows (m,) that hold its k nearest, and their scores (m,).

    Of the rows of `vectors` (n, d) only those `chosen` count; all as near as the k-th are there.
    Scores are dot products row by row. A matrix product is faster for many queries, but BLAS adds
    up some rows of a block in another order than the rest: equal texts would differ in the last
    bit, and which comes first would depend on the size of the bank and of the batch. So it only
    says who is near enough to be scored. Rows of all speakers are read: to copy some takes longer.
    """
    if len(queries) < FEW:
        for scores in np.vecdot(vectors[:, None], queries)[chosen].T:  # of (n, q)
            yield chosen, scores
        return
    # In either order a score is off by d eps / 2 at most. So the two ways differ by d eps, and two
    # memories that are 2 d eps apart in one stand in the same order in the other. Twice that.
    slack = 4 * vectors.shape[1] * np.finfo(np.float32).eps
    rows = np.arange(len(vectors))[chosen]
    for query, rough in zip(queries, (vectors @ queries.T)[chosen].T):
        near = rows if k >= len(rows) else rows[rough >= np.partition(rough, -k)[-k] - slack]
        if 4 * len(near) > len(vectors):  # as where no word is shared: to copy so many takes longer
            yield near, np.vecdot(vectors, query)[near]
        else:
            yield near, np.vecdot(vectors[near], query)


# Problem 1
def _top(scores: np.ndarray, ids: np.ndarray, k: int) -> np.ndarray:
    """Positions of the k highest of the scores (n,), best first; among equals the lowest id."""
    kept = np.arange(len(scores))
    if k < len(scores):
        # Partitioning is linear in n, but which of several equal scores it puts before the cut is
        # arbitrary. So take only the k-th score from it, keep every score as good, sort those few.
        cut = np.partition(scores, -k)[-k]
        kept = np.flatnonzero(scores >= cut)
    return kept[np.lexsort((ids[kept], -scores[kept]))[:k]]


# ---- on disk -------------------------------------------------------------------------------------

def _digest(vectors: np.ndarray) -> str:
    """16 hexadecimal digits that change when any number of the array does."""
    return hashlib.sha256(vectors.tobytes()).hexdigest()[:16]


def _write_and_rename(path: Path, content: bytes) -> None:
    """Put the content at `path` at once or not at all, whatever happens meanwhile."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # same folder: renaming is atomic
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # on the disk before the name points to it
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: Path) -> tuple[list[Memory], int, np.ndarray]:
    """Memories, next id and vectors (n, d) of a saved bank, all checked."""
    content, field = path.read_bytes(), "(whole file)"
    try:
        record = json.loads(content)
        field = "memories"
        memories = [Memory(**entry) for entry in record["memories"]]
        field = "next_id"
        # Ids that grow and stay below next_id are what makes an id mean one memory for ever.
        ids = [-1, *(memory.id for memory in memories), record["next_id"]]
        if any(type(i) is not int for i in ids) or ids != sorted(set(ids)):
            raise ValueError("it and the ids of the memories are not growing integers")
        field = "vectors"
        source = path.with_name(record["vectors"])  # refuses a path to another folder
        with np.load(source, allow_pickle=False) as archive:  # a pickle could run anything
            vectors = archive["vectors"]
        if _digest(vectors) not in source.name or len(vectors) != len(memories):
            raise ValueError(f"{source.name} is not what was saved with these memories")
    except (OSError, ValueError, TypeError, KeyError, EOFError, RecursionError, AttributeError,
            zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path}, field {field!r}: {type(error).__name__}: {error}; restore both "
                         "files from a copy, or build the bank again and save it") from error
    return memories, record["next_id"], vectors
