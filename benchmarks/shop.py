"""Shop: the web-navigation task of the MEM1 paper (arXiv 2506.15841), small.

The agent reads what to buy, searches a shop, opens products, chooses options and buys one. MEM1
trains on WebShop (Yao et al., arXiv 2207.01206; github.com/princeton-nlp/WebShop), which takes a
million products of Amazon's, Java and a language parser. In this file a seed makes the shop. Its
pages suit a tiny model: all words are single and in lower case, ids have three digits, prices two.

    search ──search[words]──> results ──click[417]──> item ──click[buy now]──> reward in 0..1
                            (next >, < prev)          (click[red], description, features, < prev)

It is hard because products come in families of one title. Members of a family differ in their
price, or in something that the list of results does not show: a feature, the options. So an agent
has to open some of them, and to remember which, because the list is the same when it comes back.

Where this differs from WebShop (its code at commit 6ba9969)
1. 360 products instead of 1.18 million, and goals of one template, like WebShop's synthetic ones,
   which MEM1 takes; 12,087 others were written by people.
2. The search counts words of titles. WebShop's (BM25) also reads description, features and
   options. So a good query decides more in WebShop, and opening products decides more in this shop.
3. Pages follow WebShop's observation mode "text" (parts joined by [SEP]), but are shorter. Only the
   first page holds the instruction, and a result is one part. A page has 4 of at most 20 results
   (WebShop: 10 of 50), and no ratings and reviews. A chosen option is shown; in that mode of
   WebShop it is not. The last page does not tell the score.
4. A search works only on a page with a search bar; WebShop's `step` searches from any page. What
   cannot be done is counted and the page says so; WebShop passes over it in silence.
5. The reward asks for the category, not for a similar title: see `purchase_reward`.
6. `reset(goal)` returns text and `step` three values. `WebAgentTextEnv` has `reset(session)`, which
   returns (text, None), and a fourth value of `step`, always None. It lists the button "search"
   among the clickables, though nobody can click it.
7. A goal's limit is the next ten above the price, or the one after, equally often. WebShop's is the
   second, third or fourth ten above, in 1/6, 1/3 and 1/2 of its goals. A sibling costs 10 to 30
   dollars more, so with WebShop's limits a price would seldom rule a sibling out.
"""

from __future__ import annotations

import functools
import hashlib
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

# category -> styles, materials, features; a product has one of each. No word plays two roles, or a
# click could mean two things; no style, material or feature begins with a vowel ("find me a ...").
CATEGORIES = {
    "shirt": ("slim loose casual formal", "cotton linen silk wool", "washable stretchy pocketed"),
    "jacket": ("slim loose casual sporty", "leather denim wool nylon", "waterproof hooded padded"),
    "dress": ("long short casual formal", "cotton linen silk velvet", "washable stretchy lined"),
    "hat": ("casual formal sporty vintage", "straw wool cotton leather", "washable foldable lined"),
    "backpack": ("casual sporty plain vintage", "leather canvas denim nylon", "padded foldable"),
    "mug": ("modern vintage plain round", "ceramic glass steel bamboo", "heatproof stackable"),
    "lamp": ("modern vintage plain tall", "steel glass brass bamboo", "dimmable portable foldable"),
    "chair": ("modern vintage plain tall", "leather steel bamboo plastic", "foldable stackable"),
    "rug": ("modern vintage striped round", "wool cotton jute nylon", "washable reversible"),
    "blanket": ("plain striped heavy thin", "wool cotton fleece velvet", "washable heated"),
    "bottle": ("slim plain sporty round", "steel glass plastic ceramic", "heatproof leakproof"),
    "pillow": ("plain striped round modern", "cotton silk linen velvet", "washable cooling"),
}
COLORS = "red blue green black white gray brown pink".split()
SIZES = "petite small medium large".split()
WITHOUT_SIZES = ("mug", "lamp", "chair")
TITLES, SIBLINGS = 10, 3  # titles of a category, of its 16; products that share one
RESULTS, PER_PAGE = 20, 4  # results of a search at most; on one page
LONGEST = 10  # actions that a goal may take: MEM1's limit of turns in WebShop

