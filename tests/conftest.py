"""What several test files need: a tiny random language model, in memory and as a folder.

    def test_something(tiny_policy):            # tiny_policy is a factory: call it
        policy = tiny_policy()                  # Qwen2 of 40 thousand parameters, packed trees
        policy = tiny_policy("llama", seed=3, row_budget=100, num_hidden_layers=1)

    def test_command_line(model_folder):        # a pathlib.Path for load_policy and --model

The weights are random but large: next-token distributions are far from uniform and every position
matters, or mistakes would hide. Nothing here touches the network.

torch and what needs it are imported inside functions: with -n the process that hands out the tests
loads this file too, and would spend seconds on them.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers: a missing model is an error, not a wait
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Kept responses go to a folder of the tests' own, and into no user's cache.
KEPT = tempfile.mkdtemp(prefix="memory-r1-tests-")
os.environ["MEMORY_R1_CACHE"] = KEPT
if "PYTEST_XDIST_WORKER" in os.environ:  # a worker a core: more threads would only wait
    os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "assignments"), str(ROOT / "assignments" / "bugs")]

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast

    from policy import Policy

# On a busy machine an example may take any time, and the code under test is right nevertheless.
settings.register_profile("without a deadline", deadline=None)
settings.load_profile("without a deadline")

VOCABULARY = 320
# As in Qwen2.5-Instruct: two ids end a response, and one of them is also the padding.
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
CORPUS = [
    "user assistant system memory ADD UPDATE DELETE NOOP answer question",
    "Sarah lives in Boston and has a dog named Milo. Where does Tom live?",
    "Tom likes jazz and works as a teacher. What is the name of the dog of Sarah?",
]


def pytest_unconfigure() -> None:
    """At the end of each worker: its folder of kept responses and unpacked models goes."""
    shutil.rmtree(KEPT, ignore_errors=True)


@lru_cache
def _byte_level_bpe(special_tokens: tuple[str, ...]) -> str:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=list(special_tokens), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return tokenizer.to_str()


def make_tokenizer(chat_template: str | None = CHAT_TEMPLATE,
                   special_tokens: tuple[str, ...] = tuple(SPECIAL_TOKENS),
                   eos_token: str = "<|im_end|>", **named: str) -> PreTrainedTokenizerFast:
    """A real byte-level BPE of 320 tokens; with a ChatML template that adds no system message.

    The special tokens are the first ids, the first of them is the padding.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_byte_level_bpe(special_tokens)),
        eos_token=eos_token, pad_token=special_tokens[0],
        additional_special_tokens=[t for t in special_tokens[1:] if t != eos_token], **named)
    tokenizer.chat_template = chat_template
    return tokenizer


def make_model(kind: str = "qwen2", seed: int = 0, **config) -> torch.nn.Module:
    """A random causal language model of two layers, 32 wide, with grouped-query attention.

    `kind` is any model type of transformers; `config` overrides its configuration.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
    sizes = {
        "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 4096, "bos_token_id": None, "eos_token_id": 2,
        "pad_token_id": 0}
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**sizes, **config}))
    model.generation_config = GenerationConfig(eos_token_id=[2, 0], pad_token_id=0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:  # a matrix: outputs as large as its inputs, logits larger
                tied = model.get_output_embeddings().weight
                scale = 2.5 if parameter is tied else 1.0 if "embed" in name else 1.5
                fan_in = 1 if scale == 1.0 else parameter.shape[1]
                parameter.normal_(0, scale / fan_in**0.5)
            elif "bias" in name:
                parameter.normal_(0, 0.5)
    return model.eval()


@pytest.fixture(autouse=True)
def no_faster_half(monkeypatch):
    """The tests expect the same on all processors, so none may measure that bfloat16 is faster."""
    if "backend.loading" in sys.modules:
        monkeypatch.setattr(sys.modules["backend.loading"], "half_gain", lambda: 1.0)


@pytest.fixture(scope="session")
def tiny_policy() -> Callable[..., Policy]:
    """A factory: `tiny_policy(kind="qwen2", seed=0, row_budget=..., **config) -> Policy`.

    Each call hands out a copy: a Policy tries its model when it is made, five times as long as a
    copy takes. A test that breaks what the trial uses makes a Policy of its own.
    """
    import torch

    from policy import Policy
    made: dict[str, Policy] = {}

    def build(kind: str = "qwen2", seed: int = 0, chat_template: str | None = CHAT_TEMPLATE,
              row_budget: int = 4096, micro_batch_tokens: int = 16384, **config) -> Policy:
        key = repr((kind, seed, chat_template, sorted(config.items())))
        if key not in made:
            made[key] = Policy(make_model(kind, seed, **config), make_tokenizer(chat_template))
        torch.manual_seed(seed)  # as a new model would
        policy = deepcopy(made[key])
        policy.row_budget, policy.micro_batch_tokens = row_budget, micro_batch_tokens
        return policy
    return build


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """An ordinary Hugging Face folder with a random Qwen2 and its tokenizer."""
    folder = tmp_path / "model"
    make_model().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder
