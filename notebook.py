"""Write the whole story as a notebook of ten cells: `python notebook.py` makes tour.ipynb.

The cells call the functions of the modules, so they cannot say anything that the code does not do;
tests/test_notebook.py runs them all on the embedded model. In Colab (File, Upload notebook) the
first cell fetches the repository; elsewhere open it in the repository's own folder.

    python notebook.py            writes tour.ipynb; two minutes to run on two cores
"""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Sequence
from pathlib import Path

# Text and code of each cell. STEPS is what a test makes smaller.
CELLS: list[tuple[str, str]] = [
    ("""\
# Agents that learn what to remember
Ten cells: a memory, an agent that manages it badly, and reinforcement learning by hand that
teaches it better, paid only by whether the final answer is right. The paper is
[Memory-R1](https://arxiv.org/abs/2508.19828).

**1. Setting up.** Set `REPOSITORY` to the address of your clone if you are in Colab.""", """\
        import os, subprocess, sys
        REPOSITORY = ""  # such as https://github.com/NAME/REPOSITORY
        if REPOSITORY and not os.path.exists("grpo.py"):
            subprocess.run(["git", "clone", "--depth", "1", REPOSITORY, "course"], check=True)
            os.chdir("course")
            subprocess.run([sys.executable, "-m", "pip", "install", "-q", "-r",
                            "requirements.txt"], check=True)
        sys.path.insert(0, os.getcwd())
        STEPS = 20  # of training; fewer are quicker, and teach less"""),
    ("""\
**2. A conversation.** The synthetic world makes dialogues in which facts add, replace and end.""",
     """\
        from world import world_splits
        train_dialogues, _, test_dialogues = world_splits()
        dialogue = test_dialogues[0]
        for turn in dialogue.turns[:12]:
            print(f"{turn.timestamp}  {turn.speaker}: {turn.text}")
        for question in dialogue.questions[:3]:
            print(f"Q: {question.text}  A: {question.answer}  (evidence {question.evidence})")"""),
    ("""\
**3. An external memory.** Four operations, and a search by cosine.""", """\
        from embedders import hashed_words
        from memory_bank import MemoryBank
        bank = MemoryBank(hashed_words())
        dog = bank.add("Anna has a dog named Rex", "Anna", "1 May 2023")
        bank.add("Anna lives in Oslo", "Anna", "1 May 2023")
        print(bank.search("What dogs does Anna have?", 2, with_scores=True))
        bank.update(dog.id, "Anna has dogs named Rex and Milo", "8 May 2023")
        print(list(bank))"""),
    ("""\
**4. A policy.** A causal language model of a million parameters. As a Memory Manager it is told of
a second dog, and overwrites the first.""", """\
        import torch
        from memr1 import answer_all, AnswerTask, observe_all
        from data import Question
        from policy import load_policy
        from options import EMBEDDED_MODEL
        policy = load_policy(EMBEDDED_MODEL)

        def second_dog(manager):
            bank = MemoryBank(hashed_words())
            bank.add("Anna has a dog named Rex", "Anna", "1 May 2023")
            bank.add("Anna lives in Oslo", "Anna", "1 May 2023")
            [seen] = observe_all(manager, [bank], [("Anna: I have a dog named Milo now.", "Anna",
                                                    "8 May 2023")])
            asked = Question("What dogs does Anna have?", "Rex and Milo", 1, ())
            [answer] = answer_all(policy, [AnswerTask(bank, asked, ("Anna",))])
            print(seen.response, "-> memories", [m.text for m in bank], "-> answer", answer.text)

        second_dog(policy)"""),
    ("""\
**5. A group of samples.** The same decision eight times, each paid by the frozen Answer Agent's
answer: 1 if it is exactly right.""", """\
        from memr1 import ManagerAgent, manager_tasks
        agent = ManagerAgent(load_policy(EMBEDDED_MODEL))
        tasks = [t for t in manager_tasks(train_dialogues[:2], hashed_words(), "turns") if t.merged]
        groups = agent.rollout(policy, tasks[:2], group_size=8, temperature=1.0,
                               generator=torch.Generator().manual_seed(0))
        for episode in groups[0]:
            print(int(episode.reward), episode.log["response"], "->", episode.log["answer"])"""),
    ("""\
**6. Advantages.** What did better than its group is pushed up, the rest down; a group whose
members are all alike teaches nothing.""", """\
        from grpo import group_advantages
        rewards = torch.tensor([[float(e.reward) for e in group] for group in groups])  # (P, G)
        print(rewards, group_advantages(rewards), sep="\\n")"""),
    ("""\
**7. Packed trees.** The eight samples share their prompt, so it is read once. The log-probs are
those of separate rows, and those the sampler had.""", """\
        from trees import trees_of
        steps = trees_of(groups[:1])[0]
        rows = policy.rows([steps])
        print(sum(len(s.prompt_ids) + len(s.response_ids) for s in steps), "tokens in all,",
              sum(len(row.input_ids) for row in rows), "in the tree")
        together = policy.token_log_probs([steps])
        alone = torch.cat([policy.token_log_probs([[step]]) for step in steps])
        sampled = torch.tensor([p for step in steps for p in step.log_probs])
        print("largest difference:", (together - alone).abs().max().item(),
              (together - sampled).abs().max().item())"""),
    ("""\
**8. Training.** The loop of `grpo.py`, on 152 questions.""", """\
        import grpo
        summary = grpo.main(["--steps", str(STEPS), "--limit", "40", "--out", "runs/tour"])"""),
    ("""\
**9. The same decision afterwards.**""", """\
        trained = load_policy("runs/tour/checkpoint")
        second_dog(policy)
        second_dog(trained)
        print("held-out exact match", round(summary["before"]["exact_match"], 3), "->",
              round(summary["after"]["exact_match"], 3))"""),
    ("""\
**10. MEM1: constant context.** Another agent, for long tasks: each turn it rewrites one state and
drops the rest. Before training it slips; `python grpo.py --agent mem1` teaches it. What to read
next stands in README.md.""", """\
        from environments import search_tasks
        from mem1 import Mem1Agent
        from options import EMBEDDED_MEM1
        mem1_policy = load_policy(EMBEDDED_MEM1)
        [task, *_] = search_tasks(test_dialogues[:2], 4, hashed_words())
        for harness in ("mem1", "full_context"):
            [[episode]] = Mem1Agent(harness=harness).rollout(mem1_policy, [task], 1, temperature=0)
            sizes = [len(s.prompt_ids) + len(s.response_ids) for s in episode.steps]
            print(harness, "tokens in context, turn by turn:", sizes)"""),
]


