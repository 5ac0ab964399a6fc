"""What all agents learn from: dialogues, questions, and LoCoMo loaded, checked and split.

LoCoMo (Maharana et al., "Evaluating Very Long-Term Conversational Memory of LLM Agents", ACL 2024,
snap-research/locomo, CC BY-NC 4.0) is ten conversations of about six hundred turns over months. The
answers to its questions lie in one turn, in several, or between the lines. Memory-R1
(arXiv 2508.19828) trains on the first conversation, validates on the second and tests on the rest.

world.py and the loaders of benchmarks/others.py fill the same dataclasses, so no agent can tell the
data sets apart. benchmarks/others.py also downloads the files.

Where this differs from the paper
1. Category names are LoCoMo's own. Memory-R1 prints other names over the same numbers: see
   CATEGORIES.
2. The paper has GPT-4o-mini extract facts from each turn. LoCoMo comes with "observations",
   sentences of the same kind that name their turns. They become `Turn.facts`, so that no API is
   needed. Observations are a little better than extracted facts, because their writers saw the
   whole session.
3. Evidence that names no turn is repaired or dropped (`load_locomo`). The paper says nothing of it.

    python -c "from benchmarks.others import load; print(len(load('locomo')))"

takes a second after the download and prints 10.
"""

from __future__ import annotations

import json
import math
import os
import re
import reprlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# LoCoMo's own names (comments of its task_eval/evaluation.py; issue 29). Mem0's papers and code
# print other names, and so do Memory-R1's Tables 1 and 3. Their counts of test questions show which
# name stands for which number:
#
#     number   LoCoMo's name   the papers' name   test questions
#     1        multi-hop       Single Hop         239
#     2        temporal        Temporal           258
#     3        open-domain     Multi-Hop          83
#     4        single-hop      Open Domain        727
#
# So compare by number, never by name.
CATEGORIES = {1: "multi-hop", 2: "temporal", 3: "open-domain", 4: "single-hop"}
ADVERSARIAL = 5  # about things that nobody said; the paper neither trains on nor scores category 5

Message = dict[str, str]  # {"role": "system" | "user" | "assistant", "content": text}


class DataError(ValueError):
    """A data file is missing or broken. The message is one line: where, what, and what to do."""


@dataclass(frozen=True)
class Fact:
    """The structured meaning of a turn. Only the synthetic world knows it; LoCoMo has None."""

    subject: str
    relation: str
    value: str
    change: str  # "add", "replace", "end" or "event"


@dataclass(frozen=True)
class Turn:
    """One thing that one speaker said."""

    turn_id: str  # "D3:7": session 3, turn 7
    speaker: str
    text: str  # what was said, and the captions of images as text
    timestamp: str  # the session's date as written in the data
    facts: tuple[str, ...] = ()  # what the turn states, as sentences in the third person
    fact: Fact | None = None  # what the turn means; known in the synthetic world only


@dataclass(frozen=True)
class Question:
    """A question about a dialogue, asked after its end."""

    text: str
    answer: str
    category: int | str  # LoCoMo's number, or another data set's name of the type
    evidence: tuple[str, ...]  # ids of the turns that prove the answer
    timestamp: str = ""  # the date of the question as written, for prompts; "" where it has none


@dataclass(frozen=True)
class Dialogue:
    """A long conversation, and the questions about it."""

    name: str
    speakers: tuple[str, ...]  # two in all benchmarks; a file of one's own may have more
    turns: tuple[Turn, ...]
    questions: tuple[Question, ...]
    adversarial: tuple[Question, ...] = ()  # LoCoMo's category 5, kept apart


@dataclass(frozen=True)
class OpenQuestion:
    """A question without a dialogue: some of its passages hold the answer."""

    question_id: str
    text: str
    answer: str
    passages: tuple[tuple[str, str], ...]  # (title, text), no two equal; most hold no answer
    evidence: tuple[str, ...]  # titles of the passages that prove the answer, each once


