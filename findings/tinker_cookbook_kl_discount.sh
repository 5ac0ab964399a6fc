#!/usr/bin/env bash
# What: tinker-cookbook 0.6.1, kl_discount_factor of its RL training, with a KL penalty.
#
# Of the penalty the docstring of incorporate_kl_penalty says: "transformed into discounted future
# sums before being added to advantages", and a comment in it: "compute the logprob differences,
# zeroed out when the mask == 0". The docstring of trajectory_to_data: "The scalar advantage to
# assign to all action tokens in this trajectory". A loss of Tinker is a sum over all tokens, of
# which one with the advantage 0 adds nothing. An agent is asked a question, searches its memory,
# reads the result and answers.
#
# Expected: the advantages of what the agent wrote change. Those of the question and of the memory
# that was read stay 0, as without the discount.
# Seen on 30 November 2026: with a discount of 0.9 each token of the memory that was read gets an
# advantage of 0.07 to 0.085, and the question one of about -0.035: the penalty of what the agent
# writes later. The mask, which says what the agent wrote, is taken out of the data before training.
# So the model learns to say what its search found, or not to say what the user asked. No warning.
# The factor is 0 unless it is set.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    tinker==0.38.0 torch==2.13.0 transformers==5.24.0 numpy==2.4.6 datasets==5.2.0 chz==0.4.0 \
    blobfile==3.3.0 cloudpickle pillow termcolor tqdm \
    2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps \
    tinker-cookbook==0.6.1 2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
export HF_HOME="$folder/cache" HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import asyncio
import sys
from importlib.metadata import version
from types import SimpleNamespace

import tinker
from tinker_cookbook.completers import TokensWithLogprobs
from tinker_cookbook.rl.data_processing import trajectory_to_data
from tinker_cookbook.rl.metrics import incorporate_kl_penalty
from tinker_cookbook.rl.train import _remove_mask
from tinker_cookbook.rl.types import Trajectory, Transition

QUESTION, SEARCH, RESULT, ANSWER = [1, 2, 3], [4, 5], [6, 7, 8], [9, 10]
PARTS = {"question": 2, "search": 2, "memory": 3, "answer": 2}  # no target is the first token


class Reference:
    """A reference model that gives each token after the first the same log probability."""

    def sample(self, prompt, **options):
        async def answer():
            return SimpleNamespace(prompt_logprobs=[None] + [-2.0] * (prompt.length - 1),
                                   prompt_cache_hit_tokens=0, sequences=[])
        return SimpleNamespace(coroutine=answer)


def turn(observation, tokens, logprob, done):
    return Transition(ob=tinker.ModelInput.from_ints(observation), reward=float(done),
                      ac=TokensWithLogprobs(tokens, [logprob] * len(tokens)), episode_done=done)


seen = []
for discount in (0.0, 0.9):
    turns = [turn(QUESTION, SEARCH, -1.0, False),
             turn(QUESTION + SEARCH + RESULT, ANSWER, -2.0, True)]
    data = trajectory_to_data(Trajectory(turns, final_ob=tinker.ModelInput.empty()), 1.0)
    asyncio.run(incorporate_kl_penalty(data, Reference(), 0.1, discount))
    inputs = _remove_mask(data[0]).loss_fn_inputs
    advantages = [round(value, 3) + 0 for value in inputs["advantages"].to_torch().tolist()]
    row, begin = {}, 0
    for part, length in PARTS.items():
        row[part] = advantages[begin:begin + length]
        begin += length
    print(f"tinker-cookbook {version('tinker-cookbook')}, kl_discount_factor {discount}: "
          f"advantages {row}, mask left: {'mask' in inputs}")
    seen.append(advantages)
sys.exit(seen != [[0, 0, 0.95, 0.95, 0, 0, 0, 1.05, 1.05],
                  [-0.032, -0.035, 0.961, 1.012, 0.069, 0.077, 0.085, 1.095, 1.05]])
PYTHON
