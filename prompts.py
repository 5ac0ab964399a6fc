"""What Memory-R1's two agents read and write: prompts, and parsers that never trust a model.

Pure functions from text to text; nothing here knows of tensors or of training. Memory-R1
(arXiv 2508.19828) prints its prompts in Figures 9 to 11; these are our own, in the same roles.

Where this differs from the paper
1. The manager writes only what changes. The paper's prompt (Mem0's) copies every memory back; its
   full form is understood too.
2. The system message instructs and the user message holds the data in a compact, fixed form. The
   embedded model's chat template leaves system messages out: it learned the form itself.
3. `--distill off` asks for the answer alone, as in the paper's ablation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from data import Message, Turn
from memory_bank import Memory

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


def one_line(text: str) -> str:
    """Text from data or a model, made unable to imitate the prompt: one line, no ** markers.

    Every marker of ours stands at the start of a line or is written in **; the chat's own special
    tokens are broken up by `Policy.encode`.
    """
    return re.sub(r"\*{2,}", "*", " ".join(text.split()))


def manager_messages(fact: str, memories: Sequence[Memory]) -> list[Message]:
    """The new fact under the numbered memories it may change."""
    listed = [f"- {number}: {one_line(m.text)}" for number, m in enumerate(memories)] or ["- none"]
    user = "\n".join(["Memories:", *listed, f"New fact: {one_line(fact)}"])
    return [{"role": "system", "content": MANAGER_INSTRUCTIONS}, {"role": "user", "content": user}]


def answer_messages(question: str, memories: dict[str, list[Memory]],
                    distill: bool) -> list[Message]:
    """All candidate memories, speaker by speaker as `timestamp: memory`, and the question."""
    lines = []
    for speaker, theirs in memories.items():
        lines.append(f"Memories of {one_line(speaker)}:")
        lines += [f"- {one_line(m.timestamp)}: {one_line(m.text)}" for m in theirs] or ["- none"]
    lines.append(f"Question: {one_line(question)}")
    lines.append("Select the useful memories, then answer." if distill else "Answer directly.")
    system = ANSWER_INSTRUCTIONS + (SELECT_INSTRUCTIONS if distill else DIRECT_INSTRUCTIONS)
    return [{"role": "system", "content": system}, {"role": "user", "content": "\n".join(lines)}]


def extract_messages(turn: Turn) -> list[Message]:
    """One turn, for the facts in it."""
    user = f"Date: {one_line(turn.timestamp)}\n{one_line(turn.speaker)}: {one_line(turn.text)}"
    return [{"role": "system", "content": EXTRACT_INSTRUCTIONS}, {"role": "user", "content": user}]


# ---- Responses: what a model writes is never trusted ---------------------------------------------

EVENTS = {"ADD": "ADD", "UPDATE": "UPDATE", "DELETE": "DELETE", "NOOP": "NOOP", "NONE": "NOOP"}


@dataclass(frozen=True)
class Operation:
    """One change of the bank; `number` is a memory's number in the prompt, never an internal id."""

    event: str  # "ADD", "UPDATE", "DELETE" or "NOOP"
    number: int | None = None
    text: str = ""


def _writable(text: object) -> str:
    """A string on one line, or "" for anything that is no text or that no file can hold."""
    line = " ".join(text.split()) if isinstance(text, str) else ""
    try:
        line.encode()  # JSON can spell one half of a surrogate pair
    except UnicodeEncodeError:
        return ""
    return line


# Problem 2
def first_json(text: str) -> list | dict | None:
    """The first JSON list or object in a text, whatever stands around it; None if there is none."""
    decoder = json.JSONDecoder()
    for start in list(re.finditer(r"[\[{]", text))[:8]:  # a few tries: bounded work on any text
        try:
            return decoder.raw_decode(text, start.start())[0]
        except (ValueError, RecursionError):
            continue
    return None


def format_operation(operation: Operation) -> str:
    """An operation as the manager is asked to write it; the inverse of `parse_operations`."""
    entry: dict[str, str | int] = {"event": operation.event}
    if operation.number is not None:
        entry["id"] = operation.number
    if operation.text:
        # The leading space lets a word be the same token here as in running text.
        entry["text"] = " " + operation.text
    return json.dumps([entry], ensure_ascii=False)


# Problem 2
def parse_operations(text: str, n_memories: int) -> tuple[list[Operation], int]:
    """The operations in a manager's response, and how many entries were unusable. Never raises.

    Reads the compact form, `[{"event", "id", "text"}]`, and the paper's (Figures 9 and 10),
    `{"memory": [{"id", "text", "event", "old_memory"}]}`, with code fences or other text around
    it. Unusable are: no JSON at all, an unknown event, an UPDATE or DELETE whose id was not shown,
    an ADD or UPDATE without text.
    """
    found = first_json(text)
    if isinstance(found, dict):
        found = found.get("memory", [found])
    if not isinstance(found, list):
        return [], 1
    operations, invalid = [], 0
    for entry in found:
        operation = _operation(entry, n_memories)
        if operation is None:
            invalid += 1
        else:
            operations.append(operation)
    return operations, invalid


# Problem 2
def _operation(entry: object, n_memories: int) -> Operation | None:
    if not isinstance(entry, dict):
        return None
    event, written = entry.get("event"), entry.get("id")
    event = EVENTS.get(event.strip().upper()) if isinstance(event, str) else None
    text, number = "", None
    if event in ("ADD", "UPDATE"):
        text = _writable(entry.get("text"))
        if not text:
            return None
    if event in ("UPDATE", "DELETE"):
        # The paper's ids are strings, ours numbers; type() because to Python `true` is a number.
        digits = str(written).strip() if type(written) in (int, str) else ""
        if not re.fullmatch(r"[0-9]{1,9}", digits) or int(digits) >= n_memories:
            return None
        number = int(digits)
    return Operation(event, number, text) if event else None


# Problem 2
def parse_answer(text: str) -> tuple[str, str]:
    """(what was selected, the answer) of an answer agent's response. Never raises.

    In the authors' order: **Answer:** and the rest of its line, **Answer: ...**, Answer: ..., and
    else the whole text. As with them, an answer may also stand on the next line that is not blank.
    """
    for pattern in (r"\*\*Answer:\*\*\s*(.*)", r"\*\*Answer:\s*(.*?)\*\*", r"Answer:\s*(.*)"):
        found = re.search(pattern, text)
        if found:
            selected = text[: found.start()].replace("**Memories:**", "")
            return selected.strip(), found.group(1).strip()
    return "", text.strip()


def format_answer(selected: Sequence[str], answer: str, distill: bool) -> str:
    """An answer agent's response, as its prompt asks for it; `parse_answer` takes it apart."""
    if not distill:
        return f"**Answer:** {answer}"
    listed = [f"- {text}" for text in selected] or ["- none"]
    return "\n".join(["**Memories:**", *listed, f"**Answer:** {answer}"])


def parse_facts(text: str) -> list[str]:
    """The facts in an extraction response; [] for anything unusable. Never raises."""
    found = first_json(text)
    facts = found.get("facts") if isinstance(found, dict) else found
    if not isinstance(facts, list):
        return []
    return [line for line in map(_writable, facts) if line]
