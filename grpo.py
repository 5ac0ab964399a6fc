"""Group Relative Policy Optimization, by hand: sample a group, compare its members, push.

    for each step:
        1. sample   G responses to each of P questions           agent.rollout
        2. reward   1 if the final answer is an exact match      agent.rollout
        3. compare  each reward with its group's                 group_advantages
        4. push     up what did better than its siblings         clipped_loss + beta * KL
        5. log      and, now and then, look at unseen questions

There is no critic: the mean of a group stands in for the value of its question. Memory-R1 (arXiv
2508.19828, Eq. 3) takes this from DeepSeekMath (arXiv 2402.03300, Eq. 3).

Where this differs from the paper
1. The ratio is per token and clipped, as in DeepSeekMath. Memory-R1's Eq. 3 writes one ratio for
   the whole response and no clip; the code it trained with clips per token.
2. The loss is averaged over all tokens of the batch (`--reduction token`). DeepSeekMath averages
   each sequence first, which makes long wrong answers cheap. `token_weights` has both, and a third.
3. Group size, clip, beta and epochs are not in the paper. Ours come from two dozen runs on the
   synthetic world, most of them compared on validation dialogues (docs/notes.md names the others).
4. The old log-probs are those that the sampler computed, because a second pass to score the samples
   would cost time and give the same numbers. `ratio_error` shows that both agree (in float32 to
   1e-4). In bfloat16 they do not, and the clip would act on rounding. There the first epoch's own
   log-probs take their place, before anything is clipped.
5. The learning rate falls, nearly to a tenth (`warm_up_then_decay`); the paper's stays. Adam's
   betas are 0.9 and 0.95, not 0.999, because a run has tens of updates, and the second moment has
   to follow within them. sft.py and ppo.py do the same.
6. A step has 8 samples of each of 76 decisions with tiny/ (of 24 questions for the answer agent,
   of 8 tasks for MEM1), and of 24 with a real model. The paper's batch is 128, on four to eight
   H100. Ours is meant for one card; `--questions` changes it.
7. A real model learns by adapters of rank 16 and writes at most 512 tokens. The paper trains all
   weights, at 1e-6, and allows 2,048 tokens.
8. MEM1 (mem1.py) is trained by PPO in its paper. Here both algorithms train every agent.

    python grpo.py                  the Memory Manager, two to four minutes on two cores
    python grpo.py --agent answer   the Answer Agent, two minutes
    python grpo.py --agent mem1     MEM1, two minutes
    python grpo.py --agent mem1 --compare               the same, and its three other harnesses
    python grpo.py --agent mem1 --env shop              MEM1 in the web shop
    python grpo.py --model Qwen/Qwen2.5-3B-Instruct     the same on LoCoMo, with a GPU
    python grpo.py --save-every 5                       writes resume.pt
    python grpo.py --resume                             goes on from it, bit for bit
    torchrun --nproc-per-node 4 grpo.py                 on four GPUs

It ends with "grpo manager: held-out exact match A -> B in S s, M GiB; run folder ...".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from backend.devices import all_of, clip_gradients, exit_with, gathered
from backend.lora import learned
from comparisons.harnesses import compare_harnesses
from training.options import SamplingOptions, option, parse_options
from training.results import evaluate_after, evaluate_before, finish
from training.run import Run, launch, prepare
from training.state import TokenMetrics, TrainingState, warm_up_then_decay
from trees import Episode, token_numbers, trees_of

# ---- The algorithm: pure functions ---------------------------------------------------------------


# Problem 4
def group_advantages(rewards: Tensor, normalise: bool = True) -> Tensor:
    """How much better each response did than its group: (P, G) from rewards (P, G).

    The standard deviation is the sample's (ddof 1, as in torch.std). A group of equal rewards gets
    exactly 0, because its differences from the mean are rounding, and a deviation that is rounding
    too can make them as large as any other. Raises ValueError for groups of one.

    >>> group_advantages(torch.tensor([[1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]]))
    tensor([[ 0.8659, -0.8659, -0.8659,  0.8659],
            [ 0.0000,  0.0000,  0.0000,  0.0000]])
    """
    if rewards.ndim != 2 or rewards.shape[1] < 2:
        raise ValueError(f"rewards of shape {tuple(rewards.shape)}: need (questions, group size) "
                         "with at least 2 in a group, or there is nothing to compare with")
    advantages = rewards - rewards.mean(dim=1, keepdim=True)  # (P, G)
    if normalise:
        # The only right answer of a group then pushes harder than one of four right ones. Dr. GRPO
        # (arXiv 2503.20783) calls the division a bias and leaves it out.
        advantages = advantages / (rewards.std(dim=1, keepdim=True) + 1e-4)
    spread = rewards.amax(dim=1, keepdim=True) - rewards.amin(dim=1, keepdim=True)  # (P, 1)
    return torch.where(spread < 1e-4, 0.0, advantages)


# Problem 5
def clipped_loss(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor,
                 clip: float) -> tuple[Tensor, dict[str, Tensor]]:
    """PPO's pessimistic surrogate, per token: all tensors are (N,).

    Example: at a positive advantage and a clip of 0.2, a token gains nothing above a ratio of 1.2,
    and its gradient is 0 from there on. Below a ratio of 0.8 it is pulled back in full, because the
    worse of the two products counts. At a negative advantage the two sides change places.
    """
    ratio = (log_probs - old_log_probs).exp()  # (N,)
    unclipped = ratio * advantages
    clipped = ratio.clamp(1 - clip, 1 + clip) * advantages
    metrics = {
        "ratio_error": (ratio - 1).abs().detach(),
        "clip_fraction": (clipped < unclipped).float(),
    }
    return -torch.minimum(unclipped, clipped), metrics


# Problem 7
def kl_k3(log_probs: Tensor, ref_log_probs: Tensor) -> Tensor:
    """KL(policy || reference) per token, estimated from the policy's own samples; (N,).

    Schulman's k3, r - 1 - log r with r = p_ref / p: unbiased, never negative, and 0 only where the
    two agree (DeepSeekMath, Eq. 4). In a loss, the gradient of k3 is on average that of
    KL(reference || policy). Close to the reference both KLs have the same gradient.
    """
    log_ratio = ref_log_probs - log_probs
    return log_ratio.exp() - 1 - log_ratio


# Problem 6
def token_weights(lengths: Tensor, reduction: str, max_new_tokens: int,
                  of_all: Tensor | None = None) -> Tensor:
    """What each token counts in the loss: (N,) from the lengths (E,) of all E episodes.

    The loss is the weighted sum over the tokens of the *whole* batch, so that micro-batches change
    memory and never the gradient. `of_all` are the lengths of the episodes of all devices; N and E
    below count their tokens and episodes.

    - "token": 1 / N. Every token counts the same, so long episodes count more than short ones.
    - "sequence": 1 / (E * length). Every episode counts the same, so a token of a long episode
      counts less. A long wrong answer is punished less per token than a short one, and lengths
      drift.
    - "constant": 1 / (E * max_new_tokens). No length changes a token's weight (Dr. GRPO). The scale
      of the gradient depends on the limit of new tokens.
    """
    of_all = lengths if of_all is None else of_all
    per_episode = {
        "token": torch.full_like(lengths, 1.0, dtype=torch.float) / of_all.sum().clamp(min=1),
        "sequence": 1.0 / (lengths.clamp(min=1) * len(of_all)),
        "constant": torch.full_like(lengths, 1.0 / (len(of_all) * max_new_tokens),
                                    dtype=torch.float),
    }[reduction]
    return per_episode.repeat_interleave(lengths)


# ---- The loop ------------------------------------------------------------------------------------


@dataclass
class GRPOOptions(SamplingOptions):
    """Options of grpo.py."""

    clip: float = option(0.2, "the ratio is clipped to 1 - clip .. 1 + clip, 0.1 to 0.3",
                         low=1e-3, high=1)
    kl: float | None = option(None, "beta, weight of the KL to the start model, 0 to 0.1")
    reduction: str = option("token", "average the loss by token, sequence or constant",
                            "token", "sequence", "constant")
    normalise: bool = option(True, "divide advantages by the group's standard deviation")
    no_signal: str = option("keep", "groups whose rewards are all equal: keep (their KL holds what "
                                    "is right already) or drop (they are left out, unless all of a "
                                    "device's are so; half the time)",
                            "keep", "drop")


@dataclass
class Batch:
    """The episodes of one step and their N response tokens, in the order that `pack` numbers."""

    all_groups: list[list[Episode]]  # the P groups that were sampled
    groups: list[list[Episode]]  # those to learn from, whose tokens the tensors describe
    old_log_probs: Tensor  # (N,)
    ref_log_probs: Tensor  # (N,)
    advantages: Tensor  # (N,)
    weights: Tensor  # (N,) what each token counts in the loss


def collect(run: Run, tasks: Sequence, generator: torch.Generator) -> Batch:
    """Stages 1 to 3: sample, reward, compare."""
    options, device = run.options, run.policy.device
    with gathered(run.policy.model, run.reference.model):
        all_groups = run.agent.rollout(
            run.policy, tasks, options.group_size, options.temperature, generator)
    rewards = torch.tensor([[float(e.reward) for e in group] for group in all_groups])  # (P, G)
    advantages = group_advantages(rewards, options.normalise)  # (P, G)
    groups = all_groups
    has_signal = advantages.abs().amax(1) > 0  # (P,)
    if options.no_signal == "drop" and has_signal.any():
        # A group of equal rewards learns from the KL alone, and takes as much time as any other.
        groups = [group for group, differs in zip(all_groups, has_signal) if differs]
        advantages = advantages[has_signal]
    trees = trees_of(groups)
    with gathered(run.reference.model), torch.no_grad():
        ref_log_probs = run.reference.token_log_probs(trees, options.temperature)  # (N,)
    lengths = torch.tensor([sum(len(step.response_ids) for step in episode.steps)
                            for group in groups for episode in group])  # (E,)
    old_log_probs = torch.tensor([p for tree in trees for step in tree for p in step.log_probs],
                                 device=device)  # (N,)
    weights = token_weights(lengths, options.reduction, options.max_new_tokens, all_of(lengths))
    return Batch(all_groups, groups, old_log_probs, ref_log_probs,
                 advantages.flatten().repeat_interleave(lengths).to(device), weights.to(device))


# Problem 12
def train(run: Run) -> tuple[list[dict[str, float]], dict[int, float]]:
    """Train; returns the rows of metrics.csv, and the validation scores by step."""
    options, policy = run.options, run.policy
    optimizer = torch.optim.AdamW(
        learned(policy.model), lr=options.lr, betas=(0.9, 0.95), weight_decay=0.0)
    schedule = warm_up_then_decay(optimizer, options.steps)
    state = TrainingState(run, {"policy": policy.model}, optimizer, schedule)
    for tasks in state.steps():
        batch = collect(run, tasks, state.generator)
        packed_rows = policy.rows(trees_of(batch.groups))
        metrics = TokenMetrics(len(batch.weights), options.epochs)
        for epoch in range(options.epochs):
            optimizer.zero_grad()
            for micro_batch in policy.micro_batches(packed_rows):
                index = token_numbers(micro_batch, policy.device)  # (m,) of the batch's N tokens
                log_probs, entropies = policy.score(micro_batch, options.temperature)  # (m,)
                surrogate, clipping = clipped_loss(
                    log_probs, batch.old_log_probs[index], batch.advantages[index], options.clip)
                if epoch == 0 and policy.dtype == torch.bfloat16:  # see note 4
                    batch.old_log_probs[index] = log_probs.detach()
                    surrogate, again = clipped_loss(
                        log_probs, log_probs.detach(), batch.advantages[index], options.clip)
                    clipping["clip_fraction"] = again["clip_fraction"]
                kl = kl_k3(log_probs, batch.ref_log_probs[index])  # (m,)
                # A sum, because each weight is a token's share of the whole batch already.
                (batch.weights[index] * (surrogate + options.kl * kl)).sum().backward()
                metrics.add(epoch, kl=kl, entropy=entropies, **clipping)
            grad_norm = clip_gradients(policy.model.parameters(), options.max_grad_norm)
            if not math.isfinite(grad_norm):  # a loss that is not finite: keep the weights
                metrics.skipped = 1
                break
            optimizer.step()
        state.log(metrics, grad_norm, batch.all_groups)
    return state.history, state.scores


def main(argv: Sequence[str] | None = None) -> dict:
    """Train one agent and report; returns what summary.json holds."""
    options = parse_options(GRPOOptions, "Train a memory agent with GRPO.", argv)
    if options.group_size < 2:
        exit_with("--group-size 1: in a group of one there is nothing to compare with; at least 2")
    run = prepare(options, "grpo")
    before = evaluate_before(run)
    history, scores = train(run)
    after = evaluate_after(run)
    by_objectives = compare_harnesses(run, train) if options.compare else None
    return finish(run, before, after, history, scores, by_objectives)


if __name__ == "__main__":
    launch(main)
