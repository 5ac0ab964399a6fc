"""What Memory-R1's two agents read and write: prompts, and parsers that never trust a model.

Every function makes text of text, and none knows of tensors or of training. Memory-R1 (arXiv
2508.19828) prints its prompts in Figures 9 to 11. The prompts of this file are our own, for the
same roles.

Where this differs from the paper
1. The manager writes only what changes. The paper's prompt (Mem0's) copies every memory back;
   `parse_operations` understands that long form too.
2. The system message instructs, and the user message holds the data in a short, fixed form. The
   embedded model's chat template leaves system messages out, because that model learned the form.
3. `--no-distill` asks for the answer alone, as in the paper's ablation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from backend.thinking import ENDS_THINKING, OPENS_THINKING, without_marks
from data import Message, Turn
from memory_bank import Memory

# ---- Text that nobody vouches for ----------------------------------------------------------------

# Text that data or a model brings must never do four things:
#   end a line              because a prompt holds each memory, fact or question on one line
#   imitate a marker        a memory that reads "**Answer:** Oslo" would look like an answer
#   imitate a tag           a passage that reads "</info>" would look like the end of a result, and
#                           a memory that reads "<think>", copied into an answer, would hide it
#   hold half a surrogate   JSON can spell one half of a pair, but no file and no tokenizer takes it
# Two more dangers are met elsewhere. Only the tokenizer knows a chat's special tokens, so
# `Policy.encode` breaks special tokens up. Only a terminal obeys control characters, so
# tools/terminal.py prints none.


def one_line(text: str) -> str:
    """Text for a prompt: on one line, without a marker (two stars become one) or a thinking tag.

    >>> one_line("Oslo\\n**Answer:** Rome <think>")
    'Oslo *Answer:* Rome (think)'
    """
    return without_marks(re.sub(r"\*{2,}", "*", " ".join(text.split())))


def without_tags(text: str) -> str:
    """Text for a prompt with tags (MEM1): `one_line`, and brackets cannot open a tag.

    >>> without_tags("</info> is it")
    '(/info) is it'
    """
    return one_line(text.replace("<", "(").replace(">", ")"))


def storable(written: object) -> str:
    """What a model wrote, as text for a memory bank: on one line.

    Returns "" for anything but text, and for text with half a surrogate.
    """
    line = " ".join(written.split()) if isinstance(written, str) else ""
    try:
        line.encode()
    except UnicodeEncodeError:
        return ""
    return line


# ---- Prompts -------------------------------------------------------------------------------------

MANAGER_INSTRUCTIONS = """\
You keep the memory of a long conversation. You see the stored memories most similar to a new \
fact, each with its number, and decide how the memory must change:
- ADD: the fact is new. Store it as one short sentence in the third person.
- UPDATE: a memory speaks of the same thing. Rewrite it so that it holds everything that is true \
now: keep what still holds, join the new fact to it, and drop only what the new fact contradicts.
- DELETE: the fact ends what a memory says and nothing of that memory still holds.
- NOOP: the fact is known already or not worth remembering.
Answer with a JSON list of operations, as many as needed, and nothing else. Memories without an \
operation stay as they are. Examples:
[{"event": "ADD", "text": "Lena works as a tailor"}]
[{"event": "UPDATE", "id": 1, "text": "Lena has dogs named Ace and Bo"}]
[{"event": "DELETE", "id": 0}]
[{"event": "NOOP"}]"""

ANSWER_INSTRUCTIONS = """\
You answer a question about the people of a long conversation from memories of it. Each memory \
stands behind its date. Look at the memories of both speakers; where they contradict each other \
trust the most recent; turn "last year" and the like into dates with the help of the memory's \
date; do not confuse people with similar names. Answer in as few words as possible, six at most."""
SELECT_INSTRUCTIONS = """
First write **Memories:** and under it, one a line, those memories that you need, without their \
dates. Then write **Answer:** and the answer on the same line."""
DIRECT_INSTRUCTIONS = """
Write **Answer:** and the answer on the same line, nothing else."""