def category_name(category: int | str) -> str:
    """A question's category as tables print it.

    >>> category_name(2), category_name("knowledge update")
    ('2 temporal', 'knowledge update')
    """
    return f"{category} {CATEGORIES[category]}" if category in CATEGORIES else str(category)


# ---- Reading JSON that others wrote --------------------------------------------------------------

_KIND_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false",
               list: "a list", dict: "an object", type(None): "null"}


def broken(where: str, found: str, wanted: str) -> DataError:
    """The error for a broken place in a file; `load_records` adds what to do.

    >>> broken("small.json: element 3, field 'qa'", "nothing", "a list")
    DataError("small.json: element 3, field 'qa': found nothing, expected a list")
    """
    return DataError(f"{where}: found {found}, expected {wanted}")


def check(value: Any, kinds: tuple[type, ...], where: str) -> Any:
    """Return `value` if its type is one of `kinds`; raise DataError otherwise."""
    # type() and not isinstance(): to Python, JSON's true is an int, and would pass as category 1.
    if type(value) not in kinds:
        wanted = " or ".join(_KIND_NAMES[kind] for kind in kinds)
        raise broken(where, reprlib.repr(value), wanted)  # reprlib: one short line for any value
    # A file that was cut inside an emoji can hold half a surrogate pair. No tokenizer takes it.
    if type(value) is str and not value.isascii() and re.search("[\ud800-\udfff]", value):
        raise broken(where, "half of a surrogate pair", "text that UTF-8 can hold")
    return value


def get_field(record: Mapping[str, Any], field: str, kinds: tuple[type, ...], where: str) -> Any:
    """Return `record[field]`, checked; raise DataError if it is absent, mistyped or blank."""
    if field not in record:
        raise broken(f"{where}, field {field!r}", "nothing", _KIND_NAMES[kinds[0]])
    value = check(record[field], kinds, f"{where}, field {field!r}")
    if type(value) is str and not value.strip():
        raise broken(f"{where}, field {field!r}", "blank text", "some words")
    return value


def has(record: Mapping[str, Any], field: str) -> bool:
    """Whether an optional field is there. Exports of tables write what is missing as null."""
    return record.get(field) is not None


def get_answer(record: Mapping[str, Any], field: str, where: str) -> str:
    """Return the answer in `record[field]` as text.

    Years and counts are numbers in the data. A spreadsheet writes 2023 as 2023.0, which would never
    match "2023", so whole numbers lose their point. Of a list of aliases the first is the answer,
    because exact match compares with one. Raises DataError as `get_field` does.
    """
    value = get_field(record, field, (str, int, float, list), where)
    if type(value) is list:
        if not value:
            raise broken(f"{where}, field {field!r}", "an empty list", "an answer")
        return get_answer({field: check(value[0], (str, int, float), f"{where}, {field}[0]")},
                          field, where)
    if type(value) is float and not math.isfinite(value):
        raise broken(f"{where}, field {field!r}", str(value), "a finite number")
    return str(int(value) if type(value) is float and value.is_integer() else value)


def message_text(content: Any, where: str) -> str:
    """The words of a chat's message: it is text, a list of parts, or null where a tool is called.

    Raises DataError for anything else.
    """
    if type(check(content, (str, list, type(None)), where)) is not list:
        return content or ""
    texts = []
    for index, part in enumerate(content):
        if type(check(part, (str, dict), f"{where}[{index}]")) is dict:
            part = part.get("text")  # an image or a file has none
            check(part, (str, type(None)), f"{where}[{index}], field 'text'")
        texts.append(part or "")
    return " ".join(filter(None, texts))


def json_lines(text: str) -> list[str]:
    """The lines of a file of JSON lines that hold something.

    Not `splitlines`, because that also cuts at U+0085, U+2028 and U+2029, which JSON allows inside
    a text.
    """
    return [line for line in text.split("\n") if line.strip()]


