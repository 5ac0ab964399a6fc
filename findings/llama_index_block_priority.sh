#!/usr/bin/env bash
# What: llama-index-core 0.14.25, Memory with blocks of different priority and too little room.
#
# A block's field says: "Priority of this memory block (0 = never truncate, 1 = highest priority,
# etc.)." Blocks of priority 1, 2 and 3 hold ten words each, and a message three. The limit is 30.
#
# Expected: the block of the lowest priority, 3, is left out of the prompt.
# Seen: the block of the highest priority, 1, is left out, in whatever order the blocks are listed.
# With room for one block, that of priority 3 remains. Blocks are truncated by ascending number.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check llama-index-core==0.14.25 \
    2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/python" - <<'PYTHON'
import re
import sys
from importlib.metadata import version

from llama_index.core.llms import ChatMessage
from llama_index.core.memory import BaseMemoryBlock, Memory


class Block(BaseMemoryBlock[str]):
    async def _aget(self, messages=None, **kwargs):
        return " ".join([self.name] * 10)

    async def _aput(self, messages):
        pass


seen = []
for limit, priorities in ((33, (1, 2, 3)), (30, (1, 2, 3)), (30, (3, 2, 1)), (15, (1, 2, 3))):
    memory = Memory.from_defaults(
        token_limit=limit, token_flush_size=3, tokenizer_fn=str.split,
        memory_blocks=[Block(name=f"priority{number}", priority=number) for number in priorities])
    memory.put(ChatMessage(role="user", content="Where is Anna?"))
    prompt = "\n".join(str(message.content) for message in memory.get())
    kept = sorted({int(number) for number in re.findall(r"priority(\d)", prompt)})
    print(f"llama-index-core {version('llama-index-core')}: blocks {priorities}, limit {limit}: "
          f"priorities {kept} are kept")
    seen.append(kept)
sys.exit(seen != [[1, 2, 3], [2, 3], [2, 3], [3]])
PYTHON
