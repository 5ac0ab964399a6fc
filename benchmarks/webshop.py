"""The real WebShop (github.com/princeton-nlp/WebShop) behind the methods of shop.py's `Shop`.

The names are those of the code at commit 3b1894d, which was read and not run.

Its pages and rewards are passed on as they are. MEM1's code adds a list of what can be clicked, and
takes off 1 for a turn without an action. `Store` in shop.py makes an environment of a visit.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.shop import Store
from environments import Environment

WEBSHOP_PRODUCTS = 1000  # the smaller of its two sizes; the other, None, takes all 1.18 million
WEBSHOP_TEST = 500  # its first goals are for testing, the rest for training, as in the paper


@dataclass(frozen=True)
class WebShopGoal:
    """One of WebShop's own goals."""

    index: int  # in its list
    instruction: str
    options: tuple[tuple[str, str], ...]  # (name, wanted value), as in shop.py's `Goal`


class WebShop:
    """A visit to the real WebShop; visits that are given one server share its products."""

    _numbers: Iterator[int] = itertools.count()

    def __init__(self, server: Any = None) -> None:
        """Without a server, start one: minutes, and gigabytes with all products.

        Raises ImportError where WebShop (github.com/princeton-nlp/WebShop) is not installed.
        """
        from web_agent_site.envs.web_agent_text_env import WebAgentTextEnv
        # The server knows a visitor by prefix and goal. A group of visits has one goal, so each
        # needs a prefix of its own, or they would share a cart.
        self._visit = WebAgentTextEnv(observation_mode="text", server=server,
                                      num_products=WEBSHOP_PRODUCTS, human_goals=False,
                                      session_prefix=f"{next(self._numbers)}-")
        self.server = self._visit.server

    def goals(self) -> list[WebShopGoal]:
        """All goals, in WebShop's fixed order."""
        return [WebShopGoal(index, goal["instruction_text"], tuple(goal["goal_options"].items()))
                for index, goal in enumerate(self.server.goals)]

    def reset(self, goal: WebShopGoal) -> tuple[str, None]:
        """Begin a visit; returns (text of the first page, None)."""
        return self._visit.reset(session=goal.index)

    def step(self, action: str) -> tuple[str, float, bool, None]:
        """Act; the spaces in "click[ red ]" go, because WebShop takes spaces as they are."""
        return self._visit.step(re.sub(r"\[\s+|\s+(?=\])", lambda m: m[0].strip(), action))


def webshop_tasks(counts: Sequence[int],
                  ) -> tuple[Callable[[], Environment], list[list[WebShopGoal]]]:
    """WebShop as an environment, and so many of its goals to train, validate and test on.

    Its first `WEBSHOP_TEST` goals are never trained on. Raises ImportError as `WebShop` does.
    """
    first_visit = WebShop()
    n_train, n_validation, n_test = counts
    goals = first_visit.goals()
    held_out, to_learn = goals[:WEBSHOP_TEST], goals[WEBSHOP_TEST:]
    tasks = [to_learn[:n_train], held_out[n_test:n_test + n_validation], held_out[:n_test]]
    return lambda: Store(WebShop(first_visit.server)), tasks
