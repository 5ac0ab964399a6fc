"""One console command for all of them: `memr1 grpo --seed 1` is `python grpo.py --seed 1`.

`pip install -e .` makes the command (pyproject.toml), and it works from any folder. The folder
runs/ is made where it is typed.
"""

from __future__ import annotations

import runpy
import sys

COMMANDS = {  # name -> (the module that it is, what it does)
    "grpo": ("grpo", "train an agent with GRPO"),
    "ppo": ("ppo", "train an agent with PPO"),
    "sft": ("sft", "train an agent by imitation"),
    "evaluate": ("evaluate", "score two agents over whole dialogues"),
    "systems": ("comparisons.compare", "compare all memory systems on the same questions"),
    "answerers": ("comparisons.answerers", "compare answer agents on the same questions"),
    "recall": ("comparisons.recall", "measure how much evidence is retrieved, without a model"),
    "memr1": ("memr1", "chat with an agent that has a memory"),
    "mem1": ("mem1", "watch long tasks, turn by turn"),
    "claims": ("claims", "check every claim of the papers"),
    "report": ("tools.report", "show runs as a web page"),
    "pictures": ("training.pictures", "draw the rewards of runs into one picture"),
    "bench": ("tools.bench", "measure speed and memory"),
    "making.manager": ("making.manager", "make the embedded model again"),
    "making.mem1": ("making.mem1", "make the embedded MEM1 model again"),
}


def main() -> None:
    """Run the module that the first argument names, with the others as its own."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print("usage: memr1 NAME [OPTIONS]; `memr1 NAME --help` lists the options\n")
        print("\n".join(f"  {name:<16}{text}" for name, (_, text) in COMMANDS.items()))
    elif name not in COMMANDS:
        # Not `exit_with`, because a list of names need not wait for torch to load.
        print(f"error: memr1 {name}: the name must be one of {', '.join(COMMANDS)}",
              file=sys.stderr)
        raise SystemExit(2)
    else:
        del sys.argv[1]  # the module reads what is left; runpy puts its path into sys.argv[0]
        runpy.run_module(COMMANDS[name][0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
