"""Tests of tools/report.py and of what it reads: the page of a run, its cases, its timeline.

    python -m pytest tests/test_report.py        (some seconds; with a Chromium a few more)

The run folders are written by the project's own agents around scripted models, so the page and what
a run logs cannot drift apart unseen. Every text in them that comes from data or a model tries to
break out of the page. What needs a browser is skipped where no Chromium is found.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import math
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest
from browser import Browser, find_browser
from canned import Scripted, metrics_of, refused
from hypothesis import given, settings
from hypothesis import strategies as st
from test_house import ROOT

from backend.loading import load_tokenizer
from data import Dialogue, Fact, Question, Turn
from environments import Search, SearchTask
from grpo import GRPOOptions
from mem1 import Mem1Agent, turn_messages
from memory_bank import MemoryBank, hashed_words
from memr1 import AnswerAgent, AnswerTask, ManagerAgent, ManagerTask, Statement
from policy import Policy
from systems.own_past import HARNESSES, mem1_agent
from tools import report
from training import results, state
from training.options import EMBEDDED_MEM1, resolve
from training.results import case_places, describe, finish, operations_each, save, validate
from training.run import Run
from training.state import RATIO_ERRORS, VALIDATE_EVERY, reading_steps
from training.timeline import bank_changes, reading
from trees import Episode, Step

EMBED = hashed_words()
EVIL = '</script><script>document.title="owned"</script><img src=x onerror="document.title=2">&amp;'


def newest(prompt: str) -> str:
    """An answer agent: it selects the last memory and answers with all behind "named"."""
    memories = re.findall(r"^- .+?: (.+)$", prompt, re.M)
    if not memories:
        return "**Memories:**\n- none\n**Answer:** nothing"
    return f"**Memories:**\n- {memories[-1]}\n**Answer:** {memories[-1].split('named ')[-1]}"


def bank_of(*texts: str) -> MemoryBank:
    bank = MemoryBank(EMBED)
    bank.add_many((text, "Anna", f"{day} May 2023") for day, text in enumerate(texts, start=1))
    return bank


def manager_folder(folder: Path, evil: str = EVIL) -> Path:
    """A manager's run over three validations: it overwrites, then merges, then writes rubbish."""
    question = Question(f"What dogs {evil}?", f"Rex and Milo {evil}", 1, ("D1:2",))
    fact = Statement(f"Anna: I have Milo {evil}.", "Anna", "2 May 2023")
    tasks = [ManagerTask(bank_of(f"Anna has a dog named Rex {evil}"), fact, question, ("Anna",),
                         merged="x")] * 2
    update = '[{"event": "UPDATE", "id": 0, "text": %s}]'
    responses = [update % json.dumps(f"Anna has a dog named Milo {evil}"),
                 update % json.dumps(f"Anna has dogs named Rex and Milo {evil}"), f"oh {evil}"]
    agent = ManagerAgent(Scripted(newest), max_new_tokens=64)
    turns = tuple(Turn(f"D1:{n}", "Anna", f"I have a dog named {name} {evil}", f"{n} May 2023")
                  for n, name in enumerate(("Rex", "Milo"), start=1))
    dialogue = Dialogue(f"talk {evil}", ("Anna",), turns, (question,))
    return written_run(folder, "manager", agent, tasks, responses, [dialogue], evil)


def answer_folder(folder: Path, evil: str = EVIL) -> Path:
    """An answer agent's run: it finds one of two equal memories, then both, then none."""
    texts = [f"Anna has a dog named Rex {evil}", "Bob skied", f"Anna has a dog named Rex {evil}"]
    tasks = [AnswerTask(bank_of(*texts), Question("What dog?", f"Rex {evil}", 4, ()), ("Anna",))]
    wrote = [f"**Memories:**\n- {texts[0]}\n- made up {evil}\n**Answer:** Rex {evil}",
             f"**Memories:**\n- Bob skied\n**Answer:** {evil}", f"{evil}"]
    return written_run(folder, "answer", AnswerAgent(max_new_tokens=64), tasks, wrote, [], evil)


def mem1_folder(folder: Path, evil: str = EVIL) -> Path:
    """MEM1's run: it asks twice and answers, then writes rubbish."""
    task = SearchTask(("Where does Anna live?", "Where does Bob live?"), ("Oslo", f"Rome {evil}"),
                      (4, 4), (f"Anna lives in Oslo {evil}", "Bob lives in Rome"), EMBED)

    def good(prompt: str) -> str:
        if "Turns left: 6" in prompt:
            return f"<IS> none yet {evil}</IS><query> Where does Anna live?</query>"
        if "Turns left: 5" in prompt:
            return f"<IS> Oslo {evil}</IS><query> Where does Bob {evil} live?</query>"
        return "<IS> Oslo, Rome</IS><answer> Oslo; Rome</answer>"

    agent = Mem1Agent(max_new_tokens=160)
    return written_run(folder, "mem1", agent, [task], [good, f"rubbish {evil}", good], [], evil)


