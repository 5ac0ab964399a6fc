"""The other benchmarks, and what `--data` names: MSC, LongMemEval, HotpotQA and files of one's own.

Memory-R1 (arXiv 2508.19828) trains on LoCoMo alone. With MSC and LongMemEval, of 500 questions
each, it shows that what it learned carries over, so both are test data as a whole. MEM1
(arXiv 2506.15841) joins N consecutive questions of HotpotQA into one task. MuSiQue and
2WikiMultihopQA are tasks of the same shape. Each loader says how the paper used its data.

Where this differs from the papers
1. Memory-R1's authors read questions and answers of MSC that a GPT had cleaned and that are not
   public. Scores on the published ones cannot be compared with theirs.
2. Memory-R1 keeps LongMemEval in one bank and shows 30 memories. In this project every speaker has
   a bank, and the assistant is a speaker too. So an answer agent reads 30 memories of what the user
   said, and 30 of what the assistant said.
3. In the paper an abstention question counts under the kind that it was made from. In this project
   abstention is a kind of its own. What the paper's tables call "OD" is the kind "assistant said".
4. LongMemEval is read in the order of dates, which its oracle file does not keep. The release is
   the one that its authors cleaned.
5. The date of LongMemEval's questions stands in all prompts, Memory-R1's and the others'.
6. MuSiQue and 2WikiMultihopQA credit aliases of an answer. In this project one answer is right.

    python -c "from benchmarks.others import load; print(len(load('msc')))"

should print 500. The command was never run, because the published files were not at hand. Their
form, addresses and SHA-256 are what their authors and users wrote. Tests read small files of that
form.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import re
import reprlib
import urllib.request
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from tqdm import tqdm

from backend import files
from benchmarks.own import (
    header,
    load_chatgpt,
    load_message_list,
    load_messages,
    load_sharegpt,
    load_whatsapp,
)
from data import (
    DataError,
    Dialogue,
    OpenQuestion,
    Question,
    Turn,
    broken,
    check,
    get_answer,
    get_field,
    load_locomo,
    load_records,
    original,
)
from world import KINDS, N_WORLDS

# ---- fetching ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """Where a file is published, and how to tell that it is whole."""

    url: str
    size: int  # bytes, for the progress bar; MSC's is rounded, because only 8.56 MB is known
    sha256: str


# The addresses on the hub name a revision, because a later one may hold other questions.
_MSC = ("https://huggingface.co/datasets/MemGPT/MSC-Self-Instruct/resolve/"
        "5138f416f8fa76b75b2e080da87e8a8e346e1500/")
_LONGMEMEVAL = ("https://huggingface.co/datasets/xiaowu0162/longmemeval-cleaned/resolve/"
                "98d7416c24c778c2fee6e6f3006e7a073259d48f/")
SOURCES = {
    "locomo": Source(
        "https://raw.githubusercontent.com/snap-research/locomo/main/data/locomo10.json",
        2_805_274, "79fa87e90f04081343b8c8debecb80a9a6842b76a7aa537dc9fdf651ea698ff4"),
    "msc": Source(
        _MSC + "msc_self_instruct.jsonl",
        8_560_000, "d3dbea36848b41dc46c0f1548d0ebf74eeaf6390d6f3fe9318e8480dc984495e"),
    "longmemeval": Source(
        _LONGMEMEVAL + "longmemeval_oracle.json",
        15_388_478, "821a2034d219ab45846873dd14c14f12cfe7776e73527a483f9dac095d38620c"),
    "longmemeval-s": Source(
        _LONGMEMEVAL + "longmemeval_s_cleaned.json",
        277_383_467, "d6f21ea9d60a0d56f34a05b609c79c88a451d2ae03597821ea3d5a9678c3a442"),
    "longmemeval-m": Source(
        _LONGMEMEVAL + "longmemeval_m_cleaned.json",
        2_737_100_077, "9d79e5524794a2e6900a3aa9cb7d9152c5a3e8319c9a87c25494ba1eacee495f"),
    "hotpotqa": Source(
        "http://curtis.ml.cmu.edu/datasets/hotpot/hotpot_dev_distractor_v1.json",
        46_320_117, "4e9ecb5c8d3b719f624d66b60f8d56bf227f03914f5f0753d6fa1b359d7104ea"),
}


def _is_whole(path: Path, source: Source) -> bool:
    """Whether this is the published file. Equal SHA-256 means equal size too."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == source.sha256


