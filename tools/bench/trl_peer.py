"""TRL's GRPOTrainer as a contender: each turn is one of its steps.

The same folder, prompts, lengths, rewards, adapters, precision, threads and optimizer settings as
ours. Its own settings are how many responses a device takes in one pass (`batch`) and whether
layers are computed again (`checkpointing`). This module imports nothing of the project but
turns.py, because TRL may be installed in another environment.
"""

from __future__ import annotations

import tempfile
import time
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    PreTrainedTokenizerFast,
    PrinterCallback,
    TrainerCallback,
)

from tools.bench.turns import Turns


class TakeTurns(TrainerCallback):
    """Reports each step, and stops the trainer when nobody asks for another."""

    def __init__(self, turns: Turns):
        self.turns, self.started = turns, time.perf_counter()

    def on_step_end(self, args, state, control, model=None, **_) -> None:
        on_gpu = torch.cuda.is_available()
        if on_gpu:
            torch.cuda.synchronize()
        seconds = {"step": time.perf_counter() - self.started}
        control.should_training_stop = not self.turns.report(
            seconds, torch.cuda.max_memory_allocated() if on_gpu else None,
            n_learned=sum(p.numel() for p in model.parameters() if p.requires_grad))
        self.started = time.perf_counter()


def trainer_of(request: dict[str, Any], turns: Turns, out: str):
    """The GRPOTrainer that does what `OurStep` does. Raises ImportError where TRL is missing."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import GRPOConfig, GRPOTrainer

    new_tokens, n_responses = request["new_tokens"], request["prompts"] * request["group"]

    def reward(completion_ids: list[list[int]], **_) -> list[float]:
        if any(len(ids) != new_tokens for ids in completion_ids):
            raise ValueError(f"TRL's responses do not all have {new_tokens} tokens")
        return [float(ids[0] % 2) for ids in completion_ids]

    config = GRPOConfig(
        output_dir=out, per_device_train_batch_size=request["batch"],
        gradient_accumulation_steps=n_responses // request["batch"],
        num_generations=request["group"], max_completion_length=new_tokens,
        generation_kwargs={"min_new_tokens": new_tokens}, beta=request["kl"],
        epsilon=request["clip"], learning_rate=request["learning_rate"],
        lr_scheduler_type="constant", max_grad_norm=request["max_grad_norm"], adam_beta2=0.95,
        max_steps=10**6, bf16=request["half"], gradient_checkpointing=request["checkpointing"],
        use_cpu=not torch.cuda.is_available(), report_to="none", save_strategy="no",
        logging_strategy="no", disable_tqdm=True)
    adapters = LoraConfig(r=request["lora"], lora_alpha=2 * request["lora"],
                          target_modules="all-linear") if request["lora"] else None
    frozen_half = request["half"] and adapters is not None
    return GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(
            request["folder"], dtype=torch.bfloat16 if frozen_half else torch.float32),
        reward_funcs=reward, args=config, peft_config=adapters,
        train_dataset=Dataset.from_dict({"prompt": request["texts"]}),
        processing_class=PreTrainedTokenizerFast.from_pretrained(request["folder"]),
        callbacks=[TakeTurns(turns)])


def main() -> None:
    """Take turns until nobody asks for another."""
    turns = Turns()
    torch.set_num_threads(turns.request["threads"])
    with tempfile.TemporaryDirectory() as out:
        trainer = trainer_of(turns.request, turns, out)
        trainer.remove_callback(PrinterCallback)
        trainer.train()


if __name__ == "__main__":
    main()
