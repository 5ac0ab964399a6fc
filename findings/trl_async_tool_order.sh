#!/usr/bin/env bash
# What: trl 1.16.0, GRPOTrainer with an async and a sync tool, both called in one turn.
#
# The documentation says of tools: "A list of callable tool functions (sync or async) that the
# model can invoke during generation." The methods of an environment are such tools too. A model
# calls search and then delete in one turn.
#
# Expected: both run in the order of the calls, and the model reads the results in that order.
# With two sync tools it is so.
# Seen on 29 November 2026: with an async search, delete runs first, and search finds nothing. The
# model reads delete's result first and search's second. Qwen3's template names no tool in a
# result, so nothing tells the model which is which. No warning.
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

CALLS = "\n".join(
    f'<tool_call>\n{{"name": "{name}", "arguments": {{"speaker": "Anna"}}}}\n</tool_call>'
    for name in ("search", "delete")) + "<|im_end|>"
vocabulary = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
cut = Tokenizer(models.BPE(vocabulary, []))
cut.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
cut.decoder = decoders.ByteLevel()
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=cut, pad_token="<|endoftext|>", eos_token="<|im_end|>",
    extra_special_tokens=["<|im_start|>"], padding_side="left")
templates = Path(trl.__file__).parent / "chat_templates"
tokenizer.chat_template = (templates / "qwen3.jinja").read_text()


class Model(LlamaForCausalLM):
    """Calls both tools, and then answers. It keeps what it reads."""

    def generate(self, input_ids, **kwargs):
        reads.extend(tokenizer.batch_decode(input_ids))
        answer = "Oslo<|im_end|>" if "<tool_response>" in reads[-1] else CALLS
        written = torch.tensor([tokenizer(answer).input_ids] * len(input_ids))
        return torch.cat([input_ids, written], 1)


class Bank:
    def __init__(self):
        self.memories = {}

    def reset(self, **kwargs):
        self.memories = {"Anna": "Anna lives in Oslo"}

    def delete(self, speaker: str) -> str:
        """Deletes the memories of a speaker.

        Args:
            speaker: whose
        """
        return f"deleted {self.memories.pop(speaker, 'nothing')}"


class SyncBank(Bank):
    def search(self, speaker: str) -> str:
        """Searches the memories of a speaker.

        Args:
            speaker: whose
        """
        return f"found {self.memories.get(speaker, 'nothing')}"


class AsyncBank(Bank):
    async def search(self, speaker: str) -> str:
        """Searches the memories of a speaker.

        Args:
            speaker: whose
        """
        return f"found {self.memories.get(speaker, 'nothing')}"


seen = []
for environment in (SyncBank, AsyncBank):
    reads = []
    trainer = trl.GRPOTrainer(
        Model(LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1,
            num_attention_heads=1, num_key_value_heads=1, bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id)),
        lambda completions, **kwargs: [0.0] * len(completions), processing_class=tokenizer,
        environment_factory=environment,
        train_dataset=Dataset.from_list(
            [{"prompt": [{"role": "user", "content": "Where does Anna live?"}]}] * 2),
        args=trl.GRPOConfig(
            sys.argv[1] + "/out", per_device_train_batch_size=2, num_generations=2, max_steps=1,
            logging_strategy="no", use_cpu=True, bf16=False, save_strategy="no", report_to=[],
            disable_tqdm=True))
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    results = [part.split("\n</tool_response>")[0]
               for part in reads[-1].split("<tool_response>\n")[1:]]
    print(f"trl {trl.__version__}, {environment.__name__}: after search and delete the model reads "
          f"{results}")
    seen.append(results)
sys.exit(seen != [["found Anna lives in Oslo", "deleted Anna lives in Oslo"],
                  ["deleted Anna lives in Oslo", "found nothing"]])
PYTHON