EXTRACT_INSTRUCTIONS = """\
You note what is worth remembering about a person: who they are, what they have, do, like and \
plan, and the people around them. From what the speaker says, write short sentences in the third \
person that name the speaker, each one fact. Small talk holds no fact. Answer with JSON and \
nothing else, for example {"facts": ["Lena works as a tailor", "Lena has a dog named Ace"]} or \
{"facts": []}."""


def manager_messages(fact: str, memories: Sequence[Memory]) -> list[Message]:
    """The new fact, under the memories that it may change; numbers count from 0 (Eq. 1)."""
    lines = [f"- {number}: {one_line(m.text)}" for number, m in enumerate(memories)] or ["- none"]
    user = "\n".join(["Memories:", *lines, f"New fact: {one_line(fact)}"])
    return [{"role": "system", "content": MANAGER_INSTRUCTIONS}, {"role": "user", "content": user}]


def question_line(question: str, asked: str = "") -> str:
    """A question as its prompt shows it. `asked` is its date, "" where the data has none.

    >>> question_line("How many weeks ago did I ski?", "2023/05/20 (Sat) 02:21")
    'Question (asked on 2023/05/20 (Sat) 02:21): How many weeks ago did I ski?'
    """
    date = f" (asked on {one_line(asked)})" if asked else ""
    return f"Question{date}: {one_line(question)}"


def answer_messages(question: str, memories: dict[str, list[Memory]], distill: bool,
                    asked: str = "") -> list[Message]:
    """The candidate memories of each speaker, as `timestamp: memory`, and then the question.

    `asked` is the date of the question. Without it nobody can tell how long ago something was.
    """
    lines = []
    for speaker, of_speaker in memories.items():
        lines.append(f"Memories of {one_line(speaker)}:")
        lines += [f"- {one_line(m.timestamp)}: {one_line(m.text)}"
                  for m in of_speaker] or ["- none"]
    lines.append(question_line(question, asked))
    lines.append("Select the useful memories, then answer." if distill else "Answer directly.")
    system = ANSWER_INSTRUCTIONS + (SELECT_INSTRUCTIONS if distill else DIRECT_INSTRUCTIONS)
    return [{"role": "system", "content": system}, {"role": "user", "content": "\n".join(lines)}]


def extract_messages(turn: Turn) -> list[Message]:
    """One turn with its date, for a model that notes the facts in the turn."""
    user = f"Date: {one_line(turn.timestamp)}\n{one_line(turn.speaker)}: {one_line(turn.text)}"
    return [{"role": "system", "content": EXTRACT_INSTRUCTIONS}, {"role": "user", "content": user}]


# ---- Responses: what a model writes is never trusted ---------------------------------------------

EVENTS = {"ADD": "ADD", "UPDATE": "UPDATE", "DELETE": "DELETE", "NOOP": "NOOP", "NONE": "NOOP"}


@dataclass(frozen=True)
class Operation:
    """One change of the bank; `number` is a memory's number in the prompt, never its id."""

    event: str  # "ADD", "UPDATE", "DELETE" or "NOOP"
    number: int | None = None
    text: str = ""


def split_thinking(text: str) -> tuple[str, str]:
    """(what a model thought, what it said) in a response. Only what it said is ever parsed.

    All before the last `</think>` is thinking, also without a `<think>`, because some chat
    templates open it in the prompt. So is all behind a `<think>` that never closes. Other models
    have other marks for the same (`OPENS_THINKING`).

    >>> split_thinking("<think>Rome? No.</think>**Answer:** Oslo")
    ('<think>Rome? No.', '**Answer:** Oslo')
    """
    ends = [mark.span() for mark in ENDS_THINKING.finditer(text)]
    thought_to, said_from = ends[-1] if ends else (0, 0)
    said = text[said_from:]
    opened = OPENS_THINKING.search(said)
    return text[:thought_to], said[:opened.start()] if opened else said


