#!/usr/bin/env bash
# What: dateparser 1.5.0 on "two days before yesterday" and its like.
#
# A memory of a dialogue needs the date that a speaker means. dateparser reads phrases such as
# "two days ago", relative to a date that it is given. It returns None for what it does not know.
#
# Expected: on Wednesday, 10 May 2023, "two days before yesterday" is 7 May, or None. "A week
# before yesterday" is 2 May, and so it is read.
# Seen on 29 November 2026: 9 May, which is yesterday. The two days are lost. So is any number of
# days before or after today, yesterday or tomorrow: "2 days before today" is today. No error, and
# no None. "The day before yesterday" and "2 days ago" are right.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check dateparser==1.5.0 \
    2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/python" - <<'PYTHON'
import sys
from datetime import datetime
from importlib.metadata import version

import dateparser

seen = []
for phrase, meant in (
        ("2 days ago", 8), ("the day before yesterday", 8), ("a week before yesterday", 2),
        ("two days before yesterday", 7), ("3 days before yesterday", 6),
        ("2 days before today", 8), ("2 days after tomorrow", 13)):
    date = dateparser.parse(
        phrase, languages=["en"], settings={"RELATIVE_BASE": datetime(2023, 5, 10, 12)})
    print(f"dateparser {version('dateparser')}, on 10 May 2023: {phrase!r} is read as "
          f"{date.day} May, meant is {meant} May")
    seen.append(date.day)
sys.exit(seen != [8, 8, 2, 9, 9, 10, 11])
PYTHON