def fetch(name: str, cache_folder: str | os.PathLike[str] | None = None) -> Path:
    """The path of the file `name` in SOURCES, downloaded on first use into a cache folder.

    The folder is `cache_folder`, else $MEMORY_R1_CACHE, else ~/.cache/memory-r1. A whole file in
    that folder is used, and a damaged one is downloaded again.

    Raises DataError if there is no network, or if the file is not the published one. Its one line
    says what to save where. Nothing half-written stays behind.
    """
    source = SOURCES[name]
    folder = Path(cache_folder or files.cache_folder()).expanduser()
    target = folder / source.url.rsplit("/", 1)[-1]
    partial = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        if target.is_file() and _is_whole(target, source):
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with (urllib.request.urlopen(source.url, timeout=30) as response,
              partial.open("wb") as file,
              tqdm(total=source.size, unit="B", unit_scale=True, desc=target.name) as bar):
            # It stops soon after the right size, so that an endless server cannot fill the disk.
            while file.tell() < 1.1 * source.size and (block := response.read(1 << 16)):
                file.write(block)
                bar.update(len(block))
        if not _is_whole(partial, source):
            raise ValueError(f"got {partial.stat().st_size:,} bytes that are not the file this "
                             "project knows")
        # Renaming is all or nothing, so a killed process leaves no half file under the right name.
        # The process number in the name of the part keeps two downloads out of each other's way.
        os.replace(partial, target)
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__  # one line, never empty
        raise DataError(f"{name} could not be fetched ({reason}); download {source.url} "
                        f"({source.size / 1e6:,.1f} MB) by hand and save it as {target}, or name a "
                        "copy you have with --data PATH") from error
    finally:
        with contextlib.suppress(OSError):  # the part still exists only if the download failed
            partial.unlink()
    return target


# ---- dialogues: MSC and LongMemEval --------------------------------------------------------------

MSC_SPEAKERS = ("Speaker 1", "Speaker 2")  # the data's own names
MSC_CATEGORY = "memory retrieval"  # MemGPT calls the task "deep memory retrieval"

LONGMEMEVAL_SPEAKERS = ("user", "assistant")
# The data's question types, as our tables print them.
LONGMEMEVAL_CATEGORIES = {
    "single-session-user": "user said", "single-session-assistant": "assistant said",
    "single-session-preference": "preference", "multi-session": "multi-session",
    "knowledge-update": "knowledge update", "temporal-reasoning": "temporal"}
ABSTENTION = "abstention"  # a question about what was never said; its id ends in "_abs"


def _one_of(record: Mapping[str, Any], field: str, allowed: Collection[str], where: str) -> str:
    """Return `record[field]` if it is one of `allowed`; raise DataError otherwise."""
    value = get_field(record, field, (str,), where)
    if value not in allowed:
        raise broken(f"{where}, field {field!r}", reprlib.repr(value),
                     " or ".join(map(repr, allowed)))
    return value


def _read_msc(record: Mapping[str, Any], name: str, where: str) -> Dialogue:
    """One line of the file: the sessions before, the last one, and the question."""
    sessions = []
    for index, session in enumerate(get_field(record, "previous_dialogs", (list,), where)):
        place = f"{where}, previous_dialogs[{index}]"
        check(session, (dict,), place)
        sessions.append((session, get_field(session, "time_back", (str,), place), place))
    sessions.append((record, "today", where))
    turns = []
    for number, (session, timestamp, place) in enumerate(sessions, start=1):
        for index, entry in enumerate(get_field(session, "dialog", (list,), place)):
            spot = f"{place}, dialog[{index}]"
            check(entry, (dict,), spot)
            speaker = (_one_of(entry, "id", MSC_SPEAKERS, spot) if "id" in entry
                       else MSC_SPEAKERS[index % 2])
            text = check(entry.get("text"), (str,), f"{spot}, field 'text'")
            if text.strip():
                turns.append(Turn(f"D{number}:{index + 1}", speaker, text, timestamp))
    if not turns:
        raise broken(f"{where}, field 'dialog'", "no turn in any session", "a list of turns")
    exchange, place = get_field(record, "self_instruct", (dict,), where), f"{where}, self_instruct"
    question = Question(get_field(exchange, "B", (str,), place),
                        get_field(exchange, "A", (str,), place), MSC_CATEGORY, ())
    return Dialogue(f"msc-{name}", MSC_SPEAKERS, tuple(turns), (question,))


