"""Tests of tools/chat.py: what the chat shows, and that nothing typed can break it.

    python -m pytest tests/test_chat.py        (some seconds; -m slow starts it as a program)
"""

from __future__ import annotations

import builtins
import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_house import ROOT
from test_report import Scripted, newest
from test_run import another_run

from backend.files import release_locks
from backend.loading import load_tokenizer
from memory_bank import MemoryBank, hashed_words
from memr1 import MemoryR1
from tools import chat
from tools.watch import watch_main
from training import options
from training.options import EMBEDDED_MODEL
from world import RELATIONS


def typed_into(demo: Callable[[], None], lines: Sequence[str], monkeypatch: pytest.MonkeyPatch,
               capsys: pytest.CaptureFixture) -> str:
    """What a demo prints when these lines are typed."""
    waiting = list(lines)

    def next_line(prompt: str = "") -> str:
        if not waiting:
            raise EOFError
        return waiting.pop(0)

    monkeypatch.setattr(builtins, "input", next_line)
    demo()
    assert not waiting or "/quit" in lines, "the demo ended before its input"
    return capsys.readouterr().out


def interrupted(prompt: str = "") -> str:
    """A person, or a model, that is stopped by Ctrl-C."""
    raise KeyboardInterrupt


def always(response: str) -> Scripted:
    return Scripted(lambda prompt: response)


# ---- a chat with Memory-R1 -----------------------------------------------------------------------

def chat_with(lines: Sequence[str], monkeypatch, capsys, manager: Scripted,
              answerer: Scripted | None = None) -> tuple[str, MemoryR1]:
    """What a chat prints when these lines are typed, and its system afterwards."""
    system = MemoryR1(manager, answerer or Scripted(newest), hashed_words(), ["Anna"],
                      max_new_tokens=64)
    return typed_into(lambda: chat.talk(system), lines, monkeypatch, capsys), system


def test_a_chat_shows_every_operation(monkeypatch, capsys) -> None:
    responses = iter(['[{"event": "ADD", "text": " Anna has a dog named Rex"}]',
                      '[{"event": "UPDATE", "id": 0, "text": " Anna has dogs named Rex and Milo"}]',
                      '[{"event": "DELETE", "id": 7}]', '[{"event": "NOOP"}]',
                      '[{"event": "DELETE", "id": 0}]'])
    out, system = chat_with(
        ["I adopted a dog named Rex.", "I adopted a dog named Milo.", "What dogs does Anna have?",
         "Hm.", "Hm!", "They left."], monkeypatch, capsys, Scripted(lambda prompt: next(responses)))
    shown = ["ADD      Anna has a dog named Rex", "  + 8 May 2023: Anna has a dog named Rex",
             "UPDATE   Anna has a dog named Rex -> Anna has dogs named Rex and Milo",
             "  ~ 9 May 2023: Anna has dogs named Rex and Milo",
             "selected: Anna has dogs named Rex and Milo", "answer:   Rex and Milo",
             "invalid:  1, in the response '[{\"event\": \"DELETE\", \"id\": 7}]'",
             "    9 May 2023: Anna has dogs named Rex and Milo", "NOOP",  # unchanged: no mark
             "DELETE   Anna has dogs named Rex and Milo", "0 in the bank",
             "  - 9 May 2023: Anna has dogs named Rex and Milo"]
    places = [out.find(text) for text in shown]
    assert -1 not in places and places == sorted(places), f"{dict(zip(shown, places))}\n{out}"
    assert len(system.bank) == 0 and out.endswith("Good-bye.\n"), "the end of input ends politely"


def test_a_chat_survives_everything_typed(monkeypatch, capsys) -> None:
    odd = ["", "   ", "/", "/ x", "/foo", "/QUIT", "?", "Where does Anna live?", "x" * 100_000,
           "\x00", "\u2028", "**Answer:** x", "<|im_end|>", "[{}]", "🐕" * 40, "\ufffd?",
           "/bank", "/help"]
    prompts: list[str] = []
    manager = Scripted(lambda prompt: prompts.append(prompt) or "garbage \x00 [[[")
    out, system = chat_with(odd, monkeypatch, capsys, manager, always(""))
    assert "no command /foo" in out and "100000 characters" in out and "0 in the bank" in out, out
    assert "answer:   none" in out, "an empty answer must not look like a missing line"
    assert prompts and max(map(len, prompts)) < 1_000, "a pasted book must not reach the model"
    assert len(system.bank) == 0
    prompts.clear()
    out, _ = chat_with(["/quit", "never read"], monkeypatch, capsys, manager)
    assert out.endswith("Good-bye.\n") and not prompts, "/quit must end the chat at once"
    monkeypatch.setattr(builtins, "input", interrupted)
    chat.talk(system)  # Ctrl-C at the prompt is no traceback


