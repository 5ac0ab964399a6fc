"""Tests of intervals.py: against the enumeration of all resamples, or draws one by one.

    python -m pytest tests/test_intervals.py        (a few seconds)
"""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pytest

from comparisons.intervals import bootstrap, crossed, crossed_of, paired


def all_means(units: list[list[float]]) -> np.ndarray:
    """The oracle: the mean of every possible draw of as many units, with replacement, by a loop."""
    means = []
    for draw in itertools.product(units, repeat=len(units)):
        scores = [score for unit in draw for score in unit]
        means.append(sum(scores) / len(scores))
    return np.array(means)


def exact_interval(units: list[list[float]], slack: float) -> list[tuple[float, float]]:
    """Between which values the 2.5 % and the 97.5 % quantile lie, each share off by `slack`."""
    means = np.sort(all_means(units))
    return [tuple(np.quantile(means, [max(share - slack, 0), min(share + slack, 1)]))
            for share in (0.025, 0.975)]


@pytest.mark.parametrize("scores", [
    [0.0, 0.2, 0.5, 1.0], [1, 0, 0, 0], [1, 1, 1, 0], [0.1, 0.1, 0.4, 0.4], [-3, 0.5, 7, 100],
])
def test_all_resamples_of_four_values(scores):
    mean, low, high = bootstrap(scores, n=40_000)
    assert mean == pytest.approx(sum(scores) / 4), "the first number is the mean of the scores"
    # 40,000 draws know a share of 2.5 % to within 0.1 %; three times that, for luck.
    for found, (least, most) in zip((low, high), exact_interval([[s] for s in scores], 0.003)):
        assert least - 1e-9 <= found <= most + 1e-9, (
            f"{found} is not the quantile of the 256 possible means, between {least} and {most}: "
            "as many units must be drawn as there are, with replacement, and the middle 95 % kept")


@pytest.mark.parametrize("units", [
    [[1, 1, 1], [0, 0, 0], [1, 0, 0], [1, 1, 0]],
    [[1.0], [0, 0, 0, 0, 0, 0], [0.5, 0.5], [1, 1, 1, 0]],  # long dialogues weigh more
])
def test_all_resamples_of_four_groups(units):
    rows = [(score, f"dialogue {place}") for place, unit in enumerate(units) for score in unit]
    random.Random(0).shuffle(rows)  # questions of one dialogue need not stand together
    scores, groups = zip(*rows)
    mean, low, high = bootstrap(scores, groups, n=40_000)
    assert mean == pytest.approx(sum(scores) / len(scores)), (
        "the mean is over questions, not a mean of the groups' means")
    for found, (least, most) in zip((low, high), exact_interval(units, 0.003)):
        assert least - 1e-9 <= found <= most + 1e-9, (
            f"{found} lies outside {least} .. {most}: draw whole groups, then divide the sum of "
            "their scores by the number of their questions")


def test_paired_draws_the_same_questions_for_both():
    """The definition, spelt out: the same indices for both, then the difference of two means."""
    draw = np.random.default_rng(4)
    a, b = draw.random(7), draw.random(7)
    drawn = np.random.default_rng(9).integers(7, size=(2000, 7))
    low, high = np.quantile(a[drawn].mean(1) - b[drawn].mean(1), [0.025, 0.975])
    assert paired(a, b, seed=9) == pytest.approx((a.mean() - b.mean(), low, high), abs=1e-12)


def test_paired_with_groups():
    a, b = [1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0]
    groups = ["x", "x", "x", "y", "y", "y"]
    assert paired(a, b, groups) == (0.5, 0.0, 1.0), "the groups must reach the bootstrap"
    assert paired(a, b)[1] > 0, "without groups six questions are six draws"
    assert paired(a, a, groups) == (0, 0, 0), "a system does not differ from itself"
    assert bootstrap(a, range(6)) == bootstrap(a), "a group each is the same as no groups"


def test_the_seed_decides():
    scores = np.random.default_rng(5).random(30).tolist()
    assert bootstrap(scores) == bootstrap(scores), "the same seed must give the same interval"
    assert bootstrap(scores, seed=1) != bootstrap(scores, seed=2), "the seed is not used"
    assert bootstrap(scores, n=100) != bootstrap(scores, n=200), "n is not used"
    state = np.random.get_state()[1].tolist()
    bootstrap(scores)
    assert np.random.get_state()[1].tolist() == state, "numpy's global generator was touched"
    assert all(type(number) is float for number in bootstrap(scores)), (
        "json cannot write numpy's numbers: return Python's")


