"""Tests of the embedded models and of making/: small, good readers, bad at deciding, teachable.

    python -m pytest tests/test_tiny.py        (some ten seconds)
"""

from __future__ import annotations

import random
import re
import sys
from itertools import product

import pytest
import torch
from canned import refused

from backend import loading
from benchmarks.shop import Store, goals
from environments import Search, questions_text, search_tasks
from making import manager, mem1
from making.lessons import Lesson, crossroads, evenly, learn, make_folder, make_parser, teach
from making.wiring import (
    HEAD_DIMS,
    HEADS,
    NUMBER_HEAD,
    NUMBERED,
    SUPPRESSOR,
    build_model,
    build_tokenizer,
    ridge,
)
from mem1 import NOTES, Mem1Agent, Trajectory
from memory_bank import MemoryBank, hashed_words
from memr1 import AnswerTask, ManagerAgent, answer_all
from metrics import squad_exact_match
from policy import Policy, load_policy
from prompts import EVENTS
from training.options import EMBEDDED_MEM1, EMBEDDED_MODEL
from training.tasks import manager_tasks
from trees import Step
from world import NAMES, oracle_memories, probes, world, world_splits

EMBED = hashed_words()


@pytest.fixture(scope="module")
def policy():
    return load_policy(EMBEDDED_MODEL)


def test_the_folder_is_small_enough_to_live_in_the_repository():
    size = sum(path.stat().st_size for path in EMBEDDED_MODEL.rglob("*"))
    assert size <= 4 * 2**20, f"tiny/ holds {size} bytes: more than 4 MB"


def test_it_is_packed_and_every_name_is_one_token_everywhere(policy):
    assert policy.packs, "the embedded model fell back to plain rows: everything is slower"
    ids = policy.tokenizer.encode("\n- 8 May 2023: Anna married\n- x")
    tokens = [policy.decode([i]) for i in ids]
    assert tokens[:7] == ["\n-", " 8", " May", " 2023", ":", " Anna", " married"], (
        f"{tokens}: the tokenizer cuts text another way than in training")


def test_it_answers_from_right_memories(policy):
    tasks = []
    for dialogue in world_splits()[2][:3]:
        bank = MemoryBank(EMBED)
        bank.add_many(oracle_memories(dialogue.turns).values())
        tasks += [AnswerTask(bank, question, dialogue.speakers) for question in dialogue.questions]
    right = [squad_exact_match(answer.text, task.question.answer)
             for answer, task in zip(answer_all(policy, tasks, max_new_tokens=64), tasks)]
    assert sum(right) / len(right) >= 0.95, (
        f"{sum(right)} of {len(right)} right: the prompts differ from those of its training?")


def test_it_decides_like_the_vanilla_manager_but_sometimes_better(policy):
    tasks = [t for t in manager_tasks(world_splits()[2][:3], EMBED, "turns") if t.merged]
    agent = ManagerAgent(policy, max_new_tokens=64)
    greedy = [g[0].log["merged"] for g in agent.rollout(policy, tasks, 1, 0.0)]
    assert sum(greedy) <= 0.2 * len(greedy), "it merges already: nothing left to learn"
    sampled = [e.log["merged"] for g in agent.rollout(
        policy, tasks, 6, 1.0, torch.Generator().manual_seed(0)) for e in g]
    assert sum(sampled) >= 0.1 * len(sampled), "it never merges: nothing to reinforce"


