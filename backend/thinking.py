"""How models mark what they think before they answer.

Most write <think> and </think>, Mistral's [THINK], ByteDance's <seed:think>, Moonshot's ◁think▷.
Cohere's and gpt-oss mark it with special tokens. gpt-oss writes in channels: what is for the user
stands in "final", all else in others.

>>> bool(OPENS_THINKING.search("[THINK]Rome?")), bool(ENDS_THINKING.search("Rome?</thinking>"))
(True, True)
"""

from __future__ import annotations

import re

OPENS_THINKING = re.compile(
    r"<(?:seed:)?(?:think|thinking|thought|reasoning)>|\[THINK\]|◁think▷|<\|START_THINKING\|>|"
    r"<\|channel\|>(?:analysis|commentary)<\|message\|>")
ENDS_THINKING = re.compile(
    r"</(?:seed:)?(?:think|thinking|thought|reasoning)>|\[/THINK\]|◁/think▷|<\|END_THINKING\|>|"
    r"<\|channel\|>final<\|message\|>")
THINKING = re.compile(f"{OPENS_THINKING.pattern}|{ENDS_THINKING.pattern}")
CHANNEL_TOKENS = ("<|channel|>", "<|message|>")  # the parts of gpt-oss's marks


def marks_thinking(token: str) -> bool:
    """Whether a token is a mark of thinking, or part of one."""
    return token in CHANNEL_TOKENS or THINKING.fullmatch(token) is not None


def without_marks(text: str) -> str:
    """A text in which no mark opens or ends thinking: <think> becomes (think).

    >>> without_marks("[THINK] or </think>?")
    '(THINK) or (/think)?'
    """
    return THINKING.sub(lambda mark: f"({mark[0][1:-1]})", text)
