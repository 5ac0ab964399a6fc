#!/usr/bin/env bash
# What: openpipe-art 0.5.18 (ART), GRPO batches with a question whose rollouts all have the same
# reward.
#
# ART takes each reward minus the mean of its group, and drops rollouts whose advantage is 0. If no
# rollout is left, it skips the step, and says that this happens when "all the trajectories in the
# same group have the same reward and thus no advantage to train on". Here six rollouts of a
# question get 0.1 each, for their format alone, say.
#
# Expected: they are dropped, as six rewards of 0.5 are.
# Seen on 30 November 2026, with Python 3.11: all six are trained on, with an advantage of 1 each,
# as strongly as in a good batch. For six times 0.7 it is -1. Beside a group of three 0 and three 1
# they get 0, but the advantages of that group become 2 and -2 in place of 1 and -1. The mean of six
# times 0.1 differs from 0.1 in the 17th digit, so no advantage is exactly 0 and none is dropped.
# Then pack.py divides all advantages of the batch by the mean of their sizes. This makes 1 of the
# rounding errors, or halves the mean if other rollouts are there. Which rewards and group sizes are
# concerned, and the sign, depends on the rounding, so also on Python's version. No warning.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    torch==2.13.0 transformers==5.24.0 openai==3.3.0 litellm==1.82.0 polars==2.1.0 pillow==13.0.0 \
    2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps openpipe-art==0.5.18 \
    2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 LITELLM_LOCAL_MODEL_COST_MAP=True
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import sys

import art
from art.preprocessing.pack import packed_tensors_from_tokenized_results
from art.preprocessing.tokenize import tokenize_trajectory_groups
from openai.types.chat.chat_completion import Choice
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

WORDS = ["Where", "Oslo", "Bergen", "user", "assistant", "end", "unused", "spare"]
tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, "end"))
tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="end")
tokenizer.chat_template = (
    "{% for message in messages %}{{ message.role }} {{ message.content }} end {% endfor %}")


def rollout(reward, number):
    word = "Oslo" if number % 2 else "Bergen"
    tokens = [{"token": f"token_id:{WORDS.index(word)}", "logprob": -1, "top_logprobs": []}]
    choice = Choice.model_validate({
        "finish_reason": "stop", "index": 0, "message": {"role": "assistant", "content": word},
        "logprobs": {"content": tokens}})
    return art.Trajectory(messages_and_choices=[{"role": "user", "content": "Where"}, choice],
                          reward=reward)


def train(*groups):
    """Return the advantages of the tokens that are trained on."""
    groups = [art.TrajectoryGroup([rollout(reward, number) for number, reward in enumerate(group)])
              for group in groups]
    results = list(tokenize_trajectory_groups(tokenizer, groups, False, True))
    if not results:
        return []
    tensors = packed_tensors_from_tokenized_results(results, 64, tokenizer.eos_token_id)
    found = tensors["advantages"][tensors["assistant_mask"]].tolist()
    return sorted(round(one, 3) + 0 for one in found)


good = [0, 0, 0, 1, 1, 1]
seen = []
for name, groups in (
        ("six rewards of 0.5", [[0.5] * 6]), ("six of 0.1", [[0.1] * 6]),
        ("six of 0.7", [[0.7] * 6]), ("three 0 and three 1", [good]),
        ("the same beside six of 0.5", [good, [0.5] * 6]),
        ("the same beside six of 0.1", [good, [0.1] * 6])):
    seen.append(train(*groups))
    print(f"openpipe-art 0.5.18, {name}: advantages {seen[-1]}")
sizes = [[abs(one) for one in row] for row in seen]
sys.exit(sizes != [[], [1] * 6, [1] * 6, [1] * 6, [1] * 6, [2] * 3 + [0] * 6 + [2] * 3])
PYTHON
