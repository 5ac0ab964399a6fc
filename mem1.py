"""MEM1 (arXiv 2506.15841): an agent that works through a long task in constant context.

    task ──1──> prompt ──2──> <IS>state</IS> <query>...</query> ──3──> environment ──> result
                  ^                  │                                                  │
                  └──────4───────────┴── state, query and result; all else is dropped <─┘
                                     │
                                     └─ <answer>...</answer> ──5──> reward

1. `turn_messages`  the task, the last state, the last query, its result, the turns left
2. `parse_turn`     a new state, then a query or an answer; text ends at the closing tag
3. `step`           of the task's environment (environments.py): (result, reward, done)
4. `advance`        remembers the turn; the context never has more than the last turn and the next
5. one reward pays for the whole trajectory: the number of questions answered right

For comparison the same agent can have another memory of its own past (`harness`):
"full_context" keeps every turn, as ReAct does, or as many of the latest as the model has positions
for. "truncation" keeps the last turn, and with it as many earlier ones as fit into
`max_new_tokens`, the room that MEM1 has for its state. "a_mem" looks earlier turns up
(systems/own_past.py).

Training is exact. Each turn is a `Step` with the prompt that it was sampled from. In a packed tree
(trees.py) a turn is a branch behind the shared task. The branch begins with its own copy of the
last state, query and result, which are not scored. The text that the model wrote follows, and is
scored. MEM1's released code stitches a trajectory into one sequence with a *single* copy of each
state. The hidden states of that copy were computed while the dropped text was still visible. So a
later turn can read the dropped text through them. From the third turn on the log-probs are wrong,
by half a nat a token and more on a random model with large weights (tests/test_mem1.py). The
authors say that an exact copy takes the state twice.

Where this differs from the paper
1. State and query come back in the user's message, not as the beginning of the assistant's, because
   not every chat template can continue an assistant's message.
2. Every turn's message says how many turns are left.
3. Generation stops at the closing tag, and the sampled ids are trained as they are. The released
   code samples on, cuts the text, and encodes the cut text again.
4. A turn without a usable action ends the episode with reward 0 and is counted ("invalid").
5. Training samples from the whole distribution, MEM1's code from its top 95 % (top-p 0.95). A ratio
   compares two policies, and the scored policy has no top-p.
6. MEM1's entropy bonus is left out (ppo.py, difference 5).
7. A response has at most 160 tokens with tiny/mem1/ and 512 with a real model, in the paper 1,000.

    python mem1.py      tasks turn by turn, with the tokens in context, beside full context
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from backend.thinking import THINKING
from data import Message
from environments import Environment, Search
from policy import Policy, Prompt, fit
from prompts import split_thinking, without_tags
from trees import Episode, Step

STOP = ("</query>", "</answer>")  # because the environment acts on the first action only

# ---- Text in and out: pure functions -------------------------------------------------------------

INSTRUCTIONS = {
    "mem1": """\
You work through a task turn by turn. Each turn you see the task, your last state in <IS>, \
your last query and what it returned in <info>. Everything else is forgotten. First write a new \
state that merges what you just learned with all you must still remember: <IS>...</IS>. Then act: \
<query>...</query>, or, when the task is done or it is the last turn, <answer>...</answer>.""",
    "full_context": """\