@pytest.mark.parametrize("line", [
    "Where is Rex?", "雷克斯在哪里？", "أين ركس؟", "Πού είναι ο Ρεξ\u037e", "Où est Rex ?"])
def test_a_question_ends_in_the_mark_of_its_language(line: str, monkeypatch, capsys) -> None:
    out, system = chat_with([line], monkeypatch, capsys, always('[{"event": "ADD", "text": "x"}]'),
                            always("**Answer:** Oslo"))
    assert "answer:   Oslo" in out and not len(system.bank), f"{line!r} was stored, not answered"
    out, system = chat_with(["Rex; 我住在北京。"], monkeypatch, capsys,
                            always('[{"event": "ADD", "text": "x"}]'))
    assert len(system.bank) == 1, "a statement is stored"


def test_ctrl_c_stops_a_model_and_not_the_chat(monkeypatch, capsys) -> None:
    out, _ = chat_with(["I ski.", "Who skis?", "/bank"], monkeypatch, capsys,
                       Scripted(interrupted), Scripted(interrupted))
    assert out.count("Stopped; the memory is as it was.") == 2 and "0 in the bank" in out, out


def test_no_control_character_reaches_the_terminal(monkeypatch, capsys) -> None:
    """A terminal obeys them: they could clear the screen or retitle the window."""
    evil = "\x1b[2J\x1b]0;owned\x07\x9b31m\r\u202e"
    manager = always('[{"event": "ADD", "text": %s}]' % json.dumps(evil + "x"))
    out, _ = chat_with([f"/{evil}", evil, f"{evil}?", "/bank"], monkeypatch, capsys, manager,
                       always(f"**Memories:**\n- {evil}\n**Answer:** {evil}"))
    obeyed = set(out) & set("\x1b\x07\x9b\r\u202e")
    assert not obeyed, f"{obeyed} were printed as they are"


def is_said_in_the_world(line: str, name: str) -> bool:
    """Whether a line is a sentence about oneself, or a question, of a relation of the world."""
    forms = [form for r in RELATIONS.values() for form in (*r.said, r.question)]
    return any(re.fullmatch(re.escape(form).replace(r"\{v\}", ".+").replace(r"\{s\}", name), line)
               for form in forms)


def test_greeting_and_help_show_what_the_embedded_model_reads(monkeypatch, capsys) -> None:
    out, _ = chat_with(["/help"], monkeypatch, capsys, always("[]"))
    greeting, help_text = out.split("State facts about yourself")
    for text, least in ((greeting, 4), (help_text, 14)):
        examples = [line.strip() for line in text.splitlines() if line.startswith("  ")]
        assert len(examples) >= least, f"too few examples:\n{text}"
        for example in examples:
            assert is_said_in_the_world(example, "Anna"), (
                f"{example!r} is not what the embedded model learned; say it as world.py does")
    assert "synthetic world" in greeting, "what it can read must not stand in /help alone"
    assert all(command in help_text for command in ("/bank", "/help", "/quit"))


@pytest.fixture(scope="module")
def world_reader() -> SimpleNamespace:
    """What stands in for an embedded policy where only its tokenizer is asked."""
    return SimpleNamespace(tokenizer=load_tokenizer(EMBEDDED_MODEL))


def test_the_chat_marks_unknown_words_before_they_change_anything(
        world_reader, monkeypatch, capsys) -> None:
    """Its decision about such a line means nothing, and may cost a good memory."""
    manager = always('[{"event": "ADD", "text": "x"}]')
    manager.tokenizer = world_reader.tokenizer
    lines = ["I live in Oslo now.", "I was promoted.", "Who was promoted?"]
    out, _ = chat_with(lines, monkeypatch, capsys, manager)
    marks, added = ([place.start() for place in re.finditer(text, out)]
                    for text in ("unknown to the embedded model: promoted;", "ADD"))
    assert len(marks) == 2 and added[0] < marks[0] < added[1] < marks[1], (
        f"the second line and the question are marked, before the manager decides:\n{out}")
    system = MemoryR1(manager, manager, hashed_words(), ["Zoltan"], max_new_tokens=64)
    out = typed_into(lambda: chat.talk(system), [], monkeypatch, capsys)
    assert "unknown to the embedded model: Zoltan; --name" in out, "every question holds the name"
    out = typed_into(lambda: chat.talk(system, in_the_world=False), lines, monkeypatch, capsys)
    assert "unknown" not in out and "synthetic" not in out, "real models read words in pieces"


