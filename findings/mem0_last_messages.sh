#!/usr/bin/env bash
# What: mem0ai 2.2.1, Memory.add with more than ten messages, with a local qdrant.
#
# The prompt that mem0 gives its model explains the section "Last k Messages": "Recent messages (up
# to 20) preceding New Messages. Use to resolve references and pronouns in New Messages." The code
# keeps ten of a user: "Evict old messages beyond the most recent 10 for this scope".
#
# Expected: after one call with the turns 1 to 24 of a session, the next call shows the last ten of
# them, 15 to 24, because a pronoun in turn 25 refers to these.
# Seen: it shows the first ten, 1 to 10. The messages of one call share their time, and "most
# recent" is decided by that time alone. With a call for each turn the last ten are shown.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    mem0ai==2.2.1 qdrant-client==1.20.0 2> "$folder/log" \
    || { tail -3 "$folder/log"; exit 1; }
export MEM0_TELEMETRY=False MEM0_DIR="$folder/mem0" OPENAI_API_KEY=none
"$folder/venv/bin/python" - "$folder" 2> "$folder/log" <<'PYTHON' \
    || { tail -3 "$folder/log"; exit 1; }
import re
import sys
from importlib.metadata import version

from mem0 import Memory

prompts = []


class Model:
    """Keeps what it reads, and extracts nothing."""

    def generate_response(self, messages, response_format=None):
        prompts.append(messages[-1]["content"])
        return '{"memory": []}'


class Embedder:
    def embed(self, text, action=None):
        return [1.0, 0.0]


memory = Memory.from_config({
    "vector_store": {"provider": "qdrant",
                     "config": {"path": sys.argv[1] + "/vectors", "embedding_model_dims": 2}},
    "history_db_path": sys.argv[1] + "/history.db"})
memory.llm, memory.embedding_model = Model(), Embedder()
turns = [{"role": "user", "content": f"turn {number}"} for number in range(1, 25)]
for turn in turns:
    memory.add([turn], user_id="one-by-one")
memory.add(turns, user_id="at-once")

shown = {}
for user in ("one-by-one", "at-once"):
    memory.add("turn 25", user_id=user)
    section = prompts[-1].split("## Last k Messages")[1].split("##")[0]
    shown[user] = [int(number) for number in re.findall(r"turn (\d+)", section)]
    print(f"mem0ai {version('mem0ai')}, 24 turns {user}: before turn 25 the model reads the turns "
          f"{shown[user][0]} to {shown[user][-1]}")
memory.vector_store.client.close()
sys.exit(shown != {"one-by-one": list(range(15, 25)), "at-once": list(range(1, 11))})
PYTHON
