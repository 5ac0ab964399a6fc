"""The synthetic world: dialogues small enough for a million-parameter model, shaped like LoCoMo.

Two people talk over ten dated sessions, about themselves and about two acquaintances each. Some
turns are small talk. Any other turn *adds* to what is known (a second dog joins the first),
*replaces* it (a new home), *ends* it (Anna no longer likes sushi) or tells an *event* (Anna
graduated that day). Nineteen questions follow, each with the turns that prove its answer. They are
of LoCoMo's four categories:

    1 multi-hop    lists gathered over turns ("What dogs does Anna have?"), and two steps
                   ("Where does Anna's cousin live?")
    2 temporal     the day of an event ("When did Anna graduate?")
    3 open-domain  something no turn says ("In which country does Anna live?")
    4 single-hop   one turn decides, though an older one may contradict it

The world is hard in the way LoCoMo is. Names come in look-alike pairs (Anna and Hanna in one
dialogue), several people share every relation, and old values stay in the history. A dialogue has
60 turns, as many as the 2 x 30 memories that an answer agent reads.

Training and held-out dialogues use the same words, but a pair of a person and a value (Anna and
Oslo) stands on one side only. So a model that has learned pairs by heart, instead of reading its
memories, scores nothing on held-out dialogues. Two kinds of world are harder: training dialogues of
`world-part` lack some names and relations, and test dialogues of `world-long` are twice as long.

Unlike LoCoMo, the world knows what each turn means (`Turn.fact`). So `advance` can compute the
right memory after any turn: it is the oracle that rules, imitation and tests are measured by.
"""

from __future__ import annotations

import functools
import hashlib
import random
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta

from data import Dialogue, Fact, Question, Turn

# ---- What may be said ----------------------------------------------------------------------------

NAMES = tuple((  # in look-alike pairs
    "Anna Hanna Maria Marie Eric Erica Carl Carla Daniel Daniela Paul Paula Julia Julian "
    "Martin Martina Robert Roberta Simon Simone Victor Victoria Alex Alexa Andrew Andrea "
    "Louis Louise Philip Philippa Emma Emily Sara Sarah John Joan Ellen Helen Clara "
    "Claire").split())
NAME_PAIRS = list(zip(NAMES[::2], NAMES[1::2]))  # a dialogue's six people are three of the pairs
PETS = (
    "Buddy Scout Milo Simba Rex Bella Luna Coco Rocky Daisy Toby Max Ziggy Pepper Oreo Ginger "
    "Shadow Rusty Biscuit Nala Felix Tiger Mocha Bruno Olive Pickle Muffin Cookie Snowy Bandit "
    "Hazel Jasper").split()
COUNTRIES = {
    "Germany": "Berlin Munich Hamburg", "France": "Paris Lyon Bordeaux",
    "Spain": "Madrid Seville Valencia", "Italy": "Rome Milan Naples",
    "Japan": "Tokyo Osaka Kyoto", "Canada": "Toronto Montreal Calgary",
    "Brazil": "Recife Salvador Brasilia", "India": "Mumbai Delhi Chennai",
    "Australia": "Sydney Perth Brisbane", "Norway": "Oslo Bergen Trondheim",
    "Egypt": "Cairo Luxor Alexandria", "Mexico": "Puebla Tijuana Merida"}
COUNTRY_OF = {city: country for country, cities in COUNTRIES.items() for city in cities.split()}
WORKPLACES = {
    "hospital": "nurse surgeon", "school": "teacher janitor", "restaurant": "chef waiter",
    "airport": "pilot steward", "farm": "farmer shepherd", "court": "judge lawyer",
    "bank": "banker cashier", "studio": "painter sculptor", "theater": "dancer singer",
    "harbor": "sailor captain"}
WORKPLACE_OF = {job: place for place, jobs in WORKPLACES.items() for job in jobs.split()}
CARS = ("Honda Toyota Volvo Tesla Ford Fiat Mazda Skoda Subaru Nissan Jeep Porsche Renault Kia "
        "Audi Lexus").split()
FOODS = (
    "sushi pizza ramen tacos curry pasta salad soup paella lasagna falafel hummus burgers waffles "
    "pancakes dumplings kebabs risotto gnocchi noodles chili oysters lobster mushrooms").split()
GAMES = ("tennis chess piano guitar violin drums football golf hockey cello flute poker badminton "
         "cricket rugby trumpet").split()