# ---- memories that stay --------------------------------------------------------------------------

def chat_in_a_bank(path: Path, lines: Sequence[str], monkeypatch, capsys, manager: Scripted,
                   is_embedded: bool = True, name: str = "Anna") -> str:
    """What `python memr1.py --bank FILE` prints when these lines are typed."""
    monkeypatch.setattr(chat, "load_or_stop", lambda model: manager)
    monkeypatch.setattr(chat, "is_embedded", lambda model: is_embedded)
    monkeypatch.setattr(chat, "prepare_terminal", lambda: None)
    return typed_into(lambda: chat.talk_main(["--bank", str(path), "--name", name]), lines,
                      monkeypatch, capsys)


def add_it(prompt: str) -> str:
    """A manager that adds every fact; it answers with all that it was shown."""
    if "New fact: " not in prompt:
        return "**Answer:** " + prompt.replace("\n", " ")
    return json.dumps([{"event": "ADD", "text": prompt.split("New fact: ")[1]}])


def test_memories_stay_for_the_next_chat(monkeypatch, capsys, tmp_path):
    path = tmp_path / "bank.json"
    chat_in_a_bank(path, ["I ski.", "I swim."], monkeypatch, capsys, Scripted(add_it))
    kept = MemoryBank.load(path, hashed_words())
    assert [(m.text, m.timestamp) for m in kept] == [
        ("Anna: I ski.", "8 May 2023"), ("Anna: I swim.", "9 May 2023")]
    out = chat_in_a_bank(path, ["I dive.", "Who skis?"], monkeypatch, capsys, Scripted(add_it),
                         name="Bo")
    assert "2 memories of earlier chats" in out and "10 May 2023: Bo: I dive." in out, (
        f"{out}: a day after the last that the bank names, or the newest fact looks older")
    answer = next(line for line in out.split("\n") if "answer:" in line)
    assert "Anna: I ski." in answer and "Bo: I dive." in answer, "of all who talked to this bank"
    assert len(MemoryBank.load(path, hashed_words())) == 3


def test_a_bank_is_saved_at_every_change(monkeypatch, capsys, tmp_path):
    path = tmp_path / "bank.json"
    sizes, saved = [], MemoryBank.save

    def save(bank, to):
        saved(bank, to)
        sizes.append(len(MemoryBank.load(path, hashed_words())))

    monkeypatch.setattr(MemoryBank, "save", save)
    chat_in_a_bank(path, ["I ski.", "Who?", "/bank", "I dive.", "/quit"], monkeypatch, capsys,
                   Scripted(add_it))
    assert sizes == [0, 1, 2], "what is not saved at once is lost when the window is closed"

    def full(bank, to):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(MemoryBank, "save", full)
    system = MemoryR1(Scripted(add_it), Scripted(add_it), hashed_words(), ["Anna"],
                      max_new_tokens=64)
    out = typed_into(lambda: chat.talk(system, path=path), ["I ski.", "I dive."], monkeypatch,
                     capsys)
    assert out.count("No space left") == 2 and out.endswith("Good-bye.\n"), "the chat goes on"


def test_ctrl_c_between_two_facts_loses_none(monkeypatch, capsys, tmp_path):
    path = tmp_path / "bank.json"
    responses = iter(['["Anna skis", "Anna dives"]', '[{"event": "ADD", "text": "Anna skis"}]'])
    model = Scripted(lambda prompt: next(responses, None) or interrupted())
    system = MemoryR1(model, model, hashed_words(), ["Anna"], "llm", max_new_tokens=64)
    out = typed_into(lambda: chat.talk(system, path=path), ["I ski and dive."], monkeypatch, capsys)
    assert "as it was" not in out, "the first of two facts is in the bank"
    assert [m.text for m in MemoryBank.load(path, hashed_words())] == ["Anna skis"]


@pytest.mark.parametrize("content", ["", "{", "[]", '{"memories": [], "next_id": "x"}', "\xff"])
def test_a_broken_bank_is_one_line_and_stays_as_it_is(content, monkeypatch, capsys, tmp_path):
    path = tmp_path / "bank.json"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(SystemExit) as stopped:
        chat_in_a_bank(path, [], monkeypatch, capsys, always("[]"))
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and error.count("\n") == 1 and str(path) in error, error
    assert path.read_text(encoding="latin-1") == content, "somebody's memories were overwritten"
    release_locks()


