#!/usr/bin/env bash
# What: trl 1.16.0, GRPOTrainer with a tool that returns a list of memories, and Qwen's templates.
#
# The documentation says of tools: "Each tool should be a standard Python function with properly
# type-hinted arguments and return values". A search is annotated with list[str] and returns two
# memories. The templates are those that trl recognises as Qwen2.5's and Qwen3's.
#
# Expected: the model reads the two memories, or the trainer says that it wants a string.
# Seen on 29 November 2026: with Qwen2.5's template it reads them. With Qwen3's it reads an empty
# <tool_response>, as if nothing was found. No warning. The trainer writes any other value as a
# string, but passes a list on as content blocks. Qwen3's template renders no content that is not
# a string. The reward function does get the two memories, so logged completions look right.
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

MEMORIES = ["Anna lives in Oslo", "Anna plays flute"]
CALL = '<tool_call>\n{"name": "search", "arguments": {"query": "Anna"}}\n</tool_call><|im_end|>'
vocabulary = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
cut = Tokenizer(models.BPE(vocabulary, []))
cut.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
cut.decoder = decoders.ByteLevel()
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=cut, pad_token="<|endoftext|>", eos_token="<|im_end|>",
    extra_special_tokens=["<|im_start|>"], padding_side="left")


class Model(LlamaForCausalLM):
    """Calls the tool, and then answers. It keeps what it reads."""

    def generate(self, input_ids, **kwargs):
        reads.extend(tokenizer.batch_decode(input_ids))
        answer = "Oslo<|im_end|>" if "<tool_response>" in reads[-1] else CALL
        written = torch.tensor([tokenizer(answer).input_ids] * len(input_ids))
        return torch.cat([input_ids, written], 1)


def search(query: str) -> list[str]:
    """Searches the memories.

    Args:
        query: what to look for
    """
    return MEMORIES


def reward(completions, **kwargs):
    rewarded.extend(completion[1]["content"] for completion in completions)
    return [0.0] * len(completions)


seen = []
for name in ("qwen2_5", "qwen3", "qwen3_instruct_2507"):
    reads, rewarded = [], []
    folder = Path(trl.__file__).parent / "chat_templates"
    tokenizer.chat_template = (folder / f"{name}.jinja").read_text()
    trainer = trl.GRPOTrainer(
        Model(LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1,
            num_attention_heads=1, num_key_value_heads=1, bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id)),
        reward, processing_class=tokenizer, tools=[search],
        train_dataset=Dataset.from_list(
            [{"prompt": [{"role": "user", "content": "Where does Anna live?"}]}] * 2),
        args=trl.GRPOConfig(
            sys.argv[1] + "/out", per_device_train_batch_size=2, num_generations=2, max_steps=1,
            logging_strategy="no", use_cpu=True, bf16=False, save_strategy="no", report_to=[],
            disable_tqdm=True))
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    response = reads[-1].split("<tool_response>\n")[1].split("\n</tool_response>")[0]
    print(f"trl {trl.__version__}, template {name}: the model reads {response!r}, the reward "
          f"function {rewarded[-1]}")
    seen.append((response, rewarded[-1]))
sys.exit(seen != [(str(MEMORIES), MEMORIES), ("", MEMORIES), ("", MEMORIES)])
PYTHON