EVENTS = {  # what a memory says -> what a question asks
    "graduated": "graduate", "retired": "retire", "married": "marry", "resigned": "resign",
    "divorced": "divorce", "volunteered": "volunteer", "performed": "perform", "camped": "camp",
    "competed": "compete", "surfed": "surf", "skied": "ski", "fasted": "fast", "voted": "vote",
    "donated": "donate"}
LINKS = "friend boss neighbor cousin roommate coach".split()
SMALL_TALK = [  # what is said, and the memory of it that nobody needs
    ("What a sunny day!", "{} had a sunny day"), ("It rained all week.", "{} saw a week of rain"),
    ("I slept so badly.", "{} slept badly"), ("Traffic was awful.", "{} was stuck in traffic"),
    ("I need a coffee.", "{} needs a coffee"), ("My phone is slow.", "{} has a slow phone"),
    ("That film was fun.", "{} saw a fun film"), ("I missed the bus.", "{} missed the bus"),
    ("Monday again, sigh.", "{} is tired of Monday"), ("I cleaned all day.", "{} cleaned all day"),
    ("The news is grim.", "{} read the news"), ("Happy to see you!", "{} said hello")]
MONTHS = ("January February March April May June July August September October November "
          "December").split()


@dataclass(frozen=True)
class Relation:
    """One kind of fact: how it is said, stored and asked, and what a new value does to the old one.

    `{s}` is the subject, `{v}` the value. Sentences of one relation share a word stem ("lives",
    "live"), because a memory bank that compares words must find the old entry for the new fact.
    """

    kind: str  # "single": a new value replaces the old; "list": it joins; "link": it is a person
    values: tuple[str, ...]
    memory: str  # how a memory holds one value
    said: tuple[str, ...]  # how the subject says it, in the first person
    said_of: tuple[str, ...]  # how somebody else says it
    question: str
    both: str = ""  # how a memory holds two values, joined with "and"; only for lists
    ended: str = ""  # what follows "I" or the name when a value ends; "" if values never end


RELATIONS = {
    "lives": Relation(
        "single", tuple(COUNTRY_OF), "{s} lives in {v}",
        ("I live in {v} now.", "We live in {v} these days.", "I packed up and live in {v}."),
        ("{s} lives in {v} now.", "These days {s} lives in {v}."), "Where does {s} live?"),
    "works": Relation(
        "single", tuple(WORKPLACE_OF), "{s} works as a {v}",
        ("I work as a {v} now.", "Guess what, I work as a {v}.", "They hired me to work as a {v}."),
        ("{s} works as a {v} now.", "I hear {s} works as a {v}."), "What does {s} work as?"),
    "drives": Relation(
        "single", tuple(CARS), "{s} drives a {v}",
        ("I drive a {v} now.", "I finally drive a {v}.", "You should see me drive a {v}."),
        ("{s} drives a {v} now.", "Now {s} drives a {v}."), "What car does {s} drive?"),
    **{f"{pet}s": Relation(
        "list", tuple(PETS), f"{{s}} has a {pet} named {{v}}",
        (f"I have a {pet} named {{v}} now.", f"I adopted a {pet} named {{v}}.",
         f"Our new {pet} is named {{v}}."),
        (f"{{s}} has a {pet} named {{v}} now.", f"{{s}} adopted a {pet} named {{v}}."),
        f"What {pet}s does {{s}} have?", f"{{s}} has {pet}s named {{v}}")
       for pet in ("dog", "cat")},
    "likes": Relation(
        "list", tuple(FOODS), "{s} likes {v}",
        ("I like {v} a lot.", "I found out that I like {v}.", "I really like {v} now."),
        ("{s} likes {v} a lot.", "It turns out {s} likes {v}."), "What food does {s} like?",
        "{s} likes both {v}", "no longer like{} {v}"),
    "plays": Relation(
        "list", tuple(GAMES), "{s} plays {v}",
        ("I play {v} now.", "I started to play {v}.", "I play {v} every week."),
        ("{s} plays {v} now.", "These days {s} plays {v}."), "What does {s} play?",
        "{s} plays both {v}", "no longer play{} {v}"),
    **{link: Relation(
        "link", NAMES, f"{{s}} has a {link} named {{v}}",
        (f"I have a {link} named {{v}}.", f"My {link} is named {{v}}."), (),
        f"Who is {{s}}'s {link}?") for link in LINKS}}