@pytest.mark.slow
def test_it_leaves_out_of_a_list_what_ended(policy):
    """And that it does is the work of one head: without it, it writes either value."""
    draw = random.Random(0)
    lessons = [lesson for dialogue in world_splits()[2]
               if (lesson := manager.rest_lesson(policy, dialogue, EMBED, draw))]
    assert len(lessons) > 20

    def right(model: Policy = policy) -> float:
        written = model.sample([lesson.prompt_ids for lesson in lessons], 1, 16, 0.0)
        return sum(step.response_ids == lesson.response_ids
                   for [step], lesson in zip(written, lessons)) / len(lessons)

    assert right() >= 0.9, "a list that loses a value is written wrong: wiring.suppress"
    layer, head = SUPPRESSOR
    out = policy.model.model.layers[layer].self_attn.o_proj.weight
    columns = slice(head * HEAD_DIMS, (head + 1) * HEAD_DIMS)
    kept = out[:, columns].detach().clone()
    with torch.no_grad():
        out[:, columns] = 0
        without = right()
        out[:, columns] = kept
    assert without < 0.75, f"{without:.2f} without it: the head is not needed, take it out"
    again = load_policy(EMBEDDED_MODEL)
    manager.set_suppressor(again, world(100, seed=1000), EMBED, draw)
    assert right(again) > without + 0.1, (
        "the head set anew does not speak against what ended: its sign, or where it looks?")


def test_ridge_is_one_there_and_zero_elsewhere():
    draw = torch.Generator().manual_seed(0)
    elsewhere, there = (torch.randn(n, 16, generator=draw) for n in (3000, 40))
    there[:, 3] += 8
    direction, bias = ridge(there, elsewhere)
    assert ((there @ direction + bias).mean() - 1).abs() < 0.25
    assert (elsewhere @ direction + bias).mean().abs() < 0.1
    assert direction.abs().argmax() == 3


@pytest.mark.slow
def test_wired_heads_find_what_followed_the_same_words():
    """Before any training, "Anna lives in" is followed by Anna's city more often than by chance."""
    tokenizer = build_tokenizer(manager.texts_of(world(20, seed=4)))
    torch.manual_seed(1)
    model = build_model(tokenizer).eval()
    found, by_chance, asked = 0, 0.0, 0
    for dialogue in world(8, seed=3):
        facts = [turn.facts[0] for turn in dialogue.turns
                 if turn.fact and turn.fact.relation == "lives"]
        listed = "".join(f"\n- 8 May 2023: {fact}" for fact in dict.fromkeys(facts))
        cities = {fact: tokenizer.encode(f" {fact.split()[-1]}")[0] for fact in facts}
        for fact in facts:  # "... Anna lives in", and the city is to follow
            ids = tokenizer.encode(f"{listed}\n- {fact}")
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([ids[:-1]])).logits[0, -1]
            right = {city for other, city in cities.items()
                     if other.split()[0] == fact.split()[0]}
            found += max(set(cities.values()), key=lambda city: logits[city]) in right
            by_chance += len(right) / len(set(cities.values()))
            asked += 1
    assert found > by_chance + 0.15 * asked, (
        f"{found} of {asked}, {by_chance:.0f} by chance: the heads do not bind names")


def test_wired_heads_find_the_nearest_number_and_what_stands_behind_the_same():
    """Before any training, a question is copied from behind its number, not from another's."""
    draw = random.Random(0)
    tokenizer = mem1.tokenizer_for(world(20, seed=4), goals(20, seed=4), EMBED, draw)
    numbers = tokenizer.convert_tokens_to_ids(mem1.NUMBERS)
    torch.manual_seed(0)
    model = build_model(tokenizer, 96, numbers).eval()
    model.config._attn_implementation = "eager"  # the one that returns its weights
    nearest, behind = [], {True: [], False: []}
    for name, swapped, place in product(("Julia", "Carl", "Hanna"), (False, True), range(2, 16, 3)):
        questions = [f"What food does {name} like?", f"What food does {name}'s friend like?"]
        before = [f"When did {other} ski?" for other in NAMES[:place - 2]]
        text = questions_text([*before, *(questions[::-1] if swapped else questions)])
        asked = len(before) + 1 + swapped
        ids = tokenizer.encode(f"{text}\n<query> {asked}. What food does {name}")
        words = [tokenizer.decode([token]) for token in ids]
        with torch.no_grad():
            weights = model(torch.tensor([ids]), output_attentions=True).attentions
        latest = None
        for where, token in enumerate(ids):
            latest = where if token in numbers else latest
            if latest is not None and where - latest <= 10:
                nearest.append(weights[0][0, NUMBER_HEAD, where, latest].item())
        [right] = [where for where, word in enumerate(words) if word == " like" and
                   words[where - 1] == f" {name}" and words[where - 2] == " does"]
        for head in range(HEADS):
            behind[(1, head) in NUMBERED].append(weights[1][0, head, -1, right].item())
    assert min(nearest) > 0.8, f"{min(nearest):.2f}: the head looks at another number"
    numbered, others = (sum(found) / len(found) for found in (behind[True], behind[False]))
    assert numbered > 0.9 > 0.8 > others, (
        f"{numbered:.2f} of the heads that compare numbers, {others:.2f} of those that do not")