def load_msc(path: str | os.PathLike[str]) -> list[Dialogue]:
    """Read MSC-Self-Instruct, JSON lines: 500 dialogues of five sessions and one question each.

    Multi-Session Chat (Xu et al., ACL 2022) is pairs of people who met again after hours or days.
    MemGPT (Packer et al., arXiv 2310.08560; Apache-2.0) had a model write a sixth session: what one
    of them might ask ("B"), and what the other would reply ("A"). They are question and answer.
    The loader reads the five sessions before ("previous_dialogs", "dialog"). It leaves out personas
    and summaries, because those give answers away.

    Only the last session says who speaks. In the others the two take turns, speaker 1 first, as in
    the readers of ParlAI, where MSC comes from, and of Zep. A session's date is the data's
    "time_back" ("7 days 8 hours ago"), and "today" for the last. Turns without words are left out.
    The data does not mark evidence.

    Memory-R1 used MSC like LoCoMo: a bank for each of the two speakers and 30 memories from each,
    dated by "time_back". It read "previous_dialogs" of a file of its own.

    Raises DataError as `load_locomo` does.
    """
    return load_records(path, original("msc"), _read_msc)


def _date(value: Any, where: str) -> str:
    """A date whose order as text is its order in time."""
    form = r"[0-9]{4}/[0-9]{2}/[0-9]{2} \([A-Z][a-z]{2}\) [0-9]{2}:[0-9]{2}"
    if not re.fullmatch(form, check(value, (str,), where)):
        raise broken(where, reprlib.repr(value), "a date like '2023/05/20 (Sat) 02:21'")
    return value


def _read_longmemeval(record: Mapping[str, Any], name: str, where: str) -> Dialogue:
    """One element of the file."""
    sessions = get_field(record, "haystack_sessions", (list,), where)
    for field in ("haystack_dates", "haystack_session_ids"):
        count = len(get_field(record, field, (list,), where))
        if count != len(sessions):
            raise broken(f"{where}, field {field!r}", f"{count} entries",
                         f"{len(sessions)}, one for each of 'haystack_sessions'")
    dates = [_date(date, f"{where}, haystack_dates[{index}]")
             for index, date in enumerate(record["haystack_dates"])]
    turns, evidence = [], []
    # Sessions are numbered in the order of time. Their own ids could not name them, because in 13
    # haystacks of the s file one id comes twice.
    by_date = sorted(range(len(sessions)), key=dates.__getitem__)
    for number, session in enumerate(by_date, start=1):
        place = f"{where}, haystack_sessions[{session}]"
        for index, entry in enumerate(check(sessions[session], (list,), place)):
            spot = f"{place}[{index}]"
            check(entry, (dict,), spot)
            speaker = _one_of(entry, "role", LONGMEMEVAL_SPEAKERS, spot)
            text = check(entry.get("content"), (str,), f"{spot}, field 'content'")
            is_proof = "has_answer" in entry and get_field(entry, "has_answer", (bool,), spot)
            if text.strip():
                turns.append(Turn(f"D{number}:{index + 1}", speaker, text, dates[session]))
                if is_proof:
                    evidence.append(turns[-1].turn_id)
    if not turns:
        raise broken(f"{where}, field 'haystack_sessions'", "no turn in any session",
                     "a list of turns")
    category = LONGMEMEVAL_CATEGORIES[
        _one_of(record, "question_type", LONGMEMEVAL_CATEGORIES, where)]
    if name.endswith("_abs"):
        category, evidence = ABSTENTION, []  # what was never said stands nowhere
    question = Question(
        get_field(record, "question", (str,), where),
        get_answer(record, "answer", where), category, tuple(evidence),
        _date(get_field(record, "question_date", (str,), where), f"{where}, field 'question_date'"))
    return Dialogue(name, LONGMEMEVAL_SPEAKERS, tuple(turns), (question,))


