"""Tests of training/model_card.py: the hub can read a card, and the card says what was run.

    python -m pytest tests/test_model_card.py        (a second)
"""

from __future__ import annotations

import pytest
from huggingface_hub import ModelCard

from grpo import GRPOOptions
from training.model_card import model_card, start_model
from training.options import EMBEDDED_MEM1, EMBEDDED_MODEL, resolve


@pytest.mark.parametrize("agent", ["manager", "answer", "mem1"])
@pytest.mark.parametrize("algorithm", ["grpo", "ppo", "sft"])
def test_a_card_is_read_by_the_hub_and_says_what_was_run(agent, algorithm):
    options = vars(resolve(GRPOOptions(agent=agent, steps=7, seed=3), algorithm))
    text = model_card(options, algorithm, 152, "all, exact match 0.466 0.922")
    card = ModelCard(text)
    assert card.data.library_name == "transformers" and algorithm in card.data.tags
    for said in ("152 questions of world, 7 steps", "all, exact match 0.466 0.922",
                 "| `--seed` | `3` |", "| `--agent` | `%s` |" % agent):
        assert said in text, f"the card does not say {said!r}"
    assert str(EMBEDDED_MODEL) not in text, "a path of this disk is nobody's concern"
    assert ("tiny/mem1" if agent == "mem1" else "`tiny`") in text
    assert card.data.base_model is None, "a local folder is no model of the hub"


@pytest.mark.parametrize("name", ["Qwen/Qwen2.5-3B-Instruct", 'a"b: [c]\n---\nlicense: x', "- x",
                                  "{", "&a *b"])
def test_names_cannot_break_the_header(name):
    options = vars(resolve(GRPOOptions(model=name, data="my.json"), "grpo"))
    card = ModelCard(model_card(options, "grpo", 5, ""))
    assert card.data.base_model == name and "license" not in card.data.to_dict(), (
        f"{name!r} is not quoted in the header")


def test_a_folder_is_named_without_the_path_to_it(tmp_path):
    assert start_model(str(tmp_path)) == tmp_path.name
    assert start_model(str(EMBEDDED_MEM1)) == "tiny/mem1"


def test_a_card_names_the_model_that_its_adapters_belong_to(tmp_path):
    """It is the hub's, if the run before started from there, and not that run's folder."""
    options = vars(resolve(GRPOOptions(model=str(tmp_path), data="world"), "grpo"))
    card = ModelCard(model_card(options, "grpo", 5, "", "Qwen/Qwen2.5-3B-Instruct"))
    assert card.data.base_model == "Qwen/Qwen2.5-3B-Instruct"
    assert f"Started from: `{tmp_path.name}`" in card.content
    assert "`adapter/` belongs to: `Qwen/Qwen2.5-3B-Instruct`" in card.content


def test_a_shop_has_purchases_and_no_questions():
    shop = vars(resolve(GRPOOptions(agent="mem1", env="shop"), "grpo"))
    assert "152 purchases" in model_card(shop, "grpo", 152, "")
