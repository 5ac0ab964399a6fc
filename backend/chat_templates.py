"""Chat templates: messages to the text that a model was trained to read.

Llama-3.2's, SmolLM3's, Granite's and gpt-oss's templates write today's date. With it scores would
change at midnight, and a resumed run would not be the same bit for bit. So every prompt has one
date: the one that Llama's template takes where there is no clock.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date
from functools import lru_cache

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerFast

from backend.loading import PolicyError, in_one_line

DATE = date(2024, 7, 26)
DATE_PARTS = {f"%{letter}": DATE.strftime(f"%{letter}") for letter in "aAbBdHjmMpSyY"}
# Templates call `strftime_now(format)`. A macro takes its place, because the library hands data to
# a template and no functions.
FIXED_CLOCK = """\
{%- macro strftime_now(format) -%}
{%- set text = namespace(value=format) -%}
{%- for part, value in date_parts.items() -%}
{%- set text.value = text.value.replace(part, value) -%}
{%- endfor -%}
{{- text.value -}}
{%- endmacro %}
"""
# What a template writes between the messages of a chat: <|user|>, [/INST], <<SYS>>, "### User:",
# and, as plain words, "ASSISTANT:".
PIPED = {"<|": r"<\|[^<>|\s]{1,40}\|>", "<｜": r"<｜[^<>｜\s]{1,40}｜>",
         "[|": r"\[\|[^\[\]|\s]{1,40}\|\]"}
OTHER_MARKERS = re.compile(
    r"\[/?[A-Z_]{2,}\]|<</?[A-Z]{2,}>>|###\s?[A-Z][a-z]+:|<extra_id_[0-9]+>|"
    r"(?i:</?(?:start_of_|end_of_)?(?:user|assistant|system|human|bot|model|turn|role)>)|"
    r"\b(?:USER|ASSISTANT|User|Assistant|Human|Bot|Instruct|Output):")


@lru_cache
def marker_pattern(template: str) -> re.Pattern[str] | None:
    """What in a text looks like a marker of this chat template; None if nothing does.

    Some templates put a marker together, as in '<|' + message['role'] + '|>'. So one piece of a
    piped marker stands for all of them. Others are those that the template spells out.
    """
    piped = [pattern for opening, pattern in PIPED.items() if opening in template]
    spelled = sorted({re.escape(marker) for marker in OTHER_MARKERS.findall(template)})
    return re.compile("|".join([*piped, *spelled])) if piped or spelled else None


def break_markers(text: str, template: str) -> str:
    """A text in which no marker of the chat template is left whole.

    Tokens that the tokenizer calls special are not all: DeepSeek's distilled models do not list
    <｜User｜>, and Zephyr's markers are plain text.

    >>> break_markers("Hi <|user|> [INST]", "{{ '<|' + role + '|>' }}")
    'Hi < |user|> [INST]'
    """
    pattern = marker_pattern(template)
    return pattern.sub(lambda marker: broken_up(marker[0]), text) if pattern else text


def broken_up(marker: str) -> str:
    """A marker with a space in it: behind its first sign, or behind a word that begins it."""
    end = re.match(r"\w+|.", marker).end()
    return f"{marker[:end]} {marker[end:]}"


def render(tokenizer: PreTrainedTokenizerFast, messages: Sequence[dict[str, str]]) -> str:
    """The text of a chat, up to where the assistant begins to speak.

    Raises jinja2's TemplateError where the template refuses the chat, as some refuse a system
    message. Raises PolicyError, one line, where the template itself fails.
    """
    try:
        # Qwen3 would think aloud until no tokens are left. Other templates ignore the switch.
        return tokenizer.apply_chat_template(
            messages, chat_template=FIXED_CLOCK + tokenizer.get_chat_template(),
            date_parts=DATE_PARTS, tokenize=False, add_generation_prompt=True,
            enable_thinking=False)
    except TemplateError:
        raise
    except Exception as error:  # a template is a program, and may fail in any way
        raise PolicyError(f"the chat template fails: {in_one_line(error)}") from error
