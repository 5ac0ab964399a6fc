#!/usr/bin/env bash
# What: transformers 5.24.0, generate with stop_strings, and a prompt that ends in part of one.
#
# The documentation of stop_strings says: "A string or a list of strings that should terminate
# generation if the model outputs them."
#
# Expected: with stop_strings=["\n\n"] a model that would write "\nIn Oslo.\n\n" is stopped after
# "In Oslo.\n\n", whatever stands in the prompt.
# Seen: after the prompt "Answer:" it is. After "Answer:\n" it is stopped after its first line
# break, and the answer is empty: the prompt's line break counts as the first half. The end of the
# prompt is never told from what the model outputs.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    torch==2.13.0 transformers==5.24.0 2> "$folder/log" \
    || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import sys

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

vocabulary = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
cut = Tokenizer(models.BPE(vocabulary, []))
cut.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
cut.decoder = decoders.ByteLevel()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=cut)
model = LlamaForCausalLM(LlamaConfig(
    vocab_size=256, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
    num_attention_heads=1, num_key_value_heads=1)).eval()
WRITES = "\nIn Oslo.\n\nQuestion: What"
wanted = tokenizer(WRITES).input_ids

seen = []
for prompt in ("Answer:", "Answer:\n"):
    inputs = tokenizer(prompt, return_tensors="pt")
    n_read = inputs.input_ids.shape[1]

    def likeliest(ids, scores):
        """As a model that has learned to write WRITES, and nothing else."""
        scores = torch.full_like(scores, -1e9)
        scores[:, wanted[ids.shape[1] - n_read]] = 0
        return scores

    output = model.generate(
        **inputs, max_new_tokens=len(wanted), do_sample=False, pad_token_id=0, eos_token_id=None,
        stop_strings=["\n\n"], tokenizer=tokenizer, logits_processor=[likeliest])
    seen.append(tokenizer.decode(output[0, n_read:]))
    print(f"transformers {transformers.__version__}: after {prompt!r} the model writes "
          f"{seen[-1]!r}")
sys.exit(seen != ["\nIn Oslo.\n\n", "\n"])
PYTHON