def written_run(folder: Path, agent_name: str, agent, tasks: list, responses: Sequence,
                dialogues: list, evil: str) -> Path:
    """Three validations, one response of the policy each, and all that `finish` writes."""
    options = resolve(GRPOOptions(agent=agent_name, model=f"no/such{evil}", data="world", steps=16,
                                  out=str(folder), harness="truncation"), "grpo")
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(vars(options)), encoding="utf-8")
    run = Run(options, "grpo", Scripted(str), Scripted(lambda prompt: "[]"), agent, [], tasks, [],
              dialogues, EMBED, folder)
    rows, scores = [], {}
    for step, response in zip((0, 8, 16), responses):
        run.policy.respond = response if callable(response) else lambda prompt: response
        scores[step] = validate(run, step)
        if agent_name == "manager":
            if step == 0:  # else there would be nothing to overwrite, and all steps would be alike
                run.policy.respond = lambda prompt: (
                    '[{"event": "ADD", "text": %s}]' % json.dumps("named " + evil))
            results.save_dialogue(run, step)
        rows.append({"step": step + 1, "reward": scores[step], "kl": 0.01, "entropy": 1.0,
                     "lr": 1e-3, "seconds": 1.0, "add": float("nan")})
        run.log_step(rows[-1])
    score = {"exact_match": 0.25, "f1": 0.5, "bleu1": 0.5, "count": 4, "reward": 0.25}
    by = {**score, "by_category": {1: score, f"type {evil}": score}}
    with contextlib.redirect_stdout(io.StringIO()), pytest.MonkeyPatch.context() as patched:
        patched.setattr(results, "draw_curve", lambda *picture: None)  # half a second each
        save(run.policy, folder / "checkpoint")
        finish(run, (by, []), ({**by, "exact_match": 0.75}, []), rows, scores, None)
    return folder


FOLDERS = {"manager": manager_folder, "answer": answer_folder, "mem1": mem1_folder}


@pytest.fixture(scope="module")
def evil(tmp_path_factory) -> dict[str, Path]:
    """A run folder of each agent, full of texts that try to break out of the page."""
    folder = tmp_path_factory.mktemp("evil")
    return {name: make(folder / name) for name, make in FOLDERS.items()}


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> dict[str, Path]:
    """The same with harmless texts."""
    folder = tmp_path_factory.mktemp("plain")
    return {name: make(folder / name, "!") for name, make in FOLDERS.items()}


class Page(HTMLParser):
    """What a browser would make of a page: its texts, elements and attributes."""

    VOID = {"meta", "input", "br", "img", "link", "base"}

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"elements that are never closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data):
        (self.scripts if self.open[-1:] == ["script"] else
         self.texts if "style" not in self.open else []).append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())

    def having(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for _, attributes in self.elements if name in attributes]


def page_of(*folders: Path) -> Page:
    return Page(report.render([report.read_run(folder) for folder in folders]))


# ---- the page ------------------------------------------------------------------------------------

@pytest.mark.parametrize("agent", FOLDERS)
def test_texts_are_shown_and_never_run(agent, evil):
    page = page_of(evil[agent])
    assert page.text.count(EVIL) > 5, "texts of data and models are not shown as they are"
    assert len(page.scripts) == 1, "a text opened a script of its own: autoescape is off somewhere"
    assert not any(tag == "img" for tag, _ in page.elements), "a text became an element"
    handlers = [name for _, a in page.elements for name in a if name.startswith("on")]
    assert not handlers, f"{handlers}: a text became an attribute"


