"""Greedy responses of a frozen model, kept on disk by model and prompt.

    ~/.cache/memory-r1/responses/MODEL.jsonl    one line a response: {"key", "ids", "finished"}

A manager needs some 300 decisions, one after the other, to read a conversation of LoCoMo. A model
that extracts facts is asked about every turn. Both answer greedily, so every later run would get
the same responses again. What is kept are responses and not banks, because a bank follows from
them in seconds, and a change of embedder or code still reaches it.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from backend.files import cache_folder
from data import Message
from policy import Policy
from training.checkpoints import fingerprint
from trees import Step


class KeptPolicy:
    """A frozen policy for greedy responses; those of earlier runs come from disk.

    It stands in for a `Policy` where memr1.py asks for greedy responses: `positions`, `encode`,
    `sample` and `decode`. `n_kept` and `n_new` count the distinct prompts that came from disk and
    from the model. A folder that cannot be written to costs one line, and the responses of this
    run.
    """

    def __init__(self, policy: Policy, folder: str | Path | None = None):
        self.policy, self.positions = policy, policy.positions
        # The arithmetic belongs to the name, because bfloat16 may choose another token. Adapters
        # that are off do not, so that runs from one start model share what it said.
        name = f"{fingerprint(policy)}-{str(policy.dtype)[6:]}.jsonl"
        self.path: Path | None = Path(folder or cache_folder() / "responses") / name
        self.n_kept = self.n_new = 0
        self.responses: dict[str, tuple[list[int], bool]] = self._read()

    def _read(self) -> dict[str, tuple[list[int], bool]]:
        """The responses on disk; a line that was cut when a run was killed is left out."""
        try:
            lines = self.path.read_bytes().split(b"\n")
        except OSError:
            return {}
        responses = {}
        for line in lines:
            try:
                entry = json.loads(line)
                responses[entry["key"]] = [int(i) for i in entry["ids"]], bool(entry["finished"])
            except (ValueError, KeyError, TypeError):
                continue
        return responses

    def _keep(self, new: dict[str, tuple[list[int], bool]]) -> None:
        """Append responses to the file, all in one write, so that two runs may share it."""
        self.responses.update(new)
        if self.path is None:
            return
        lines = "".join(json.dumps({"key": key, "ids": ids, "finished": finished}) + "\n"
                        for key, (ids, finished) in new.items())
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                file.write(b"\n" + lines.encode())  # the last line may have been cut
        except OSError as error:
            print(f"{self.path}: responses are not kept ({error.strerror}); set MEMORY_R1_CACHE "
                  "to another folder", file=sys.stderr)
            self.path = None

    def encode(self, messages: list[Message]) -> list[int]:
        """As `Policy.encode`."""
        return self.policy.encode(messages)

    def decode(self, ids: list[int]) -> str:
        """As `Policy.decode`."""
        return self.policy.decode(ids)

    def sample(self, prompts: Sequence[list[int]], group_size: int = 1, max_new_tokens: int = 64,
               temperature: float = 0) -> list[list[Step]]:
        """As `Policy.sample`, for groups of one and temperature 0. Raises ValueError for others."""
        if group_size != 1 or temperature != 0:
            raise ValueError("only greedy responses are kept: group_size 1 and temperature 0")
        keys = [hashlib.sha256(f"{max_new_tokens} {prompt}".encode()).hexdigest()[:32]
                for prompt in prompts]
        new = {key: prompt for key, prompt in zip(keys, prompts) if key not in self.responses}
        if new:
            groups = self.policy.sample(list(new.values()), 1, max_new_tokens, 0)
            self._keep({key: (step.response_ids, step.finished)
                        for key, [step] in zip(new, groups)})
        self.n_new += len(new)
        self.n_kept += len(set(keys)) - len(new)
        return [[Step(prompt, *self.responses[key])] for key, prompt in zip(keys, prompts)]