SEPARATOR = " [SEP] "
BACK, PREVIOUS, NEXT, BUY = "back to search", "< prev", "next >", "buy now"
REFUSED = "this cannot be done here"


@dataclass(frozen=True)
class Product:
    """One thing to buy. Its title tells style and material, only its page "features" the third."""

    product_id: str  # three digits
    category: str
    attributes: tuple[str, str, str]  # style, material, feature
    options: tuple[tuple[str, tuple[str, ...]], ...]  # (name, values to choose from)
    price: int  # in dollars, two digits at most

    @property
    def title(self) -> str:
        """Style, material and category: what the list of results shows, "slim cotton shirt"."""
        return " ".join([*self.attributes[:2], self.category])


@dataclass(frozen=True)
class Goal:
    """What to buy. The instruction says all that the reward asks."""

    target: str  # id of the product that it was made from, one of those that fulfil it; never shown
    category: str
    attributes: tuple[str, ...]
    options: tuple[tuple[str, str], ...]  # (name, wanted value)
    price_limit: int  # in dollars; the price must be lower

    @property
    def instruction(self) -> str:
        """For example "find me a slim shirt, color red, price lower than 40 dollars"."""
        wanted = [f"find me a {' '.join([*self.attributes, self.category])}"]
        wanted += [f"{name} {value}" for name, value in self.options]
        return ", ".join([*wanted, f"price lower than {self.price_limit} dollars"])


# ---- Products, goals and what a purchase is worth ------------------------------------------------


def _options(category: str, rng: random.Random) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """What one product lets its buyer choose, in the order of COLORS and SIZES."""
    kinds = [("color", COLORS, 4), ("size", SIZES, 3)][: 1 if category in WITHOUT_SIZES else 2]
    return tuple((name, tuple(sorted(rng.sample(values, count), key=values.index)))
                 for name, values, count in kinds)


@functools.cache
def catalogue(seed: int = 0) -> tuple[Product, ...]:
    """All products by id, the same for the same seed. Ids say nothing about what they stand for."""
    rng = random.Random(f"products {seed}")
    ids = [str(number) for number in rng.sample(range(101, 1000), 899)]
    products = []
    for category, kinds in CATEGORIES.items():
        styles, materials, features = (words.split() for words in kinds)
        titles = [(style, material) for style in styles for material in materials]
        for style, material in rng.sample(titles, TITLES):
            feature, other = rng.sample(features, 2)
            first = Product(ids.pop(), category, (style, material, feature),
                            _options(category, rng), rng.randrange(5, 60))
            changes = [{"attributes": (style, material, other)},
                       {"options": _options(category, rng)},
                       {"price": first.price + rng.randrange(10, 31)}]
            products += [first, *(replace(first, product_id=ids.pop(), **change)
                                  for change in rng.sample(changes, SIBLINGS - 1))]
    return tuple(sorted(products, key=lambda product: product.product_id))


def purchase_reward(product: Product, chosen: Mapping[str, str], goal: Goal) -> float:
    """What it is worth, from 0 to 1, to buy `product` with the options `chosen` (name -> value):

        type * (wanted attributes it has + wanted options chosen + [price < limit])
             / (wanted attributes        + wanted options        + 1)

    as in arXiv 2207.01206 and its code's `get_reward`. In this shop the type is 1 for the wanted
    category and 0 for others.

    WebShop's type goes by the share of the wanted title's nouns in the bought title: 0 for no noun,
    0.1 below a tenth, 0.5 up to a fifth unless query or category agree, else 1. Its attributes and
    options match if they are similar enough. Its price may equal the limit, though its
    instructions say "lower" too.
    """
    if product.category != goal.category:
        return 0.0
    right = (sum(attribute in product.attributes for attribute in goal.attributes)
             + sum(chosen.get(name) == value for name, value in goal.options)
             + (product.price < goal.price_limit))
    return right / (len(goal.attributes) + len(goal.options) + 1)


