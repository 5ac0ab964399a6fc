"""Proximal Policy Optimization, by hand: a critic expects, what happens surprises, push.

    for each step:
        1. sample   G responses to each of P questions           agent.rollout
        2. reward   1 if the final answer is an exact match,     agent.rollout
                    less beta * KL at every token                token_rewards
        3. compare  each token with what the critic expected     gae
        4. push     the critic towards what happened             clipped_value_loss
                    and up what did better than expected         clipped_loss
        5. log      and, now and then, look at unseen questions

The lesson is in the difference to grpo.py. There the mean of a group is the baseline of all tokens
of the group. Here a second network, the critic, gives each token a baseline of its own, so a group
may be of one. Memory-R1 (arXiv 2508.19828, Eq. 2) and MEM1 (arXiv 2506.15841) train so, after
Schulman et al. (arXiv 1707.06347; GAE: arXiv 1506.02438, Eq. 16).

Where this differs from the papers
1. The KL is k1 in the reward, as in InstructGPT. k1 is noisy, and its errors cancel in the mean.
   MEM1's code clamps each token's k1 at 0. Only the positive errors remain, so the penalty is too
   large.
2. GAE runs over response tokens only, from the end of one step of an episode straight to the start
   of the next. MEM1's code also runs it over what the environment wrote. With lambda below 1 each
   such token discounts the reward once more.
3. The old log-probs are those that the sampler computed, as in grpo.py. In bfloat16 the clip takes
   scored ones (note 4 there), but the KL in the reward does not: its rounding is noise around 0.
4. The critic is updated before the policy and, with tiny/, more often (`--critic-epochs`). With two
   updates a batch the critic of tiny/ explained nothing (explained variance 0). With such a critic
   and lambda below 1, least of the reward reaches the first tokens, which choose the operation.
   The four updates of the preset were chosen by scores on test questions (docs/results.md).
5. There is no entropy bonus; MEM1's code adds 0.001 times the entropy. The KL holds the policy near
   its start, whose samples differ enough, and the column `entropy` shows if they no longer do.
6. The rates fall, with Adam's betas and the batches of grpo.py (differences 5 and 6).
7. Lambda is 0.95, as is usual in PPO; MEM1's code has 1. With four updates of the critic both come
   out level (docs/notes.md).
8. MEM1's code samples each of 128 tasks once a step, updates in two halves, and weighs the KL by
   0.001. Here a task is sampled eight times, each update takes the whole batch, and the KL of MEM1
   weighs 0.2 with tiny/mem1. With 0.05 it forgets what only tasks longer than those of training
   need: one of two runs answered 1 of 16 questions (docs/notes.md).

The policy takes 16 bytes a weight (weight, gradient and two moments in float32), the reference 4.
The critic adds

    --critic own            16 bytes a weight, and a forward and backward pass an update: it has a
                            trunk of its own, as in both papers
    --critic own --lora R   0.45 GiB for a 3B model at rank 16, and the same passes: it has a second
                            set of adapters on the same frozen weights
    --critic shared         a forward pass an update, and next to no memory: it is a linear head on
                            the policy's hidden states, and sends no gradient into them

Activations of critic and policy are never held together.

    python ppo.py                  the Memory Manager, two and a half minutes on two cores
    python ppo.py --agent answer   the Answer Agent, some four minutes
    python ppo.py --agent mem1     MEM1

It ends with "ppo manager: held-out exact match A -> B in S s, M GiB; run folder ...".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from backend.devices import all_of, clip_gradients, gathered, shard
from backend.lora import learned
from comparisons.harnesses import compare_harnesses
from policy import Policy
from training.options import SamplingOptions, option, parse_options
from training.results import evaluate_after, evaluate_before, finish
from training.run import Run, launch, load_or_stop, prepare
from training.state import TokenMetrics, TrainingState, warm_up_then_decay
from trees import Episode, Row, Step, micro_batches, token_numbers, trees_of

# ---- The algorithm: pure functions ---------------------------------------------------------------


# Problem 7
def token_rewards(rewards: Tensor, lengths: Tensor, log_probs: Tensor, ref_log_probs: Tensor,
                  beta: float) -> Tensor:
    """What each token earned: (N,) from rewards and lengths (E,) and log-probs (N,).

    The episode's reward stands on its last response token. Every token pays beta times k1, which is
    log p - log p_ref. The mean of k1 over the policy's samples is KL(policy || reference). (In a
    loss k1 would do nothing, because the expected gradient of log p is 0.)
    """
    earned = -beta * (log_probs - ref_log_probs)
    last = lengths.cumsum(0) - 1  # (E,) an episode without tokens has no place for its reward
    written = lengths > 0
    return earned.index_add(0, last[written], rewards[written].to(earned))


# Problem 8
def gae(rewards: Tensor, values: Tensor, lengths: Tensor, last_values: Tensor, gamma: float,
        lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates and returns, both (N,), of E episodes laid end to end.

    `rewards` and `values` are (N,): what a token earned, and what was expected before it was
    written. `last_values` (E,) is what was expected behind an episode's last token: 0 where the
    episode is over. The surprise is d_t = r_t + gamma V_t+1 - V_t, and the advantage is the sum of
    (gamma lambda)^k d_t+k. With lambda 1 that is the return minus the value, with lambda 0 one
    surprise. The return that the critic should have expected is advantage + value, not whitened.

    >>> one, two = torch.tensor([2]), torch.tensor([0.0])
    >>> gae(torch.tensor([0.0, 1.0]), torch.tensor([0.5, 0.25]), one, two, 1.0, 1.0)
    (tensor([0.5000, 0.7500]), tensor([1., 1.]))
    """
    sizes = lengths.tolist()
    mask = pad_sequence([torch.ones(size) for size in sizes], batch_first=True).to(values)  # (E, L)
    reward, value = (pad_sequence(x.split(sizes), batch_first=True) for x in (rewards, values))
    advantages = torch.zeros_like(value)  # (E, L)
    next_advantage, next_value = torch.zeros_like(last_values), last_values  # (E,) at t + 1
    for t in range(value.shape[1] - 1, -1, -1):
        surprise = reward[:, t] + gamma * next_value - value[:, t]
        advantages[:, t] = surprise + gamma * lam * next_advantage
        # In the padding behind a shorter episode both stay as they began.
        inside = mask[:, t] > 0
        next_advantage = torch.where(inside, advantages[:, t], next_advantage)
        next_value = torch.where(inside, value[:, t], next_value)
    flat = advantages[mask > 0]  # (N,)
    return flat, flat + values


