#!/usr/bin/env bash
# What: agno 3.1.10, the time at which a memory was made, in InMemoryDb, JsonDb and SqliteDb.
#
# UserMemory has created_at and updated_at in seconds since 1970. to_epoch_s, through which a read
# memory goes, says: "Normalize various datetime representations to epoch seconds (UTC)." A
# MemoryManager stores a memory of 5 March 2026, 12:00 UTC. It is read, changed and stored again
# three times, as replace_user_memory is made for, on a machine with the time of New York, Berlin
# or UTC.
#
# Expected: the memory keeps the time at which it was made, in each store and each time zone.
# Seen on 30 November 2026: in InMemoryDb and JsonDb it is five hours older after the first reading
# in New York, and five more after each change: 20 hours after three. In Berlin it is an hour
# younger each time, so a new one seems to be made in the future. With UTC, and in SqliteDb, it
# keeps its time. UserMemory.to_dict writes the local time without a zone, and from_dict reads it
# as UTC. UserMemory.from_dict(memory.to_dict()) alone moves it so. No warning.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    agno==3.1.10 sqlalchemy==2.1.9 greenlet==3.5.6 aiosqlite==0.22.1 2> "$folder/log" \
    || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/python" - "$folder" 2> "$folder/log" <<'PYTHON' \
    || { tail -3 "$folder/log"; exit 1; }
import os
import sys
import time
from datetime import UTC, datetime

from agno.db.in_memory import InMemoryDb
from agno.db.json import JsonDb
from agno.db.schemas import UserMemory
from agno.db.sqlite import SqliteDb
from agno.memory import MemoryManager

MADE = int(datetime(2026, 3, 5, 12, tzinfo=UTC).timestamp())
ZONES = {"EST5": "New York", "CET-1": "Berlin", "UTC0": "UTC"}


def replace(database):
    """Store a memory, and replace it three times. Return how many hours it moves each time."""
    manager = MemoryManager(db=database)
    manager.add_user_memory(UserMemory(memory="Anna plays the flute", memory_id="1",
                                       created_at=MADE), user_id="anna")
    hours = []
    for _ in range(3):
        memory = manager.get_user_memory("1", user_id="anna")
        hours.append((memory.created_at - MADE) / 3600)
        memory.memory += " well"
        manager.replace_user_memory("1", memory, user_id="anna")
    last = manager.get_user_memory("1", user_id="anna")
    return [*hours, (last.created_at - MADE) / 3600]


seen = []
for zone, place in ZONES.items():
    os.environ["TZ"] = zone
    time.tzset()
    for database in (InMemoryDb(), JsonDb(db_path=f"{sys.argv[1]}/{zone}"),
                     SqliteDb(db_file=f"{sys.argv[1]}/{zone}.db")):
        moved = replace(database)
        print(f"agno 3.1.10, time of {place}, {type(database).__name__}: read four times, made",
              ", ".join(f"{hours:+g}" for hours in moved), "hours from the true time")
        seen.append(moved)
west, east, true = [-5, -10, -15, -20], [1, 2, 3, 4], [0] * 4
sys.exit(seen != [west, west, true, east, east, true, true, true, true])
PYTHON
