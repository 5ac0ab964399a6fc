"""The model card of a checkpoint: the README.md that the Hugging Face hub reads.

A checkpoint is an ordinary Hugging Face folder. Its card says what was run: options, data, scores.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from backend.gguf import SMOLLM2, SMOLLM2_ON_HUB


def start_model(name: str) -> str:
    """A model's name for others: as on the hub, or without the path to this project."""
    home = Path(__file__).resolve().parent.parent
    path = Path(name).resolve()
    if not path.exists():
        return SMOLLM2_ON_HUB if name == SMOLLM2 else name
    return path.relative_to(home).as_posix() if path.is_relative_to(home) else path.name


def model_card(options: Mapping[str, Any], algorithm: str, n_questions: int, scores: str,
               adapted: str = "") -> str:
    """README.md of a checkpoint: the header of the hub, data, options and scores as text.

    `algorithm` is grpo, ppo or sft; `n_questions` counts the questions of training, or its
    purchases, or the chats of --trajectories. `adapted` is the model that the adapters belong to,
    if there are adapters. It is another than the run's if that had adapters already.
    """
    start, below = start_model(options["model"]), adapted or options["model"]
    role = {"manager": "the Memory Manager of Memory-R1 (arXiv 2508.19828)",
            "answer": "the Answer Agent of Memory-R1 (arXiv 2508.19828)",
            "mem1": f"MEM1 (arXiv 2506.15841), harness {options['harness']}"}[options["agent"]]
    method = {"grpo": "GRPO", "ppo": "PPO", "sft": "imitation (Memory-SFT)"}[algorithm]
    header = {"library_name": "transformers", "pipeline_tag": "text-generation",
              "tags": ["memory", "agent", algorithm, options["agent"]]}
    if not Path(below).exists():
        header["base_model"] = start_model(below)
    data = f"{n_questions} questions of {Path(options['data']).name}"
    if options["agent"] == "mem1" and options["env"] != "search":
        data = f"{n_questions} purchases in the web shop of `--env {options['env']}`"
    if options.get("trajectories"):
        data = f"{n_questions} chats of {Path(options['trajectories']).name}"
    # The model stands above the table, and a path or a server's address is nobody's concern.
    listed_options = {name: value for name, value in options.items()
                      if value is not None and name not in ("model", "out", "judge_url")}
    return "\n".join([
        # JSON is YAML: a name quoted by JSON cannot break the header.
        "---", *(f"{name}: {json.dumps(value)}" for name, value in header.items()), "---",
        f"# {method}, {options['agent']}", "",
        f"A causal language model as {role}, trained with {method} by hand-written code.", "",
        f"- Started from: `{start}`",
        *([f"- `adapter/` belongs to: `{start_model(adapted)}`"] if adapted else []),
        f"- Trained on: {data}, {options['steps']} steps",
        "- Made for: its own prompts (prompts.py and mem1.py of the project). As a general "
        "assistant the model is no better than the one it started from.",
        "- Load with: `policy.load_policy(folder)`, or `AutoModelForCausalLM` and "
        "`PreTrainedTokenizerFast`. transformers 5 reads it; so does 4.57, unless config.json has "
        "`rope_parameters` for each kind of layer. transformers 5 may replace the way a Qwen2 "
        "tokenizer cuts text if it is loaded by `AutoTokenizer`.", "",
        "## Scores", "", "```", scores, "```", "",
        "## Options", "", "| option | value |", "|---|---|",
        *(f"| `--{name.replace('_', '-')}` | `{value}` |"
          for name, value in listed_options.items()), ""])