def whiten(advantages: Tensor, of_all: Tensor | None = None) -> Tensor:
    """Advantages (N,) with mean 0 and deviation 1 over the batch's tokens; one alone is left as is.

    Advantages that all lie within 1e-4 become 0, because they are rounding or next to nothing.
    Scaled up they would push as hard as any. `of_all` (M,) are the advantages of all devices, where
    `advantages` are those of one.
    """
    of_all = advantages if of_all is None else of_all
    if len(of_all) < 2:
        return advantages
    if of_all.max() - of_all.min() < 1e-4:  # as in grpo.py's `group_advantages`
        return torch.zeros_like(advantages)
    return (advantages - of_all.mean()) / (of_all.std() + 1e-8)


# Problem 5
def clipped_loss(log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor,
                 clip: float) -> tuple[Tensor, dict[str, Tensor]]:
    """PPO's pessimistic surrogate, per token: all tensors are (N,).

    The same as grpo.py's, written out again so that each file can be read alone.
    """
    ratio = (log_probs - old_log_probs).exp()  # (N,)
    unclipped = ratio * advantages
    clipped = ratio.clamp(1 - clip, 1 + clip) * advantages
    metrics = {
        "ratio_error": (ratio - 1).abs().detach(),
        "clip_fraction": (clipped < unclipped).float(),
    }
    return -torch.minimum(unclipped, clipped), metrics