def notebook() -> dict:
    """The notebook as Jupyter's format 4.5 has it, without outputs."""
    cells = []
    for number, (text, code) in enumerate(CELLS, start=1):
        cells.append({"cell_type": "markdown", "id": f"text-{number}", "metadata": {},
                      "source": text.splitlines(keepends=True)})
        cells.append({"cell_type": "code", "id": f"code-{number}", "metadata": {},
                      "execution_count": None, "outputs": [],
                      "source": textwrap.dedent(code).splitlines(keepends=True)})
    return {"nbformat": 4, "nbformat_minor": 5, "cells": cells, "metadata": {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "language_info": {"name": "python"}}}


def main(argv: Sequence[str] | None = None) -> None:
    """Write the notebook."""
    parser = argparse.ArgumentParser(description="Write the tour as a notebook.",
                                     allow_abbrev=False)
    parser.add_argument("--out", type=Path, default=Path("tour.ipynb"),
                        help="the notebook (default: tour.ipynb)")
    out = parser.parse_args(argv).out
    try:
        out.write_text(json.dumps(notebook(), indent=1, ensure_ascii=False) + "\n",
                       encoding="utf-8")
    except OSError as error:
        parser.error(f"cannot write {out} ({error.strerror}); choose another --out")
    print(f"wrote {out}: {len(CELLS)} cells; open it with Jupyter, or upload it to Colab")


if __name__ == "__main__":
    main()