def test_lessons_are_right_where_the_memories_are_right(policy):
    draw = random.Random(0)
    for _ in range(20):
        dialogue = manager.drill(draw, 4, 2, 1, 2)
        answers = {probe.question.text: probe.question.answer for probe in probes(dialogue.turns)}
        lesson = manager.answer_lesson(policy, dialogue, dialogue.turns, 6, 1, False, draw)
        for step in lesson.steps:
            question = policy.decode(step.prompt_ids).split("Question: ")[1].split("\n")[0]
            answer = policy.decode(step.response_ids).split("**Answer:** ")[1]
            assert answers.get(question, "nothing") == answer, f"{question}: taught {answer}"


def test_a_question_for_what_holds_now_has_one_answer(policy):
    """Plain, a question about several values is answered in three ways, and with "now" rightly."""
    draw, shares = random.Random(0), {True: [], False: []}
    for _ in range(30):
        dialogue = manager.drill(draw, 4, 2, 1, 2)
        answers = {probe.question.text: probe.question.answer for probe in probes(dialogue.turns)}
        steps, weights = manager.answer_lesson(policy, dialogue, dialogue.turns, 6, 0, True, draw)
        for step, of_step in zip(steps, weights):
            question = policy.decode(step.prompt_ids).split("Question: ")[1].split("\n")[0]
            answer = policy.decode(step.response_ids).split("**Answer:** ")[1]
            asks_now = question.endswith(" now?")
            shares[asks_now].append(min(of_step))
            if asks_now:
                assert answers[question.replace(" now?", "?")] == answer, f"{question}: {answer}"
            first = policy.tokenizer.encode(policy.decode(step.response_ids).split("**Answer:**")[0]
                                            + "**Answer:**")
            assert of_step[len(first)] == manager.DECISION_WEIGHT * min(of_step), (
                "the first token of an answer says which value it names")
    assert set(shares[True]) == {1.0} and len(shares[True]) > 20
    assert manager.BETTER in shares[False], "unasked, the model is to decide badly"
    assert not any("now" in question.text.split() or " now?" in question.text
                   for part in world_splits() for dialogue in part
                   for question in dialogue.questions), "what is learned here would be asked there"


def test_all_that_a_careless_agent_may_do_is_shown_by_its_share(policy):
    """The shares of one prompt add up to 1, and what decides counts more than what follows."""
    draw = random.Random(0)
    at, several = manager.event_place(policy), 0
    for _ in range(40):
        dialogue = manager.drill(draw, 4, 2, 1, 2)
        steps, weights = manager.manager_lesson(policy, dialogue, EMBED, draw)
        assert abs(sum(of_step[0] for of_step in weights) - 1) < 1e-6
        for step, of_step in zip(steps, weights):
            assert policy.decode(step.response_ids[at:at + 1]) in EVENTS
            assert of_step[at] == manager.DECISION_WEIGHT * of_step[0], (
                f"{of_step}: the event, token {at}, does not count more than what follows from it")
        several += len(steps) > 1
        steps, weights = manager.answer_lesson(
            policy, dialogue, dialogue.turns, 4, 0, True, draw)
        shares: dict[tuple, float] = {}
        for step, of_step in zip(steps, weights):
            prompt = tuple(step.prompt_ids)
            shares[prompt] = shares.get(prompt, 0) + min(of_step)
            assert len(of_step) == len(step.response_ids)
        assert all(abs(share - 1) < 1e-6 for share in shares.values()), shares
    assert several > 10, "the lessons hold one choice each: nothing is left to learn"


