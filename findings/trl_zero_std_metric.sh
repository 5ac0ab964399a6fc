#!/usr/bin/env bash
# What: trl 1.16.0, GRPOTrainer's logged frac_reward_zero_std with scale_rewards="batch".
#
# The documentation says of the metric: "The fraction of samples in the generation batch with a
# reward std of zero, implying there is little diversity for that prompt (all answers are correct
# or incorrect)." People watch it to see how many questions still teach the model anything, and
# drop the easy ones. Of four questions with four rollouts each, one has a right and three wrong
# answers, two have no right answer, and one has only right ones.
#
# Expected: 0.75, because the advantages of three of four questions are 0, whatever they are
# divided by.
# Seen on 30 November 2026: 0.75 with "group" and "none", and 0 with "batch". So it is with
# multi_objective_aggregation="normalize_then_sum", which has its own standard deviation of the
# batch. In both cases the standard deviation that is tested is the one that the advantages are
# divided by. It is 0 only if all rewards of the batch are equal. No warning. The advantages are
# right. A comment in pull request 6365 of trl, closed, mentions it.
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

import trl
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, PrinterCallback, TrainerCallback)

WORDS = ["<pad>", "<eos>", *"abcdefgh"]
cut = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, "a"))
cut.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=cut, pad_token="<pad>", eos_token="<eos>", padding_side="left")
REWARDS = {"a": [1.0, 0.0, 0.0, 0.0], "b": [0.0] * 4, "c": [0.0] * 4, "d": [1.0] * 4}
logged, advantages = {}, {}


def reward(prompts, **kwargs):
    return [REWARDS[prompt][i % 4] for i, prompt in enumerate(prompts)]


class Trainer(trl.GRPOTrainer):
    def compute_loss(self, model, inputs, **kwargs):
        advantages[case] = inputs["advantages"].tolist()
        return super().compute_loss(model, inputs, **kwargs)


class Log(TrainerCallback):
    def on_log(self, args, state, control, logs, **kwargs):
        if "frac_reward_zero_std" in logs:
            logged[case] = logs["frac_reward_zero_std"]


for case in [("group", "sum_then_normalize"), ("none", "sum_then_normalize"),
             ("batch", "sum_then_normalize"), ("group", "normalize_then_sum")]:
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=len(WORDS), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=1, num_key_value_heads=1, bos_token_id=None, eos_token_id=1))
    trainer = Trainer(
        model, reward, processing_class=tokenizer, callbacks=[Log()],
        train_dataset=Dataset.from_list([{"prompt": word} for word in REWARDS]),
        args=trl.GRPOConfig(
            sys.argv[1] + "/out", per_device_train_batch_size=16, num_generations=4, max_steps=1,
            max_completion_length=4, scale_rewards=case[0], multi_objective_aggregation=case[1],
            logging_steps=1, use_cpu=True, bf16=False, save_strategy="no", report_to=[],
            disable_tqdm=True))
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    n_zero = sum(abs(value) < 1e-6 for value in advantages[case])
    print(f"trl {trl.__version__}, scale_rewards={case[0]!r}, {case[1]}: {n_zero} of 16 advantages "
          f"are 0, frac_reward_zero_std is {logged[case]}")
    advantages[case] = n_zero
sys.exit(list(logged.values()) != [0.75, 0.75, 0, 0] or list(advantages.values())[:3] != [12] * 3)
PYTHON
