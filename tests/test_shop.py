"""Tests of shop.py: products and goals, pages, rewards worked by hand, an oracle that cannot peek.

    python -m pytest tests/test_shop.py        (some four seconds)
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import replace

import pytest
from canned import printed_by_processes

from benchmarks.shop import (
    CATEGORIES,
    COLORS,
    LONGEST,
    PER_PAGE,
    REFUSED,
    RESULTS,
    SEPARATOR,
    SIZES,
    Goal,
    Product,
    Shop,
    Store,
    catalogue,
    goals,
    is_held_out,
    parse_action,
    purchase_reward,
    solve,
)

PRODUCTS = catalogue()
BY_ID = {product.product_id: product for product in PRODUCTS}
FEATURES = {word for _, _, features in CATEGORIES.values() for word in features.split()}

OPTIONS = (("color", ("red", "blue")), ("size", ("small", "large")))
SHIRT = Product("201", "shirt", ("slim", "cotton", "washable"), OPTIONS, 35)
GOAL = Goal("201", "shirt", ("slim", "washable"), (("color", "red"), ("size", "small")), 40)


@pytest.fixture(scope="module")
def sides() -> tuple[list[Goal], list[Goal]]:
    """Goals for training and held-out goals, of two seeds each."""
    return goals(150, 0) + goals(100, 1), goals(150, 0, True) + goals(100, 1, True)


@pytest.fixture(scope="module")
def solved(sides) -> list[tuple[Goal, list[str]]]:
    return [(goal, solve(goal, PRODUCTS)) for side in sides for goal in side]


def visit(actions: Sequence[str], goal: Goal = GOAL,
          products: Sequence[Product] = PRODUCTS) -> tuple[Shop, str]:
    """The shop after these actions, all of them possible, and the last text."""
    shop = Shop(products)
    text = shop.reset(goal)
    for action in actions:
        text, _, _ = shop.step(action)
        assert shop.n_invalid == 0, f"{action!r} was refused; the page: {text}"
    return shop, text


def ids_on(text: str) -> list[str]:
    return [part.split()[0] for part in text.split(SEPARATOR) if re.match(r"[0-9]{3} ", part)]


# ---- products and goals --------------------------------------------------------------------------

def test_every_word_has_one_role_and_is_one_token() -> None:
    roles = [set(CATEGORIES), set(COLORS), set(SIZES), FEATURES]
    roles += [{word for kinds in CATEGORIES.values() for word in kinds[place].split()}
              for place in (0, 1)]
    for place, role in enumerate(roles):
        for other in roles[place + 1:]:
            assert not role & other, f"{role & other}: a click or a feature could mean two things"
        for word in role:
            assert re.fullmatch("[a-z]{3,10}", word), f"{word!r} will not be a single token"
    for word in set.union(*roles[3:]) | set(CATEGORIES):
        assert word[0] not in "aeiou", f"find me a {word}?"


def test_the_catalogue() -> None:
    assert len(PRODUCTS) == len(BY_ID) == 360, f"{len(BY_ID)} ids for {len(PRODUCTS)} products"
    families: dict[str, list[Product]] = {}
    for product in PRODUCTS:
        families.setdefault(product.title, []).append(product)
        style, material, feature = product.attributes
        kinds = CATEGORIES[product.category]
        assert all(word in kind.split() for word, kind in zip(product.attributes, kinds))
        assert re.fullmatch("[1-9][0-9]{2}", product.product_id), "an id could be taken for a price"
        assert 5 <= product.price < 90, f"{product}: no limit of two digits is above this price"
        assert all(len(set(values)) == len(values) in (3, 4) for _, values in product.options)
        assert feature not in product.title.split() and product.title.endswith(product.category)
    for title, family in families.items():
        parts = [(p.attributes, p.options, p.price) for p in family]
        assert len(family) == 3, f"{len(family)} products named {title!r}"
        assert min(max(sum(a != b for a, b in zip(one, other)) for other in parts)
                   for one in parts) == 1, f"{title}: siblings must differ in one thing: {parts}"
    by_place = [product.category for product in PRODUCTS]
    assert len(set(by_place[:40])) > 8, "ids go by category: the list of results would tell"


def test_the_same_in_every_process() -> None:
    printed = printed_by_processes(
        "from benchmarks.shop import catalogue, goals, solve; print(catalogue(3), goals(15, 1, True"
        "), [solve(goal, catalogue()) for goal in goals(15, 1)])")
    solved = [solve(goal, catalogue()) for goal in goals(15, 1)]
    assert printed == {f"{catalogue(3)} {goals(15, 1, True)} {solved}\n"}, (
        "the shop depends on hash(), the order of a set, or earlier draws")


def test_seeds_and_sizes() -> None:
    assert catalogue(1) != catalogue(2) and catalogue(1) == catalogue(1)
    assert goals(9, 7)[:4] == goals(4, 7), "more goals must begin with the fewer"
    assert goals(4, 7) != goals(4, 8) and goals(0, 7) == []
    with pytest.raises(ValueError, match="instead of 20; ask for fewer"):
        goals(20, 0, is_held_out(SHIRT.product_id), [replace(SHIRT, options=())])
    with pytest.raises(ValueError):
        goals(1, 0, products=[])


def test_goals_ask_for_what_their_product_has(sides) -> None:
    for goal in sides[0] + sides[1]:
        product = BY_ID[goal.target]
        assert purchase_reward(product, dict(goal.options), goal) == 1, f"{goal} from {product}"
        assert all(value in dict(product.options)[name] for name, value in goal.options)
        assert 1 <= len(goal.attributes) <= 2 and len(goal.options) <= 2
        assert goal.price_limit % 10 == 0 and goal.price_limit <= 90
        words = " ".join([*goal.attributes, goal.category])
        options = "".join(f", {name} {value}" for name, value in goal.options)
        assert goal.instruction == (
            f"find me a {words}{options}, price lower than {goal.price_limit} dollars")
    kinds = {(len(goal.attributes), len(goal.options)) for goal in sides[0]}
    assert len(kinds) == 6, f"one or two attributes, no to two options; only {kinds}"
    for side in sides:
        hidden = sum(bool(set(goal.attributes) & FEATURES) for goal in side) / len(side)
        assert 0.2 < hidden < 0.8, f"{hidden:.0%} of the goals want something titles do not tell"


def test_the_two_sides_share_nothing(sides) -> None:
    train, held_out = sides
    for goal in train + held_out:
        assert is_held_out(goal.target) == is_held_out(goal.instruction) == (goal in held_out)
    assert not {g.target for g in train} & {g.target for g in held_out}, (
        "a held-out product was the target of a training goal")
    assert not {g.instruction for g in train} & {g.instruction for g in held_out}, (
        "two products made the same goal, one on each side")
    assert len({g.instruction for g in train[:150]}) == 150, "the same goal twice"
    train, held_out = ({word for goal in side for word in goal.instruction.split()}
                       for side in sides)
    assert len(held_out - train) <= 2, f"words never seen in training: {held_out - train}"
    share = sum(is_held_out(p.product_id) for p in PRODUCTS) / len(PRODUCTS)
    assert 0.15 < share < 0.35, f"{share:.0%} of the products are held out, not a quarter"


def test_limits_are_the_next_ten_or_the_one_after(sides) -> None:
    above = [goal.price_limit - BY_ID[goal.target].price for side in sides for goal in side]
    assert all(0 < dollars <= 20 for dollars in above), "difference 7 in shop.py says so"
    share = sum(dollars > 10 for dollars in above) / len(above)
    assert 0.35 < share < 0.65, f"{share:.0%} have the later limit, not half of them"


@pytest.mark.parametrize("action", ["click[next]", "click[ next]", "Click[ Next ]", "click[next >]",
                                    "click[ next >]"])
def test_a_button_can_be_clicked_as_any_word(action: str) -> None:
    store = Store()
    store.reset(GOAL)
    first = store.step("query", "search[ shirt]")[0]
    assert "page 1 of" in first and "[SEP] next [SEP]" in first and ">" not in first
    second = store.step("query", action)[0]
    assert "page 2 of" in second, f"{action!r} did nothing, though {first!r} shows the button"
    assert store.step("query", action.lower().replace("next >", "< prev").replace("next", "prev")
                      )[0] == first, "the way back"


# ---- rewards, by hand ----------------------------------------------------------------------------

RIGHT = {"color": "red", "size": "small"}


@pytest.mark.parametrize("product, chosen, goal, reward, mistake", [
    (SHIRT, RIGHT, GOAL, 1, "everything is right"),
    (SHIRT, {"color": "blue", "size": "small"}, GOAL, 4 / 5, "a wrong option costs its share"),
    (SHIRT, {"size": "small"}, GOAL, 4 / 5, "an option not chosen is an option missed"),
    (SHIRT, {}, GOAL, 3 / 5, "attributes and price count without any option"),
    (SHIRT, {"size": "red", "color": "small"}, GOAL, 3 / 5, "a value belongs to its option"),
    (replace(SHIRT, price=41), RIGHT, GOAL, 4 / 5, "too expensive costs the price's share only"),
    (replace(SHIRT, price=40), RIGHT, GOAL, 4 / 5, "lower than 40 does not mean 40"),
    (replace(SHIRT, price=39), RIGHT, GOAL, 1, "39 is lower than 40"),
    (replace(SHIRT, attributes=("slim", "cotton", "stretchy")), RIGHT, GOAL, 4 / 5, "one missing"),
    (replace(SHIRT, attributes=("loose", "silk", "stretchy")), RIGHT, GOAL, 3 / 5, "both missing"),
    (replace(SHIRT, category="dress"), RIGHT, GOAL, 0, "a wrong category is worth nothing at all"),
    (replace(SHIRT, attributes=("loose", "silk", "lined"), price=80), {}, GOAL, 0, "nothing right"),
    (SHIRT, RIGHT, replace(GOAL, options=()), 1, "options nobody asked for must not count"),
    (SHIRT, RIGHT, replace(GOAL, attributes=("cotton",), options=()), 1, "1 attribute + price"),
    (SHIRT, {}, replace(GOAL, attributes=("cotton",), price_limit=30, options=()), 1 / 2, "1 of 2"),
])
def test_rewards(product: Product, chosen: dict, goal: Goal, reward: float, mistake: str) -> None:
    got = purchase_reward(product, chosen, goal)
    assert got == pytest.approx(reward), f"{mistake}: {got} instead of {reward}"
    # The same through the door, unless the value is not to be had.
    if all(chosen[name] in dict(product.options)[name] for name in chosen):
        shop, _ = visit([f"search[{product.title}]", "click[201]",
                         *(f"click[{value}]" for value in chosen.values())], goal, [product])
        _, paid, done = shop.step("click[buy now]")
        assert (paid, done) == (pytest.approx(reward), True), f"{mistake}, in the shop: {paid}"


def test_reward_is_paid_once_and_only_for_buying(solved) -> None:
    for goal, actions in solved[::5]:
        shop = Shop(PRODUCTS)
        shop.reset(goal)
        seen = [shop.step(action)[1:] for action in actions]
        assert seen[:-1] == [(0.0, False)] * (len(actions) - 1), "paid or done before the purchase"
        assert seen[-1] == (1.0, True)
        for action in ("click[buy now]", "search[shirt]", "click[back to search]", ""):
            _, reward, done = shop.step(action)
            assert (reward, done) == (0.0, True), f"{action!r} after the purchase pays again"


# ---- the oracle ----------------------------------------------------------------------------------

def test_the_oracle_fulfils_every_goal(solved) -> None:
    assert len(solved) == 500
    for goal, actions in solved:
        shop, reward = Shop(PRODUCTS), 0.0
        text = shop.reset(goal)
        for action in actions:
            kind, argument = parse_action(action)
            shown = text if kind == "click" else goal.instruction
            assert set(argument.split()) <= set(re.findall("[^ ,]+", shown)), (
                f"{action} uses what no page says: {text}")
            text, reward, _ = shop.step(action)
        assert (reward, shop.n_invalid) == (1.0, 0), f"{goal.instruction}: {reward} by {actions}"
        assert len(actions) <= LONGEST, f"{len(actions)} actions do not fit into MEM1's ten turns"
        assert solve(replace(goal, target="000"), PRODUCTS) == actions, "the oracle knew the target"


def test_the_oracle_cannot_see_what_it_has_not_opened(solved) -> None:
    """Change what only a later page shows: up to that page it must do the same."""
    opened_blind = looked = 0
    for goal, actions in solved[::3]:
        opened = [action[6:9] for action in actions if re.fullmatch(r"click\[\d{3}\]", action)]
        bought = BY_ID[opened[-1]]
        place = len(actions) - 1 - actions[::-1].index(f"click[{opened[-1]}]")
        without = [replace(p, options=()) if p == bought else p for p in PRODUCTS]
        if got := solve(goal, without):  # else nothing is left that fulfils the goal
            opened_blind += bool(goal.options)
            assert got[: place + 1] == actions[: place + 1], (
                f"{goal.instruction}: the oracle knew the options before it saw {bought}")
        other = replace(bought, attributes=(*bought.attributes[:2], "nothing"))
        if got := solve(goal, [other if p == bought else p for p in PRODUCTS]):
            looked += "click[features]" in actions
            assert got[: place + 2] == actions[: place + 2], (
                f"{goal.instruction}: the oracle knew a feature before it looked")
        assert ("click[features]" in actions) == bool(set(goal.attributes) & FEATURES), (
            "the features must be read if one is wanted, and only then")
    assert min(opened_blind, looked) > 20, f"hardly tested: {opened_blind} and {looked} times"


def test_the_oracle_worked_by_hand() -> None:
    goal = replace(GOAL, attributes=("slim",))
    assert solve(goal, [SHIRT]) == [
        "search[slim shirt]", "click[201]", "click[red]", "click[small]", "click[buy now]"]
    assert solve(GOAL, []) == []


def test_search_alone_does_not_decide(solved) -> None:
    """Who buys the first result, with all wanted options that it has, is often wrong."""
    right = turned_back = 0
    for goal, actions in solved:
        search = f"search[{' '.join([*goal.attributes, goal.category])}]"
        product = BY_ID[ids_on(visit([search], goal)[1])[0]]
        chosen = {name: value for name, value in goal.options
                  if value in dict(product.options).get(name, ())}
        right += purchase_reward(product, chosen, goal) == 1
        turned_back += actions.count("click[< prev]") > actions.count("click[features]")
    assert 0.3 < right / len(solved) < 0.7, f"the first is right for {right} of {len(solved)} goals"
    assert turned_back / len(solved) > 0.15, "the oracle is hardly ever disappointed by a product"


# ---- pages ---------------------------------------------------------------------------------------

def test_results_in_order_and_page_by_page() -> None:
    first = "search[slim cotton shirt]"
    seen, texts = [], [visit([first])[1]]
    while "next >" in texts[-1]:
        seen += ids_on(texts[-1])
        texts.append(visit([first, *["click[next >]"] * len(texts)])[1])
    seen += ids_on(texts[-1])
    assert [f"page {n} of 5" in text for n, text in enumerate(texts, 1)] == [True] * 5
    assert len(seen) == len(set(seen)) == RESULTS == 5 * PER_PAGE, f"results: {seen}"
    ranks = [(-len({"slim", "cotton", "shirt"} & set(BY_ID[i].title.split())), i) for i in seen]
    assert ranks == sorted(ranks), "most shared words first, then the smaller id"
    best = [p.product_id for p in PRODUCTS if p.title == "slim cotton shirt"]
    assert seen[: len(best)] == best and len(best) == 3, "the exact title must stand in front"
    for n in range(1, 5):
        assert ("< prev" in texts[n]) and "< prev" not in texts[0]
        back = visit([first, *["click[next >]"] * n, "click[< prev]"])[1]
        assert back == texts[n - 1], "next and prev must lead to the page before"
    assert "next >" not in texts[4], "there is no page after the last"
    line = f"{seen[0]} {BY_ID[seen[0]].title} {BY_ID[seen[0]].price} dollars"
    assert texts[0].startswith(SEPARATOR.join(["back to search", "page 1 of 5", "next >", line]))


def test_a_search_that_finds_little() -> None:
    shop, text = visit(["search[spaceship ???]"])
    assert text == "back to search [SEP] page 1 of 1"
    assert shop.get_available_actions() == {
        "has_search_bar": False, "clickables": ["back to search"]}
    assert visit(["search[SLIM  shirt, slim!]"])[1] == visit(["search[shirt slim]"])[1], (
        "case, order, repetition and punctuation must not matter")


def test_the_way_there_and_back() -> None:
    there = ["search[shirt]", "click[next >]"]
    shop, results = visit(there)
    product = BY_ID[ids_on(results)[2]]
    (_, colors), (_, sizes) = product.options
    item = SEPARATOR.join([
        "back to search", "< prev", f"color: {' '.join(colors)}", f"size: {' '.join(sizes)}",
        product.title, f"price: {product.price} dollars", "description", "features", "buy now"])
    there.append(f"click[{product.product_id}]")
    assert visit(there)[1] == item
    assert visit([*there, "click[< prev]"])[1] == results, "prev goes to the page it came from"
    features = SEPARATOR.join(["back to search", "< prev",
                               f"features: {' '.join(product.attributes)}"])
    assert visit([*there, "click[features]"])[1] == features
    style, material, _ = product.attributes
    description = f"back to search [SEP] < prev [SEP] this shirt is {style} and made of {material}"
    assert visit([*there, "click[description]"])[1] == description, "the third is a feature"
    chosen = [*there, f"click[{colors[0]}]", f"click[{sizes[1]}]", f"click[{colors[2]}]"]
    marked = item.replace(colors[-1] + SEPARATOR, f"{colors[-1]} chosen {colors[2]}{SEPARATOR}")
    marked = marked.replace(sizes[-1] + SEPARATOR, f"{sizes[-1]} chosen {sizes[1]}{SEPARATOR}")
    assert visit(chosen)[1] == marked, "one value of each option is chosen, the last"
    for sub_page in ("description", "features"):
        shop, text = visit([*chosen, f"click[{sub_page}]"])
        assert shop.get_available_actions()["clickables"] == ["back to search", "< prev"]
        assert visit([*chosen, f"click[{sub_page}]", "click[< prev]"])[1] == marked, (
            f"{sub_page} forgot what was chosen, or does not lead back to the product")
    again = [*chosen, "click[< prev]", f"click[{product.product_id}]"]
    assert visit(again)[1] == item, "leaving a product must forget what was chosen"
    elsewhere = [*chosen, "click[back to search]"]
    assert visit(elsewhere)[1] == visit([])[1], "back to search is the first page"
    assert visit([*elsewhere, "search[shirt]", *there[1:]])[1] == item, "back forgets everything"
    assert "page 1 of" in visit([*elsewhere, "search[mug]"])[1], "a new search begins on page 1"


def test_text_names_what_can_be_clicked_and_nothing_else(solved) -> None:
    """Of hidden things only the page that is there for them speaks; words are what models know."""
    for goal, actions in solved[::4]:
        shop = Shop(PRODUCTS)
        text = shop.reset(goal)
        assert text == f"Instruction: [SEP] {goal.instruction} [SEP] search"
        for action in [*actions, None]:
            possible = shop.get_available_actions()
            assert set(possible) == {"has_search_bar", "clickables"}
            assert possible["has_search_bar"] == text.endswith("search")
            words = re.sub("[,:]", "", text.replace(SEPARATOR, " ")).split()
            for clickable in possible["clickables"]:
                assert set(clickable.split()) <= set(words), f"{clickable!r} is not on: {text}"
            assert all(re.fullmatch("[a-z]+|[0-9]{1,3}|[<>]|Instruction", w) for w in words), text
            assert "\n" not in text, "a page is one line"
            if "Instruction" not in text and "features: " not in text:
                assert not FEATURES & set(words), f"a feature was told too early: {text}"
            if action is not None:
                text = shop.step(action)[0]
        assert text == "thank you for shopping with us", "the last page must not tell the score"


def test_pages_do_not_depend_on_the_goal(solved) -> None:
    other = replace(GOAL, target="999", category="mug", attributes=("plain",), options=())
    for goal, actions in solved[::10]:
        for end in range(1, len(actions) + 1):
            assert visit(actions[:end], goal)[1] == visit(actions[:end], other)[1], (
                f"a page told more than the instruction of {goal}")


# ---- actions of all kinds ------------------------------------------------------------------------

@pytest.mark.parametrize("action, parsed", [
    ("search[red mug]", ("search", "red mug")), ("click[Buy Now]", ("click", "buy now")),
    ("click[ red]", ("click", "red")), (" click[< prev] \n", ("click", "< prev")),
    ("CLICK[NEXT  >]", ("click", "next >")), ("search[a\nb]", ("search", "a b")),
    ("click[]", None), ("search[ ]", None), ("click", None), ("", None), ("buy[201]", None),
    ("click[a][b]", None), ("click[a] then click[b]", None), ("click[[a]]", None),
    ("please click[a]", None), ("click [a]", None), ("click(a)", None), ("[", None), ("]", None),
])
def test_parse_action(action: str, parsed: tuple[str, str] | None) -> None:
    assert parse_action(action) == parsed


def test_what_cannot_be_done_changes_nothing() -> None:
    item = ["search[slim cotton shirt]"]
    item.append(f"click[{ids_on(visit(item)[1])[0]}]")
    colors = dict(BY_ID[item[1][6:9]].options)["color"]
    color, absent = colors[0], next(other for other in COLORS if other not in colors)
    pages = {
        "first": ([], ["click[search]", "click[201]", "click[back to search]", "click[next >]",
                       "click[buy now]", "click[features]"]),
        "results": (item[:1], ["search[shirt]", "click[buy now]", "click[< prev]", "click[red]",
                               "click[features]", "click[1]", "click[page 1 of 5]"]),
        "item": (item, ["search[shirt]", "click[next >]", item[1], "click[color]", "click[price]",
                        f"click[{absent}]", f"click[{color} {color}]"]),
        "features": ([*item, "click[features]"], ["search[shirt]", "click[buy now]",
                                                  "click[features]", f"click[{color}]"]),
    }
    for name, (actions, impossible) in pages.items():
        shop, text = visit(actions)
        before = shop.get_available_actions()
        for count, action in enumerate([*impossible, "nonsense", "", "click[]"], 1):
            assert shop.step(action) == (text + SEPARATOR + REFUSED, 0.0, False), (
                f"{action!r} did something on the page {name}")
            assert shop.n_invalid == count, f"{action!r} on the page {name} was not counted"
            assert shop.get_available_actions() == before
        assert shop.reset(GOAL) == visit([])[1] and shop.n_invalid == 0, "reset must forget it"
    shop = Shop(PRODUCTS)
    assert shop.step("search[shirt]")[1:] == (0.0, True), "before the first reset nothing happens"
    assert shop.get_available_actions() == {"has_search_bar": False, "clickables": []}


def test_no_action_raises() -> None:
    """Random walks of possible, impossible and broken actions: counted right, paid once."""
    rng = random.Random(0)
    broken = ["", "[", "]", "click[", "search]", "click[[]]", "\x00", "\ud800", "search[\ud83d]",
              "click[\u0130]", "search[" + "a " * 5_000 + "]", "click[" * 5_000, "search[((*+?\\]"]
    purchases = 0
    for _ in range(60):
        shop = Shop(PRODUCTS)
        shop.reset(GOAL)
        invalid, done = 0, False
        for _ in range(rng.randrange(5, 30)):
            possible = shop.get_available_actions()
            actions = [f"click[{value}]" for value in possible["clickables"]] or ["search[mug hat]"]
            junk = "".join(rng.choices("searchclik[]< >0123456789\n", k=rng.randrange(20)))
            action = rng.choice([*actions, *actions, junk, rng.choice(broken)])
            parsed = parse_action(action)
            good = parsed is not None and (
                possible["has_search_bar"] if parsed[0] == "search"
                else parsed[1] in possible["clickables"])
            text, reward, done = shop.step(action)
            invalid += not good
            assert shop.n_invalid == invalid, f"{action!r} was counted wrongly"
            assert text.endswith(REFUSED) == (not good), f"{action!r}: {text}"
            bought = good and parsed == ("click", "buy now")
            assert 0 <= reward <= 1 and (reward == 0 or bought), f"{action!r} paid {reward}"
            purchases += bought
            assert done or not bought, "a purchase ends the visit"
    assert purchases > 5, "hardly a walk came to a purchase: nothing was tested"