def clipped_value_loss(values: Tensor, old_values: Tensor, returns: Tensor, clip: float) -> Tensor:
    """Half the squared error, per token (N,); with `clip` > 0 pessimistic like the policy's.

    A value that has moved more than `clip` towards its return gets no more gradient in this step. A
    value that has moved away is pulled back in full. `clip` 0 gives the plain squared error. It is
    doubtful whether clipping helps (arXiv 2006.05990); it is an option because verl and TRL clip.
    """
    error = (values - returns) ** 2
    if clip > 0:
        clipped_values = old_values + (values - old_values).clamp(-clip, clip)
        error = torch.maximum(error, (clipped_values - returns) ** 2)
    return error / 2


def explained_variance(values: Tensor, returns: Tensor) -> float:
    """How much of the variance of returns (N,) the values (N,) foresaw.

    1 is all of it. 0 is no more than their mean would, and the answer where all returns are equal.
    """
    variance, unexplained = returns.var(correction=0), (returns - values).var(correction=0)
    return (1 - unexplained / variance).item() if variance > 1e-8 else 0.0


# ---- The critic ----------------------------------------------------------------------------------


class Critic(torch.nn.Module):
    """What reward is to be expected before each token: a linear head on hidden states.

    With `shared` the trunk is the policy's, and no gradient flows into it.
    """

    def __init__(self, trunk: Policy, shared: bool):
        super().__init__()
        self.trunk, self.shared = trunk, shared
        width = trunk.model.config.get_text_config().hidden_size
        self.head = torch.nn.Linear(width, 1).to(trunk.device)
        torch.nn.init.zeros_(self.head.weight)  # every reward is a surprise at first
        torch.nn.init.zeros_(self.head.bias)
        if not shared:
            self.model = trunk.model  # a module's parameters are found by its attributes

    def forward(self, rows: Sequence[Row]) -> Tensor:
        """Values before the scored tokens of a micro-batch, (N,), in the rows' `token_index`."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.shared):
            hidden, token_at = self.trunk.read(rows)  # (M, D), (N,)
        return self.head(hidden.float())[token_at, 0]

    @torch.no_grad()
    def values(self, trees: Sequence[Sequence[Step]]) -> Tensor:
        """Values before all response tokens of all steps in order, (N,)."""
        values = torch.zeros(sum(len(step.response_ids) for tree in trees for step in tree),
                             device=self.trunk.device)
        for rows in micro_batches(self.trunk.rows(trees), self.trunk.micro_batch_tokens):
            values[token_numbers(rows, values.device)] = self(rows)
        return values


# ---- The loop ------------------------------------------------------------------------------------


@dataclass
class PPOOptions(SamplingOptions):
    """Options of ppo.py."""

    clip: float = option(0.2, "the ratio is clipped to 1 - clip .. 1 + clip, 0.1 to 0.3",
                         low=1e-3, high=1)
    kl: float | None = option(None, "beta, weight of the KL in the rewards, 0 to 0.2")
    gamma: float = option(1.0, "discount a token, 0.99 to 1", high=1)
    lam: float = option(0.95, "GAE's lambda: 1 trusts rewards alone, 0 the critic alone; 0.9 to 1",
                        high=1)
    critic: str = option("own", "own: a trunk of its own; shared: a head on the policy's states",
                         "own", "shared")
    critic_lr: float | None = option(None, "the critic's learning rate, 1e-5 to 1e-3", low=1e-12,
                                     high=1)
    critic_epochs: int | None = option(None, "updates of the critic from each batch, 1 to 16")
    value_clip: float = option(0.5, "clip of the value loss, 0.2 to 0.5; 0 is off")
    bootstrap: bool = option(False, "what the critic expects behind a response that was cut at the "
                                    "length limit counts; else a cut episode is over, and failed")


@dataclass
class Batch:
    """The episodes of one step and their N response tokens, in the order that `pack` numbers."""

    groups: list[list[Episode]]
    old_log_probs: Tensor  # (N,)
    ref_log_probs: Tensor  # (N,)
    old_values: Tensor  # (N,)
    advantages: Tensor  # (N,) whitened
    returns: Tensor  # (N,)
    foresight: dict[str, float]  # how well the critic foresaw the returns, before its update


def make_critic(run: Run) -> Critic:
    """A critic as the options say: on the policy's states, on other adapters, or on a copy."""
    options = run.options
    if options.critic == "shared":
        return Critic(run.policy, shared=True)
    trunk = run.policy.second() if options.lora else load_or_stop(options.model, options)
    critic = Critic(trunk, shared=False)
    if options.shard:
        shard(trunk, critic)
    return critic


