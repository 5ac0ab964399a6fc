"""One's own conversations: what `--data FILE` makes of chat lists and of two programs' exports.

    a file holds                                                  is read by
    {"messages": [{"role": ..., "content": ...}]}                 load_messages       OpenAI's form
    [{"role": ..., "content": ...}], one conversation alone       load_message_list   the same
    {"conversations": [{"from": ..., "value": ...}]}              load_sharegpt       ShareGPT
    conversations.json: trees of messages                         load_chatgpt        ChatGPT
    24/12/2023, 18:05 - Ann: Hello                                load_whatsapp       WhatsApp

JSON may be JSON lines. All conversations of a file become one dialogue, because a memory should
reach from one chat into the next. Each conversation (of WhatsApp: each day) is a session of it, so
turn "D3:7" is the seventh of the third. System messages, calls of tools and their results are left
out, because nobody said them. docs/own-data.md shows each form, and the least file of LoCoMo's.

`with_questions` adds questions from a second file.

    python memr1.py --model smollm2 --data chat.txt     reads a file into memories, then one may ask
"""

from __future__ import annotations

import os
import re
import reprlib
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, NamedTuple

from data import (
    CATEGORIES,
    DataError,
    Dialogue,
    Question,
    Turn,
    broken,
    check,
    get_answer,
    get_field,
    has,
    load_records,
    message_text,
)
from world import MONTHS

REMEDY = "compare with the form in docs/own-data.md"
UNDATED = "undated"  # a memory always stands behind its date, and chat lists have none
LONGEST = 4000  # letters of a turn: a pasted document is more than many models can read at once


class Said(NamedTuple):
    """One message."""

    speaker: str
    text: str
    timestamp: str


def written(day: date) -> str:
    """A date as in the synthetic world.

    >>> written(date(2023, 6, 7))
    '7 June 2023'
    """
    return f"{day.day} {MONTHS[day.month - 1]} {day.year}"


def dialogue_of(path: str | os.PathLike[str], sessions: Iterable[Sequence[Said]]) -> Dialogue:
    """The sessions as one dialogue, named after its file. Raises DataError if nobody says a word.

    A message longer than `LONGEST` becomes several turns.
    """
    turns: list[Turn] = []
    for number, session in enumerate(filter(None, sessions), start=1):
        pieces = [said._replace(text=piece) for said in session
                  for piece in ([said.text] if len(said.text) <= LONGEST
                                else textwrap.wrap(said.text, LONGEST))]
        turns += [Turn(f"D{number}:{index}", *piece) for index, piece in enumerate(pieces, 1)]
    if not turns:
        raise DataError(f"{path}: holds no message with words; {REMEDY}")
    speakers = dict.fromkeys(turn.speaker for turn in turns)
    return Dialogue(Path(path).stem, tuple(speakers), tuple(turns), ())


# ---- Chat lists: OpenAI's and ShareGPT's ---------------------------------------------------------

ROLES = {"human": "user", "gpt": "assistant"}  # ShareGPT's names -> OpenAI's
NOT_SAID = {"system", "developer", "tool", "function", "observation", "function_call"}


def _said(record: Any, where: str) -> Said | None:
    """One message of a chat list; None if nobody says a word in it."""
    check(record, (dict,), where)
    role = get_field(record, "from" if "from" in record else "role", (str,), where)
    field = "value" if "value" in record else "content"
    if field not in record and not record.keys() & {"tool_calls", "function_call"}:
        raise broken(f"{where}, field {field!r}", "nothing", "text or a list of parts")
    text = message_text(record.get(field), f"{where}, field {field!r}")
    speaker = ROLES.get(role, role)
    if record.get("name"):  # OpenAI's form may say which of several people it is
        speaker = get_field(record, "name", (str,), where)
    return None if role in NOT_SAID or not text.strip() else Said(speaker, text, UNDATED)


def _read_list(record: Mapping[str, Any], field: str, where: str) -> list[Said]:
    """All that is said in the list `record[field]`."""
    messages = get_field(record, field, (list,), where)
    all_said = [_said(message, f"{where}, {field}[{index}]")
                for index, message in enumerate(messages)]
    return [said for said in all_said if said]


def load_messages(path: str | os.PathLike[str]) -> list[Dialogue]:
    """Read chat lists in OpenAI's form: every record has "messages". Raises DataError.

    The speakers are "user" and "assistant", or the "name" of a message that has one.
    """
    return [dialogue_of(path, load_records(
        path, REMEDY, lambda record, name, where: _read_list(record, "messages", where)))]