def test_two_chats_do_not_share_a_bank(monkeypatch, capsys, tmp_path):
    path = tmp_path / "bank.json"
    with another_run(tmp_path, ".bank.json.lock") as process, pytest.raises(SystemExit):
        chat_in_a_bank(path, [], monkeypatch, capsys, always("[]"))
    assert f"in use by process {process.pid} " in capsys.readouterr().err, (
        "each chat would overwrite what the other has saved")
    for name in ("", str(tmp_path), str(tmp_path / "no" / "bank.json")):
        with pytest.raises(SystemExit):
            chat_in_a_bank(name, [], monkeypatch, capsys, always("[]"))
        error = capsys.readouterr().err
        assert "--bank" in error and error.count("\n") == 1, error


@pytest.mark.parametrize("last, first", [
    ("31 December 9999", chat.FIRST_DAY), ("31 December 9998", date(9999, 1, 1)),
    ("31 June 2030", chat.FIRST_DAY), ("1 June 2030", date(2030, 6, 2)), ("soon", chat.FIRST_DAY)])
def test_the_first_day_follows_the_last_that_a_bank_names(last, first):
    bank = MemoryBank(hashed_words())
    bank.add("Emma has a dog", "Emma", last)
    assert chat.days_after(bank) == first, "an edited date must not end the chat"


def test_a_real_model_has_todays_date_and_its_own_language(monkeypatch, capsys, tmp_path):
    path, day = tmp_path / "bank.json", date.today()
    out = chat_in_a_bank(path, ["I ski.", "I dive.", "/help"], monkeypatch, capsys,
                         Scripted(add_it), is_embedded=False)
    dates = {m.timestamp for m in MemoryBank.load(path, hashed_words())}
    assert dates <= {chat.written(day), chat.written(date.today())}, (  # at midnight two
        f"{dates}: with a real model a fact is said today")
    assert "embedded" not in out and "/bank" in out, "the help speaks of another model"


# ---- a conversation that is read first -----------------------------------------------------------


CHAT = ("24/12/2023, 18:05 - Mara: We moved to Bergen.\n24/12/2023, 18:06 - Jonas: I ski.\n"
        "2/1/2024, 09:00 - Cleo: Hi \x1b[2J\n")


def read_first(tmp_path: Path, lines: Sequence[str], monkeypatch, capsys, manager: Scripted,
               *arguments: str, is_embedded: bool = True) -> str:
    """What `python memr1.py --data chat.txt` prints when these lines are typed."""
    (tmp_path / "chat.txt").write_text(CHAT, encoding="utf-8")
    monkeypatch.setattr(chat, "load_or_stop", lambda model: manager)
    monkeypatch.setattr(chat, "KeptPolicy", lambda policy: policy)
    monkeypatch.setattr(chat, "is_embedded", lambda model: is_embedded)
    monkeypatch.setattr(options, "is_embedded", lambda model: is_embedded)
    monkeypatch.setattr(chat, "prepare_terminal", lambda: None)
    return typed_into(lambda: chat.talk_main(["--data", str(tmp_path / "chat.txt"), *arguments]),
                      lines, monkeypatch, capsys)


def test_a_conversation_is_read_turn_by_turn_and_asked_about(monkeypatch, capsys, tmp_path):
    bank = tmp_path / "bank.json"
    out = read_first(tmp_path, ["Who skis?"], monkeypatch, capsys, Scripted(add_it), "--bank",
                     str(bank))
    shown = ["needs a real model", "D1:1 Mara, 24 December 2023: We moved to Bergen.",
             "ADD      Mara: We moved to", "  1 in the bank",
             "+ 24 December 2023: Mara: We moved to Bergen.", "D1:2 Jonas",
             "  2 in the bank", "+ 24 December 2023: Jonas: I ski.", "D2:1 Cleo, 2 January 2024",
             "3 of 3 turns read: 3 memories", "selected:"]
    places = [out.find(text) for text in shown]
    assert -1 not in places and places == sorted(places), f"{dict(zip(shown, places))}\n{out}"
    assert out.count("Mara: We moved to Bergen.") < 6 and "\x1b" not in out, (
        "of a long conversation only what changed is shown, and no control character")
    answer = next(line for line in out.split("\n") if "answer:" in line)
    assert all(f"Memories of {name}:" in answer for name in ("Mara", "Jonas", "Cleo")), (
        f"{answer}: all three have memories of their own")
    kept = MemoryBank.load(bank, hashed_words())
    assert [(m.speaker, m.timestamp) for m in kept] == [
        ("Mara", "24 December 2023"), ("Jonas", "24 December 2023"), ("Cleo", "2 January 2024")]


