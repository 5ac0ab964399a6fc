"""MEM1 (arXiv 2506.15841): an agent that works through a long task in constant context.

    task ──1──> prompt ──2──> <IS>state</IS> <query>...</query> ──3──> environment ──> result
                  ^                  │                                                  │
                  └──────4───────────┴── state, query and result; all else is dropped <─┘
                                     │
                                     └─ <answer>...</answer> ──5──> reward

1. `turn_messages`  the task, the last state, the last query, what it returned, the turns left
2. `parse_turn`     a new state, then a query or an answer; text ends at the closing tag
3. `environment.step(kind, text) -> (text, reward, done)`, see environments.py
4. `Trajectory.advance`  two states, two queries and one result are ever in context
5. one reward for the whole trajectory: MEM1's is the number of questions answered right

The same agent with other memories of its own past, for comparison (`harness`): "full_context" keeps
every turn, as ReAct does, and "truncation" the last turn and as many before it as `WINDOW` holds.

Training is exact. Each turn is a `Step` with the prompt it was sampled from, so in a packed tree
(trees.py) a turn is a branch behind the shared task that carries its own copy of the last state,
query and result, unscored, and then what was written, scored. MEM1's released code stitches a
trajectory into one sequence with a *single* copy of each state. A later turn then reads hidden
states that were computed while the pruned text was still visible: what was dropped leaks through,
and from the third turn on log-probs are off: by half a nat a token and more on a random model with
large weights (`tests/test_mem1.py`). Its authors say that exactness takes the state twice.

Where this differs from the paper
1. State and query come back in the user's message, not as the beginning of the assistant's: any
   chat template can say that. The hint of the turns left stands in every turn's message.
2. Generation really stops at the closing tag, and the sampled ids are trained as they are. The
   released code samples on, cuts the text, and encodes what is left again.
3. A turn without a usable action ends the episode with reward 0 and is counted ("invalid").

    python mem1.py      tasks turn by turn, with the tokens in context, beside full context
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from benchmarks.shop import Store
from data import Dialogue, Message, OpenQuestion
from environments import Search, search_tasks
from memory_bank import Embedder
from metrics import context_sizes, objectives_scores
from policy import Policy
from prompts import one_line
from trees import Episode, Step

STOP = ("</query>", "</answer>")
HARNESSES = ("mem1", "full_context", "truncation")
WINDOW = 160  # tokens of past turns that truncation keeps

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


def harmless(text: str) -> str:
    """Text that a tool returned or a model wrote, made unable to imitate a tag: no "<" in it."""
    return one_line(text.replace("<", "(").replace(">", ")"))


@dataclass(frozen=True)
class Mem1Turn:
    """One turn that is over: what was written, as text, and what came back."""

    note: str  # the state, or the thought
    query: str
    info: str


def turn_messages(task: str, past: Sequence[Mem1Turn], turns_left: int, kind: str,
                  instructions: str, answers: bool = True) -> list[Message]:
    """The prompt of one turn; `past` are the turns that are still remembered, oldest first.

    `answers` is False for a task that ends without an <answer>.
    """
    tag = NOTES[kind]
    lines = [task]
    for turn in past:
        # The space lets a word be the same token here as in running text.
        lines += [f"<{tag}> {harmless(turn.note)}</{tag}>",
                  f"<query> {harmless(turn.query)}</query>",
                  "<info>", *(harmless(line) for line in turn.info.splitlines()), "</info>"]
    action = "<query>"
    if answers:
        action = "<answer>" if turns_left == 1 else "<query> or <answer>"
    lines.append(f"Turns left: {turns_left}. Write <{tag}>, then {action}.")
    return [{"role": "system", "content": INSTRUCTIONS[kind] + instructions},
            {"role": "user", "content": "\n".join(lines)}]


# Problem 11
def parse_turn(text: str, kind: str) -> tuple[str, str, str] | None:
    """(note, "query" or "answer", its text) of a response, or None for no usable action.

    Never raises. A missing note is an empty one; the first action counts.
    """
    action = re.search(r"<(query|answer)>(.*?)</\1>", text, re.DOTALL)
    if action is None or not action[2].strip():
        return None
    note = re.search(rf"<{NOTES[kind]}>(.*?)</{NOTES[kind]}>", text[: action.start()], re.DOTALL)
    return (" ".join(note[1].split()) if note else "", action[1], " ".join(action[2].split()))


# ---- The agent -----------------------------------------------------------------------------------


@dataclass
class Trajectory:
    """One task in progress."""

    environment: Search | Store
    text: str  # the task, as the environment told it
    turns_left: int
    past: list[Mem1Turn] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    responses: list[str] = field(default_factory=list)
    turns: list[dict] = field(default_factory=list)  # for the log: what each turn had in context
    kept: int = 0  # past turns in the prompt that was made last
    reward: float = 0.0
    answer: str = ""
    invalid: int = 0
    done: bool = False

    # Problem 11
    def advance(self, step: Step, response: str, kind: str) -> None:
        """Take one turn: remember it, act, and end if the environment or the limit says so."""
        self.steps.append(step)
        self.responses.append(response)
        self.turns_left -= 1
        parsed, info = parse_turn(response, kind), ""
        if parsed is not None:
            note, action, text = parsed
            info, self.reward, self.done = self.environment.step(action, text)
            self.answer = text if action == "answer" else ""
            self.past.append(Mem1Turn(note, text, info))
        if not self.done and (parsed is None or self.turns_left == 0):
            self.invalid, self.done = 1, True
        self.turns.append({"info": info, "kept": self.kept, "read_tokens": len(step.prompt_ids),
                           "written_tokens": len(step.response_ids)})


class Mem1Agent:
    """Turns tasks into episodes of one step a turn, paid once at the end."""

    def __init__(self, environment: Callable[[], Search | Store] = Search, harness: str = "mem1",
                 max_new_tokens: int = 160):
        self.environment, self.harness = environment, harness
        self.kind = "mem1" if harness == "mem1" else "full_context"
        self.max_new_tokens = max_new_tokens

    # Problem 11
    def prompt(self, policy: Policy, trajectory: Trajectory) -> list[int]:
        """What the model reads in the next turn."""
        def encode(past: Sequence[Mem1Turn]) -> list[int]:
            return policy.encode(turn_messages(
                trajectory.text, past, trajectory.turns_left, self.kind,
                trajectory.environment.instructions, trajectory.environment.answers))

        past = trajectory.past
        if self.harness == "mem1":
            past = past[-1:]
        ids = encode(past)
        if self.harness == "truncation":
            # The task stays; of the past, whole turns from the front go until the rest fits.
            room = len(encode([])) + WINDOW
            while len(past) > 1 and len(ids) > room:
                past = past[1:]
                ids = encode(past)
        trajectory.kept = len(past)
        return ids

    def rollout(self, policy: Policy, tasks: Sequence, group_size: int, temperature: float,
                generator: torch.Generator | None = None) -> list[list[Episode]]:
        """`group_size` trajectories of each task, all one turn further at a time."""
        groups = []
        for task in tasks:
            groups.append([])
            for _ in range(group_size):
                environment = self.environment()
                groups[-1].append(
                    Trajectory(environment, environment.reset(task), environment.turns(task)))
        going = [trajectory for group in groups for trajectory in group]
        while going:
            prompts = [self.prompt(policy, trajectory) for trajectory in going]
            sampled = policy.sample(
                prompts, 1, self.max_new_tokens, temperature, generator, stop_texts=STOP)
            for trajectory, [step] in zip(going, sampled):
                trajectory.advance(step, policy.decode(step.response_ids), self.kind)
            going = [trajectory for trajectory in going if not trajectory.done]
        return [[self._episode(policy, trajectory) for trajectory in group] for group in groups]

    def _episode(self, policy: Policy, trajectory: Trajectory) -> Episode:
        log = {"prompt": trajectory.text,
               "response": "\n".join(" ".join(text.split()) for text in trajectory.responses),
               "n_turns": len(trajectory.steps), "turns": trajectory.turns,
               "operations": {"invalid": trajectory.invalid},
               **trajectory.environment.log(trajectory.answer)}
        return Episode(trajectory.steps, trajectory.reward, log)


# ---- How it compares over more and more questions ------------------------------------------------

OBJECTIVES = (1, 2, 4, 8, 16)
TASKS = 27  # of each number of questions


def by_objectives(policy: Policy, harness: str,
                  sources: Sequence[Dialogue] | Sequence[OpenQuestion], embed: Embedder,
                  max_new_tokens: int = 160, limit: int = TASKS,
                  counts: Sequence[int] = OBJECTIVES) -> dict[str, dict[str, float]]:
    """Greedy scores by the number of questions in a task, over at most `limit` tasks of each.

    Means over tasks of `objectives_scores` (exact match and F1 are sums, 0 .. the number of
    questions), of `context_sizes`, and of seconds.
    """
    scores = {}
    agent = Mem1Agent(harness=harness, max_new_tokens=max_new_tokens)
    for n_objectives in counts:
        tasks = search_tasks(sources, n_objectives, embed)[:limit]
        if not tasks:
            continue
        start = time.time()
        episodes = [group[0] for group in agent.rollout(policy, tasks, 1, temperature=0)]
        seconds = (time.time() - start) / len(tasks)
        rows = [{**objectives_scores(episode.log["answer"], task.answers),
                 **context_sizes([len(step.prompt_ids) for step in episode.steps],
                                 [len(step.response_ids) for step in episode.steps])}
                for task, episode in zip(tasks, episodes)]
        scores[str(n_objectives)] = {
            name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
        scores[str(n_objectives)].update(seconds=seconds, count=len(tasks))
    return scores


if __name__ == "__main__":
    from tools.chat import watch_main  # not above: the chat imports this module
    watch_main()