def load_message_list(path: str | os.PathLike[str]) -> list[Dialogue]:
    """Read one bare list of messages, as a program hands it to a model. Raises DataError."""
    all_said = load_records(path, REMEDY, lambda record, name, where: _said(record, where))
    return [dialogue_of(path, [[said for said in all_said if said]])]


def load_sharegpt(path: str | os.PathLike[str]) -> list[Dialogue]:
    """Read ShareGPT's form: every record has "conversations". Raises DataError.

    "human" becomes "user" and "gpt" becomes "assistant"; other names stay as they are.
    """
    return [dialogue_of(path, load_records(
        path, REMEDY, lambda record, name, where: _read_list(record, "conversations", where)))]


# ---- ChatGPT's export ----------------------------------------------------------------------------


def _path_from_root(record: Mapping[str, Any], where: str) -> list[tuple[Mapping[str, Any], str]]:
    """The nodes from the root to the current one, each with its place in the file.

    Whoever edits a question or asks for another answer leaves a branch behind. Only one path was
    shown last.
    """
    mapping = get_field(record, "mapping", (dict,), where)
    node_id = get_field(record, "current_node", (str,), where)
    if node_id not in mapping:
        raise broken(f"{where}, field 'current_node'", reprlib.repr(node_id),
                     "the name of a node in 'mapping'")
    path: dict[str, tuple[Mapping[str, Any], str]] = {}
    while node_id in mapping:  # the root's parent is null, or a node that is not there
        place = f"{where}, mapping[{reprlib.repr(node_id)}]"
        if node_id in path:
            raise broken(f"{place}, field 'parent'", "a circle", "a way to the root")
        path[node_id] = check(mapping[node_id], (dict,), place), place
        node_id = check(mapping[node_id].get("parent"), (str, type(None)),
                        f"{place}, field 'parent'")
    return list(path.values())[::-1]


def _day(seconds: float | None, where: str) -> str:
    """The day, in UTC, of a moment in seconds since 1970; `UNDATED` for null."""
    if check(seconds, (int, float, type(None)), where) is None:
        return UNDATED
    try:
        return written(datetime.fromtimestamp(seconds, UTC))
    except (ValueError, OverflowError, OSError):
        raise broken(where, reprlib.repr(seconds), "seconds since 1970") from None


def _read_node(node: Mapping[str, Any], began: float | None, where: str) -> Said | None:
    """One node of a path; None where nobody says a word that was shown."""
    message = check(node.get("message"), (dict, type(None)), f"{where}, field 'message'")
    if message is None:  # the root
        return None
    author = get_field(message, "author", (dict,), where)
    role = get_field(author, "role", (str,), f"{where}, author")
    content = get_field(message, "content", (dict,), where)
    metadata = check(message.get("metadata"), (dict, type(None)), f"{where}, field 'metadata'")
    # Code and searches go to a tool, and thoughts are no text. Instructions of one's own are
    # messages that are not shown.
    is_shown = (role in ("user", "assistant")
                and content.get("content_type") in ("text", "multimodal_text")
                and message.get("recipient") in (None, "all")
                and not (metadata or {}).get("is_visually_hidden_from_conversation"))
    text = message_text(content.get("parts"), f"{where}, field 'parts'") if is_shown else ""
    moment = message.get("create_time")
    day = _day(began if moment is None else moment, f"{where}, field 'create_time'")
    return Said(role, text, day) if text.strip() else None


def _read_tree(record: Mapping[str, Any], name: str, where: str) -> tuple[float, list[Said]]:
    """When a conversation began, and what was said on its current path."""
    began = record.get("create_time")
    _day(began, f"{where}, field 'create_time'")
    all_said = [_read_node(node, began, place) for node, place in _path_from_root(record, where)]
    return began or 0, [said for said in all_said if said]


def load_chatgpt(path: str | os.PathLike[str]) -> list[Dialogue]:
    """Read conversations.json of ChatGPT's export, in the order of time. Raises DataError.

    Of each tree the path from "current_node" to the root is read. The export begins with the
    newest conversation.
    """
    conversations = load_records(path, REMEDY, _read_tree)
    conversations.sort(key=lambda conversation: conversation[0])
    return [dialogue_of(path, [all_said for _, all_said in conversations])]


# ---- WhatsApp's export ---------------------------------------------------------------------------