def test_a_real_model_extracts_the_facts_of_a_conversation(monkeypatch, capsys, tmp_path):
    responses = iter(['{"facts": ["Mara lives in Bergen", "Mara moved"]}', "Jonas skis.",
                      '{"facts": []}'])

    def respond(prompt: str) -> str:
        return next(responses) if prompt.startswith("Date: ") else add_it(prompt)

    out = read_first(tmp_path, [], monkeypatch, capsys, Scripted(respond), is_embedded=False)
    assert "+ 24 December 2023: Mara lives in Bergen" in out and "2 in the bank" in out, (
        f"two facts of the first turn, each decided by the manager:\n{out}")
    told = [out.find(text) for text in ("D1:2", "is not all JSON", "D2:1", "no fact", "3 of 3")]
    assert -1 not in told and told == sorted(told), f"lost facts must be told from none:\n{out}"


def test_ctrl_c_keeps_what_was_read(monkeypatch, capsys, tmp_path):
    bank = tmp_path / "bank.json"

    def stopped(prompt: str) -> str:
        return interrupted() if "Jonas" in prompt.split("New fact: ")[-1] else add_it(prompt)

    out = read_first(tmp_path, ["/bank"], monkeypatch, capsys, Scripted(stopped), "--bank",
                     str(bank))
    assert "--skip 1 goes on" in out and "1 of 3 turns read: 1 memories" in out, out
    assert "Good-bye" in out, "Ctrl-C ends the reading, and not the chat"
    assert len(MemoryBank.load(bank, hashed_words())) == 1, "what was read was lost"
    out = read_first(tmp_path, [], monkeypatch, capsys, Scripted(add_it), "--bank", str(bank),
                     "--skip", "1")
    assert "We moved" not in out and "3 of 3 turns read: 3 memories" in out, (
        "what is skipped was read again, or counted anew")


@pytest.mark.parametrize("arguments, piece", [
    (["--data", "absent.txt"], "there is no such file"),
    (["--data", "two.json"], "--conversation, one of us, them"),
    (["--data", "two.json", "--conversation", "you"], "one of us, them"),
    (["--data", "chat.txt", "--skip", "-1"], "must be at least 0"),
    (["--data", "chat.txt", "--facts", "guesses"], "--facts"),
    (["--data", "chat.txt", "--max-new-tokens", "0"], "must be at least 1"),
    (["--data", "chat.txt", "--skip", "99"], "--skip 99: the conversation has"),
    (["--data", "chat.txt", "--facts", "observations"], "holds no observations"),
    (["--data", "world-29"], "a chat reads files and benchmarks"),
    (["--skip", "3"], "only with --data"), (["--facts", "llm"], "only with --data")])
def test_a_conversation_that_cannot_be_read_is_one_line(arguments, piece, monkeypatch, capsys,
                                                         tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("chat.txt").write_text(CHAT, encoding="utf-8")
    Path("two.json").write_text(json.dumps([{"sample_id": name, "conversation": {
        "session_1_date_time": "8 May", "session_1": [{"speaker": "Ann", "text": "Hi"}]}}
        for name in ("us", "them")]))
    with pytest.raises(SystemExit) as stopped:
        chat.talk_main(arguments)
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and error.count("\n") == 1 and piece in error, error


def as_a_program(*arguments: str, typed: bytes = b"") -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *arguments], input=typed, capture_output=True, cwd=ROOT, timeout=300,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
             "PYTHONIOENCODING": "utf-8:strict"})  # as where the locale is not C


@pytest.mark.slow
def test_the_chat_as_a_program(model_folder: Path) -> None:
    done = as_a_program("memr1.py", "--model", str(model_folder), "--name", "Bo", typed=(
        b"I live in Oslo now.\nWhere does Bo live?\n\xff\xfe caf\xe9\n/bank\n/nonsense"))
    assert done.returncode == 0 and b"Traceback" not in done.stderr, done.stderr.decode()
    out = done.stdout.decode()
    assert out.count("Bo> ") == 6 and "in the bank" in out and "no command /nonsense" in out, out
    done = as_a_program("memr1.py", "--model", "no-such-folder")
    message = done.stderr.decode().strip().splitlines()
    assert done.returncode == 2 and done.stdout == b"", "a bad model folder is exit code 2"
    assert len(message) == 1 and "no-such-folder" in message[0], f"one clear line, not {message}"