@pytest.mark.slow
def test_a_lesson_of_two_choices_teaches_their_shares(policy):
    learner = load_policy(EMBEDDED_MODEL)
    messages = [{"role": "user", "content": "Anna lives in Oslo"}]
    choices = [learner.lesson(messages, text) for text in (" Bob", " Carl")]
    lesson = Lesson(choices, [[share] * len(step.response_ids)
                              for share, step in zip((0.7, 0.3), choices)])
    for rate in (1e-3, 1e-4):
        optimizer = torch.optim.AdamW(learner.model.parameters(), lr=rate)
        for _ in range(40):
            learn(learner, optimizer, [lesson])
    first = learner.token_log_probs([choices]).exp()[::len(choices[0].response_ids)]
    assert abs(first[0].item() - 0.7) < 0.05, (
        f"{first.tolist()}: 0.7 and 0.3 were taught; do the weights belong to other tokens?")


def test_it_tells_two_people_apart(policy):
    """Told of Julian's dog, it leaves Victoria's alone: one slip spoils the rest of a dialogue."""
    prompts = [policy.encode(prompt) for dialogue in world_splits()[2][:6]
               for prompt in manager.told_of_another(dialogue, EMBED)]
    written = [policy.decode(step.response_ids) for [step] in policy.sample(prompts, 1, 8, 0.0)]
    slips = sum("ADD" not in text for text in written)
    assert len(written) > 40
    assert slips <= 0.1 * len(written), (
        f"{slips} of {len(written)} facts about one person changed another's memory")


@pytest.mark.slow
@pytest.mark.parametrize("harness", ["mem1", "full_context"])
def test_the_mem1_model_reads_well_and_remembers_badly(harness):
    policy = load_policy(EMBEDDED_MEM1)
    agent = Mem1Agent(harness=harness, max_new_tokens=160)
    right = {}
    for n_objectives in (1, 2):
        tasks = search_tasks(world_splits()[2][:3], n_objectives, EMBED)
        groups = agent.rollout(policy, tasks, 1, 0.0)
        right[n_objectives] = sum(g[0].reward for g in groups) / (n_objectives * len(tasks))
        unusable = sum(g[0].log["invalid"] for g in groups)
        assert unusable <= 0.1 * len(groups), f"{unusable} of {len(groups)} tasks: unusable turns"
    assert right[1] >= 0.9, f"{right}: it does not find a single answer"
    assert right[2] <= 0.4, f"{right}: it keeps both answers already: nothing left to learn"


def test_a_careful_buyer_is_worth_imitating_and_a_careless_one_is_not():
    wanted = goals(40, seed=7)
    paid = {}
    for kind in (0, 1):  # the careful action, the careless one
        rewards = []
        for goal in wanted:
            store, buyer, query, reward = Store(), mem1.Buyer(goal), "", 0.0
            page, done = store.reset(goal), False
            for _ in range(store.turns(goal)):
                query = buyer.read(query, page)[kind]
                if query == "click[prev]" and not buyer.features == "right":
                    buyer.rejected.append(buyer.looking_at)
                page, reward, done = store.step("query", query)
                if done:
                    break
            rewards.append(reward if done else 0.0)
        paid[kind] = sum(rewards) / len(rewards)
    assert paid[0] > 0.9, f"{paid}: the careful buyer does not find what is wanted"
    assert paid[1] < 0.6, f"{paid}: the careless buyer leaves nothing to learn"


def test_lessons_of_mem1_are_turns_of_the_agent():
    """A lesson's prompt must be the one that the agent will make, or nothing carries over."""
    dialogue, draw = world(1, seed=3)[0], random.Random(1)
    policy = load_policy(EMBEDDED_MEM1)
    for kind, careful in product(NOTES, (True, False)):
        turns = mem1.demonstrate(dialogue, EMBED, kind, 3, careful, draw)
        environment = Search()
        [task, *_] = search_tasks([dialogue], len(dialogue.questions), EMBED)
        said = turns[0].prompt[1]["content"]
        environment.reset(task)
        trajectory = Trajectory(environment, said.splitlines()[0],
                                int(re.search(r"Turns left: (\d+)", said)[1]))
        for prompt, choices in turns:
            made = Mem1Agent(harness=kind, max_new_tokens=160).prompt(policy, trajectory)
            assert made.messages == prompt, made.messages
            written = list(choices)[0 if careful else -1]
            assert f"<{NOTES[kind]}>" in written
            trajectory.advance(Step([1], [2], True), written, kind)
        assert trajectory.done and trajectory.invalid == 0