def _parse(text: str) -> Any:
    """What a JSON document holds; of JSON lines, the list of their values. Raises ValueError."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        # A whole object with more behind it: a record a line. Anything else is a broken document.
        if error.msg != "Extra data" or not text.lstrip().startswith("{"):
            raise
    values = []
    for number, line in enumerate(text.split("\n"), start=1):
        try:
            if line.strip():
                values.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"{error.msg}: line {number} column {error.colno}") from None
    return values


def _read_json(path: str | os.PathLike[str], remedy: str) -> Any:
    """What the file holds, JSON or JSON lines."""
    try:
        # utf-8-sig: editors on Windows put a byte-order mark first, which JSON does not allow.
        return _parse(Path(path).read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); check the path, or "
                        f"{remedy}") from error
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or nested without end
        raise DataError(f"{path}: is not a JSON file ({error}); {remedy}") from error


def original(source: str) -> str:
    """The remedy for a broken file that is published: `source` in benchmarks.others.SOURCES."""
    return f'use the original file, which benchmarks.others.fetch("{source}") downloads'


def load_records(path: str | os.PathLike[str], remedy: str,
                 read: Callable[[Mapping[str, Any], str, str], Any],
                 id_fields: tuple[str, ...] = ()) -> list[Any]:
    """What `read(record, name, where)` makes of each element of a JSON list, or of JSON lines.

    `name` is the value of the first of `id_fields` that the element has, else its number. `where`
    is its place in the file, for errors.

    Raises DataError, in one line, for a file that cannot be read or is broken anywhere. The line
    ends with the remedy, such as `original`.
    """
    records = _read_json(path, remedy)
    if type(records) is dict and records:  # JSON lines with a single line
        records = [records]
    loaded: dict[str, Any] = {}
    try:
        if not check(records, (list,), f"{path}: top level"):
            raise broken(f"{path}: top level", "an empty list", "a list of objects")
        for index, record in enumerate(records):
            name, where = str(index), f"{path}: element {index}"
            check(record, (dict,), where)
            if id_fields:
                field = next((field for field in id_fields if field in record), id_fields[0])
                name = get_field(record, field, (str,), where)
                if name in loaded:
                    raise broken(f"{where}, field {field!r}", reprlib.repr(name),
                                 "a name that no earlier element has")
                where += f" ({reprlib.repr(name)[1:-1]})"  # escaped: the message stays one line
            loaded[name] = read(record, name, where)
    except DataError as error:
        raise DataError(f"{error}; correct this place, or {remedy}") from None
    return list(loaded.values())


# ---- Loading LoCoMo ------------------------------------------------------------------------------


def find_turn_ids(written: str, known: Collection[str]) -> tuple[str, ...]:
    """The ids in `known` that an annotator's string names, in its order.

    Several ids in one string, stray colons and leading zeros are mended. An id that is not in
    `known` is left out.

    >>> find_turn_ids("D8:6; D:11:26 D30:05, D", ["D8:6", "D11:26", "D30:5"])
    ('D8:6', 'D11:26', 'D30:5')
    """
    # The zeros before a number are matched outside its group, so they are not part of the id.
    pairs = re.findall(r"D:?0*([0-9]+):0*([0-9]+)", written)
    ids = [f"D{session}:{turn}" for session, turn in pairs]
    return tuple(turn_id for turn_id in ids if turn_id in known)


def _read_turns(conversation: Mapping[str, Any], where: str) -> list[Turn]:
    """All turns of a conversation in the order they were said, still without facts."""
    # A session exists if it has a list of turns: conv-26 has 35 dates and only 19 lists. Sessions
    # are sorted by number, because as text "session_10" comes before "session_9".
    numbers = sorted(int(match[1]) for key in conversation if has(conversation, key)
                     and (match := re.fullmatch(r"session_([0-9]{1,9})", key)))
    turns: dict[str, Turn] = {}
    for number in numbers:
        session = get_field(conversation, f"session_{number}", (list,), where)
        timestamp = get_field(conversation, f"session_{number}_date_time", (str,), where)
        for index, record in enumerate(session):
            place = f"{where}, session_{number}[{index}]"
            check(record, (dict,), place)
            # A file of one's own may leave ids to the turns' places.
            turn_id = (get_field(record, "dia_id", (str,), place) if has(record, "dia_id")
                       else f"D{number}:{index + 1}")
            # Evidence points at these ids, so each must be well formed and unique.
            if not re.fullmatch(rf"D{number}:(0|[1-9][0-9]*)", turn_id) or turn_id in turns:
                raise broken(f"{place}, field 'dia_id'", reprlib.repr(turn_id),
                              f"an id like 'D{number}:7' that no other turn has")
            speaker = get_field(record, "speaker", (str,), place)
            # Captions become text, because questions ask about pictures that no model here can see.
            # A picture may come without a word, and a caption that is missing as "".
            if has(record, "blip_caption") and str(record["blip_caption"]).strip():
                caption = get_field(record, "blip_caption", (str,), place)
                said = check(record.get("text"), (str, type(None)), f"{place}, field 'text'")
                text = f"{said or ''} [shares an image: {caption}]".strip()
            else:
                text = get_field(record, "text", (str,), place)
            turns[turn_id] = Turn(turn_id, speaker, text, timestamp)
    if not turns:
        raise broken(f"{where}, field 'session_1'", "no turn in any session", "a list of turns")
    return list(turns.values())


def _read_facts(observation: Mapping[str, Any], order: Mapping[str, int],
                where: str) -> dict[str, list[str]]:
    """LoCoMo's observations, by the id of the turn that completes each of them.

    `order` maps a turn's id to its place. An observation that names several turns goes to the last
    of them, because before that turn not all of it was said.
    """
    facts: dict[str, list[str]] = {}
    for session, by_speaker in observation.items():
        in_session = f"{where}, observation {reprlib.repr(session)}"
        for speaker, pairs in check(by_speaker, (dict,), in_session).items():
            of_speaker = f"{in_session}, {reprlib.repr(speaker)}"
            for index, pair in enumerate(check(pairs, (list,), of_speaker)):
                place = f"{of_speaker}[{index}]"
                if len(check(pair, (list,), place)) != 2:
                    raise broken(place, f"{len(pair)} items", "a sentence and its turn id")
                sentence, written = check(pair[0], (str,), place), pair[1]
                if not sentence.strip():
                    raise broken(place, "a blank sentence", "some words and their turn id")
                # 15 in the real file name several turns, as a list or joined into one string.
                if type(check(written, (str, list), place)) is list:
                    written = " ".join(check(item, (str,), place) for item in written)
                turn_ids = find_turn_ids(written, order)
                if turn_ids:
                    last = max(turn_ids, key=order.__getitem__)
                    facts.setdefault(last, []).append(sentence)
    return facts


def _read_question(record: Any, known: Collection[str], where: str) -> Question:
    """One entry of "qa". The answer of an adversarial question is a trap (`load_locomo`)."""
    check(record, (dict,), where)
    text = get_field(record, "question", (str,), where)
    category = get_field(record, "category", (int,), where)
    if category not in CATEGORIES and category != ADVERSARIAL:
        raise broken(f"{where}, field 'category'", str(category), "a whole number from 1 to 5")
    if category == ADVERSARIAL and not has(record, "adversarial_answer"):
        answer = ""
    else:
        field = "adversarial_answer" if category == ADVERSARIAL else "answer"
        answer = get_answer(record, field, where)
    evidence: list[str] = []
    if has(record, "evidence"):  # a file of one's own may not know the evidence
        listed = check(record["evidence"], (list, str), f"{where}, field 'evidence'")
        for written in [listed] if type(listed) is str else listed:
            evidence += find_turn_ids(check(written, (str,), f"{where}, field 'evidence'"), known)
    # dict.fromkeys drops repetitions (there is one, in conv-50) and keeps the order.
    return Question(text, answer, category, tuple(dict.fromkeys(evidence)))


def _read_dialogue(record: Mapping[str, Any], name: str, where: str) -> Dialogue:
    """One element of the file."""
    conversation = get_field(record, "conversation", (dict,), where)
    speakers = [get_field(conversation, field, (str,), where)
                for field in ("speaker_a", "speaker_b") if has(conversation, field)]
    if len(set(speakers)) < len(speakers):
        raise broken(f"{where}, field 'speaker_b'", reprlib.repr(speakers[1]), "another name")
    turns = _read_turns(conversation, where)
    # LoCoMo names two. A file of one's own may name none: speakers follow in order of their turns.
    speakers = tuple(dict.fromkeys([*speakers, *(turn.speaker for turn in turns)]))
    order = {turn.turn_id: index for index, turn in enumerate(turns)}

    # A file of one's own may lack observations, because only LoCoMo's authors wrote them.
    observation = (get_field(record, "observation", (dict,), where)
                   if has(record, "observation") else {})
    facts = _read_facts(observation, order, where)
    turns = [Turn(turn.turn_id, turn.speaker, turn.text, turn.timestamp,
                  tuple(facts.get(turn.turn_id, ()))) for turn in turns]

    qa = get_field(record, "qa", (list,), where) if has(record, "qa") else []
    questions = [_read_question(question, order, f"{where}, qa[{index}]")
                 for index, question in enumerate(qa)]
    return Dialogue(name, speakers, tuple(turns),
                    tuple(q for q in questions if q.category != ADVERSARIAL),
                    tuple(q for q in questions if q.category == ADVERSARIAL))


def load_locomo(path: str | os.PathLike[str]) -> list[Dialogue]:
    """Read a file in LoCoMo's format; conversations, turns and questions keep the file's order.

    Image captions become text, numbers as answers become strings, and category 5 goes to
    `Dialogue.adversarial`. The `answer` of an adversarial question is the trap that the data calls
    "adversarial_answer", or "". The right reply would be that nobody said so.

    In the real file 9 evidence strings of the 1,540 questions name no turn as written:

        6 are mended    4 lists in one string ("D8:6; D9:17" in conv-26, three in conv-49),
                        "D:11:26" in conv-43, "D30:05" in conv-50
        3 are dropped   "D" and "D10:19" in conv-42, "D4:36" in conv-47: no turn has such an id, and
                        their questions keep other evidence

    4 questions, all of category 3, have no evidence in the file. 15 of 2,541 observations name
    several turns and go to the last.

    A file of one's own may be JSON lines, and may lack all but names, dates and turns
    (docs/own-data.md). It may have more than two speakers, each with memories of their own.

    Raises DataError if the file is missing, not JSON, or broken anywhere. Elements and list
    positions in its message count from 0.
    """
    remedy = f"{original('locomo')} (one's own: docs/own-data.md)"
    return load_records(path, remedy, _read_dialogue, ("sample_id",))


def is_locomo(dialogues: list[Dialogue]) -> bool:
    """Whether all categories are numbers, as LoCoMo's are; other data sets have names for them."""
    return all(isinstance(q.category, int) for d in dialogues for q in d.questions)


def split_locomo(
    dialogues: Sequence[Dialogue],
) -> tuple[list[Dialogue], list[Dialogue], list[Dialogue]]:
    """(train, validation, test) as in Memory-R1: first conversation, second, all the others.

    The paper says only "1:1:8". No other split gives its 152, 81 and 1,307 questions (without
    adversarial ones). A split by conversation keeps the test honest, because training sees no
    conversation of the test. Validation has no question of category 3.

    Raises DataError for fewer than three conversations. benchmarks/splits.py tests on the whole of
    such a file.
    """
    if len(dialogues) < 3:
        raise DataError(f"split_locomo: found {len(dialogues)} conversations, expected at least 3 "
                        "(train, validation, test); to evaluate a smaller file use all of what "
                        "load_locomo returns, unsplit")
    return list(dialogues[:1]), list(dialogues[1:2]), list(dialogues[2:])