class Waited(AssertionError):
    """Something did not come in time."""


class Terminal:
    """A program in a pseudo-terminal, as a person uses it."""

    def __init__(self, *arguments: str, **environment: str):
        import pty  # not on Windows
        self.screen, tail = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, *arguments], stdin=tail, stdout=tail, stderr=tail, cwd=ROOT,
            # Where pytest runs in the background Ctrl-C may be ignored, and children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            start_new_session=True, env={
                **{k: v for k, v in os.environ.items() if k != "NO_COLOR"}, "TERM": "xterm",
                "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **environment})
        os.close(tail)
        self.shown = b""

    def wait(self, text: str, seconds: float = 120) -> str:
        """What was shown up to this text, since the last wait."""
        end = time.monotonic() + seconds
        while text.encode() not in self.shown:
            if time.monotonic() > end:
                raise Waited(f"{text!r} never came; the screen: {self.shown!r}")
            if select.select([self.screen], [], [], 0.2)[0]:
                try:
                    self.shown += os.read(self.screen, 65536)
                except OSError:  # Linux's way to say that the program is gone
                    raise AssertionError(f"ended before {text!r}: {self.shown!r}") from None
        before, self.shown = self.shown.split(text.encode(), 1)
        return before.decode(errors="replace")

    def type(self, keys: bytes) -> None:
        os.write(self.screen, keys)

    def interrupt(self, text: str) -> None:
        """Ctrl-C, until this text comes: between a prompt and readline's waiting, one is lost."""
        for _ in range(30):
            self.process.send_signal(signal.SIGINT)
            with contextlib.suppress(Waited):
                self.wait(text, 4)
                return
        raise AssertionError(f"Ctrl-C did not bring {text!r}; the screen: {self.shown!r}")

    def close(self) -> int:
        """The exit code, at most ten seconds later."""
        try:
            with contextlib.suppress(OSError):
                while select.select([self.screen], [], [], 10)[0]:
                    self.shown += os.read(self.screen, 65536) or b""
            return self.process.wait(timeout=10)
        finally:
            if self.process.poll() is None:
                self.process.kill()
            os.close(self.screen)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="no pseudo-terminals on this platform")
def test_the_chat_in_a_terminal(model_folder: Path) -> None:
    """Everything typed: history, control characters, bytes that are no text, Ctrl-C."""
    terminal = Terminal("memr1.py", "--model", str(model_folder), "--name", "Bo")
    terminal.wait("Bo> ")
    terminal.type(b"/bank\n")
    terminal.wait("0 in the bank")
    terminal.wait("Bo> ")
    terminal.type(b"/\x1b[31m\xff\xfe\x00\x16\x1b\xc3(\n")
    assert "\x1b[31m" not in terminal.wait("Bo> ").split("\n", 1)[1], "a typed color was obeyed"
    terminal.type(b"/" + b"x" * 3000 + b"\n")
    terminal.wait("3001 characters")
    terminal.wait("Bo> ")
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  history is its work
        terminal.type(b"\x1b[A\x1b[A\x1b[A\n")  # three lines up: /bank
        terminal.wait("0 in the bank")
        terminal.wait("Bo> ")
    terminal.type(b"I live in Oslo now.\n")  # the model is random: what it writes is unusable
    terminal.wait("\x1b[1;31m  invalid")
    terminal.wait("Bo> ")
    terminal.interrupt("Good-bye.")
    assert terminal.close() == 0 and b"Traceback" not in terminal.shown


@pytest.mark.parametrize("main, argv, code, text", [
    (chat.talk_main, ["--help"], 0, "--model FOLDER"),
    (chat.talk_main, ["--name", " "], 2, "blank"),
    (chat.talk_main, ["--modle", "x"], 2, "unrecognized"),
    (watch_main, ["--help"], 0, "--objectives"),
    (watch_main, ["--objectives", "0"], 2, "least 1"),
    (watch_main, ["--task", "99999"], 2, "tasks"),
    (watch_main, ["--x"], 2, "--help lists")])
def test_the_options_of_the_demos(main, argv, code, text, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(argv)
    printed = capsys.readouterr()
    assert stopped.value.code == code and text in printed.out + printed.err, f"{argv}: {printed}"
    assert printed.err.count("\n") <= 1, f"an error is one line, not {printed.err!r}"
