#!/usr/bin/env bash
# What: openrlhf 0.11.2, generalized advantage estimation (GAE) of a rollout with a tool's result.
#
# An agent writes three tokens that call a search, reads the result, and writes three that answer.
# action_mask is 0 on the result, because the model did not write it. The critic says 0.5 for every
# token, the reward is 1, gamma is 1 and lambda 0.95.
#
# Expected: what the six tokens of the model would get without the result: 0.39 for the first one.
# The answer was right and better than the critic thought, so each token is made likelier.
# Seen on 29 November 2026: with a result of 100 tokens the call gets -0.45 to -0.49. So the search
# that led to the right answer is made less likely, and the critic learns that calls are worth 0.
# Each token of the result counts as a step with value 0, so lambda to the power of 100 stands
# between the call and the answer. With five tokens the call gets 0.20. Only lambda=1, the default,
# gives the same for any length. No warning. verl had the same and changed it (pull request 2337).
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    torch==2.13.0 transformers==5.15.0 peft==0.21.2 ray==2.55.0 torchdata==0.11.0 aiohttp==3.14.5 \
    pylatexenc==2.11 sympy==1.14.0 2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps openrlhf==0.11.2 \
    2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
export OMP_NUM_THREADS=1
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import sys
from importlib.machinery import ModuleSpec
from importlib.metadata import version
from unittest.mock import MagicMock


class NeedsGPU:
    """These are imported on the way, but need a GPU to install. Nothing of them is used here."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("deepspeed", "flash_attn", "vllm"):
            return ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        return MagicMock(__spec__=spec, __path__=[])

    def exec_module(self, module):
        pass


sys.meta_path.insert(0, NeedsGPU())
import torch  # noqa: E402
from openrlhf.trainer.ppo_utils.experience_maker import RemoteExperienceMaker  # noqa: E402

seen = []
for lambd in (0.95, 1.0):
    for n_read in (0, 5, 100):
        mask = torch.tensor([[1] * 3 + [0] * n_read + [1] * 3])
        rewards = torch.zeros(mask.shape)
        rewards[0, -1] = 1
        advantages, returns = RemoteExperienceMaker.get_advantages_and_returns(
            None, torch.full(mask.shape, 0.5), rewards, mask, 1.0, lambd)
        advantages, returns = (
            [round(value, 2) for value in of[mask == 1].tolist()] for of in (advantages, returns))
        print(f"openrlhf {version('openrlhf')}, lambda {lambd}, result of {n_read} tokens: call "
              f"{advantages[:3]}, answer {advantages[3:]}, the critic's aim for the call "
              f"{returns[:3]}")
        seen.append(advantages[:3])
sys.exit(seen != [[0.39, 0.41, 0.43], [0.2, 0.21, 0.22], [-0.45, -0.47, -0.49]] + [[0.5] * 3] * 3)
PYTHON
