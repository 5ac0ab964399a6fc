#!/usr/bin/env bash
# What: trl 1.16.0, GRPOTrainer with a stop token in generation_kwargs.
#
# The documentation says of generation_kwargs: "If it contains keys that conflict with the other
# generation parameters (like `min_p`, `top_p`, etc.), they will override them." A search agent is
# to stop at "</search>", so that token is given there as a second eos_token_id.
#
# Expected: a completion ends at its "</search>". So it does if the model's own generation_config
# names the token.
# Seen on 29 November 2026: generation stops there, and the batch is padded. But the trainer cuts
# completions only at the tokens of the model's own generation_config. So the padding counts as
# written by the model. The reward function gets it, and completion_mask is 1 on it. The loss
# trains it with the completion's advantage. The logged lengths count it too. No warning.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    torch==2.13.0 transformers==5.24.0 trl==1.16.0 datasets==5.2.0 accelerate==1.15.0 \
    2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1
"$folder/venv/bin/python" - "$folder" 2> "$folder/log" <<'PYTHON' \
    || { tail -3 "$folder/log"; exit 1; }
import sys

import torch
import trl
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, PrinterCallback, set_seed)

PAD, EOS, STOP = range(3)
cut = Tokenizer(models.WordLevel(
    {word: i for i, word in enumerate(["<pad>", "<eos>", "</search>", *"abcdefghijklm"])}, "a"))
cut.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=cut, pad_token="<pad>", eos_token="<eos>", padding_side="left")


class Trainer(trl.GRPOTrainer):
    def compute_loss(self, model, inputs, **kwargs):
        padded = (inputs["completion_ids"] == PAD) & (inputs["completion_mask"] == 1)
        seen.append(padded.sum().item())
        return super().compute_loss(model, inputs, **kwargs)


def reward(completion_ids, **kwargs):
    seen.extend([sum(map(len, completion_ids)), sum(ids.count(PAD) for ids in completion_ids)])
    return [float(ids.count(STOP)) for ids in completion_ids]


results = []
for place in ("model.generation_config", "generation_kwargs"):
    set_seed(0)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=16, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=1, num_key_value_heads=1, bos_token_id=None, eos_token_id=EOS))
    stop = {"eos_token_id": [EOS, STOP]}
    if place == "model.generation_config":
        model.generation_config.eos_token_id = [EOS, STOP]
    # The model can never write the padding token itself.
    options = {"suppress_tokens": [PAD], **(stop if place == "generation_kwargs" else {})}
    seen = []
    trainer = Trainer(
        model, reward, processing_class=tokenizer,
        train_dataset=Dataset.from_list([{"prompt": "a b"}] * 8),
        args=trl.GRPOConfig(
            sys.argv[1] + "/out", per_device_train_batch_size=8, num_generations=8, max_steps=1,
            max_completion_length=24, generation_kwargs=options, logging_strategy="no",
            use_cpu=True, bf16=False, save_strategy="no", report_to=[], disable_tqdm=True))
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    print(f"trl {trl.__version__}, stop token in {place}: {seen[0]} tokens are rewarded, of them "
          f"{seen[1]} padding; {seen[2]} of the loss are padding")
    results.append(tuple(seen))
(n_written, *none), (n_padded, *padding) = results
sys.exit(none != [0, 0] or padding != [n_padded - n_written] * 2 or n_padded == n_written)
PYTHON
