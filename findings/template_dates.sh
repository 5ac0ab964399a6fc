#!/usr/bin/env bash
# What: a date that is handed to a chat template, in transformers 5.24.0 and 4.57.6.
#
# The documentation of apply_chat_template says of **kwargs: "Additional kwargs to pass to the
# template renderer. Will be accessible by the chat template." A Python date is such an argument:
# many templates (Llama-3.2's, for example) write a variable `date_string` into the prompt.
#
# Expected: str(date), as 4.57.6 renders it, or an error.
# Seen in 5.24.0: the word "<date>" stands in the prompt, without error or warning. A function
# (a fixed `strftime_now`, for prompts that do not change at midnight) becomes "<function>".
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/render.py" <<'PY'
import datetime
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, "a")))
tokenizer.chat_template = "Today: {{ date_string }}"
print(tokenizer.apply_chat_template(
    [{"role": "user", "content": "Hi"}], tokenize=False, date_string=datetime.date(2026, 11, 28)))
PY
status=0
for pair in "4.57.6|Today: 2026-11-28" "5.24.0|Today: <date>"; do
    version=${pair%%|*} described=${pair#*|}
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/pip" install -q "transformers==$version" "jinja2==3.1.6"
    seen=$("$folder/$version/bin/python" "$folder/render.py" 2>/dev/null)
    echo "transformers $version: $seen"
    [ "$seen" = "$described" ] || status=1
done
exit $status