@pytest.mark.parametrize("agent", FOLDERS)
def test_the_page_needs_nothing_but_itself(agent, evil):
    page = page_of(evil[agent])
    for name in ("src", "href", "action", "poster", "srcset"):
        outside = [a[name] for a in page.having(name) if not (a[name] or "").startswith("#")]
        assert not outside, f"{name}={outside}: the page must open from disk without a network"
    [policy] = [a["content"] for a in page.having("http-equiv")]
    digest = base64.b64encode(hashlib.sha256(page.scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy and "default-src 'none'" in policy, (
        "the browser would refuse the page's own script, or run others")


def test_controls_have_labels_and_ids_are_unique(evil):
    page = page_of(*evil.values())
    ids = [a["id"] for a in page.having("id")]
    assert len(ids) == len(set(ids)), "two elements share an id"
    labelled = {a.get("for") for tag, a in page.elements if tag == "label"}
    sliders = [a for tag, a in page.elements if tag == "input" and a["type"] == "range"]
    assert len(sliders) == 4 and all(slider["id"] in labelled for slider in sliders)
    assert [a for tag, a in page.elements if tag == "html"] == [{"lang": "en"}]
    for tag, a in page.elements:
        assert tag != "svg" or a.get("aria-hidden") or a.get("aria-label"), "a chart without words"


def luminance(color: str) -> float:
    """WCAG 2's relative luminance of #rrggbb."""
    parts = [int(color[i:i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_contrast_in_both_schemes():
    text = Path(report.__file__).with_name("report_template.html").read_text(encoding="utf-8")
    schemes = [dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", part)) for part in
               text.split("prefers-color-scheme: dark")[:2]]
    for scheme in schemes:
        assert len(scheme) >= 14, "a scheme lacks colors"
        for front, back in [(front, back) for front in (
                "text", "quiet", "good", "bad", "accent", *(f"c{n}" for n in range(report.COLORS)))
                for back in ("back", "panel")] + [("text", "mark"), ("good", "mark"),
                                                  ("bad", "mark"), ("quiet", "mark")]:
            low, high = sorted((luminance(scheme[front]), luminance(scheme[back])))
            assert (high + 0.05) / (low + 0.05) >= 4.5, f"{front} on {back}: too little contrast"


def test_several_runs_on_one_page(plain):
    folders = [plain["manager"], plain["answer"]]
    page = page_of(*folders)
    names = [folder.as_posix() for folder in folders]
    assert all(page.text.count(name) >= 4 for name in names), "legend, tables, heading of each run"
    lines = [a["class"] for a in page.having("class") if (a["class"] or "").startswith("line c")]
    assert lines.count("line c0") == lines.count("line c1") >= 4, "both runs in every chart"
    marked = page.text.count("what differs is marked")
    assert marked == 1 and any(a["class"] == "differs" for a in page.having("class"))


def test_the_command_writes_the_page(evil, tmp_path, capsys):
    folder = shutil.copytree(evil["manager"], tmp_path / "run")
    report.main([str(folder)])
    assert str(folder / "report.html") in capsys.readouterr().out
    report.main([str(folder), "--out", str(tmp_path / "other.html")])
    assert (folder / "report.html").read_bytes() == (tmp_path / "other.html").read_bytes()
    page = (folder / "report.html").read_bytes()
    report.main([str(folder)])
    assert not (folder / "report.1.html").exists(), "the same page needs no second copy"
    (folder / "report.html").write_text("somebody worked in it")
    report.main([str(folder)])
    assert (folder / "report.1.html").read_text() == "somebody worked in it"
    assert (folder / "report.html").read_bytes() == page
    assert "no.such" in refused(report.__name__, tmp_path / "no.such")
    assert "config.json" in refused(report.__name__, tmp_path), "a folder that is no run's"
    missing = tmp_path / "missing" / "x.html"
    for out in (missing, tmp_path):  # a folder cannot become a page either
        assert "--out" in refused(report.__name__, folder, "--out", out)
    assert not list(tmp_path.glob("**/.*")), "half a page was left behind"
    assert "--help" in refused(report.__name__)


@pytest.mark.parametrize("name", ["config.json", "metrics.csv", "summary.json", "cases.jsonl",
                                  "dialogue.jsonl"])
@pytest.mark.parametrize("spoil", [
    lambda text: text[:-40], lambda text: "[]", lambda text: "{}", lambda text: '"x"',
    lambda text: "null", lambda text: "\ufeff\x00", lambda text: text.replace("e", "x"),
    lambda text: "[" * 100_000])
def test_broken_files_are_named(name, spoil, evil, tmp_path):
    folder = shutil.copytree(evil["manager"], tmp_path / "run")
    path = folder / name
    path.write_text(spoil(path.read_text(encoding="utf-8")), encoding="utf-8")
    with contextlib.suppress(SystemExit):  # some are still a run's files, only shorter
        report.main([str(folder)])
        return
    assert str(path) in refused(report.__name__, folder), "the line does not name the broken file"


@settings(max_examples=12, derandomize=True)
@given(st.data())
def test_a_missing_or_strange_field_is_no_traceback(evil, tmp_path_factory, data):
    """Anywhere in any of the files: the page can do without, or one line refuses it."""
    agent, name = data.draw(st.sampled_from([
        *((agent, name) for agent in FOLDERS for name in ("summary.json", "cases.jsonl")),
        ("manager", "dialogue.jsonl"), ("manager", "config.json")]))
    lines = [json.loads(line) for line in (evil[agent] / name).read_text().splitlines()
             ] if name.endswith(".jsonl") else [json.loads((evil[agent] / name).read_text())]
    place = lines
    while isinstance(place, (dict, list)) and place:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(place[key], (dict, list)) or data.draw(st.integers(0, 3)) == 0:
            strange = data.draw(st.sampled_from(["remove", None, 7, "x", [], {}, -1.5]))
            if strange == "remove":
                del place[key]
            else:
                place[key] = strange
            break
        place = place[key]
    folder = shutil.copytree(evil[agent], tmp_path_factory.mktemp("strange") / "run")
    (folder / name).write_text("\n".join(json.dumps(line) for line in lines))
    err = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(err):
        try:
            report.main([str(folder)])
        except SystemExit as stopped:
            assert stopped.code == 2 and len(err.getvalue().splitlines()) == 1, err.getvalue()


def test_a_line_that_is_being_written_is_left_out(evil, tmp_path):
    folder = shutil.copytree(evil["manager"], tmp_path / "run")
    wanted, path = page_of(folder).text, folder / "metrics.csv"
    path.write_text(path.read_text(encoding="utf-8") + "3,0.5", encoding="utf-8")
    assert page_of(folder).text == wanted, "a killed run ends in half a line, and --resume cuts it"


def test_a_folder_of_a_comparison_is_called_what_it_is(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(
        {"turns": None, "memories": 30, "max_new_tokens": 48, "out": None}))
    (tmp_path / "summary.json").write_text('{"systems": {}}')
    said = refused(report.__name__, tmp_path)
    assert "comparison" in said and "delete" not in said, f"{said}: the results are sound"


def test_a_run_that_is_not_finished(evil, tmp_path):
    folder = shutil.copytree(evil["manager"], tmp_path / "run")
    for name in ("summary.json", "dialogue.jsonl"):
        (folder / name).unlink()
    page = page_of(folder)
    assert "not finished" in page.text and "validation" in page.text
    for name in ("cases.jsonl", "metrics.csv"):  # before the first step
        (folder / name).unlink()
    assert "No step was logged yet." in page_of(folder).text


def test_half_a_character_can_be_written(plain, tmp_path):
    folder = shutil.copytree(plain["manager"], tmp_path / "run")
    path = folder / "cases.jsonl"
    path.write_text(path.read_text().replace("Rex", "\\ud83d"), encoding="utf-8")
    report.main([str(folder)])
    assert "&#55357;" in (folder / "report.html").read_text(encoding="utf-8")


# ---- the cases -----------------------------------------------------------------------------------

def cases_of(folder: Path) -> list[dict]:
    return report.read_run(folder).cases


def test_a_managers_case_names_entries_not_numbers(plain):
    first, *_ = cases_of(plain["manager"])
    overwrites, merges, rubbish = first["steps"]
    assert overwrites["memories"] == ["Anna has a dog named Rex !"]
    assert overwrites["fact"] == "Anna: I have Milo !."
    assert overwrites["operations"] == [{"event": "UPDATE", "before": "Anna has a dog named Rex !",
                                         "after": "Anna has a dog named Milo !"}]
    assert (overwrites["reward"], merges["reward"]) == (0.0, 1.0), "Rex and Milo is the gold"
    assert rubbish["operations"] == [] and rubbish["invalid"] == 1
    empty = report.manager_case({"prompt": "Memories:\n- none\nNew fact: A: b", "response":
                                 '[{"event": "NOOP"}]', "answer_response": ""})
    assert empty["memories"] == [] and empty["operations"][0]["event"] == "NOOP"


def test_selected_candidates_are_marked_at_each_step(plain):
    [case] = cases_of(plain["answer"])
    assert [entry["picked"] for entry in case["steps"][0]["candidates"]] == [[0], [1], [0]], (
        "equal memories are both meant; what is selected at one step is not at another")
    assert [entry["date"] for entry in case["steps"][0]["candidates"]] == [
        "1 May 2023", "2 May 2023", "3 May 2023"]
    assert [step["invented"] for step in case["steps"]] == [["made up !"], [], []]
    page = page_of(plain["answer"])
    assert [a["data-picked"] for a in page.having("data-picked")] == ["0", "1", "0"]


def test_what_mem1_dropped(plain):
    [case] = cases_of(plain["mem1"])
    good, rubbish, _ = case["steps"]
    assert [(t["action"], t["note"]) for t in good["turns"]] == [
        ("query", "none yet !"), ("query", "Oslo !"), ("answer", "Oslo, Rome")]
    assert [[n for n, _ in turn["dropped"]] for turn in good["turns"]] == [[], [], [1]], (
        "in turn 3 only turn 2 is remembered")
    assert [t["action"] for t in rubbish["turns"]] == [""] and rubbish["reward"] == 0


class TokenizerOnly(Policy):
    """A policy that only reads."""

    positions = math.inf

    def __init__(self):
        self.tokenizer = load_tokenizer(EMBEDDED_MEM1)


@pytest.mark.parametrize("harness", HARNESSES)
def test_tokens_had_all_turns_been_kept(harness):
    """Against prompts that really hold every turn."""
    if not (EMBEDDED_MEM1 / "config.json").exists():
        pytest.skip("the embedded model tiny/mem1/ is not there; `python -m making.mem1` makes it")
    policy, environment = TokenizerOnly(), Search()
    passages = tuple(f"Anna has a dog named {name} and lives in Oslo" for name in "ABCDEFGHIJKL")
    task = SearchTask(("Where does Anna live?",) * 3, ("Oslo",) * 3, (4,) * 3, passages, EMBED)
    agent = mem1_agent(harness, EMBED, True, max_new_tokens=160)
    trajectory = agent.begin(task)
    tag, wanted, written = ("IS" if harness == "mem1" else "think"), [], []
    while not trajectory.done:
        prompt = agent.prompt(policy, trajectory).ids
        everything = policy.encode(turn_messages(
            trajectory.text, trajectory.past, trajectory.turns_left, agent.kind,
            environment.instructions, environment.answers))
        number = len(trajectory.past)
        action = "query" if number < 6 else "answer"
        text = f"<{tag}> Oslo{', Oslo' * number}</{tag}><{action}> where {number}?</{action}>"
        ids = policy.tokenizer.encode(text)
        wanted.append(len(everything) + len(ids))
        written.append(text)
        trajectory.advance(Step(prompt, ids, True), text, agent.kind)
    view = report.mem1_case({"turns": trajectory.turns, "response": "\n".join(written)})
    found = [turn["all_tokens"] for turn in view["turns"]]
    assert len(found) == 7 and max(abs(a - b) for a, b in zip(found, wanted)) <= 2, (found, wanted)
    dropped = [n for turn in view["turns"] for n, _ in turn["dropped"]]
    if harness != "a_mem":  # where a turn may come back
        assert dropped == list(range(1, 1 + len(dropped))), "each is dropped once, oldest first"
    assert len(dropped) == {"mem1": 5, "full_context": 0}.get(harness, len(dropped))
    assert harness != "truncation" or 0 < len(dropped) <= 5


def test_the_same_cases_of_every_kind_at_every_step():
    episodes = [Episode([], 0.0, {"category": n % 4, **({"merged": False} if n % 8 == 0 else {})})
                for n in range(160)]
    places = case_places(episodes)
    kinds = [(episodes[p].log["category"], "merged" in episodes[p].log) for p in places]
    assert len(places) == 12 == len(set(places))
    assert set(kinds) >= {(0, True), (0, False), (3, False)}, "a kind of question is not followed"
    for n, episode in enumerate(episodes):
        episode.reward = float(n % 3 == 0)
    assert case_places(episodes) == places, "which cases are shown must not depend on how they went"
    assert case_places([]) == [] and case_places(episodes[:3]) == [0, 1, 2]
    in_blocks = sorted(episodes, key=lambda e: (e.log["category"], "merged" not in e.log))
    followed = Counter((in_blocks[place].log["category"], "merged" in in_blocks[place].log)
                       for place in case_places(in_blocks))
    assert sorted(followed.values()) == [2, 2, 2, 3, 3], f"as many of each kind: {followed}"


# ---- the timeline --------------------------------------------------------------------------------

def test_a_timeline_tells_what_was_lost():
    """A manager that adds twice and then deletes: right after its turn, wrong in the end."""
    turns = tuple(Turn(f"D1:{n}", "Anna", text, f"{n} May 2023") for n, text in enumerate(
        ("I have a dog named Rex", "I have a cat named Tom", "Hm."), start=1))
    questions = (Question("What dog?", "Rex", 4, ("D1:1",)),
                 Question("What cat?", "Tom", 4, ("D1:1", "D1:2")),
                 Question("Who?", "Zoe", 4, ("D9:9",)), Question("Why?", "Zoe", 4, ()))
    operations = iter(['[{"event": "ADD", "text": "a dog named Rex"}]',
                       '[{"event": "UPDATE", "id": 0, "text": "a cat named Tom"}]',
                       '[{"event": "DELETE", "id": 0}, {"event": "DELETE", "id": 0}]'])
    found = reading(Scripted(lambda prompt: next(operations)), Scripted(newest),
                    Dialogue("talk", ("Anna",), turns, questions), EMBED, "turns", True, 30, 64)
    happened = [turn["facts"][0]["changes"] for turn in found["turns"]]
    assert happened == [
        [{"event": "ADD", "before": "", "after": "a dog named Rex"}],
        [{"event": "UPDATE", "before": "a dog named Rex", "after": "a cat named Tom"}],
        [{"event": "DELETE", "before": "a cat named Tom", "after": ""}]]
    assert [turn["size"] for turn in found["turns"]] == [1, 1, 0] and found["bank"] == []
    assert found["turns"][2]["facts"][0]["invalid"] == 1
    asked = [question for turn in found["turns"] for question in turn["questions"]]
    assert [q["question"] for q in asked] == ["What dog?", "What cat?"], (
        "a question belongs to the last turn of its evidence; without evidence to none")
    for question in asked:
        rights = [question[when]["right"] for when in ("after", "end")]
        assert rights == [True, False], f"{question}: two banks, two answers"
    assert {turn["mistakes"] for turn in found["turns"]} == {None}, (
        "nobody knows the right memory of these turns, so nothing may be called a mistake")


def readings_of_a_world() -> list[dict]:
    """Two readings of one short dialogue: the car overwrites the city, and then it does not."""
    turns = (Turn("D1:1", "Anna", "I live in Oslo.", "1 May 2023", (),
                  Fact("Anna", "lives", "Oslo", "add")),
             Turn("D1:2", "Anna", "I drive a Honda.", "2 May 2023", (),
                  Fact("Anna", "drives", "Honda", "add")))
    questions = (Question("Where does Anna live?", "Oslo", 4, ("D1:1",)),
                 Question("What car does Anna drive?", "a Honda", 4, ("D1:2",)))
    dialogue = Dialogue("talk", ("Anna",), turns, questions)

    def answer(prompt: str) -> str:
        knows = "Where" in prompt and "lives in Oslo" in prompt  # of the car it knows nothing
        return f"**Memories:**\n- none\n**Answer:** {'Oslo' if knows else 'unknown'}"

    readings = []
    for event in ('"UPDATE", "id": 0', '"ADD"'):
        operations = iter(['[{"event": "ADD", "text": "Anna lives in Oslo"}]',
                           f'[{{"event": {event}, "text": "Anna drives a Honda"}}]'])
        readings.append(reading(Scripted(lambda prompt, rest=operations: next(rest)),
                                Scripted(answer), dialogue, EMBED, "turns", True, 30, 64))
    return readings


def test_the_page_counts_the_mistakes_and_what_they_cost(plain, tmp_path):
    folder = shutil.copytree(plain["manager"], tmp_path / "run")
    (folder / "dialogue.jsonl").write_text("".join(
        json.dumps({"step": step, "name": "talk", **read}) + "\n"
        for step, read in zip((0, 8), readings_of_a_world())))
    dialogue = report.read_run(folder).dialogue
    overwritten = [column["mistakes"]["overwritten"] for column in dialogue["columns"]]
    assert overwritten == [(1, 1), (0, 0)], f"{overwritten}: (how many, answers that they cost)"
    assert [column["n_other"] for column in dialogue["columns"]] == [1, 1], (
        "the answer about the car is wrong though its memory is right")
    assert [row["eventless"] for row in dialogue["rows"]] == [False, False], "the readings differ"
    text = page_of(folder).text
    assert ("Before training 1 mistakes of the memory cost 1 answers; after training 0 cost 0"
            ) in text
    assert "overwritten though unrelated : Anna lives in Oslo" in text.replace(
        "unrelated:", "unrelated :")
    assert "It cost 1 answer: Where does Anna live?" in text


def test_one_sentence_says_what_happened(plain, tmp_path):
    folder = shutil.copytree(plain["manager"], tmp_path / "run")
    page = page_of(folder)
    assert "Of 4 held-out questions, 1 were answered right" in page.text
    assert page.text.index("Of 4 held-out") < page.text.index("One dialogue") < page.text.index(
        "Learning curves"), "the story comes first"
    (folder / "summary.json").unlink()
    assert "at step 16 of 16 the validation score is" in page_of(folder).text


def test_a_run_keeps_four_readings_at_most():
    assert reading_steps(20) == {0, 8, 16, 20} and reading_steps(4) == {0, 4}
    for n_steps in range(1, 300):
        steps = reading_steps(n_steps)
        assert len(steps) <= 4 and {0, n_steps} <= steps, f"{steps}: a reading takes seconds"
        assert all(step % VALIDATE_EVERY == 0 or step == n_steps for step in steps), (
            f"{steps}: nothing is validated there")


@pytest.mark.parametrize("options, expected", [
    ({"agent": "manager", "limit": None}, [0, 8, 16, 20]),
    ({"agent": "manager", "limit": 8}, []), ({"agent": "answer", "limit": None}, [])])
def test_the_dialogue_is_read_at_these_steps_and_no_other(options, expected, monkeypatch):
    """A quick look reads no whole dialogue, and an answer agent has none to read."""
    read_at: list[int] = []
    monkeypatch.setattr(state, "validate", lambda run, step: step / 100)
    monkeypatch.setattr(state, "save_dialogue", lambda run, step: read_at.append(step))
    run = SimpleNamespace(options=SimpleNamespace(steps=20, **options), test_dialogues=["one"],
                          validation=["a task"])
    training = SimpleNamespace(run=run, scores={})
    for step in (0, 4, 8, 12, 16, 20):
        state.TrainingState._validate(training, step)
    assert read_at == expected, f"{options}: the dialogue was read at {read_at}"
    assert list(training.scores) == [0, 4, 8, 12, 16, 20], "every validation has a score"


@settings(max_examples=60, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from(["add", "update", "delete"]), st.integers(0, 9)),
                max_size=12))
def test_changes_lead_from_one_bank_to_the_other(edits):
    before = bank_of("a", "b", "c")
    after = before.copy()
    for kind, n in edits:
        numbers = [memory.id for memory in after]
        if kind == "add":
            after.add(f"new {n}", "Anna", "today")
        elif numbers and kind == "update":
            after.update(numbers[n % len(numbers)], f"changed {n}", "today")
        elif numbers:
            after.delete(numbers[n % len(numbers)])
    state = {memory.id: memory for memory in before}
    changes = bank_changes(before, after)
    for event, old, new in changes:
        assert event == ("" if old == new else "ADD" if old is None else "DELETE" if new is None
                         else "UPDATE"), f"{old} became {new}: that is no {event!r}"
        if old is not None:
            assert state.pop(old.id) == old
        if new is not None:
            state[new.id] = new
    assert list(state.values()) == list(after), "the changes do not lead to the other bank"
    ids = [(new or old).id for _, old, new in changes]
    assert ids == sorted(set(ids)), "every memory is named once, in the order of ids"


# ---- charts --------------------------------------------------------------------------------------

@settings(max_examples=200, derandomize=True)
@given(st.floats(-1e9, 1e9), st.floats(0, 1e9))
def test_ticks_surround_what_is_drawn(low, size):
    marks = report.ticks(low, low + size)
    slack = 1e-5 * max(abs(low), size, 1e-9)
    assert marks[0] <= low + slack and marks[-1] >= low + size - slack, marks
    assert marks == sorted(set(marks)) and 2 <= len(marks) + 1 <= 8, marks


@settings(max_examples=100, derandomize=True)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=30))
def test_every_point_is_inside_the_chart(values):
    chart = str(report.line_chart("title", {0: list(enumerate(values)), 7: [(0.0, 0.0)]},
                                  [f"n{i}" for i in range(8)]))
    for x, y in re.findall(r'<circle cx="([^"]+)" cy="([^"]+)"', chart):
        assert report.LEFT - 1 <= float(x) <= report.WIDTH and -1 <= float(y) <= report.HEIGHT, (
            f"{values}: ({x}, {y}) is outside")
    assert chart.count("<circle") == len(values) + 1


def test_higher_values_stand_higher():
    chart = str(report.line_chart("t", {0: [(0, 0.0), (1, 1.0)]}, ["a"]))
    (x0, y0), (x1, y1) = [map(float, p) for p in re.findall(r'cx="([^"]+)" cy="([^"]+)"', chart)]
    assert x1 > x0 and y1 < y0, "SVG's y grows downwards"


def test_numbers_that_are_none_are_left_out(plain):
    folder = plain["manager"]
    found = report.read_run(folder).metrics
    assert "add" not in found and len(found["kl"]) == 3, "NaN cannot be drawn"
    assert metrics_of(folder)[0]["add"] == "nan", "the test itself: there must be a NaN"


def test_every_logged_column_is_explained():
    log = {"operations": {"ADD": 1}}
    group = [Episode([Step([1], [2], True)], reward, log) for reward in (0.0, 1.0)]
    columns = [*describe([group]), "loss", "kl", "entropy", *RATIO_ERRORS, "clip_fraction", "lr",
               "skipped", "grad_norm", "value_loss", "explained_variance", "seconds"]
    absent = sorted(set(columns) - set(report.METRICS))
    assert not absent, f"{absent}: logged, but METRICS does not say what it means"


@pytest.mark.parametrize("logs, expected", [
    ([{"operations": {"ADD": 2, "invalid": 1}}, {"operations": {}}],
     {"add": 1, "update": 0, "delete": 0, "noop": 0, "invalid": 0.5}),
    ([{"invalid": 0}, {"invalid": 1}], {"invalid": 0.5}),
    ([{}, {}], {})], ids=["manager", "MEM1", "answer agent"])
def test_only_a_manager_has_operations(logs, expected):
    assert operations_each([Episode([], 0.0, log) for log in logs]) == expected, (
        "means an episode; MEM1 has no operations, and an answer agent has nothing unusable")


def test_an_episode_is_finished_if_its_last_response_is():
    steps = [Step([1], [2], True), Step([1], [2], False)]
    for order, finished in ((steps, 0.0), (steps[::-1], 1.0)):
        assert describe([[Episode(order, 0.0, {})]])["finished"] == finished


def test_the_page_on_metrics_says_the_same():
    path = ROOT / "docs" / "metrics.md"
    if not path.exists():
        pytest.skip("docs/metrics.md is not written yet")
    rows = [f"| `{name}` | {text} |" for name, text in report.METRICS.items()]
    documented = [line for line in path.read_text(encoding="utf-8").splitlines()
                  if re.fullmatch(r"\| `\w+` \| [^|]+ \|", line)]
    assert sorted(documented) == sorted(rows), (
        "docs/metrics.md and report.METRICS disagree; the table should be\n" + "\n".join(rows))


# ---- in a browser --------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    program = find_browser()
    if program is None:
        pytest.skip("no Chromium here (looked for chromium, google-chrome), or no POSIX pipes")
    started = Browser(program, tmp_path_factory.mktemp("profile"))
    yield started
    started.close()


@pytest.fixture(scope="module")
def everything(evil, tmp_path_factory) -> Path:
    """One page with a run of each agent."""
    page = tmp_path_factory.mktemp("page") / "report.html"
    report.main([*map(str, evil.values()), "--out", str(page)])
    return page


def test_a_browser_runs_none_of_the_texts(browser, everything):
    browser.open(everything)
    title = browser.evaluate("document.title")
    assert title != "owned" and title.endswith("mem1"), f"a text was run: {title!r}"
    assert browser.evaluate("document.images.length") == 0
    assert EVIL in browser.evaluate("document.body.textContent")
    asked = [e["params"]["request"]["url"] for e in browser.events
             if e.get("method") == "Network.requestWillBeSent"]
    assert all(url.startswith("file:") for url in asked), f"the page asks for {asked}"
    wrong = [e["params"] for e in browser.events
             if e.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded")]
    assert not wrong, f"errors in the page: {wrong}"


VISIBLE = ("[...document.querySelectorAll('section.cases')].map(s => [...s.querySelectorAll("
           "'[data-step]')].filter(e => e.offsetParent).map(e => e.dataset.step).join())")


def test_the_slider_and_the_cases_by_keyboard(browser, everything):
    browser.open(everything)
    assert browser.evaluate(VISIBLE) == ["2", "2", "2"], "one case at one step, the last at first"
    browser.evaluate("document.querySelector('#slider-1').focus()")
    browser.press("ArrowLeft")
    assert browser.evaluate(VISIBLE) == ["2", "1", "2"], "an arrow key moves one slider by one step"
    assert browser.evaluate("document.querySelector('output[for=slider-1]').textContent"
                            ).startswith("step 8, validation")
    assert browser.evaluate("document.querySelector('#slider-1').ariaValueText || document."
                            "querySelector('#slider-1').getAttribute('aria-valuetext')"
                            ).startswith("step 8"), "what a screen reader says must follow"
    picked = ("[...document.querySelectorAll('li.selected')].filter(e => e.offsetParent)"
              ".map(e => e.innerText)")
    assert [text.startswith("✔ selected: Anna, 2 May 2023: Bob skied")
            for text in browser.evaluate(picked)] == [True]
    browser.press("Home")
    assert browser.evaluate(VISIBLE)[1] == "0" and len(browser.evaluate(picked)) == 2
    second = "document.querySelectorAll('section.cases')[0].querySelectorAll('button')[1]"
    browser.evaluate(f"{second}.focus()")
    browser.press("Enter")
    assert browser.evaluate(f"{second}.getAttribute('aria-pressed')") == "true"
    assert browser.evaluate("[...document.querySelectorAll('section.cases')[0].querySelectorAll("
                            "'[data-case]')].map(e => e.hidden)") == [True, False]
    browser.evaluate("document.querySelector('input[type=checkbox]').focus()")
    browser.press(" ")
    assert browser.evaluate("[...document.querySelectorAll('.eventless')]"
                            ".every(e => !e.offsetParent)")


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_phone_and_desktop_light_and_dark(browser, everything, width, dark):
    browser.screen(width, dark)
    browser.open(everything)
    browser.evaluate("for (const d of document.querySelectorAll('details')) d.open = true")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width, (
        "the page is wider than the screen")
    back = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, re.findall(r"\d+", back))) < 60) == dark, f"background {back}"
    small = browser.evaluate("Math.min(...[...document.querySelectorAll('p, td, li, button')]"
                             ".map(e => parseFloat(getComputedStyle(e).fontSize)))")
    assert small >= 13, f"{small} pixels: too small to read"