def load_longmemeval(path: str | os.PathLike[str]) -> list[Dialogue]:
    """Read a LongMemEval file; one dialogue for each of the 500 questions, named by its id.

    LongMemEval (Wu et al., ICLR 2025, arXiv 2410.10813; MIT) hides what a user said to an assistant
    in a "haystack" of chats. The oracle file holds only the sessions with the answer, the s file
    some 48 sessions, the m file some 500. The three have one format.

    Sessions are read in the order of their dates. Empty ones (s and m have some) and turns without
    words are left out. Turns marked "has_answer" are the evidence. The question's date is its
    `timestamp`, because "how many days ago" cannot be answered without it. Numbers become text.

    30 of the 500 are abstention questions. They are asked like all others, in a category of their
    own and without evidence. Their answer is a sentence on why there is no answer, so only a judge
    can credit it, and exact match never will. The paper counts them in its 70 "user said", 56
    "assistant said", 30 "preference", 133 "multi-session", 78 "knowledge update", 133 "temporal".

    Memory-R1 used the oracle file, with one bank for both roles and 30 memories from it, each with
    its session's date. The date of the question was not in its prompt.

    Reading takes 2.4 times the file's size in memory, so 0.7 GB for s and 6.6 GB for m, if its text
    is ASCII. Letters beyond Latin-1 make a text two to four times as large.

    Raises DataError as `load_locomo` does.
    """
    return load_records(path, original("longmemeval"), _read_longmemeval, ("question_id",))


# ---- questions over passages: HotpotQA, 2WikiMultihopQA and MuSiQue ------------------------------


def _get_pairs(record: Mapping[str, Any], field: str, second: str, kind: type, where: str) -> list:
    """The [title, `kind`] pairs in `record[field]`, or in its lists "title" and `second`."""
    pairs = get_field(record, field, (list, dict), where)
    if type(pairs) is dict:  # zip_longest makes a missing half None, which `check` refuses
        columns = [get_field(pairs, name, (list,), f"{where}, {field}")
                   for name in ("title", second)]
        pairs = [list(pair) for pair in zip_longest(*columns)]
    for index, pair in enumerate(pairs):
        place = f"{where}, {field}[{index}]"
        if len(check(pair, (list,), place)) != 2:
            raise broken(place, f"{len(pair)} items", f"a title and {second}")
        check(pair[0], (str,), place)
        check(pair[1], (kind,), place)
    return pairs


def _read_open_question(record: Mapping[str, Any], name: str, where: str) -> OpenQuestion:
    """One element of the file."""
    text = get_field(record, "question", (str,), where)
    answer = get_answer(record, "answer", where)
    passages: list[tuple[str, str]] = []
    context = _get_pairs(record, "context", "sentences", list, where)
    for index, (title, sentences) in enumerate(context):
        # Published sentences begin with the space before them; those of one's own file may not.
        words = " ".join(check(sentence, (str,), f"{where}, context[{index}]")
                         for sentence in sentences).split()
        if title.strip() and words:
            passages.append((title, " ".join(words)))
    if not passages:
        raise broken(f"{where}, field 'context'", "no passage", "a title and sentences")
    titles = {title for title, _ in passages}
    facts = _get_pairs(record, "supporting_facts", "sent_id", int, where)
    evidence = dict.fromkeys(title for title, _ in facts if title in titles)
    return OpenQuestion(name, text, answer, tuple(dict.fromkeys(passages)), tuple(evidence))