def test_one_unit_has_no_interval():
    for found in (bootstrap([1]), bootstrap([1, 1], ["x", "x"]), paired([1], [0])):
        assert found[0] == 1 and math.isnan(found[1]) and math.isnan(found[2]), (
            "an interval of width 0 would claim certainty: one unit says nothing about others")
    assert bootstrap([1, 1, 1]) == (1, 1, 1), "but three equal ones do have an interval"


@pytest.mark.parametrize("call, message", [
    (lambda: bootstrap([]), r"shape \(0,\)"),
    (lambda: bootstrap([[1, 0], [0, 1]]), r"shape \(2, 2\)"),
    (lambda: bootstrap(1.0), r"shape \(\)"),
    (lambda: bootstrap([1, None, 0]), "score 1 is no finite number.*missing verdict"),
    (lambda: bootstrap([0, 1, float("inf")]), "score 2 is no finite number"),
    (lambda: bootstrap([1, 0], ["x"]), "2 scores but 1 groups"),
    (lambda: bootstrap([1, 0], []), "2 scores but 0 groups"),
    (lambda: paired([1, 0], [1]), "2 scores against 1"),
    (lambda: paired([1], [1, 0]), "1 scores against 2"),  # numpy would stretch the one
    (lambda: paired([], []), r"shape \(0,\)"),
    (lambda: paired([1, 0], [None, 1]), "score 0 is no finite number"),
    (lambda: paired([1, 0], [1, 1], ["x"]), "2 scores but 1 groups"),
    (lambda: crossed([[1, 0], [1]], ["a", "b"]), "inhomogeneous"),
    (lambda: crossed([[]], ["a", "b"]), r"shape \(0,\)"),
    (lambda: crossed([[1, float("nan")]], ["a", "b"]), "no finite number"),
    (lambda: crossed_of(min, [([[1], [1]], "a"), ([[1]], "a")]), "samples of 2 and 1 runs"),
])
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_crossed_covers_other_runs_and_other_dialogues():
    """Both vary: an oracle that draws runs and dialogues one by one."""
    draw = np.random.default_rng(4)
    groups = np.repeat(np.arange(6), 5).tolist()
    runs = draw.normal(size=(3, 1)) + np.repeat(draw.normal(size=6), 5) + draw.normal(size=(3, 30))
    mean, low, high = crossed(runs.tolist(), groups, n=8000)
    assert mean == pytest.approx(runs.mean())
    means = []
    for _ in range(8000):
        chosen = [place for g in draw.integers(6, size=6) for place in range(5 * g, 5 * g + 5)]
        means.append(runs[draw.integers(3, size=3)][:, chosen].mean())
    expected = np.quantile(means, [0.025, 0.975])
    assert (low, high) == pytest.approx(tuple(expected), abs=0.06), "not both were drawn anew"


def test_crossed_with_one_run_is_the_bootstrap_of_dialogues():
    scores, groups = [1, 0, 1, 1, 0, 0, 1, 0], [0, 0, 1, 1, 1, 2, 3, 3]
    one = crossed([scores], groups, n=20_000)
    assert one == pytest.approx(bootstrap(scores, groups, n=20_000), abs=0.02)
    wider = crossed([scores, [0] * 8], groups)
    assert wider[2] - wider[1] > one[2] - one[1], "runs that differ widen it"


def test_a_ratio_draws_its_runs_once():
    """Runs that differ a hundredfold, and the ratio in each is 2: no draw of runs changes that."""
    big, small = [[200.0] * 4, [2.0] * 4], [[100.0] * 6, [1.0] * 6]
    both = [(big, range(4)), (small, range(6))]
    assert crossed_of(lambda a, b: a / b, both) == pytest.approx((2, 2, 2)), (
        "the runs of the two samples are drawn apart: each draw pairs one run with another")
    draw = np.random.default_rng(2)
    noisy = [((draw.random((3, 9)) + 1).tolist(), range(9)) for _ in range(2)]
    value, low, high = crossed_of(lambda a, b: a / b, noisy)
    assert value == pytest.approx(np.mean(noisy[0][0]) / np.mean(noisy[1][0]))
    assert low < value < high
    wider = crossed_of(lambda a, b: a / b, noisy, confidence=0.998)
    assert wider[1] < low and high < wider[2], "more confidence must give a wider interval"