TELLABLE = [name for name, relation in RELATIONS.items() if relation.kind != "link"]
# What follows from a memory that does not say it: relation -> (question, value -> answer).
INFERENCES = {
    "lives": ("In which country does {s} live?", COUNTRY_OF),
    "works": ("In what place does {s} work?", WORKPLACE_OF)}


@dataclass(frozen=True)
class Kind:
    """What the dialogues of a world are like."""

    n_pairs: int = len(NAME_PAIRS)  # people are drawn from the first so many pairs
    relations: tuple[str, ...] = tuple(TELLABLE)
    of_speaker: int = 5  # how many relations the turns tell of a speaker
    of_others: int = 3  # how many they tell of each acquaintance
    sessions: int = 10  # of TURNS_PER_SESSION turns


TURNS_PER_SESSION = 6
# What training on `world-part` leaves out: relation -> the word that a question about it holds.
NEVER_TOLD = {"cats": "cats", "plays": "play"}
KINDS = {
    "world": Kind(),
    "world-part": Kind(n_pairs=14, relations=tuple(r for r in TELLABLE if r not in NEVER_TOLD)),
    "world-long": Kind(of_speaker=7, of_others=5, sessions=20)}
N_WORLDS = 250  # that --data may name; the embedded models were made and chosen in others (making/)
QUESTIONS_PER_DIALOGUE = {1: 7, 2: 3, 3: 2, 4: 7}  # by category

Key = tuple[str, str]  # (subject, relation), or (subject, what happened) for an event
State = dict[Key, list[str]]  # the values that hold now

# ---- The oracle ----------------------------------------------------------------------------------


def sentence(subject: str, relation: str, values: list[str]) -> str:
    """The memory that holds exactly these values: "Anna has dogs named Rex and Milo"."""
    if relation == "event":
        return f"{subject} {values[0]}"
    form = RELATIONS[relation].both if len(values) > 1 else RELATIONS[relation].memory
    return form.format(s=subject, v=" and ".join(values))


def advance(state: State, turn: Turn) -> tuple[str | None, str | None]:
    """Let one turn change `state` in place; returns the memory it is about, before and after it.

    The right operation of a manager follows from the two:

        (None, new)   ADD; always for an event, because no other turn is about the same event
        (old, new)    UPDATE, or NOOP if they are equal
        (old, None)   DELETE
        (None, None)  NOOP, for small talk
    """
    fact = turn.fact
    if fact is None:
        return None, None
    if fact.relation == "event":
        return None, sentence(fact.subject, "event", [fact.value])
    key = fact.subject, fact.relation
    values = state.get(key, [])
    old = sentence(*key, values) if values else None
    if fact.change == "end":
        values = [value for value in values if value != fact.value]
    elif fact.change == "replace":
        values = [fact.value]
    else:
        values = values + [fact.value]
    state[key] = values
    return old, sentence(*key, values) if values else None


def memory_key(fact: Fact) -> Key:
    """What a memory is about: facts with the same key belong into one memory."""
    return fact.subject, fact.value if fact.relation == "event" else fact.relation


def oracle_memories(turns: Iterable[Turn]) -> dict[Key, tuple[str, str, str]]:
    """The right memories after these turns: key -> `(text, speaker, timestamp)`, oldest first.

    A memory that is updated keeps its place and takes the update's date, as in a `MemoryBank`.
    """
    state: State = {}
    entries: dict[Key, tuple[str, str, str]] = {}
    for turn in turns:
        old, new = advance(state, turn)
        if new is not None:
            entries[memory_key(turn.fact)] = new, turn.speaker, turn.timestamp
        elif old is not None:
            del entries[memory_key(turn.fact)]
    return entries


def second_pet(before: Iterable[Turn], turn: Turn) -> str:
    """The memory that should hold both pets after a turn about a second dog or cat; else ""."""
    state: State = {}
    for earlier in before:
        advance(state, earlier)
    old, new = advance(state, turn)
    return new if old and new and turn.fact.relation in ("dogs", "cats") else ""


# ---- Questions -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Probe:
    """A question, the kind of memory work it takes, and the memories that answer it."""

    kind: str  # "list", "shortened", "two steps", "event", "inference", "changed", "told once"
    question: Question
    about: Key  # what the last step asks for, though perhaps no value holds for it
    needs: tuple[Key, ...]  # keys of `oracle_memories`, in the order of the steps


