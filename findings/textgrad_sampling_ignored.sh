#!/usr/bin/env bash
# What: textgrad 0.1.8, temperature, top_p and max_tokens of the engine "experimental:...".
#
# The README calls this engine, LiteLLMEngine, experimental, and says: "we plan to depreciate the
# old engines in the future". Its method has temperature=0, max_tokens=2000 and top_p=0.99, as that
# of the old engine for OpenAI's models has, and generate hands its arguments on to it.
#
# Expected: the model is asked with temperature 0 by default, and with what is given otherwise.
# Seen on 1 December 2026: the model is asked with none of the three, given or not. So it samples as
# its provider does by default, mostly with temperature 1, and an answer has no limit. The arguments
# are taken and dropped. No warning. The old engine for OpenAI's models sends them. An evaluation
# that looks greedy is not, and is not repeatable.
#
# Exit code 0: as described. 1: the behaviour has changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    litellm==1.110.2 diskcache platformdirs requests httpx tenacity openai \
    2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check --no-deps \
    textgrad==0.1.8 2> "$folder/log" || { tail -3 "$folder/log"; exit 1; }
export XDG_CACHE_HOME="$folder/cache" HOME="$folder"
cd "$folder"  # textgrad writes its log below the working directory
"$folder/venv/bin/python" - 2> "$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import importlib.metadata
import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

requests = []


class Server(BaseHTTPRequestHandler):
    """Answers as OpenAI's server does, and notes what it was asked."""

    def do_POST(self):
        requests.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        reply = json.dumps({
            "id": "1", "object": "chat.completion", "created": 0, "model": "gpt-4o",
            "choices": [{"index": 0, "finish_reason": "stop",
                         "message": {"role": "assistant", "content": "the flute"}}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *arguments):
        pass


server = HTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
os.environ["OPENAI_API_KEY"] = "none"
os.environ["OPENAI_BASE_URL"] = f"http://127.0.0.1:{server.server_port}/v1"
os.environ["OPENAI_API_BASE"] = os.environ["OPENAI_BASE_URL"]
import textgrad  # noqa: E402

NAMES = ("temperature", "top_p", "max_tokens")
seen = []
for name in ("experimental:gpt-4o", "gpt-4o"):
    engine = textgrad.get_engine(name)
    for given in ({}, {"temperature": 0.7, "top_p": 0.5, "max_tokens": 9}):
        engine.generate(f"What does Anna play? {len(given)}", **given)
        sent = {key: requests[-1][key] for key in NAMES if key in requests[-1]}
        print(f"textgrad {importlib.metadata.version('textgrad')}, {name}, given {given}: sent "
              f"{sent}")
        seen.append(sent)
sys.exit(seen != [{}, {}, {"temperature": 0, "top_p": 0.99, "max_tokens": 2000},
                  {"temperature": 0.7, "top_p": 0.5, "max_tokens": 9}])
PYTHON