# Marks of the direction of writing stand before names, numbers and WhatsApp's own words.
DIRECTION = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")
# \s is also the narrow no-break space that newer versions write before "PM". A word may stand
# before the time ("um 18:05"), because exports are in the language of the telephone. Arabic has a
# mark of direction behind each number (\u200f), Bulgarian a "г." behind the year.
HEADER = re.compile(
    r"(?P<bracket>\[?)(?P<first>\d{1,4})\u200f?(?P<mark>[./-])\s?(?P<second>\d{1,2})\u200f?"
    r"(?P=mark)\s?(?P<third>\d{1,4})(?:\sг\.)?[,.،]?\s+(?:[^\W\d]{1,4}\s?)?"
    r"\d{1,2}[:.]\d{2}(?:[:.]\d{2})?(?:\s?[apπμ]\.?\s?[mμ]\.?|\s?[صم])?"
    r"(?:\]|\s[-–—]\s|:\s)\s?(?P<rest>.*)",
    re.IGNORECASE | re.DOTALL)
# What Android writes instead of a file: "<Media omitted>", "IMG-1.jpg (file attached)".
PLACEHOLDER = re.compile(
    r"<[^<>\n]+>(?=\n|\Z)|[^\n]*(?:-WA\d+\.\w+ \([^()\n]+\)|\(file attached\))(?=\n|\Z)")
QUOTED = re.compile('"[^"]*"|“[^“”]*”|„[^„“”]*[“”]|«[^«»]*»')
WHATSAPP_SAYS = {"This message was deleted", "You deleted this message", "null"}


def header(line: str) -> re.Match[str] | None:
    """The match of a line that begins a message of WhatsApp; its "rest" keeps its marks."""
    return HEADER.match(line.lstrip("\u200e\u200f\ufeff"))


def days_come_first(dates: Sequence[tuple[int, int, int]], path: str | os.PathLike[str]) -> bool:
    """Whether dates (first, second, year) in the order of the file are day, month, year.

    A number above 12 is a day. Without one the order is right in which the file goes backwards
    less often, because messages are exported in the order of time. If that does not tell, days
    come first, and a line on stderr says so. Raises DataError if neither order gives dates.
    """
    no_month_second = any(second > 12 for _, second, _ in dates)
    no_month_first = any(first > 12 for first, _, _ in dates)
    if no_month_first and no_month_second:
        raise DataError(f"{path}: some days stand before the month and some behind it; write all "
                        "dates year first, as in 2023/12/24")
    if no_month_first or no_month_second:
        return no_month_first
    by_day = [(year, second, first) for first, second, year in dates]
    by_month = [(year, first, second) for first, second, year in dates]
    steps_back = [sum(later < earlier for earlier, later in zip(days, days[1:]))
                  for days in (by_day, by_month)]
    if steps_back[0] == steps_back[1] and by_day != by_month:
        first, second, year = next(day for day in dates if day[0] != day[1])
        print(f"{path}: nothing tells whether {first}/{second}/{year} is day {first} or day "
              f"{second}; it is read as day {first} of month {second}. If that is wrong, write "
              "the dates year first, as in 2023/12/24", file=sys.stderr)
    return steps_back[0] <= steps_back[1]


def _days(headers: Sequence[tuple[int, re.Match[str]]], path: str | os.PathLike[str],
          ) -> list[date]:
    """The day of each header, with its line's number. Raises DataError for a day that is none."""
    numbers = [tuple(int(match[name]) for name in ("first", "second", "third"))
               for _, match in headers]
    year_first = [len(match["first"]) == 4 for _, match in headers]
    full = [(first, second, third + 2000 if third < 100 else third)
            for first, second, third in numbers]
    day_first = days_come_first([day for day, is_year in zip(full, year_first) if not is_year],
                                path)
    days = []
    for (line, _), in_file, (first, second, year), is_year in zip(headers, numbers, full,
                                                                  year_first):
        try:
            days.append(date(*in_file) if is_year else
                        date(year, second, first) if day_first else date(year, first, second))
        except ValueError:
            raise DataError(f"{path}: line {line}: its date is on no calendar; correct it, or "
                            f"{REMEDY}") from None
    return days


def _spoken(rest: str, day: str) -> Said | None:
    """What stands behind a header; None if WhatsApp says it, or if it is only a file."""
    name, colon, text = rest.partition(": ")
    # "Ann created group “Trip: Rome”" has a colon too, but in quotes. Those of a name are closed.
    open_quote = re.search("[\"“”„«»\n]", QUOTED.sub("", name))
    if not colon or open_quote or text.startswith("\u200e"):
        return None
    text = re.sub("\u200e<[^<>\n]*>", "", text)  # an attachment, or "This message was edited"
    text = DIRECTION.sub("", text).strip().removesuffix("<This message was edited>").strip()
    text = PLACEHOLDER.sub("", text, count=1).strip() if PLACEHOLDER.match(text) else text
    name = DIRECTION.sub("", name).strip().removeprefix("~").strip()  # ~: not in the contacts
    is_said = name and text and text.rstrip(".") not in WHATSAPP_SAYS
    return Said(name, text, day) if is_said else None


