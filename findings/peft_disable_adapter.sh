#!/usr/bin/env bash
# What: peft 0.21.2, disable_adapter and unload of an adapter with init_lora_weights="pissa".
#
# The docstring of disable_adapter says: "Use this to run inference on the base model." That of
# unload says: "Return the base model by removing all the PEFT modules."
# GRPO and PPO take log-probs under disable_adapter for those of the start model, to compute the KL.
#
# Expected: the log-probs of the start model, whatever the initialisation. Its default gives them.
# Seen: with "pissa" and "olora" both give another model, without a warning. The adapter takes over
# part of the base weights, which are changed in place. So the KL before the first step is not 0.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    torch==2.13.0 transformers==5.24.0 peft==0.21.2 2> "$folder/log" \
    || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import copy
import sys
import warnings

import peft
import torch
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
start = LlamaForCausalLM(LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=4)).eval()
ids = torch.randint(64, (2, 9))


@torch.no_grad()
def difference(model):
    """Of its log-probs from those of the start model: the largest."""
    return (model(ids).logits.log_softmax(-1) - start(ids).logits.log_softmax(-1)).abs().max()


seen = []
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for way in (True, "gaussian", "orthogonal", "pissa", "olora"):
        model = peft.get_peft_model(copy.deepcopy(start), peft.LoraConfig(
            r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=way)).eval()
        enabled = difference(model)
        with model.disable_adapter():
            disabled = difference(model)
        unloaded = difference(model.unload())
        print(f"peft {peft.__version__}, init_lora_weights={way!r}: log-probs differ from the "
              f"start model's by {enabled:.4f}, with the adapter disabled by {disabled:.4f}, "
              f"unloaded by {unloaded:.4f}")
        seen.append((bool(enabled > 1e-3), bool(disabled > 1e-3), bool(unloaded > 1e-3)))
told = [str(warning.message) for warning in caught if "base" in str(warning.message).lower()]
print("warnings of a changed base:", told)
sys.exit(seen != 3 * [(False, False, False)] + 2 * [(False, True, True)] or bool(told))
PYTHON
