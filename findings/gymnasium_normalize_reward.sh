#!/usr/bin/env bash
# What: gymnasium 1.4.0, wrappers.NormalizeReward and episodes that a step limit ends.
#
# The docstring says that rewards are scaled "s.t. their exponential moving average has an
# approximately fixed variance", and takes any gamma in [0, 1]. Agents with a budget of turns are
# often trained with gamma=1, because an episode has few of them.
# An episode has three turns with reward 1 each. So its return so far is 1, 2 and 3, in every
# episode, with a standard deviation of 0.82.
#
# Expected: a reward of 1 / 0.82 = 1.22 in each episode, the first one and the 1000th alike.
# Seen on 29 November 2026: 1.22 at the end of episode 1, 0.12 in episode 10, 0.0012 in episode
# 1000. The return is never set back when an episode is truncated, nor by reset(). It grows from
# episode to episode, and so does the variance that rewards are divided by. With gamma=0.99 the
# reward in episode 1000 is 0.08. With episodes that end as terminated it is 1.22. No warning.
# Issues 760 and 1507 of Gymnasium reported it. They are closed. The first was not seen as a bug.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    gymnasium==1.4.0 numpy==2.4.6 2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import sys

import gymnasium

N_TURNS = 3


class Dialogue(gymnasium.Env):
    observation_space = action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, truncated):
        self.truncated = truncated

    def reset(self, *, seed=None, options=None):
        self.n_turns = 0
        return 0, {}

    def step(self, action):
        self.n_turns += 1
        ended = self.n_turns == N_TURNS
        return 0, 1.0, ended and not self.truncated, ended and self.truncated, {}


seen = []
for gamma, truncated in ((1.0, True), (0.99, True), (1.0, False)):
    env = gymnasium.wrappers.NormalizeReward(Dialogue(truncated), gamma=gamma)
    last = []
    for _ in range(1000):
        env.reset()
        rewards = [float(env.step(0)[1]) for _ in range(N_TURNS)]
        last.append(rewards[-1])
    print(f"gymnasium {gymnasium.__version__}, gamma {gamma}, episodes end as "
          f"{'truncated' if truncated else 'terminated'}: last reward of episodes 1, 10 and 1000 "
          f"is {last[0]:.4f}, {last[9]:.4f} and {last[-1]:.4f}")
    seen.append([round(last[i], 4) for i in (0, 9, -1)])
sys.exit(seen[0] != [1.2246, 0.1155, 0.0012] or seen[1][-1] != 0.0808 or seen[2][-1] != 1.2247)
PYTHON