def load_whatsapp(path: str | os.PathLike[str]) -> list[Dialogue]:
    """Read the text file of WhatsApp's "Export chat", of Android or iPhone. Raises DataError.

        24/12/2023, 18:05 - Ann: Hello               [24/12/2023, 18:05:12] Ann: Hello
        12/24/23, 6:05 PM - Ann: Hello               [12/24/23, 6:05:12 PM] Ann: Hello

    A line without a date goes on with the message before it. Lines of the program ("Ann left") and
    placeholders of files are left out. Every day is a session. `days_come_first` decides the order
    of day and month.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text ({error}); export the chat "
                        f"again, or {REMEDY}") from None
    headers: list[tuple[int, re.Match[str]]] = []
    messages: list[str] = []
    # Not `splitlines`, because a message may hold U+2028.
    for number, line in enumerate(text.split("\n"), start=1):
        match = header(line.rstrip("\r"))
        # Where headers have brackets, a line without them is a date that somebody wrote.
        if match and (not headers or match["bracket"] == headers[0][1]["bracket"]):
            headers.append((number, match))
            messages.append(match["rest"])
        elif messages:
            messages[-1] += "\n" + line.rstrip("\r")
    sessions: dict[date, list[Said]] = {}
    for day, message in zip(_days(headers, path), messages):
        if said := _spoken(message, written(day)):
            sessions.setdefault(day, []).append(said)
    return [dialogue_of(path, sessions.values())]


# ---- Questions of one's own ----------------------------------------------------------------------


def with_questions(dialogues: Sequence[Dialogue], path: str | os.PathLike[str]) -> list[Dialogue]:
    """The dialogues with the questions of a second file, a JSON list or JSON lines.

    A record has "question" and "answer". It may have "evidence" (ids of turns), "category", "date"
    (when it is asked) and "conversation", which is needed if there are several. Raises DataError.
    """
    by_name = {dialogue.name: dialogue for dialogue in dialogues}
    questions: dict[str, list[Question]] = {name: [] for name in by_name}

    def read(record: Mapping[str, Any], name: str, where: str) -> None:
        """Put one question to its dialogue."""
        asked_about = dialogues[0].name
        if len(dialogues) > 1 or has(record, "conversation"):
            asked_about = get_field(record, "conversation", (str,), where)
        if asked_about not in by_name:
            raise broken(f"{where}, field 'conversation'", reprlib.repr(asked_about),
                         f"one of {reprlib.repr(list(by_name))}")
        questions[asked_about].append(_read_question(record, by_name[asked_about], where))

    load_records(path, REMEDY, read)
    return [replace(dialogue, questions=(*dialogue.questions, *questions[dialogue.name]))
            for dialogue in dialogues]


def _read_question(record: Mapping[str, Any], dialogue: Dialogue, where: str) -> Question:
    """One record of a file of questions."""
    text = get_field(record, "question", (str,), where)
    answer = get_answer(record, "answer", where)
    category = record.get("category")
    if category is None:
        category = "own"
    elif type(check(category, (str, int), f"{where}, field 'category'")) is str:
        if not category.strip():
            raise broken(f"{where}, field 'category'", repr(category), "a name, or 1 to 4")
        # A table would have two rows of one name.
        category = {str(number): number for number in CATEGORIES}.get(category.strip(), category)
    elif category not in CATEGORIES:
        raise broken(f"{where}, field 'category'", str(category), "a name, or 1 to 4")
    known = {turn.turn_id for turn in dialogue.turns}
    evidence = record.get("evidence")
    if type(check(evidence, (str, list, type(None)), f"{where}, field 'evidence'")) is str:
        evidence = [evidence]
    for turn_id in evidence or []:
        # LoCoMo's slips are mended. Whoever writes a file of their own wants to hear of a slip.
        if check(turn_id, (str,), f"{where}, field 'evidence'") not in known:
            raise broken(f"{where}, field 'evidence'", reprlib.repr(turn_id),
                         "the id of a turn, as memr1.py --data prints them")
    asked = get_field(record, "date", (str,), where) if record.get("date") is not None else ""
    return Question(text, answer, category, tuple(dict.fromkeys(evidence or [])), asked)