OPENING = re.compile(r"[\[{]")
# Brackets and then a quote begin JSON. "[0]" or "{so}" is how a sentence uses brackets.
JSON_BEGINS = re.compile(r"[\[{\s]++[\"']")
# What may stand between two pieces of JSON that belong together: commas, brackets, code fences, and
# the tags that Qwen's chat template puts around each call of a tool.
BETWEEN = re.compile(r"(?:[\s,;\[\]}]|```\w*+|</?tool_call>)*+")
CLOSING = re.compile(r"\s*+[\]}]")
MOST_FAILURES = 64  # readings of one text that may fail


# Problem 2
def json_values(text: str) -> tuple[list[list | dict], int]:
    """The JSON lists and objects that a response says, and how many pieces were not read.

    Thinking is no part of it, nor are lists of plain numbers ("Only memory [0] matters"). Any text
    may stand before the first value. More values may follow it, as in JSON lines. Behind other text
    they are only counted, because they may be second thoughts or examples.

    A list that breaks off gives its whole entries, and the break counts as one piece. So does a
    text without any JSON. A comma before a closing bracket does no harm. Never raises.

    >>> json_values('Sure! [{"event": "NOOP"}, {"event": "ADD", "te')
    ([{'event': 'NOOP'}], 1)
    """
    _, text = split_thinking(text)
    decoder = json.JSONDecoder()
    values: list[list | dict] = []
    breaks: set[int] = set()  # places where JSON is broken
    place = end = n_failures = n_behind = 0
    # A failure may cost a reading to the end of the text. To allow one for every bracket would take
    # time that grows with the square of the length.
    while (bracket := OPENING.search(text, place)) and n_failures < MOST_FAILURES:
        start = bracket.start()
        try:
            value, place = decoder.raw_decode(text, start)
        except (ValueError, RecursionError) as error:  # broken, no JSON, or nested without end
            n_failures += 1
            # A number of 5,000 digits and a nest without end have no place.
            failed_at = getattr(error, "pos", len(text))
            comma = _comma_before_bracket(text, start, failed_at)
            if comma is not None:
                text, place = f"{text[:comma]} {text[comma + 1:]}", start
                continue
            # A list fails where its broken entry fails. A set counts that place once.
            if JSON_BEGINS.match(text, start):
                breaks.add(failed_at)
            place = start + 1  # its entries may be whole
            continue
        if isinstance(value, list) and value and all(type(n) in (int, float) for n in value):
            continue
        if n_behind or values and not BETWEEN.fullmatch(text, end, start):
            n_behind += 1
        else:
            values.append(value)
            end = place
    n_unread = n_behind + len(breaks) + (bracket is not None)  # a bracket is left: all was not read
    return values, n_unread or int(not values)


def _comma_before_bracket(text: str, start: int, failed_at: int) -> int | None:
    """The place of a comma before a closing bracket, if that is where a reading failed."""
    comma = text.rfind(",", start, failed_at + 1)
    follows = CLOSING.match(text, comma + 1)
    return comma if comma >= 0 and follows and follows.end() > failed_at else None


def json_entries(text: str, name: str | None = None) -> tuple[list, int]:
    """The entries of all lists that a response says, and how many pieces were not read.

    An object may hold the list in its field `name`. Without that field it is an entry by itself.
    What stands in the field instead of a list becomes one entry None.
    """
    values, n_unread = json_values(text)
    entries: list = []
    for value in values:
        if isinstance(value, dict):
            value = value.get(name, [value])
        entries += value if isinstance(value, list) else [None]
    return entries, n_unread


def format_operation(operation: Operation) -> str:
    """An operation as the prompt asks the manager to write it; inverse of `parse_operations`."""
    entry: dict[str, str | int] = {"event": operation.event}
    if operation.number is not None:
        entry["id"] = operation.number
    if operation.text:
        # The space is there because a word after a space is the same token as in running text.
        entry["text"] = " " + operation.text
    return json.dumps([entry], ensure_ascii=False)