def is_held_out(text: str) -> bool:
    """Whether a product's id or an instruction is kept from training: a quarter of each."""
    return hashlib.sha256(text.encode()).digest()[0] < 64  # unlike hash(), the same everywhere


def _goal(product: Product, rng: random.Random) -> Goal:
    """Something that this product is right for: one or two attributes, up to two options."""
    attributes = rng.sample(product.attributes, rng.choice([1, 2, 2]))
    names = rng.sample(product.options, min(rng.choice([0, 1, 1, 2]), len(product.options)))
    # 90 is the last limit with two digits.
    limit = min(10 * (product.price // 10 + rng.choice([1, 2])), 90)
    return Goal(product.product_id, product.category,
                tuple(word for word in product.attributes if word in attributes),
                tuple((name, rng.choice(values)) for name, values in sorted(names)), limit)


def goals(n: int, seed: int, held_out: bool = False,
          products: Sequence[Product] | None = None) -> list[Goal]:
    """`n` different goals, the same for the same arguments; more of them begin with fewer.

    `solve` fulfils each in LONGEST actions. Training and held-out goals are made from different
    products and share no instruction. Raises ValueError if there are not enough. `products` is
    `catalogue()` unless given.
    """
    products = catalogue() if products is None else products
    rng = random.Random(f"goals {seed} {held_out}")
    side = [product for product in products if is_held_out(product.product_id) == held_out]
    by_instruction: dict[str, Goal] = {}
    for _ in range(100 * n if side else 0):  # at least one draw in ten is of use
        goal = _goal(rng.choice(side), rng)
        if (goal.instruction not in by_instruction and is_held_out(goal.instruction) == held_out
                and 0 < len(solve(goal, products)) <= LONGEST):
            by_instruction[goal.instruction] = goal
        if len(by_instruction) == n:
            break
    if len(by_instruction) < n:
        raise ValueError(f"found {len(by_instruction)} goals instead of {n}; ask for fewer, or "
                         "give more products")
    return list(by_instruction.values())


# ---- The shop ------------------------------------------------------------------------------------


def parse_action(action: str) -> tuple[str, str] | None:
    """("search" or "click", its argument) of an action, else None. Never raises.

    Case and white space do not matter, because a model may write "click[ red]": a word after a
    space is the same token as in running text. WebShop takes spaces as they are, and passes over
    what follows the bracket.

    >>> parse_action("Click[ red]"), parse_action("click red")
    (('click', 'red'), None)
    """
    action = " ".join(action.lower().split())
    match = re.fullmatch(r"(search|click)\[ ?([^\[\]]*[^\[\] ]) ?\]", action)
    return (match[1], match[2]) if match else None


class Shop:
    """One buyer's visit: `reset` with a goal, then `step` until something is bought.

    Before the first reset and after a purchase nothing can be done. Without a purchase the reward
    is 0.
    """

    def __init__(self, products: Sequence[Product]) -> None:
        self._products = {product.product_id: product for product in products}
        self._leave_for("done")
        self.n_invalid = 0  # actions since the reset that could not be done

    def _leave_for(self, page: str) -> None:
        """Go to "search" or "done", and forget results, product and chosen options."""
        self._page, self._number = page, 1  # of the pages of results, this one
        self._result_ids: list[str] = []
        self._product: Product | None = None  # that is open
        self._chosen: dict[str, str] = {}  # option -> value

    def reset(self, goal: Goal) -> str:
        """Begin a visit; returns the text of the first page."""
        self._goal, self.n_invalid = goal, 0
        self._leave_for("search")
        return self._render()[0]

    def get_available_actions(self) -> dict[str, bool | list[str]]:
        """{"has_search_bar": ..., "clickables": [...]}, as in WebShop; pages name them as well."""
        return {"has_search_bar": self._page == "search", "clickables": self._render()[1]}

    def step(self, action: str) -> tuple[str, float, bool]:
        """Do `search[words]` or `click[value]`; returns the page's text, the reward, the end.

        Never raises. What cannot be done changes nothing: the same page comes back and says so.
        """
        kind, argument = parse_action(action) or ("", "")
        text, clickables = self._render()
        reward = 0.0
        if kind == "search" and self._page == "search":
            self._search(argument)
        elif kind == "click" and argument in clickables:
            if argument == BUY:
                reward = purchase_reward(self._product, self._chosen, self._goal)
            self._click(argument)
        else:
            self.n_invalid += 1
            return text + SEPARATOR + REFUSED, 0.0, self._page == "done"
        return self._render()[0], reward, self._page == "done"

    def _search(self, keywords: str) -> None:
        """List the products whose titles share most words with the keywords; ties by id."""
        wanted = set(re.findall(r"\w+", keywords))
        ranked = sorted((-len(wanted.intersection(product.title.split())), product_id)
                        for product_id, product in self._products.items())
        self._result_ids = [product_id for score, product_id in ranked if score][:RESULTS]
        self._page = "results"

    def _click(self, value: str) -> None:
        """Follow a click that the page allows."""
        if value in (BACK, BUY):
            self._leave_for("search" if value == BACK else "done")
        elif self._page == "results" and value in (PREVIOUS, NEXT):
            self._number += 1 if value == NEXT else -1
        elif self._page == "results":
            # As in WebShop, opening a product forgets the options; its sub pages keep them.
            self._page, self._product, self._chosen = "item", self._products[value], {}
        elif value == PREVIOUS:
            self._page = "results" if self._page == "item" else "item"
        elif value in ("description", "features"):
            self._page = value
        else:
            [name] = [name for name, offered in self._product.options if value in offered]
            self._chosen[name] = value

    def _render(self) -> tuple[str, list[str]]:
        """The page's text, on one line, and what can be clicked on it."""
        product, clickables = self._product, [BACK]
        if self._page == "search":
            parts, clickables = ["Instruction:", self._goal.instruction, "search"], []
        elif self._page == "done":
            parts, clickables = ["thank you for shopping with us"], []
        elif self._page == "results":
            n_pages = max(1, -(-len(self._result_ids) // PER_PAGE))  # rounded up
            first = (self._number - 1) * PER_PAGE
            ids = self._result_ids[first : first + PER_PAGE]
            buttons = [PREVIOUS] * (self._number > 1) + [NEXT] * (self._number < n_pages)
            parts = [BACK, f"page {self._number} of {n_pages}", *buttons]
            parts += [f"{p.product_id} {p.title} {p.price} dollars"
                      for p in map(self._products.get, ids)]
            clickables += [*buttons, *ids]
        elif self._page == "item":
            buttons = ["description", "features", BUY]
            chosen = {name: f" chosen {value}" for name, value in self._chosen.items()}
            parts = [BACK, PREVIOUS, *(f"{name}: {' '.join(offered)}{chosen.get(name, '')}"
                                       for name, offered in product.options),
                     product.title, f"price: {product.price} dollars", *buttons]
            values = [value for _, offered in product.options for value in offered]
            clickables += [PREVIOUS, *values, *buttons]
        else:
            style, material, _ = product.attributes
            text_of = {"description": f"this {product.category} is {style} and made of {material}",
                       "features": f"features: {' '.join(product.attributes)}"}
            parts, clickables = [BACK, PREVIOUS, text_of[self._page]], [BACK, PREVIOUS]
        return SEPARATOR.join(parts), clickables


# ---- The oracle ----------------------------------------------------------------------------------


def solve(goal: Goal, products: Sequence[Product]) -> list[str]:
    """Actions that fulfil the goal and end in `click[buy now]`; [] if no result does.

    It buys with care, by the instruction and the pages, and never looks at `goal.target`. It opens
    the products whose line in the results fits, from the first on. It turns back if a wanted option
    is missing, or if the page "features" lacks a wanted feature, which no title names.
    """
    shop, actions, rejected = Shop(products), [], set()
    shop.reset(goal)

    def act(action: str) -> str:
        """Do the action and read the page."""
        actions.append(action)
        return shop.step(action)[0]

    hidden = set(goal.attributes) & set(CATEGORIES[goal.category][2].split())
    in_title = {goal.category, *goal.attributes} - hidden
    results = act(f"search[{' '.join([*goal.attributes, goal.category])}]")
    while True:
        lines = re.findall(r"([0-9]{3}) ([a-z ]+) ([0-9]+) dollars", results)
        fitting = [product_id for product_id, title, price in lines if product_id not in rejected
                   and in_title <= set(title.split()) and int(price) < goal.price_limit]
        if fitting:
            item = act(f"click[{fitting[0]}]")
            good = {value for _, value in goal.options} <= set(item.split())
            if good and hidden:
                good = hidden <= set(act("click[features]").split())
                act(f"click[{PREVIOUS}]")
            if good:
                for _, value in goal.options:
                    act(f"click[{value}]")
                act(f"click[{BUY}]")
                return actions
            rejected.add(fitting[0])
            act(f"click[{PREVIOUS}]")
        elif NEXT in results:
            results = act(f"click[{NEXT}]")
        else:
            return []


# ---- What MEM1 sees of it ------------------------------------------------------------------------

# What the system message says.
SHOPPING = """
The task is to buy something in a web shop. A query is one action: search[words] where there is a \
search bar, else click[...] on something that the page offers; click[buy now] ends the task. \
There is no answer to give."""


class Store:
    """A web shop as an `Environment` (environments.py): every query is an action of the shop.

    `shop` is a `Shop`, or one with its methods (webshop.py). The model reads the buttons "< prev"
    and "next >" as "prev" and "next" and clicks them so, because in MEM1's prompts only tags have
    angle brackets. WebShop's own "< Prev" and "Next >" keep their capitals.
    """

    instructions, answers = SHOPPING, False

    def __init__(self, shop: Shop | None = None) -> None:
        self.shop = shop or Shop(catalogue())

    def turns(self, task: Goal) -> int:
        """Actions a purchase may take."""
        return LONGEST

    def reset(self, task: Goal) -> str:
        """Begin a task; returns the instruction with the first page."""
        self.task, self.reward, self.page = task, 0.0, self._shown(self.shop.reset(task))
        return self.page

    def step(self, kind: str, text: str) -> tuple[str, float, bool]:
        """Act; the shop pays when something is bought. An answer changes nothing."""
        if kind == "query":
            # The spaces, because a model may write "click[ next]" as it writes "click[ red]".
            text = re.sub(r"click\[\s*prev\s*\]", f"click[{PREVIOUS}]", text, flags=re.IGNORECASE)
            text = re.sub(r"click\[\s*next\s*\]", f"click[{NEXT}]", text, flags=re.IGNORECASE)
            page, self.reward, done, *_ = self.shop.step(text)
            self.page = self._shown(page)
            return self.page, self.reward, done
        return self.page, 0.0, False

    @staticmethod
    def _shown(page: str | tuple) -> str:
        """The page's text, its buttons without brackets."""
        page = page if isinstance(page, str) else page[0]  # WebShop returns (text, None)
        return re.sub(r"< (prev)\b|\b(next) >", r"\1\2", page, flags=re.IGNORECASE)

    def log(self, answer: str) -> dict:
        """What is logged: the gold is the whole reward, the category how many options to choose."""
        return {"question": self.task.instruction, "answer": f"{self.reward:g}", "gold": "1",
                "category": f"{len(self.task.options)} options"}