def probes(turns: Iterable[Turn]) -> list[Probe]:
    """Every question that these turns can answer: the events first, then what may change."""
    state: State = {}
    order: dict[str, int] = {}  # turn id -> its place
    proofs: dict[Key, list[Turn]] = {}  # the turns that decide which values hold in the end
    links: dict[str, tuple[str, Turn]] = {}  # acquaintance -> ("Anna's cousin", the turn saying so)
    events: list[Probe] = []
    for place, turn in enumerate(turns):
        order[turn.turn_id] = place
        advance(state, turn)
        fact = turn.fact
        if fact is None:
            continue
        key = memory_key(fact)
        if fact.relation == "event":
            text = f"When did {fact.subject} {EVENTS[fact.value]}?"
            question = Question(text, turn.timestamp, 2, (turn.turn_id,))
            events.append(Probe("event", question, key, (key,)))
        elif fact.change == "replace":
            proofs[key] = [turn]
        else:
            # The turn that ends a value takes the place of the turn that added it, because without
            # the ending the value would still hold.
            others = [t for t in proofs.get(key, []) if t.fact.value != fact.value]
            proofs[key] = [*others, turn]
        if fact.relation in LINKS:
            links[fact.value] = f"{fact.subject}'s {fact.relation}", turn
    return events + [probe for key, proof in proofs.items()
                     for probe in _probes_about(key, state[key], proof, links.get(key[0]), order)]


def _probes_about(key: Key, values: list[str], proof: list[Turn], link: tuple[str, Turn] | None,
                  order: dict[str, int]) -> list[Probe]:
    """The questions about one key: plain, about what follows from it, and in two steps.

    `link` says whose acquaintance the subject is, if anybody's: ("Anna's cousin", the turn).
    """
    subject, relation = key
    form, last_change = RELATIONS[relation].question, proof[-1].fact.change
    answer = " and ".join(values) if values else "nothing"
    needs = (key,) if values else ()
    evidence = tuple(turn.turn_id for turn in proof)
    if len(evidence) > 1:
        category, kind = 1, "shortened" if last_change == "end" else "list"
    else:
        category, kind = 4, "told once" if last_change == "add" else "changed"
    plain = Question(form.format(s=subject), answer, category, evidence)
    key_probes = [Probe(kind, plain, key, needs)]
    if relation in INFERENCES:
        inference, answer_of = INFERENCES[relation]
        question = Question(inference.format(s=subject), answer_of[values[0]], 3, evidence)
        key_probes.append(Probe("inference", question, key, needs))
    if link is not None and relation not in LINKS:
        name, link_turn = link
        both_steps = tuple(sorted({link_turn.turn_id, *evidence}, key=order.get))
        question = Question(form.format(s=name), answer, 1, both_steps)
        key_probes.append(Probe("two steps", question, key, (memory_key(link_turn.fact), *needs)))
    return key_probes


# ---- Dialogues: who, what, in which order, in which words ----------------------------------------