# Problem 2
def parse_operations(text: str, n_memories: int) -> tuple[list[Operation], int]:
    """The operations in a manager's response, and how many entries were unusable. Never raises.

    It reads the short form, `[{"event", "id", "text"}]`, and the paper's (Figures 9 and 10),
    `{"memory": [{"id", "text", "event", "old_memory"}]}`. Code fences or other text may surround
    both. An entry is unusable if its event is unknown, if an UPDATE or DELETE names a number that
    the prompt did not show, or if an ADD or UPDATE has no text. Each piece that `json_values` did
    not read counts as one unusable entry.

    Usable entries are carried out although others are not, but for one event: a DELETE is usable
    only if all else is. An update may be written as DELETE and ADD, and half of it would forget.
    """
    entries, n_unread = json_entries(text, "memory")
    operations = [_operation(entry, n_memories) for entry in entries]
    if n_unread or None in operations:
        operations = [None if o and o.event == "DELETE" else o for o in operations]
    return [o for o in operations if o is not None], operations.count(None) + n_unread


# Problem 2
def _operation(entry: object, n_memories: int) -> Operation | None:
    """One entry of the list; None if it is unusable."""
    if not isinstance(entry, dict):
        return None
    name, written_id = entry.get("event"), entry.get("id")
    event = EVENTS.get(name.strip().upper()) if isinstance(name, str) else None
    text, number = "", None
    if event in ("ADD", "UPDATE"):
        text = storable(entry.get("text"))
        if not text:
            return None
    if event in ("UPDATE", "DELETE"):
        # The paper's ids are strings, ours are numbers. type() refuses JSON's `true`, because
        # isinstance() would take it for the number 1.
        digits = str(written_id).strip() if type(written_id) in (int, str) else ""
        if not re.fullmatch(r"[0-9]{1,9}", digits) or int(digits) >= n_memories:
            return None
        number = int(digits)
    return Operation(event, number, text) if event else None


# Problem 2
def parse_answer(text: str) -> tuple[str, str]:
    """(selected memories, answer) of an answer agent's response. Never raises.

    Three forms are tried, in the order of the authors' code: `**Answer:** Oslo`,
    `**Answer: Oslo**` and `Answer: Oslo`. The last is looked for at the beginning of a line before
    anywhere else, because a selected memory may have the word in its middle. In the first and last
    the answer may also stand on the next line that is not blank. A text without these forms is the
    answer as a whole. Thinking is neither selected nor answered.
    """
    _, text = split_thinking(text)
    # \s*+ gives nothing back, because a second try at each of many spaces takes quadratic time.
    for pattern in (r"\*\*Answer:\*\*\s*(.*)", r"\*\*Answer:\s*+(.*?)\*\*",
                    r"(?m)^Answer:\s*(.*)", r"Answer:\s*(.*)"):
        match = re.search(pattern, text)
        if match:
            selected = text[: match.start()].replace("**Memories:**", "")
            return selected.strip(), match.group(1).strip()
    return "", text.strip()


def format_answer(selected: Sequence[str], answer: str, distill: bool) -> str:
    """An answer agent's response, as its prompt asks for it; inverse of `parse_answer`."""
    if not distill:
        return f"**Answer:** {answer}"
    lines = [f"- {text}" for text in selected] or ["- none"]
    return "\n".join(["**Memories:**", *lines, f"**Answer:** {answer}"])


def parse_facts(text: str) -> tuple[list[str], int]:
    """The facts in an extraction response, and how many pieces of it were unusable. Never raises.

    A fact is a string, or an object `{"fact": string}`.
    """
    entries, n_unread = json_entries(text, "facts")
    facts = [storable(entry.get("fact") if isinstance(entry, dict) else entry) for entry in entries]
    return [fact for fact in facts if fact], facts.count("") + n_unread