You work through a task turn by turn. You see the task and every turn so far: what you thought, \
your query, and what it returned in <info>. First write what you learned: <think>...</think>. Then \
act: <query>...</query>, or, when the task is done or it is the last turn, <answer>...</answer>.""",
}
NOTES = {"mem1": "IS", "full_context": "think"}  # the tag before the action


@dataclass(frozen=True)
class Mem1Turn:
    """One turn that is over: what the model wrote, and what the environment returned."""

    note: str  # the state of MEM1, or the thought of full context
    query: str
    info: str  # what the environment returned, several lines


def turn_messages(task: str, past: Sequence[Mem1Turn], turns_left: int, kind: str,
                  instructions: str, answers: bool = True) -> list[Message]:
    """The prompt of one turn; `past` are the turns to remember, oldest first.

    `kind` is a key of `NOTES`. `instructions` are the environment's. `answers` is False for a task
    that ends without an <answer>.
    """
    tag = NOTES[kind]
    lines = [without_tags(line) for line in task.splitlines()]
    for turn in past:
        # A space after each tag, because a word behind a space is the same token as in a sentence.
        lines += [f"<{tag}> {without_tags(turn.note)}</{tag}>",
                  f"<query> {without_tags(turn.query)}</query>",
                  "<info>", *(without_tags(line) for line in turn.info.splitlines()), "</info>"]
    # The last line names what to write, because a small model follows what stands nearest.
    action = "<query>"
    if answers:
        action = "<answer>" if turns_left == 1 else "<query> or <answer>"
    lines.append(f"Turns left: {turns_left}. Write <{tag}>, then {action}.")
    return [{"role": "system", "content": INSTRUCTIONS[kind] + instructions},
            {"role": "user", "content": "\n".join(lines)}]


# Problem 11
def parse_turn(text: str, kind: str) -> tuple[str, str, str] | None:
    """(note, "query" or "answer", its text) of a response, or None for no usable action.

    Never raises. A missing note is an empty one. The first action counts. Thinking is no action; in
    full context it is the note.

    >>> parse_turn("<IS> Oslo</IS><query> 2. Who is Carl's boss?</query>", "mem1")
    ('Oslo', 'query', "2. Who is Carl's boss?")
    """
    thought, said = split_thinking(text)
    actions = [(*_tagged(said, tag), tag) for tag in ("query", "answer")]
    start, action, tag = min(actions)
    if not action:
        return None
    if NOTES[kind] == "think":
        note = " ".join(THINKING.sub(" ", thought).split())
    else:
        # Only before the action, because the model did not know a later note when it chose one.
        _, note = _tagged(said[:start], NOTES[kind])
    return note, tag, action


def format_turn(note: str, action: str, text: str, kind: str) -> str:
    """A response as `parse_turn` reads it; `action` is "query" or "answer".

    >>> format_turn("Oslo", "query", "2. Who is Carl's boss?", "mem1")
    "<IS> Oslo</IS><query> 2. Who is Carl's boss?</query>"
    """
    tag = NOTES[kind]
    return f"<{tag}> {note}</{tag}><{action}> {text}</{action}>"


def _tagged(text: str, tag: str) -> tuple[int, str]:
    """(place, content) of the first such tag that is closed, or (length of the text, "")."""
    # `find` and no pattern such as <query>(.*?)</query>: from each of many tags that never close it
    # would read to the end of the text.
    start = text.find(f"<{tag}>")
    end = text.find(f"</{tag}>", start)
    if start < 0 or end < 0:
        return len(text), ""
    return start, " ".join(text[start + len(tag) + 2 : end].split())


# ---- The agent -----------------------------------------------------------------------------------


@dataclass
class Trajectory:
    """One task in progress."""

    environment: Environment
    text: str  # the task, as the environment told it
    turns_left: int
    past: list[Mem1Turn] = field(default_factory=list)  # every turn, forgotten or not
    steps: list[Step] = field(default_factory=list)  # for training, one a turn
    responses: list[str] = field(default_factory=list)  # for the log, one a turn
    turns: list[dict] = field(default_factory=list)  # for the log: what each turn had in context
    remembered: list[int] = field(default_factory=list)  # places of past turns in the last prompt
    n_dropped: int = 0  # past turns that the last prompt had no positions for
    reward: float = 0.0
    answer: str = ""
    invalid: int = 0
    done: bool = False

    # Problem 11
    def advance(self, step: Step, response: str, kind: str) -> None:
        """Take one turn: act, remember, and end if the environment or the limit says so."""
        self.steps.append(step)
        self.responses.append(response)
        self.turns_left -= 1
        parsed, info = parse_turn(response, kind), ""
        if parsed is not None:
            note, action, text = parsed
            info, self.reward, self.done = self.environment.step(action, text)
            self.answer = text if action == "answer" else ""
            self.past.append(Mem1Turn(note, text, info))
        # A task fails without a usable action, and if it is not done after its last turn.
        if not self.done and (parsed is None or self.turns_left == 0):
            self.invalid, self.done = 1, True
        self.turns.append({"info": info, "kept": self.remembered,
                           "read_tokens": len(step.prompt_ids),
                           "written_tokens": len(step.response_ids)})


class Mem1Agent:
    """Turns tasks into episodes of one step a turn, paid once at the end.

    `environment` makes a new environment, one for each trajectory. `harness` is one of `harnesses`;
    "a_mem" is a class of its own (systems/own_past.py). Raises ValueError for any other.
    """

    harnesses = ("mem1", "full_context", "truncation")

    def __init__(self, environment: Callable[[], Environment] = Search, harness: str = "mem1", *,
                 max_new_tokens: int):
        if harness not in self.harnesses:
            raise ValueError(f"harness {harness!r}: {type(self).__name__} is one of "
                             f"{', '.join(self.harnesses)}; `mem1_agent` makes every agent")
        self.environment, self.harness = environment, harness
        # Truncation has the prompts of full context, because it only remembers fewer turns.
        self.kind = "mem1" if harness == "mem1" else "full_context"
        self.max_new_tokens = max_new_tokens

    def begin(self, task: Any) -> Trajectory:
        """A task before its first turn, with an environment that knows how far it has come."""
        environment = self.environment()
        return Trajectory(environment, environment.reset(task), environment.turns(task))

    # Problem 11
    def prompt(self, policy: Policy, trajectory: Trajectory) -> Prompt:
        """What the model reads in the next turn."""

        def messages(places: Sequence[int]) -> list[Message]:
            past = [trajectory.past[place] for place in sorted(places)]
            return turn_messages(
                trajectory.text, past, trajectory.turns_left, self.kind,
                trajectory.environment.instructions, trajectory.environment.answers)

        room = policy.positions - self.max_new_tokens
        if self.harness == "truncation":
            room = min(room, len(policy.encode(messages([]))) + self.max_new_tokens)
        # Whole turns are dropped, because half a turn makes no sense. The task stays, and so does
        # the last turn, because the agent must see what its query returned.
        last = list(range(len(trajectory.past)))[-1:]
        prompt = fit(policy, lambda places: messages([*places, *last]),
                     self.earlier(policy, trajectory), room)
        trajectory.remembered = sorted([*prompt.parts, *last])
        # Truncation drops turns in any model, so those are not counted.
        trajectory.n_dropped = 0 if self.harness == "truncation" else prompt.n_dropped
        return prompt

    # Problem 11
    def earlier(self, policy: Policy, trajectory: Trajectory) -> Sequence[int]:
        """Places of turns before the last one to remember, those to keep longest first."""
        if self.harness == "mem1":
            return []
        return range(len(trajectory.past) - 2, -1, -1)  # the newest first

    def prompts(self, policy: Policy, trajectories: Sequence[Trajectory]) -> list[Prompt]:
        """What the model reads in the next turn of each trajectory."""
        return [self.prompt(policy, trajectory) for trajectory in trajectories]

    def rollout(self, policy: Policy, tasks: Sequence, group_size: int, temperature: float,
                generator: torch.Generator | None = None) -> list[list[Episode]]:
        """`group_size` trajectories of each task; all of them take their next turn together."""
        groups = [[self.begin(task) for _ in range(group_size)] for task in tasks]
        unfinished = [trajectory for group in groups for trajectory in group]
        while unfinished:
            # One sample a prompt, because after the first turn the prompts of a group differ. Equal
            # ones are read once all the same (`prompt_rows` in trees.py).
            prompts = [prompt.ids for prompt in self.prompts(policy, unfinished)]
            sampled = policy.sample(
                prompts, 1, self.max_new_tokens, temperature, generator, stop_texts=STOP)
            for trajectory, [step] in zip(unfinished, sampled):
                trajectory.advance(step, policy.decode(step.response_ids), self.kind)
            unfinished = [trajectory for trajectory in unfinished if not trajectory.done]
        return [[self.episode(trajectory) for trajectory in group] for group in groups]

    def episode(self, trajectory: Trajectory) -> Episode:
        """A finished trajectory as training and samples.jsonl see it."""
        log = {"prompt": trajectory.text,
               "response": "\n".join(" ".join(text.split()) for text in trajectory.responses),
               "n_turns": len(trajectory.steps), "turns": trajectory.turns,
               "invalid": trajectory.invalid, "dropped": trajectory.n_dropped,
               **trajectory.environment.log(trajectory.answer)}
        return Episode(trajectory.steps, trajectory.reward, log)


if __name__ == "__main__":
    from tools.watch import watch_main  # not above: the demo imports this module
    watch_main()