@functools.cache  # there are a hundred thousand calls, for some hundred persons and tuples
def held_out_values(subject: str, values: tuple[str, ...]) -> frozenset[str]:
    """The third of the values that only held-out dialogues may pair with this person.

    A hash ranks the pairs: at random, but the same on every machine and in every run.
    """
    def rank(value: str) -> bytes:
        return hashlib.sha256(f"{subject}|{value}".encode()).digest()

    return frozenset(sorted(values, key=rank)[: len(values) // 3])


def _people(held_out: bool, n_pairs: int, rng: random.Random) -> tuple[list[str], list[list[str]]]:
    """Two speakers and two acquaintances of each: six names, three look-alike pairs."""
    while True:  # until each pair of a speaker and an acquaintance is on the right side, too
        names = [name for pair in rng.sample(NAME_PAIRS[:n_pairs], 3) for name in pair]
        rng.shuffle(names)
        speakers, others = names[:2], [names[2:4], names[4:]]
        links = [(s, other) for s, of_speaker in zip(speakers, others) for other in of_speaker]
        if all((other in held_out_values(s, NAMES)) == held_out for s, other in links):
            return speakers, others


def _changes(relation: str, values: list[str], rng: random.Random) -> list[tuple[str, str]]:
    """What happens to one relation over the months: (value, change) in order.

    The weights make changes common, because what never changes needs no memory manager.
    """
    first, second, third = rng.sample(values, 3)
    if RELATIONS[relation].kind == "single":
        moves = [(first, "add"), (second, "replace"), (third, "replace")]
        return moves[: rng.choices([1, 2, 3], [0.25, 0.5, 0.25])[0]]
    two_values = [(first, "add"), (second, "add")]
    if not RELATIONS[relation].ended:
        return two_values[: rng.choices([1, 2], [0.25, 0.75])[0]]
    ending = rng.choice([first, second]), "end"
    stories = [two_values[:1], two_values, [*two_values, ending], [two_values[0], (first, "end")]]
    return rng.choices(stories, [0.1, 0.25, 0.45, 0.2])[0]


def story(subject: str, relations: Sequence[str], n_events: int, held_out: bool,
          rng: random.Random) -> list[list[Fact]]:
    """Threads of facts about one person, one for each relation and each event.

    The order inside a thread matters: a dog cannot be given up before it came. Between threads any
    order will do.
    """

    def allowed(values: tuple[str, ...]) -> list[str]:
        reserved = held_out_values(subject, values)
        return [value for value in values if (value in reserved) == held_out]

    threads = [[Fact(subject, relation, value, change) for value, change
                in _changes(relation, allowed(RELATIONS[relation].values), rng)]
               for relation in relations]
    events = rng.sample(allowed(tuple(EVENTS)), n_events)
    return threads + [[Fact(subject, "event", event, "event")] for event in events]


def interleave(threads: list[list[Fact]], rng: random.Random) -> list[Fact]:
    """A random order of all facts that keeps the order inside every thread."""
    order = [index for index, thread in enumerate(threads) for _ in thread]
    rng.shuffle(order)
    following = [iter(thread) for thread in threads]
    return [next(following[index]) for index in order]


def _facts_to_say(speaker: str, acquaintances: list[str], held_out: bool, kind: Kind,
                  rng: random.Random) -> list[Fact | None] | None:
    """What a speaker's turns say, in order (None: small talk), or None for too many facts."""
    threads = story(speaker, rng.sample(kind.relations, kind.of_speaker), 3, held_out, rng)
    for link, other in zip(rng.sample(LINKS, len(acquaintances)), acquaintances):
        threads.append([Fact(speaker, link, other, "add")])
        threads += story(other, rng.sample(kind.relations, kind.of_others), 1, held_out, rng)
    n_small_talk = kind.sessions * TURNS_PER_SESSION // 2 - sum(map(len, threads))
    if n_small_talk < 2:
        return None
    return interleave([*threads, *[[None]] * n_small_talk], rng)


def say(fact: Fact | None, speaker: str, rng: random.Random) -> tuple[str, str]:
    """What is said, and the memory of it that a manager would store who stores everything."""
    if fact is None:
        text, memory = rng.choice(SMALL_TALK)
        return text, memory.format(speaker)
    of_oneself = fact.subject == speaker
    who, verb_ending = ("I", "") if of_oneself else (fact.subject, "s")
    if fact.relation == "event":
        return f"{who} {fact.value} today.", f"{fact.subject} {fact.value}"
    relation = RELATIONS[fact.relation]
    if fact.change == "end":
        text, memory = (relation.ended.format(s, v=fact.value) for s in (verb_ending, "s"))
        return f"{who} {text}.", f"{fact.subject} {memory}"
    text = rng.choice(relation.said if of_oneself else relation.said_of)
    return text.format(s=fact.subject, v=fact.value), sentence(
        fact.subject, fact.relation, [fact.value])


def dates(rng: random.Random, n_sessions: int = 10) -> list[str]:
    """The days of the sessions, ascending: "8 May 2023". Ten are one to five weeks apart.

    More sessions fill the same months, because later years would be one more thing that is new.
    """
    day = date(2022, 1, 1) + timedelta(days=rng.randrange(600))
    days = []
    for _ in range(n_sessions):
        days.append(f"{day.day} {MONTHS[day.month - 1]} {day.year}")
        day += timedelta(days=rng.randrange(7, 36) * 10 // n_sessions)
    return days


def _choose_questions(turns: Sequence[Turn], rng: random.Random) -> list[Question] | None:
    """QUESTIONS_PER_DIALOGUE of each category, or None if the turns cannot answer so many.

    The last turn of its evidence gives each question its place in the order.
    """
    all_probes = probes(turns)
    rng.shuffle(all_probes)
    of_kind: dict[str, list[Question]] = defaultdict(list)
    for probe in all_probes:
        of_kind[probe.kind].append(probe.question)
    # Lists and changed facts come first, because they test a memory manager most.
    by_category = {
        1: of_kind["shortened"][:2] + of_kind["list"][:3] + of_kind["two steps"],
        2: of_kind["event"], 3: of_kind["inference"],
        4: of_kind["changed"][:5] + of_kind["told once"]}
    if any(len(by_category[category]) < n for category, n in QUESTIONS_PER_DIALOGUE.items()):
        return None
    questions = [q for category, n in QUESTIONS_PER_DIALOGUE.items()
                 for q in by_category[category][:n]]
    order = {turn.turn_id: place for place, turn in enumerate(turns)}
    return sorted(questions, key=lambda question: order[question.evidence[-1]])


def _dialogue(name: str, held_out: bool, kind: Kind, rng: random.Random) -> Dialogue | None:
    """One dialogue, or None when this draw has too many facts or too few questions of a kind."""
    speakers, others = _people(held_out, kind.n_pairs, rng)
    queues = []
    for speaker, acquaintances in zip(speakers, others):
        queue = _facts_to_say(speaker, acquaintances, held_out, kind, rng)
        if queue is None:
            return None
        queues.append(queue)
    days, turns = dates(rng, kind.sessions), []
    for index, fact in enumerate(fact for pair in zip(*queues) for fact in pair):
        session, place = divmod(index, TURNS_PER_SESSION)
        speaker = speakers[index % 2]
        text, memory = say(fact, speaker, rng)
        turn_id = f"D{session + 1}:{place + 1}"
        turns.append(Turn(turn_id, speaker, text, days[session], (memory,), fact))
    questions = _choose_questions(turns, rng)
    if questions is None:
        return None
    return Dialogue(name, (speakers[0], speakers[1]), tuple(turns), tuple(questions))


def world(n_dialogues: int, seed: int, held_out: bool = False,
          kind: str = "world") -> list[Dialogue]:
    """`n_dialogues` dialogues of 60 turns and 19 questions each; the same seed, the same world.

    `held_out` chooses the side: a pair of a person and a value is said on one side only. `kind` is
    one of `KINDS`; dialogues of `world-long` have 120 turns.
    """
    return list(_world(n_dialogues, seed, held_out, kind))


@functools.cache  # a hundred dialogues take a second, and they never change
def _world(n_dialogues: int, seed: int, held_out: bool, kind: str) -> tuple[Dialogue, ...]:
    rng = random.Random(f"world {seed} {held_out}")
    dialogues: list[Dialogue] = []
    while len(dialogues) < n_dialogues:
        name = f"{'held-out' if held_out else 'train'}-{seed}-{len(dialogues)}"
        dialogue = _dialogue(name, held_out, KINDS[kind], rng)
        if dialogue is not None:
            dialogues.append(dialogue)
    return tuple(dialogues)


def training_world(n_dialogues: int, kind: str = "world", seed: int = 0) -> list[Dialogue]:
    """The dialogues to learn from; those of `world-long` have the usual length."""
    return world(n_dialogues, seed, kind="world-part" if kind == "world-part" else "world")


def world_splits(kind: str = "world", seed: int = 0,
                 ) -> tuple[list[Dialogue], list[Dialogue], list[Dialogue]]:
    """Dialogues for training (152 questions), validation (81, as LoCoMo has) and test (513).

    Validation and test are both held out from training, and differ from each other. `world-part`
    leaves out names and relations in training only.
    """
    validation = world(5, 2 * seed + 1, held_out=True)
    last = validation[-1]
    validation[-1] = replace(last, questions=last.questions[: 81 - 4 * len(last.questions)])
    test_kind = "world-long" if kind == "world-long" else "world"
    return training_world(8, kind, seed), validation, world(27, 2 * seed, True, test_kind)


def named_world(data: str) -> tuple[str, int] | None:
    """The kind and the seed of what `--data` names; None if it names no world.

    >>> named_world("world"), named_world("world-part-29"), named_world("locomo")
    (('world', 0), ('world-part', 29), None)
    """
    match = re.fullmatch(rf"({'|'.join(KINDS)})(?:-([0-9]{{1,3}}))?", data)
    seed = int(match[2] or 0) if match else N_WORLDS
    return (match[1], seed) if seed < N_WORLDS else None


def never_told(question: str) -> set[str]:
    """Which part of a question training on `world-part` never met: its "name", its "relation".

    >>> sorted(never_told("What cats does Joan have?")), never_told("Where does Anna live?")
    (['name', 'relation'], set())
    """
    words = set(re.findall(r"\w+", question))
    new_words = {"name": NAMES[2 * KINDS["world-part"].n_pairs:], "relation": NEVER_TOLD.values()}
    return {part for part, new in new_words.items() if words.intersection(new)}
