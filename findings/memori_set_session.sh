#!/usr/bin/env bash
# What: memori 3.3.6, Memori.set_session between a user's conversations, with a local SQLite.
#
# The README says: "By default, Memori handles setting the session for you but you can start a new
# session or override the session by executing the following", which is new_session() or
# set_session(session_id). The docstring of set_session says: "Set an explicit session identifier
# on the current instance." A program keeps one instance. A user writes in a session on work, then
# in one on the garden, then in the one on work again.
#
# Expected: each prompt has the earlier messages of its own session, and each message is stored
# under its own session.
# Seen on 30 November 2026: the prompt on the garden begins with the messages on work, and the next
# one on work has those on the garden. The database has one session, that on work, which holds all
# messages. set_session changes the name alone. The ids of the first session and of its conversation
# stay in a cache, and are used for all later calls. new_session() empties this cache: if it is
# called before each set_session, all is as expected. No warning.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
# memori is installed without its dependencies, of which torch is the largest and not needed here.
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps memori==3.3.6 \
    2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    openai==3.57.0 sqlalchemy==2.1.9 aiohttp==3.14.5 botocore==1.44.8 faiss-cpu==1.15.1 \
    grpcio==1.85.3 numpy==2.4.6 protobuf==5.29.6 pyfiglet==1.0.4 requests==2.34.2 2> "$folder/log" \
    || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/python" - "$folder" 2> "$folder/log" <<'PYTHON' \
    || { tail -3 "$folder/log"; exit 1; }
import contextlib
import io
import sqlite3
import sys

from memori import Memori
from openai import OpenAI
from openai.types.chat import ChatCompletion

TURNS = [("work", "My report is on bees."), ("garden", "I plant beans."), ("work", "Hello!")]
prompts = []


def answer(messages, **options):
    """Note what the model would read, and answer."""
    prompts.append([message["content"] for message in messages if message["role"] == "user"])
    return ChatCompletion.model_validate({
        "id": "1", "object": "chat.completion", "created": 0, "model": "none", "choices": [
            {"index": 0, "finish_reason": "stop",
             "message": {"role": "assistant", "content": "Noted."}}]})


def chat(path, renew):
    """Hold the turns with one Memori. Return each prompt and what is stored in each session."""
    prompts.clear()
    client = OpenAI(api_key="none")
    client.chat.completions.create = answer
    memori = Memori(conn=lambda: sqlite3.connect(path, check_same_thread=False))
    memori.llm.register(client)
    with contextlib.redirect_stdout(io.StringIO()):
        memori.config.storage.build()
    for session, text in TURNS:
        if renew:
            memori.new_session()
        memori.set_session(session)
        client.chat.completions.create(model="none", messages=[{"role": "user", "content": text}])
    rows = sqlite3.connect(path).execute(
        "SELECT s.uuid, m.content FROM memori_session s"
        " JOIN memori_conversation c ON c.session_id = s.id"
        " JOIN memori_conversation_message m ON m.conversation_id = c.id"
        " WHERE m.role = 'user' ORDER BY m.id").fetchall()
    return [list(prompt) for prompt in prompts], rows


work, garden, hello = [text for _, text in TURNS]
seen = []
for renew in (False, True):
    read, rows = chat(f"{sys.argv[1]}/{renew}.db", renew)
    print(f"memori 3.3.6, {'new_session and ' if renew else ''}set_session before each call:")
    for (session, _), prompt in zip(TURNS, read, strict=True):
        print(f"  the prompt on {session} has {prompt}")
    print("  stored in the session on", ", ".join(session for session, _ in rows))
    seen.append((read, [session for session, _ in rows]))
sys.exit(seen != [([[work], [work, garden], [work, garden, hello]], ["work"] * 3),
                  ([[work], [garden], [work, hello]], ["work", "garden", "work"])])
PYTHON