def load_hotpotqa(path: str | os.PathLike[str]) -> list[OpenQuestion]:
    """Read a file in HotpotQA's format; questions and passages keep the file's order.

    HotpotQA (Yang et al., EMNLP 2018, CC BY-SA 4.0) is questions with about ten paragraphs of
    Wikipedia each, two of them needed. MEM1 trains on pairs of its training questions (and of
    Natural Questions), tests with up to 16, and searches all of Wikipedia. In this project
    `environments.open_tasks` searches the paragraphs of a task's own questions. `fetch` brings the
    development set.

    The loader also reads JSON lines with lists of titles and sentences, as the Hugging Face hub
    exports them:
    `datasets.load_dataset("hotpotqa/hotpot_qa", "distractor")["validation"].to_json(path)`.
    A paragraph becomes one passage, on one line; blank and repeated ones are left out. Evidence
    keeps titles, not sentence numbers, and only those of passages that the question has.

    Raises DataError if the file is missing, not JSON, or broken anywhere. The test set is refused
    (it has no answers), and so is the "fullwiki" set (some questions have no paragraphs).
    """
    return load_records(path, original("hotpotqa"), _read_open_question, ("_id", "id"))


def load_2wikimultihopqa(path: str | os.PathLike[str]) -> list[OpenQuestion]:
    """Read a file in 2WikiMultihopQA's form, which is HotpotQA's with "evidences" beside it.

    2WikiMultihopQA (Ho et al., COLING 2020) has ten paragraphs a question, two to four of them
    needed. Its authors publish train.json and dev.json in archives (github.com/Alab-NII/
    2wikimultihop), so `fetch` cannot bring them. The triples of "evidences" are not read.

    Raises DataError as `load_hotpotqa` does.
    """
    return load_records(path, "use train.json or dev.json of github.com/Alab-NII/2wikimultihop",
                        _read_open_question, ("_id", "id"))


def _read_musique(record: Mapping[str, Any], where: str) -> OpenQuestion | None:
    """One line of the file; None for a question that its paragraphs do not answer."""
    if "answerable" in record and not get_field(record, "answerable", (bool,), where):
        return None
    question_id = get_field(record, "id", (str,), where)
    text = get_field(record, "question", (str,), where)
    answer = get_answer(record, "answer", where)
    passages, evidence = [], []
    for index, paragraph in enumerate(get_field(record, "paragraphs", (list,), where)):
        place = f"{where}, paragraphs[{index}]"
        check(paragraph, (dict,), place)
        title = get_field(paragraph, "title", (str,), place)
        words = get_field(paragraph, "paragraph_text", (str,), place).split()
        passages.append((title, " ".join(words)))
        if get_field(paragraph, "is_supporting", (bool,), place):
            evidence.append(title)
    if not passages:
        raise broken(f"{where}, field 'paragraphs'", "no passage", "a title and its text")
    return OpenQuestion(question_id, text, answer, tuple(dict.fromkeys(passages)),
                        tuple(dict.fromkeys(evidence)))


def load_musique(path: str | os.PathLike[str]) -> list[OpenQuestion]:
    """Read a file in MuSiQue's form, JSON lines; questions and paragraphs keep the file's order.

    MuSiQue (Trivedi et al., TACL 2022, CC BY 4.0) joins two to four questions into one, over twenty
    paragraphs. Its authors publish an archive (github.com/StonyBrookNLP/musique), so `fetch` cannot
    bring it. The files musique_full hold each question a second time, under the same id, without
    a paragraph that it needs. These are left out, because exact match cannot pay for silence.

    Raises DataError as `load_hotpotqa` does. The test file is refused, because it has no answers.
    """
    remedy = "use musique_ans_v1.0_dev.jsonl of github.com/StonyBrookNLP/musique"
    elements: dict[str, str] = {}  # id of a question -> number of its element

    def read(record: Mapping[str, Any], number: str, where: str) -> OpenQuestion | None:
        """One question, whose id no other may have: it could stand in training and in test."""
        question = _read_musique(record, where)
        if question and question.question_id in elements:
            raise broken(f"{where}, field 'id'", reprlib.repr(question.question_id),
                         f"another id than element {elements[question.question_id]} has")
        if question:
            elements[question.question_id] = number
        return question

    questions = [question for question in load_records(path, remedy, read) if question]
    if not questions:
        raise DataError(f"{path}: field 'answerable': is false everywhere; {remedy}")
    return questions


# ---- what --data names ---------------------------------------------------------------------------

LOADERS = {"locomo": load_locomo, "msc": load_msc, "longmemeval": load_longmemeval,
           "hotpotqa": load_hotpotqa, "2wikimultihopqa": load_2wikimultihopqa,
           "musique": load_musique, "messages": load_messages, "message list": load_message_list,
           "sharegpt": load_sharegpt, "chatgpt": load_chatgpt, "whatsapp": load_whatsapp}
