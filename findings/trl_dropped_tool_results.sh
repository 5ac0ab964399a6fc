#!/usr/bin/env bash
# What: trl 1.16.0, GRPOTrainer with mask_truncated_completions=True and a tool's long result.
#
# The documentation says of the option: "When enabled, truncated completions are excluded from the
# loss calculation, preventing them from being incorrectly penalized".
# Three rollouts of one question may be 200 tokens long. Each searches. The first finds a short
# text and answers. The second finds 119 tokens, and the limit cuts its answer. The third finds
# 300 tokens. They do not fit, so the trainer drops them and ends the rollout.
#
# Expected: the second and the third are excluded, and the logged clipped_ratio is 2/3.
# Seen on 29 November 2026: the second is. The third counts as complete, because its call ends
# with the end-of-turn token. It never got to answer, so its reward is 0. The loss makes its
# search less likely. clipped_ratio is 1/3. No warning.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    torch==2.13.0 transformers==5.24.0 trl==1.16.0 datasets==5.2.0 accelerate==1.15.0 \
    jinja2==3.1.6 2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1
"$folder/venv/bin/python" - "$folder" 2> "$folder/log" <<'PYTHON' \
    || { tail -3 "$folder/log"; exit 1; }
import sys
from pathlib import Path

import torch
import trl
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, PrinterCallback)

CALL = '<tool_call>\n{"name": "search", "arguments": {"query": "Anna"}}\n</tool_call><|im_end|>'
vocabulary = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
cut = Tokenizer(models.BPE(vocabulary, []))
cut.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
cut.decoder = decoders.ByteLevel()
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=cut, pad_token="<|endoftext|>", eos_token="<|im_end|>",
    extra_special_tokens=["<|im_start|>", "<tool_call>", "</tool_call>", "<tool_response>",
                          "</tool_response>"], padding_side="left")
templates = Path(trl.__file__).parent / "chat_templates"
tokenizer.chat_template = (templates / "qwen3.jinja").read_text()


class Model(LlamaForCausalLM):
    """Calls the tool, and then answers."""

    def generate(self, input_ids, **kwargs):
        has_searched = "<tool_response>" in tokenizer.decode(input_ids[0])
        answer = tokenizer("Oslo<|im_end|>" if has_searched else CALL).input_ids
        return torch.cat([input_ids, torch.tensor([answer] * len(input_ids))], 1)


results = iter(["a" * 9, "b" * 119, "c" * 300])


def search(query: str) -> str:
    """Searches the memories.

    Args:
        query: what to look for
    """
    return next(results)


def reward(completions, **kwargs):
    return [float(completion[-1]["content"] == "Oslo") for completion in completions]


class Trainer(trl.GRPOTrainer):
    def compute_loss(self, model, inputs, **kwargs):
        in_loss = (inputs["completion_mask"] * inputs["tool_mask"]).sum(1).tolist()
        for ids, *row in zip(
                inputs["completion_ids"], in_loss, inputs["advantages"].tolist(), strict=True):
            text = tokenizer.decode(ids)
            kind = "answer" if "aa" in text else "cut answer" if "bb" in text else "dropped result"
            rows[kind] = row
        return super().compute_loss(model, inputs, **kwargs)


rows = {}
trainer = Trainer(
    Model(LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=1, num_key_value_heads=1, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id)),
    reward, processing_class=tokenizer, tools=[search],
    train_dataset=Dataset.from_list(
        [{"prompt": [{"role": "user", "content": "Where does Anna live?"}]}] * 3),
    args=trl.GRPOConfig(
        sys.argv[1] + "/out", per_device_train_batch_size=3, num_generations=3, max_steps=1,
        max_completion_length=200, mask_truncated_completions=True, logging_steps=1, use_cpu=True,
        bf16=False, save_strategy="no", report_to=[], disable_tqdm=True))
trainer.remove_callback(PrinterCallback)
trainer.train()
for kind in ("answer", "cut answer", "dropped result"):
    n_tokens, advantage = rows[kind]
    print(f"trl {trl.__version__}, rollout with {kind}: {n_tokens} tokens in the loss, advantage "
          f"{advantage:.2f}")
clipped = trainer.state.log_history[0]["completions/clipped_ratio"]
print(f"trl {trl.__version__}: clipped_ratio {clipped:.2f}")
sys.exit({kind: row[0] > 0 for kind, row in rows.items()} != {
    "answer": True, "cut answer": False, "dropped result": True}
    or rows["dropped result"][1] >= 0 or round(clipped, 2) != 0.33)
PYTHON