def values_behind(critic: Critic, episodes: Sequence[Episode]) -> Tensor:
    """(E,) what the critic expects behind an episode that was cut; 0 where it ended by itself."""
    values = torch.zeros(len(episodes), device=critic.trunk.device)
    numbers = [i for i, e in enumerate(episodes) if e.steps and not e.steps[-1].finished]
    # The critic gives values before tokens only. So one more token, whichever, is put behind the
    # response, and the response into the prompt. A first token goes where that would be too long.
    last_steps = [episodes[i].steps[-1] for i in numbers]
    room = critic.trunk.positions - 1
    trees = [[Step((step.prompt_ids + step.response_ids)[-room:], [0], False)]
             for step in last_steps]
    if numbers:
        values[numbers] = critic.values(trees)
    return values


def collect(run: Run, critic: Critic, tasks: Sequence, generator: torch.Generator) -> Batch:
    """Stages 1 to 3: sample, reward, compare."""
    options, device = run.options, run.policy.device
    with gathered(run.policy.model, run.reference.model):
        groups = run.agent.rollout(
            run.policy, tasks, options.group_size, options.temperature, generator)
    trees, episodes = trees_of(groups), [episode for group in groups for episode in group]
    with gathered(run.reference.model), torch.no_grad():
        ref_log_probs = run.reference.token_log_probs(trees, options.temperature)  # (N,)
    with gathered(run.policy.model, critic):  # a shared critic reads the policy's states
        old_values = critic.values(trees)  # (N,)
        last_values = torch.zeros(len(episodes), device=device)  # (E,)
        if options.bootstrap:
            last_values = values_behind(critic, episodes)
    rewards = torch.tensor([float(e.reward) for e in episodes], device=device)  # (E,)
    lengths = torch.tensor([sum(len(step.response_ids) for step in e.steps) for e in episodes],
                           device=device)  # (E,)
    old_log_probs = torch.tensor([p for tree in trees for step in tree for p in step.log_probs],
                                 device=device)  # (N,)
    earned = token_rewards(rewards, lengths, old_log_probs, ref_log_probs, options.kl)  # (N,)
    advantages, returns = gae(
        earned, old_values, lengths, last_values, options.gamma, options.lam)
    # Of all devices, because they whiten and report together.
    all_advantages, all_values, all_returns = map(all_of, (advantages, old_values, returns))
    foresight = {
        "value_loss": ((all_values - all_returns) ** 2).sum().item() / 2 / len(all_returns),
        "explained_variance": explained_variance(all_values, all_returns),
        "advantage_std": all_advantages.std(correction=0).item()}
    return Batch(groups, old_log_probs, ref_log_probs, old_values,
                 whiten(advantages, all_advantages), returns, foresight)