# Forms of one's own conversations; one's own file may have LoCoMo's form too.
OWN = ("messages", "message list", "sharegpt", "chatgpt", "whatsapp")
# What --data may name -> the form of its file.
NAMES = {name: name.split("-")[0] for name in SOURCES}
# The first of these fields that a file has tells its form. A field may also stand inside others'
# records, so the order matters: LongMemEval's turns have a "role", and so have ChatGPT's.
_MARKS = {"previous_dialogs": "msc", "question_date": "longmemeval",
          "haystack_sessions": "longmemeval", "mapping": "chatgpt", "paragraph_text": "musique",
          "evidences": "2wikimultihopqa", "supporting_facts": "hotpotqa", "sample_id": "locomo",
          "conversation": "locomo", "messages": "messages", "conversations": "sharegpt",
          "role": "message list"}
# What marks a file that cannot be read -> what it is, and what to do.
_FOREIGN = {
    r"\A\s*\Z": "is empty; name another file",
    r"\APK": "is a ZIP archive; unpack it, and name conversations.json (ChatGPT) or the .txt file "
              "(WhatsApp) that is in it",
    r"\APAR1": "is a Parquet file; save it as JSON lines first (datasets: .to_json)",
    r"\A%PDF": "is a PDF; save its text in a form that can be read",
    r"\A\s*<(!doctype|html|\?xml)": "is a web page; of ChatGPT's export name conversations.json",
    r"\x00|\A\ufffd": "is no text in UTF-8; save it as UTF-8",
    r'"chat_messages"\s*:': "is an export of Claude",
    r'"date_unixtime"\s*:': "is an export of Telegram",
    r'"sender_name"\s*:': "is an export of Facebook or Instagram",
    r'"guild"\s*:': "is an export of Discord",
}
READ = ("LoCoMo (the simplest: docs/own-data.md), MSC, LongMemEval, HotpotQA, MuSiQue, "
        "2WikiMultihopQA, lists of messages (OpenAI's, ShareGPT's), and exports of ChatGPT and "
        "WhatsApp")


def load(data: str) -> list[Dialogue] | list[OpenQuestion]:
    """All that `--data` names: a benchmark in NAMES, fetched on first use, or a file of its form.

    Raises DataError if it is neither, cannot be fetched, or is broken.
    """
    if data in NAMES:
        return LOADERS[NAMES[data]](fetch(data))
    if not Path(data).is_file():
        raise DataError(f"--data {data}: there is no such file; the worlds are {', '.join(KINDS)}, "
                        f"and with a number (world-1 to world-{N_WORLDS - 1}), the benchmarks "
                        f"{', '.join(NAMES)}; check the path or the name")
    return LOADERS[form_of(data)](data)


def has_observations(data: str) -> bool:
    """Whether the conversations that `--data` names state their facts, as LoCoMo's do.

    True for a file that cannot be read: `load` says what is wrong with it.
    """
    if data in NAMES:
        return data == "locomo"
    try:
        return any(turn.facts for dialogue in load(data) for turn in dialogue.turns)
    except DataError:
        return True


def form_of(data: str) -> str:
    """The form of what `--data` names, a key of LOADERS. Raises DataError for a file of no form."""
    if data in NAMES:
        return NAMES[data]
    # A megabyte is enough: if a long haystack stands before all else, its own name is a mark.
    try:
        with open(data, encoding="utf-8-sig", errors="replace") as file:
            start = file.read(1 << 20)
    except OSError:  # `load` says what is wrong with it
        return "locomo"
    if header(start.lstrip()):  # before all else, because people may write anything in a chat
        return "whatsapp"
    for pattern, what in _FOREIGN.items():
        if re.search(pattern, start, re.IGNORECASE):
            raise DataError(f"{data}: {what}. What can be read: {READ}")
    for mark, form in _MARKS.items():
        if re.search(rf'"{mark}"\s*:', start):
            return form
    raise DataError(f"{data}: is no JSON of a form that can be read, and no export of WhatsApp. "
                    f"What can be read: {READ}")
