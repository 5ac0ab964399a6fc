#!/usr/bin/env bash
# What: textarena 0.7.4, the environment Bandit-v0: which of five buttons pays most often?
#
# The prompt says that the goal is to collect information in the first 20 turns, in order to "choose
# the button with the highest mean reward correctly" in the turn after them. The code has two ends:
# reward 1.0 and "Congratulations! You chose the correct button." for the best one, and a smaller
# reward for any other.
#
# Expected: the reward of the last turn is highest for the best button.
# Seen on 30 November 2026: it is 0.0 for the best button, with "You chose an incorrect button.",
# and the more, the worse the button is. The worst of the five gets the highest reward. 1.0 is never
# given: the name of the choice is compared with the dictionary of all the means, so each choice
# counts as wrong. The reward of a wrong one is its regret, with a plus sign. Who trains on it
# learns to find the worst button. No warning. Issue 173 of TextArena reports it, and is open.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check textarena==0.7.4 \
    2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import importlib.metadata
import sys

import textarena

N_TURNS = 20
seen = []
for seed in (0, 1):
    env = textarena.make("Bandit-v0")
    env.reset(num_players=1, seed=seed)
    means = dict(env.state.game_state["ground_truth"])
    rewards = []
    for button in sorted(means, key=means.get, reverse=True):
        env.reset(num_players=1, seed=seed)
        assert env.state.game_state["ground_truth"] == means
        for _ in range(N_TURNS):
            env.get_observation()
            done, _ = env.step("[red]")
            assert not done
        env.get_observation()
        done, _ = env.step(f"[{button}]")
        assert done
        reward, info = env.close()
        rewards.append(reward[0])
        print(f"textarena {importlib.metadata.version('textarena')}, seed {seed}, {button} with "
              f"mean {means[button]:.2f}: reward {reward[0]:.2f}, {info[0]['reason']!r}")
    seen.append((rewards[0], rewards == sorted(rewards), rewards[-1] > 0.2))
sys.exit(seen != [(0, True, True)] * 2)
PYTHON
