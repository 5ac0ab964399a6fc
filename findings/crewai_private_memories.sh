#!/usr/bin/env bash
# What: crewai 1.15.30, Memory.recall in a store that holds private memories of several users.
#
# The docstring of remember says of private: "If True, only visible to recall from the same
# source." That of recall says of limit: "Max number of results." The source is a user's id, for
# example.
#
# Expected: Anna's recall finds Anna's memory, however many private memories Ben has in the store.
# Seen on 29 November 2026: with 19 of Ben's, which are closer to the query, it does. With 20 it
# finds nothing, with the default limit of 10. recall asks the store for twice the limit, and takes
# out what Anna may not see after that. With depth="shallow" it asks for the limit, so ten of Ben's
# are enough. No warning: it looks as if Anna had told nothing. A scope for each user avoids it,
# because the store itself looks for scopes.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check crewai==1.15.30 \
    2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
export CREWAI_DISABLE_TELEMETRY=true CREWAI_TRACING_ENABLED=false OTEL_SDK_DISABLED=true
export HOME="$folder"
"$folder/venv/bin/python" - "$folder" 2> "$folder/log" <<'PYTHON' \
    || { tail -3 "$folder/log"; exit 1; }
import contextlib
import io
import sys
from importlib.metadata import version
from pathlib import Path

from crewai.memory.unified_memory import Memory


def embed(texts):
    """The fewer letters stand before "Oslo", the closer to "Oslo"."""
    return [[1.0, text.find("Oslo") / 10 + len(text) / 10_000] for text in texts]


def recall(n_others, depth, scopes=False):
    def scope(user):
        return f"/{user}" if scopes else "/"

    with contextlib.redirect_stdout(io.StringIO()):  # crewai's own panels
        memory = Memory(
            storage=str(Path(sys.argv[1], f"{n_others}{depth}{scopes}")), embedder=embed,
            llm="none", consolidation_threshold=1.0, exploration_budget=0)
        for user, text in [("anna", "I have moved to Oslo")] + [
                ("ben", "Oslo" + ", by boat" * i) for i in range(n_others)]:
            memory.remember(text, scope=scope(user), source=user, private=True, importance=0.5,
                            categories=["place"], metadata={})
        matches = memory.recall(
            "Oslo", source="anna", depth=depth, scope=scope("anna") if scopes else None)
    found = [match.record.content for match in matches]
    print(f"crewai {version('crewai')}, {n_others} private memories of Ben, "
          f"{'a scope for each user, ' if scopes else ''}{depth}: Anna's recall finds {found}")
    return len(found)


seen = [recall(19, "deep"), recall(20, "deep"), recall(9, "shallow"), recall(10, "shallow"),
        recall(20, "deep", scopes=True)]
sys.exit(seen != [1, 0, 1, 0, 1])
PYTHON
