#!/usr/bin/env bash
# What: memoryos-pro 0.1.0 (MemoryOS, Kang et al. 2025), mid-term memory that is full.
#
# Mid-term memory keeps sessions, and has room for max_capacity of them, 2000 by default. If there
# are more, evict_lfu drops the least frequently used one. Here it has room for three. Anna, Ben
# and Cleo told one session each, and each was found once by a search. Then Dan tells one.
#
# Expected: one of the old sessions is dropped, and Dan's is kept and found.
# Seen on 30 November 2026: Dan's is dropped at once, and so is each session after it. A session is
# added first, with 0 uses, and then the least used of all is dropped. That is the new one, if each
# old one was found once. So a full memory never learns anything again. add_session returns the id
# of the dropped session. The printed log names it, but not that it is the new one.
#
# Its embedder, downloaded otherwise, is replaced by counts of words.
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps memoryos-pro==0.1.0 \
    2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    faiss-cpu==1.15.1 numpy==2.4.6 openai==3.57.0 2> "$folder/log" \
    || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/python" - "$folder/bank.json" <<'PYTHON'
import contextlib
import io
import sys
from types import ModuleType, SimpleNamespace

import numpy as np

WORDS = "anna lives in oslo ben plays flute cleo has a dog dan likes tea eva owns boat".split()


class CountWords:
    def __init__(self, *args, **kwargs):
        pass

    def encode(self, texts, **kwargs):
        counts = [[text.lower().split().count(word) for word in WORDS] for text in texts]
        return np.array(counts, dtype=np.float32)


sys.modules["sentence_transformers"] = ModuleType("sentence_transformers")
sys.modules["sentence_transformers"].SentenceTransformer = CountWords

from memoryos.mid_term import MidTermMemory

client = SimpleNamespace(chat_completion=lambda *args, **kwargs: "")


def find(memory, text):
    return [session["session_summary"] for session in memory.search_sessions(text)]


old = ["Anna lives in Oslo", "Ben plays flute", "Cleo has a dog"]
lines = []
with contextlib.redirect_stdout(io.StringIO()):  # its log
    memory = MidTermMemory(sys.argv[1], client, max_capacity=3)
    for text in (*old, "Dan likes tea", "Eva owns a boat"):
        key = memory.add_session(text, [{"user_input": text, "agent_response": "I see"}])
        kept = [session["summary"] for session in memory.sessions.values()]
        lines.append((text, key in memory.sessions, find(memory, text), kept))
for text, is_kept, found, kept in lines:
    print(f"memoryos-pro 0.1.0, added {text!r}: kept {is_kept}, a search for it finds {found}, "
          f"the memory holds {kept}")
sys.exit([is_kept for _, is_kept, _, _ in lines] != [True, True, True, False, False]
         or lines[-1][3] != old)
PYTHON
