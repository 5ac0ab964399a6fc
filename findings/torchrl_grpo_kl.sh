#!/usr/bin/env bash
# What: torchrl 0.14.1, GRPOLoss with kl_to_ref_coeff and prompts of different length.
#
# The documentation says of aggregation "token_mean", the default: "global masked token mean", and
# of masking_strategy "sft", the default: "Only response tokens (excludes prompt tokens)". Of
# kl_to_ref_coeff it says: "coefficient for the KL divergence to the reference policy".
#
# Expected: four answers of 10 tokens, with a KL of 0.1487 at each token, have a KL of 0.1487,
# whatever the length of their prompts.
# Seen on 30 November 2026: 0.0744 with prompts of 10 tokens, 0.0135 with 100 and 0.0015 with 1000.
# One long prompt among four has the same effect. The sum over the answers is divided by all places
# of the padded batch, with prompts and padding. So the gradient of the KL shrinks too, while that
# of loss_objective and loss_entropy does not. With prompts full of memories the KL holds the policy
# back hardly at all, and a logged KL of about 0 hides it. The logged entropy, and kl_to_inference,
# have the same divisor; so do DAPO and CISPOLoss. No warning.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    torch==2.13.0 torchrl==0.14.1 tensordict==0.14.3 transformers==5.24.0 \
    2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
export HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import sys

import torch
import torchrl
from tensordict import TensorDict, lazy_stack
from tokenizers import Tokenizer, models
from torchrl.modules.llm import TransformersWrapper
from torchrl.modules.llm.policies import Masks, Tokens
from torchrl.objectives.llm import GRPOLoss
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

N_ANSWER = 10
torch.manual_seed(0)
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=Tokenizer(models.WordLevel({w: i for i, w in enumerate("_.abcdefgh")}, "a")),
    pad_token="_", eos_token=".", padding_side="left")
model = LlamaForCausalLM(LlamaConfig(
    vocab_size=10, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
    num_attention_heads=1, num_key_value_heads=1, bos_token_id=None, eos_token_id=1)).eval()
policy = TransformersWrapper(
    model, tokenizer=tokenizer, generate=False, input_mode="tokens", return_log_probs=True)


def rollout(n_prompt):
    ids = torch.randint(2, 10, (n_prompt + N_ANSWER,))
    return TensorDict(
        tokens=Tokens(full=ids, prompt=ids[:n_prompt], response=ids[n_prompt:]),
        masks=Masks(all_attention_mask=torch.ones(len(ids), dtype=torch.bool)),
        advantage=torch.ones(1, 1))


def norm(loss):
    gradients = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True,
                                    allow_unused=True)
    return sum(g.pow(2).sum() for g in gradients if g is not None).sqrt().item()


# The reference gives each token a log-prob that is higher by 0.5.
difference = torch.tensor(0.5)
print(f"k3 of each token: {(difference.expm1() - difference).item():.4f}")
seen, norms = [], []
for prompts in [[10] * 4, [100] * 4, [1000] * 4, [10, 10, 10, 1000]]:
    data = lazy_stack([rollout(n_prompt) for n_prompt in prompts])
    with torch.no_grad():
        log_probs = policy(data.copy()).get(("log_probs", "full"), as_list=True)
    data["log_probs"] = lazy_stack([TensorDict(full=row) for row in log_probs])
    data["next"] = lazy_stack(
        [TensorDict(ref_log_probs=TensorDict(full=row + difference)) for row in log_probs])
    loss = GRPOLoss(policy, kl_to_ref_coeff=1.0)(data)
    seen.append(round(loss.kl_to_ref.item(), 4))
    norms.append([norm(loss.loss_kl_to_ref), norm(loss.loss_objective)])
    print(f"torchrl {torchrl.__version__}, prompts of {prompts} tokens: KL {seen[-1]:.4f}, "
          f"loss_objective {loss.loss_objective.item():.2f}, gradient of the KL {norms[-1][0]:.4f} "
          f"and of the objective {norms[-1][1]:.2f}")
shrunk = [norms[0][i] / norms[2][i] for i in (0, 1)]
sys.exit(seen != [0.0744, 0.0135, 0.0015, 0.0015] or shrunk[0] < 30 or shrunk[1] > 3)
PYTHON
