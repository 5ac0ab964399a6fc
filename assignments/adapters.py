"""Where the tests find your work: one line for each function of each problem.

On the left stands the function's place in the project, on the right where you wrote it. As handed
out both are the same: you fill in the bodies in the project's own modules. If you would rather
write in a file of your own, say my_grpo.py beside grpo.py, change the right side:

    "grpo.group_advantages": "my_grpo.group_advantages",

A function will do too, if you need a few lines to fit yours to the signature:

    def my_advantages(rewards, normalise=True):
        ...

    "grpo.group_advantages": my_advantages,

The tests then put yours into its place, so that the rest of the project calls it as well.
(`python grpo.py` does not: for a real run import your function in the project's module.)
"""

ADAPTERS = {
    1: {
        "memory_bank.MemoryBank.add_many": "memory_bank.MemoryBank.add_many",
        "memory_bank.MemoryBank.update": "memory_bank.MemoryBank.update",
        "memory_bank.MemoryBank.delete": "memory_bank.MemoryBank.delete",
        "memory_bank.MemoryBank.search": "memory_bank.MemoryBank.search",
        "memory_bank._top": "memory_bank._top",
    },
    2: {
        "prompts.json_values": "prompts.json_values",
        "prompts.parse_operations": "prompts.parse_operations",
        "prompts._operation": "prompts._operation",
        "prompts.parse_answer": "prompts.parse_answer",
    },
    3: {
        "policy.Policy.score": "policy.Policy.score",
        "policy.picked_log_probs": "policy.picked_log_probs",
    },
    4: {
        "grpo.group_advantages": "grpo.group_advantages",
    },
    5: {
        "grpo.clipped_loss": "grpo.clipped_loss",
        "ppo.clipped_loss": "ppo.clipped_loss",
    },
    6: {
        "grpo.token_weights": "grpo.token_weights",
    },
    7: {
        "grpo.kl_k3": "grpo.kl_k3",
        "ppo.token_rewards": "ppo.token_rewards",
    },
    8: {
        "ppo.gae": "ppo.gae",
    },
    9: {
        "trees.Row.add": "trees.Row.add",
        "trees.tree_mask": "trees.tree_mask",
    },
    10: {
        "memr1.apply_operations": "memr1.apply_operations",
        "memr1.ManagerAgent.rollout": "memr1.ManagerAgent.rollout",
        "memr1.ManagerAgent.outcomes_of": "memr1.ManagerAgent.outcomes_of",
    },
    11: {
        "mem1.parse_turn": "mem1.parse_turn",
        "mem1.Trajectory.advance": "mem1.Trajectory.advance",
        "mem1.Mem1Agent.earlier": "mem1.Mem1Agent.earlier",
        "mem1.Mem1Agent.prompt": "mem1.Mem1Agent.prompt",
    },
    12: {
        "grpo.train": "grpo.train",
        "ppo.update_critic": "ppo.update_critic",
        "ppo.train": "ppo.train",
    },
    13: {
        "memr1.banks_so_far": "memr1.banks_so_far",
        "memr1.span_reward": "memr1.span_reward",
        "memr1.SpanAgent.rollout": "memr1.SpanAgent.rollout",
    },
}