def test_a_choice_of_mem1_is_to_keep_all_answers_or_the_newest():
    dialogue, draw = world(1, seed=3)[0], random.Random(1)
    for kind, careful, n_questions in product(NOTES, (True, False), (1, 2, 5)):
        *_, last = mem1.demonstrate(dialogue, EMBED, kind, n_questions, careful, draw)
        answers = [re.search("<answer> (.*)</answer>", text)[1] for text in last.choices]
        assert sum(last.choices.values()) == pytest.approx(1)
        if n_questions == 1:
            [answer] = answers
            assert not answer.startswith("1."), f"{answer}: a single answer has no number"
            continue
        has_all = careful or kind == "full_context"
        wanted = [list(range(1, n_questions + 1)) if has_all else [n_questions - 1, n_questions]]
        if n_questions == 2 or not has_all:
            wanted.append([n_questions])  # the other choice, while no more than one answer is kept
        assert wanted == [[int(part.split(". ")[0]) for part in answer.split("; ")]
                          for answer in answers], (
            f"{kind}: {answers}, not the questions {wanted}. All or the newest are kept while no "
            "more than one was; then all, with no other choice; each behind its question's number")


def test_a_choice_counts_by_its_share_and_what_follows_from_it_whole():
    policy, prompt = load_policy(EMBEDDED_MEM1), [{"role": "user", "content": "x"}]
    keep = "<IS> Al skied | 1. Oslo 2. Rex</IS><query> 3. Who?</query>"
    forget = "<IS> Al skied | 2. Rex</IS><query> 3. Who?</query>"
    only = "<IS> Al skied</IS><answer> Rex</answer>"
    steps, weights = mem1.lesson_of(policy, [mem1.TurnChoices(prompt, {keep: 0.3, forget: 0.7}),
                                             mem1.TurnChoices(prompt, {only: 1.0})])
    seen = [[(policy.decode([token]), weight) for token, weight in zip(step.response_ids, of_step)]
            for step, of_step in zip(steps, weights)]
    assert all(len(of_step) == len(step.response_ids) for step, of_step in zip(steps, weights))
    first = {text: weight for text, weight in seen[0][:seen[0].index((" |", 0.3)) + 2]}
    assert first["<IS>"] == 0.3 and first[" 1."] == pytest.approx(0.3 * mem1.CHOICE_WEIGHT)
    assert dict(seen[1])[" 2."] == pytest.approx(0.7 * mem1.CHOICE_WEIGHT)
    assert dict(seen[0])["</IS>"] == dict(seen[1])["</IS>"] == 1.0, (
        "what follows from a choice is to be written without a slip, however rare the choice")
    assert dict(seen[0])[" Oslo"] == dict(seen[1])[" Rex"] == mem1.CHOICE_WEIGHT, (
        "whose answer stands behind a number counts more")
    assert dict(seen[0])[" 3."] == mem1.CHOICE_WEIGHT, "which question comes next counts more"
    assert dict(seen[2])[" Rex"] == mem1.CHOICE_WEIGHT and dict(seen[2])["<IS>"] == 1.0


