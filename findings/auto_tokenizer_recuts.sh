#!/usr/bin/env bash
# What: AutoTokenizer and PreTrainedTokenizerFast on the same folder, in transformers 5.24.0.
#
# A folder of a Qwen2 model has a tokenizer.json of its own, which cuts text at spaces only, and a
# tokenizer_config.json with "tokenizer_class": "PreTrainedTokenizerFast". The documentation of
# AutoTokenizer says that it loads "the tokenizer class" of the folder.
#
# Expected: the same ids from both, those of tokenizer.json. transformers 4.57.6 gives them.
# Seen in 5.24.0: because config.json says "model_type": "qwen2", AutoTokenizer makes a
# Qwen2Tokenizer. It keeps the vocabulary and the merges, but replaces the way of cutting text by
# Qwen's own. The ids differ, without a warning, and the model reads other tokens than in training.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/compare.py" <<'PY'
import json
import sys
from pathlib import Path
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

folder = Path(sys.argv[1]) / "model"
folder.mkdir(exist_ok=True)
tokenizer = Tokenizer(models.BPE({"1": 0, "2": 1, "12": 2, "x": 3}, [("1", "2")]))
tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer.save(str(folder / "tokenizer.json"))
(folder / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
(folder / "tokenizer_config.json").write_text(
    json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
for cls in (PreTrainedTokenizerFast, AutoTokenizer):
    print(cls.from_pretrained(folder)("12x").input_ids, end=" ")
PY
status=0
for pair in "4.57.6|[2, 3] [2, 3] " "5.24.0|[2, 3] [0, 1, 3] "; do
    version=${pair%%|*} described=${pair#*|}
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/pip" install -q "transformers==$version"
    seen=$("$folder/$version/bin/python" "$folder/compare.py" "$folder" 2>/dev/null; echo .)
    seen=${seen%.}
    echo "transformers $version: tokenizer.json and AutoTokenizer read '12x' as $seen"
    [ "$seen" = "$described" ] || status=1
done
exit $status