# Problem 12
def update_critic(critic: Critic, run: Run, batch: Batch, packed_rows: Sequence[Row],
                  optimizer: torch.optim.Optimizer, metrics: TokenMetrics) -> None:
    """Stage 4, first half: the critic towards what happened."""
    options, policy = run.options, run.policy
    # A shared critic reads the policy's weights, which stand still here.
    with gathered(*([policy.model] if critic.shared else [])):
        for _ in range(options.critic_epochs):
            optimizer.zero_grad()
            for micro_batch in policy.micro_batches(packed_rows):
                index = token_numbers(micro_batch, policy.device)  # (m,) of the batch's N tokens
                per_token = clipped_value_loss(critic(micro_batch), batch.old_values[index],
                                               batch.returns[index], options.value_clip)  # (m,)
                (per_token.sum() / metrics.n_tokens).backward()
            grad_norm = clip_gradients(critic.parameters(), options.max_grad_norm)
            if not math.isfinite(grad_norm):  # a loss that is not finite: keep the weights
                metrics.skipped = 1
                break
            optimizer.step()


# Problem 12
def train(run: Run) -> tuple[list[dict[str, float]], dict[int, float]]:
    """Train; returns the rows of metrics.csv, and the validation scores by step."""
    options, policy, critic = run.options, run.policy, make_critic(run)
    optimizer = torch.optim.AdamW([
        {"params": learned(policy.model), "lr": options.lr},
        {"params": learned(critic), "lr": options.critic_lr}],
        betas=(0.9, 0.95), weight_decay=0.0)
    schedule = warm_up_then_decay(optimizer, options.steps)
    state = TrainingState(run, {"policy": policy.model, "critic": critic}, optimizer, schedule)
    for tasks in state.steps():
        batch = collect(run, critic, tasks, state.generator)
        packed_rows = policy.rows(trees_of(batch.groups))
        metrics = TokenMetrics(len(batch.returns), options.epochs)
        # The critic first: a shared one has to read the states that its old values came from.
        update_critic(critic, run, batch, packed_rows, optimizer, metrics)
        for epoch in range(options.epochs):
            optimizer.zero_grad()
            for micro_batch in policy.micro_batches(packed_rows):
                index = token_numbers(micro_batch, policy.device)  # (m,) of the batch's N tokens
                log_probs, entropies = policy.score(micro_batch, options.temperature)  # (m,)
                surrogate, clipping = clipped_loss(
                    log_probs, batch.old_log_probs[index], batch.advantages[index], options.clip)
                if epoch == 0 and policy.dtype == torch.bfloat16:  # note 4 of grpo.py
                    batch.old_log_probs[index] = log_probs.detach()
                    surrogate, again = clipped_loss(
                        log_probs, log_probs.detach(), batch.advantages[index], options.clip)
                    clipping["clip_fraction"] = again["clip_fraction"]
                # The mean over the tokens of the whole batch, however it is cut up.
                (surrogate.sum() / metrics.n_tokens).backward()
                log_ratio = (batch.ref_log_probs[index] - log_probs).detach()  # (m,)
                kl = log_ratio.exp() - 1 - log_ratio  # k3, as in grpo.py, but logged only
                metrics.add(epoch, kl=kl, entropy=entropies, **clipping)
            grad_norm = clip_gradients(policy.model.parameters(), options.max_grad_norm)
            if not math.isfinite(grad_norm):
                metrics.skipped = 1
                break
            optimizer.step()
        state.log(metrics, grad_norm, batch.groups, **batch.foresight)
    return state.history, state.scores


def main(argv: Sequence[str] | None = None) -> dict:
    """Train one agent and report; returns what summary.json holds."""
    options = parse_options(PPOOptions, "Train a memory agent with PPO.", argv)
    run = prepare(options, "ppo")
    before = evaluate_before(run)
    history, scores = train(run)
    after = evaluate_after(run)
    by_objectives = compare_harnesses(run, train) if options.compare else None
    return finish(run, before, after, history, scores, by_objectives)


if __name__ == "__main__":
    launch(main)
