#!/usr/bin/env bash
# What: verl 0.9.1, kl_penalty with "low_var_kl" (k3), the default of its KL loss.
#
# The docstring says "Compute KL divergence given logprob and ref_logprob", and a comment beside the
# bounds in the code: "For numerical stability". The KL loss keeps the policy near the reference.
#
# Expected: the less likely a token has become against the reference, the stronger the gradient that
# makes it likelier again. That of k3 is 1 - p_ref / p.
# Seen: so it is up to p_ref / p = 13. From 14 on the gradient is exactly 0, because each token's
# value is clamped to 10. The tokens that drifted furthest are not pulled back at all. The logged KL
# of such a token reads 10. "low_var_kl+" and "mse" keep a gradient.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    torch==2.13.0 tensordict==0.10.0 transformers==5.10.2 ray==2.50.0 pandas omegaconf \
    hydra-core codetiming 2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps verl==0.9.1 \
    2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import sys

import torch
import verl
from verl.trainer.ppo.core_algos import kl_penalty

seen = []
for ratio in (2, 5, 13, 14, 100, 10_000):  # p_ref / p
    log_prob = torch.zeros(1, requires_grad=True)
    kl = kl_penalty(log_prob, torch.tensor([float(ratio)]).log(), "low_var_kl")
    kl.sum().backward()
    gradient = log_prob.grad.item()
    print(f"verl {verl.__version__}, p_ref / p = {ratio}: k3 {kl.item():.3f}, gradient "
          f"{gradient:.3f}, that of k3 is {1 - ratio}")
    seen.append(round(gradient, 3) + 0)
sys.exit(seen != [-1, -4, -12, 0, 0, 0])
PYTHON