def test_what_is_easily_miscopied_counts_most():
    """Where the same three tokens go on in two ways, and nowhere else."""
    step = Step([11, 12, 13, 20, 14, 11, 12, 13, 21], [30, 12, 13, 22, 11, 12, 13, 20], True)
    marked = [place for place, forks in enumerate(crossroads(step)) if forks]
    assert marked == [7], (
        f"{marked}, not [7]: only the last token follows three (11 12 13) that stand before "
        "another one too. The 22 follows 12 13, but 30 stands before them")
    policy = load_policy(EMBEDDED_MEM1)
    prompt = [{"role": "user",
               "content": "1. What dogs does Al have?; 2. What dogs does Al's boss have?"}]
    [step], [weights] = mem1.lesson_of(policy, [mem1.TurnChoices(
        prompt, {"<IS> Al skied</IS><query> 2. What dogs does Al's boss have?</query>": 1.0})])
    by_token = {policy.decode([token]): weight
                for token, weight in zip(step.response_ids, weights)}
    assert by_token["'"] == mem1.CROSSROADS_WEIGHT, (
        "here the copy of question 2 may become question 1")
    assert by_token[" boss"] == by_token[" dogs"] == 1.0


# ---- The commands --------------------------------------------------------------------------------

@pytest.mark.parametrize("main", [manager.main, mem1.main])
def test_nothing_is_replaced_that_nobody_asked_to_replace(main, tmp_path, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "config.json").write_text("an older model")
    (tmp_path / "file").write_text("x")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("making.wiring.Qwen2ForCausalLM", None)  # whatever is built is too much
    for out in ("full", "file", "file/below"):
        assert refused(main, "--out", out).startswith(f"error: --out {out}: ")
    assert (tmp_path / "full" / "config.json").read_text() == "an older model"
    default = make_parser("", "", 1, "runs/making").parse_args([]).out
    assert not default.exists(), "by default the model goes into a new folder, never into tiny/"


@pytest.mark.parametrize("main", [manager.main, mem1.main])
@pytest.mark.parametrize("words, said", [
    (["--steps", "0"], "--steps 0"), (["--lr", "1e300"], "--lr 1e+300"),
    (["--seed", "-1"], "--seed -1"), (["--start", "no/such"], "no/such")])
def test_wrong_options_are_one_line(main, words, said, tmp_path, monkeypatch):
    monkeypatch.setattr(f"{main.__module__}.w.world", lambda *_, **__: [])  # seconds of work
    assert said in refused(main, *words, "--out", tmp_path / "new")


@pytest.mark.parametrize("main", [manager.main, mem1.main])
def test_a_model_to_go_on_from_learns_in_float32(main, model_folder, tmp_path, monkeypatch):
    """Also where the processor is faster in bfloat16, in which small steps vanish."""
    module = sys.modules[main.__module__]
    monkeypatch.setattr(loading, "half_gain", lambda: 3.0)
    monkeypatch.setattr(module.w, "world", lambda *_, **__: [])
    taught = []
    monkeypatch.setattr(module, "teach", lambda policy, *_: taught.append(policy))
    main(["--start", str(model_folder), "--out", str(tmp_path / "new")])
    [policy] = taught
    assert policy.dtype == torch.float32, f"it computes in {policy.dtype}"
    assert {p.dtype for p in policy.model.parameters() if p.requires_grad} == {torch.float32}
    assert all(p.requires_grad for p in policy.model.parameters()), "frozen weights do not learn"


def test_the_loop_learns_saves_and_says_where(tmp_path, capsys):
    policy = load_policy(EMBEDDED_MODEL)
    lesson = policy.lesson([{"role": "user", "content": "Anna lives in Oslo"}], " Bob skied")
    before = policy.token_log_probs([[lesson]]).mean().item()
    options = make_parser("", "", 5, str(tmp_path / "new")).parse_args([])
    make_folder(options.out)
    steps = []

    def lessons_of(step):
        steps.append(step)
        return [evenly([lesson])]

    teach(policy, options, EMBEDDED_MODEL, lessons_of, lambda: {"a score": 0.5})
    assert steps == [1, 2, 3, 4, 5]
    saved = load_policy(options.out).token_log_probs([[lesson]]).mean().item()
    assert saved > before + 0.1, f"{before} -> {saved}: what was saved has not learned the lesson"
    *_, scores, last = capsys.readouterr().out.splitlines()
    assert scores == "a score 0.500" and str(options.out) in last and str(EMBEDDED_MODEL) in last, (
        "the last line must say where the model lies and where it belongs")
