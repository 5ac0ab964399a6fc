"""Tests of metrics.py: hand-worked cases, independent re-implementations, and NLTK where installed.

    python -m pytest tests/test_metrics.py        (a few seconds)
"""

from __future__ import annotations

import math
import random
import re
import string
import unicodedata
from collections import Counter

import pytest

import metrics

# Pieces that meet every tokeniser rule: quotes of all kinds, clitics, grown-together words,
# numbers with marks inside, brackets, dashes, odd white space, non-ASCII.
PIECES = [
    "dog", "Milo", "the", "a", "An", "12", "3,000", "7:30", "3.5", "$5", "50%", "U.S.", "e.g.",
    "Dr.", "don't", "DON'T", "isn't", "she's", "they'll", "I've", "we're", "he'd", "I'm", "dogs'",
    "'90s", "'tis", "'twas", "'quoted'", "'a'", "'x", "''", "'", '"', '"word"', '("', '".', "``",
    "`", "“well”", "‘so’", "«non»", "„da", "cannot", "gonna", "gotta", "gimme", "lemme", "wanna",
    "d'ye", "more'n", "--", "-", "–", "—", "...", "..", ".", "!", "?", "?!", ",", ":", ";", "@",
    "#", "&", "*", "(", ")", "[", "]", "{", "}", "<", ">", ".)", '.")', ".'", "x:", "x,", ":9",
    "naïve", "東京", "İstanbul", "ß", "\u00a0", "\u200b", "🙂", "_", "/", "\\", "state-of-the-art",
]
LETTERS = str.maketrans({"東": " 東 ", "京": " 京 "})  # the pieces' only script without spaces
OTHER_MARKS = set("“”‘’«»„–—")  # punctuation among the pieces that is not ASCII
GAPS = [" ", " ", " ", "", "", "  ", "\t", "\n"]


def awkward(generator: random.Random, pieces: int = 8) -> str:
    """A random string of up to `pieces` pieces with random gaps, sometimes raw characters."""
    if generator.random() < 0.2:
        return "".join(generator.choice(string.printable) for _ in range(generator.randrange(15)))
    return "".join(generator.choice(PIECES) + generator.choice(GAPS)
                   for _ in range(generator.randrange(pieces + 1)))


def pairs(seed: int, count: int) -> list[tuple[str, str]]:
    """Random pairs that often share words, so that scores are not all 0."""
    generator = random.Random(seed)
    result = []
    for _ in range(count):
        first = awkward(generator)
        second = awkward(generator, 4)
        kind = generator.random()
        if kind < 0.4:
            second = first[: len(first) // 2] + second
        elif kind < 0.5:
            second = " " + first.swapcase() + "."
        result.append((first, second))
    return result


# ---- exact match ---------------------------------------------------------------------------------

@pytest.mark.parametrize("prediction, answer, expected, mistake", [
    ("Beach", " beach\n", 1, "case or outer white space was compared"),
    ("beach.", "beach", 0, "punctuation was dropped: that is squad_exact_match's work"),
    ("the beach", "beach", 0, "articles were dropped: that is squad_exact_match's work"),
    ("two  dogs", "two dogs", 0, "inner white space was squeezed"),
    (2022, "2022", 1, "inputs must pass through str(): LoCoMo has whole-number answers"),
    ("", "", 1, "two empty strings are equal"),
    ("", "beach", 0, "an empty prediction is no match"),
])
def test_exact_match_by_hand(prediction, answer, expected, mistake):
    assert metrics.strict_exact_match(prediction, answer) == expected, mistake


@pytest.mark.parametrize("prediction, answer, expected, mistake", [
    ("The beach.", "beach", 1, "articles and punctuation must not cost the reward"),
    ("beach", "At the beach", 0, "only a, an and the are dropped, never other words"),
    ("  two\tdogs ", "Two dogs", 1, "white space must be squeezed"),
    ("theatre", "atre", 0, "articles go as whole words only"),
    ("(the) dog", "dog", 1, "punctuation goes first, then articles: '(the)' is an article"),
    ("7 May 2023", "7 May, 2023", 1, "a comma was compared"),
    ("7 May\n2023", "7 May 2023", 1, "a line break is white space like any other"),
    ("20230512", "20230508", 0, "long numbers were rounded, as by inspect-ai 0.3.285"),
    ("may 7 2023", "7 may 2023", 0, "word order counts: these are not sets"),
    ("state-of-the-art", "stateoftheart", 1, "a hyphen is dropped, not replaced by a space"),
    ("Milo Milo", "Milo", 0, "repetition counts: these are not sets"),
    (3, 3, 1, "inputs must pass through str()"),
    ("", "A", 0, "an empty prediction must never earn the reward"),
    ("the", "A", 0, "an answer that normalises to nothing must be compared strictly"),
    ("a", "A", 1, "an answer that normalises to nothing must be compared strictly"),
    ("“beach”", "beach", 1, "MLQA drops all of Unicode's punctuation, SQuAD ASCII's"),
    ("$5", "5", 1, "ASCII's symbols go too, as in SQuAD"),
    ("€5", "5", 0, "a symbol that is neither ASCII nor punctuation stays"),
])
def test_squad_exact_match_by_hand(prediction, answer, expected, mistake):
    assert metrics.squad_exact_match(prediction, answer) == expected, mistake


def squad_oracle(text: str) -> str:
    """SQuAD's normalisation, written step by step: lower, punctuation, articles, white space.

    Punctuation is Unicode's, as in MLQA.
    """
    text = text.translate(LETTERS).lower()
    kept = "".join(letter for letter in text if letter not in set(string.punctuation) | OTHER_MARKS)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())


def test_squad_exact_match_against_an_independent_normalisation():
    matches = 0
    for first, second in pairs(1, 2000):
        if squad_oracle(second):
            expected = int(squad_oracle(first) == squad_oracle(second))
            matches += expected
            assert metrics.squad_exact_match(first, second) == expected, (
                f"{first!r} and {second!r}: order must be lower, punctuation, articles, spaces")
    assert matches > 50, "the test's own pairs hardly ever match, so it shows nothing"


@pytest.mark.parametrize("score", [metrics.strict_exact_match, metrics.squad_exact_match,
                                   metrics.f1, metrics.bleu1])
def test_every_score_is_in_range_and_full_for_equal_texts(score):
    for first, second in pairs(2, 600):
        value = score(first, second)
        assert 0 <= value <= 1, f"{score.__name__}({first!r}, {second!r}) = {value} leaves 0..1"
        if re.search("[a-z0-9]", second):  # some word is left after any normalisation
            assert score(second, second) == pytest.approx(1, abs=1e-12), (
                f"{score.__name__} of {second!r} with itself is not 1")
        assert score("", "beach") == 0, f"{score.__name__} pays for an empty prediction"


# ---- F1 ------------------------------------------------------------------------------------------

@pytest.mark.parametrize("prediction, answer, expected, mistake", [
    ("two dogs", "Two dogs, Rex and Milo", 4 / 7, "P = 1, R = 2/5: mean must be harmonic"),
    ("dog dog dog", "dog", 1.0, "repeated words were counted: F1 here is over sets"),
    ("the dog", "dog", 2 / 3, "articles were dropped: Mem0 keeps them"),
    ("dogs", "dog", 0.0, "words were stemmed: Mem0 does not"),
    ("dog!", "Dog?", 1.0, ". , ! and ? must go and case must not matter"),
    ("end.Start", "start end", 1.0, "the four marks become spaces, they are not just deleted"),
    ("(dog)", "dog", 0.0, "other punctuation stays glued to its word"),
    ("dog;", "dog", 0.0, "other punctuation stays glued to its word"),
    ("", "dog", 0.0, "empty prediction"), ("dog", "", 0.0, "empty answer"),
    ("", "", 0.0, "two empty strings give 0"), ("...", ".", 0.0, "no words give 0, not an error"),
    (2022, "in 2022", 2 / 3, "inputs must pass through str()"),
    ("It was in\n2023", "2023", 2 / 5, "a line break is white space like any other"),
])
def test_f1_by_hand(prediction, answer, expected, mistake):
    assert metrics.f1(prediction, answer) == pytest.approx(expected, abs=1e-15), mistake


def test_f1_against_counting():
    for first, second in pairs(3, 1500):
        words = []
        for text in (first.translate(LETTERS), second.translate(LETTERS)):
            for mark in ".,!?":
                text = text.replace(mark, " ")
            words.append(list(dict.fromkeys(text.lower().split())))
        common = sum(word in words[1] for word in words[0])
        # 2PR / (P + R) = 2 common / (|prediction| + |answer|): the Dice coefficient
        expected = 2 * common / (len(words[0]) + len(words[1])) if common else 0.0
        assert metrics.f1(first, second) == pytest.approx(expected, abs=1e-12), (
            f"{first!r}, {second!r}: F1 over word sets equals their Dice coefficient")
        assert metrics.f1(first, second) == pytest.approx(metrics.f1(second, first), abs=1e-12), (
            "F1 is symmetric; precision or recall is divided by the wrong length")


# ---- BLEU-1 --------------------------------------------------------------------------------------

@pytest.mark.parametrize("text, expected", [
    ("", []),
    ("two dogs.", ["two", "dogs", "."]),
    ("he isn't sam's friend", ["he", "is", "n't", "sam", "'s", "friend"]),
    ("paid $3,000 at 7:30, twice", ["paid", "$", "3,000", "at", "7:30", ",", "twice"]),
    ("st. john rests. really?", ["st", ".", "john", "rests", ".", "really", "?"]),
    ('he said "go." then left.', ["he", "said", "``", "go", ".", "''", "then", "left", "."]),
    ("(so.) then **go.** now", ["(", "so", ".", ")", "then", "*", "*", "go", ".", "*", "*", "now"]),
    ("pets: 1. rex 2. milo", ["pets", ":", "1.", "rex", "2.", "milo"]),  # a list is no sentence
    ("t. smith waits... then", ["t.", "smith", "waits", "...", "then"]),
    ("one. two", ["one", ".", "two"]),  # two sentences: both periods are tokens
    ("one.two", ["one.two"]),  # no space, no sentence
    ('"quoted" (so)', ["``", "quoted", "''", "(", "so", ")"]),
    ("i cannot, gonna -- wanna go", ["i", "can", "not", ",", "gon", "na", "--", "wan", "na", "go"]),
    ("'tis the dogs' bowl...", ["'t", "is", "the", "dogs", "'", "bowl", "..."]),
    ("it was 'quoted' twice", ["it", "was", "'quoted", "'", "twice"]),  # NLTK <= 3.9.1
])
def test_word_tokens_by_hand(text, expected):
    assert metrics.word_tokens(text) == expected, "a rule is missing, changed, or out of order"


@pytest.mark.parametrize("prediction, answer, expected, mistake", [
    ("two dogs", "two dogs", 1.0, "equal texts"),
    ("dog dog dog", "dog cat", 1 / 3, "a word pays only as often as the answer has it (clipping)"),
    ("dog", "dog cat bird", math.exp(-2), "the brevity penalty is exp(1 - 3/1)"),
    ("dog cat bird fish", "dog", 1 / 4, "a long prediction gets no brevity penalty"),
    ("dog owl", "dog cat", 1 / 2, "equal lengths have no penalty"),
    ("Dog", "dog", 1.0, "both texts are lowered"),
    ("owl", "dog", 0.0, "no common word gives 0: smoothing never acts at order one"),
    ("", "dog", 0.0, "empty prediction"), ("dog", "", 0.0, "empty answer"), ("", "", 0.0, "empty"),
    ("dog.", "dog", 1 / 2, "the period is a token of its own"),
    (2022, "2022", 1.0, "inputs must pass through str()"),
    # NLTK 3.9.1 with its trained punkt gives 7/9.
    ('He said "go." Then left.', "He said go. Then left.", 7 / 9,
     "no sentence ends before a closing quote"),
    ("They have: 1. Rex 2. Milo", "1. Rex 2. Milo", 4 / 7, "the period of a list ends a sentence"),
])
def test_bleu1_by_hand(prediction, answer, expected, mistake):
    assert metrics.bleu1(prediction, answer) == pytest.approx(expected, abs=1e-15), mistake


def nltk_tokens():
    """NLTK's tokenisers with the rules of 3.9.1, whatever version is installed.

    Punkt has no abbreviations here, because these are a download.
    """
    destructive = pytest.importorskip("nltk.tokenize.destructive")
    punkt = pytest.importorskip("nltk.tokenize.punkt")
    original = destructive.NLTKWordTokenizer

    class Tokenizer(original):
        # 3.10 changed the rule of opening single quotes (the last), 3.9.4 added one for dashes.
        STARTING_QUOTES = [
            *original.STARTING_QUOTES[:-1],
            (re.compile(r"(?i)(\')(?!re|ve|ll|m|t|s|d|n)(\w)\b"), r"\1 \2"),
        ]
        PUNCTUATION = [rule for rule in original.PUNCTUATION if "2012" not in rule[0].pattern]

    sentences, words = punkt.PunktSentenceTokenizer(), Tokenizer()
    return lambda text: [token for sentence in sentences.tokenize(text)
                         for token in words.tokenize(sentence)]


def marks_in_a_row(text: str) -> bool:
    """Whether marks stand so close that punkt weighs them together, as in "go.?!" or "1. U.S."."""
    number = r"(\d|\b[^\W\d])\.\s+"  # or an initial
    return bool(re.search(rf"[.!?](?![\w.])\S*[.!?]|[.!?]\s+[^\w\s]*[.!?]|{number}(_|\S*[.!?])"
                          r"|\.\.\w|,-|'tis'", text))


def test_word_tokens_against_nltk():
    tokens = nltk_tokens()
    seen: Counter[str] = Counter()
    endings = ["dog.", "go!", "so?", "1.", "-3.", "j.", "wait...", "2)"]  # of sentences, and not
    generator = random.Random(4)
    for _ in range(12_000):
        pieces = [generator.choice([generator.choice(PIECES), generator.choice(endings)])
                  + generator.choice(GAPS) for _ in range(generator.randrange(9))]
        text = "".join(pieces).lower().strip()
        if marks_in_a_row(text):
            continue
        expected = tokens(text)
        seen.update(expected)
        assert metrics.word_tokens(text) == expected, f"{text!r}: NLTK has other tokens"
    for token in ["``", "''", "n't", "'s", "'ll", "...", "--", "can", "gon", "'t", "3,000", "$",
                  "1.", "j.", "!"]:
        assert seen[token] > 5, f"the test's own texts hardly ever hold {token!r}"


def test_bleu1_against_nltk_to_the_last_bit():
    tokens = nltk_tokens()
    bleu_score = pytest.importorskip("nltk.translate.bleu_score")
    smoothing = bleu_score.SmoothingFunction().method1
    partial = 0
    for first, second in pairs(5, 4000):
        if marks_in_a_row(first) or marks_in_a_row(second):
            continue
        # NLTK takes a word of Chinese for one token; here each letter is one.
        predicted, wanted = (tokens(text.translate(LETTERS).strip().lower())
                             for text in (first, second))
        expected = bleu_score.sentence_bleu([wanted], predicted, weights=(1, 0, 0, 0),
                                            smoothing_function=smoothing)
        partial += 0 < expected < 1
        assert metrics.bleu1(first, second) == expected, (
            f"{first!r}, {second!r}: NLTK says {expected!r}; check clipping, penalty, smoothing")
    assert partial > 500, "the test's own pairs hardly ever overlap in part, so it shows nothing"


# ---- other languages -----------------------------------------------------------------------------


def english_scores(first: str, second: str) -> dict[str, float]:
    """The scores as they were when this file knew ASCII only: Mem0's and SQuAD's own code."""
    def normalise(text: str) -> str:
        text = text.lower().translate(str.maketrans("", "", string.punctuation))
        return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())

    def words(text: str) -> set[str]:
        return set(re.sub(r"[.,!?]", " ", text.lower()).split())

    exact = int(first.strip().lower() == second.strip().lower())
    wanted = normalise(second)
    common = len(words(first) & words(second))
    precision, recall = (common / max(len(words(text)), 1) for text in (first, second))
    counts = [Counter(metrics.word_tokens(text.strip().lower())) for text in (first, second)]
    shared = (counts[0] & counts[1]).total()
    lengths = [count.total() for count in counts]
    brevity = 1.0 if lengths[0] > lengths[1] else math.exp(1 - lengths[1] / max(lengths[0], 1))
    return {
        "strict_exact_match": exact,
        "squad_exact_match": int(normalise(first) == wanted) if wanted else exact,
        "f1": 2 * precision * recall / (precision + recall) if common else 0.0,
        "bleu1": brevity * math.exp(math.log(shared / lengths[0])) if shared else 0.0}


def test_on_ascii_text_no_score_changes_in_any_bit():
    generator = random.Random(8)
    texts = [text for pair in pairs(9, 500) for text in pair if text.isascii()]
    texts += ["".join(generator.choices([chr(i) for i in range(128)], k=9))
              for _ in range(300)]
    partial = 0
    for first, second in zip(texts, [*texts[1:], ""]):
        for wanted in (second, first[: len(first) // 2] + second):
            for name, expected in english_scores(first, wanted).items():
                partial += 0 < expected < 1
                assert getattr(metrics, name)(first, wanted) == expected, (
                    f"{name}({first!r}, {wanted!r}): other languages must not move English scores")
    assert partial > 300, "the test's own pairs hardly ever overlap in part, so it shows nothing"


@pytest.mark.parametrize("prediction, answer", [
    ("北京。", "北京"), ("「北京」", "北京"), ("北 京！", "北京"), ("東京です。", "東京です"),
    ("กรุงเทพ", "กรุง เทพ"), ("¿Oslo?", "oslo"), ("«Осло».", "осло"), ("أوسلو؟", "أوسلو"),
    ("दिल्ली।", "दिल्ली")])
def test_punctuation_of_all_languages_costs_no_reward(prediction, answer):
    assert metrics.squad_exact_match(prediction, answer) == 1, (
        "a full stop is punctuation in every script, and a space between letters may say nothing")


@pytest.mark.parametrize("prediction, answer, f1, bleu1", [
    ("他住在北京", "北京", 4 / 7, 2 / 5), ("北京", "北京市", 4 / 5, math.exp(-1 / 2)),
    ("上海", "北京", 0, 0), ("北京。", "北京", 1, 2 / 3), ("レックス", "レックス", 1, 1),
    ("กรุงเทพ", "กรุง", 2 * 4 / (7 + 4), 4 / 7), ("Rex住在北京", "Rex", 2 / 6, 1 / 5)])
def test_letters_are_words_where_no_space_is_written(prediction, answer, f1, bleu1):
    assert metrics.f1(prediction, answer) == pytest.approx(f1), (
        "letters of an unspaced script are words, Latin words stay whole; else F1 is 0 or 1")
    assert metrics.bleu1(prediction, answer) == pytest.approx(bleu1), "each letter is a token"


@pytest.mark.parametrize("score", ["strict_exact_match", "squad_exact_match", "f1", "bleu1"])
def test_a_name_is_itself_however_unicode_spells_it(score):
    for name in ("André", "Zoë Müller", "Nguyễn", "서울", "がぎ"):
        spelt = unicodedata.normalize("NFD", name)
        assert spelt != name
        for pair in ((name, spelt), (spelt, name)):
            assert getattr(metrics, score)(*pair) == 1, f"{name}: an accent is spelt in two ways"


# ---- several objectives at once ------------------------------------------------------------------

@pytest.mark.parametrize("prediction, right", [
    ("Oslo; Rex and Milo", [1, 1]), (" the oslo ;rex and milo;", [1, 1]), ("Oslo", [1, 0]),
    ("Rex and Milo; Oslo", [0, 0]), ("; Rex and Milo", [0, 1]),
    ("Oslo; Rex and Milo; more", [1, 1]),
    ("", [0, 0]), (";;;", [0, 0]), ("Oslo Rex and Milo", [0, 0])])
def test_objectives_are_compared_by_position(prediction, right):
    assert metrics.objectives_right(prediction, ["Oslo", "Rex and Milo"]) == right, (
        "answers by position; a missing one is wrong, surplus ones cost nothing")


@pytest.mark.parametrize("prediction, golds, right, mistake", [
    ("1 Oslo; 2. Rex", ["Oslo", "Rex"], [1, 1], "a numbered list is a list of answers"),
    ("1. Oslo; 2) Rex;", ["Oslo", "Rex"], [1, 1], "an empty last part is no unnumbered answer"),
    ("1 dog; 2 cats", ["1 dog", "2 cats"], [1, 1], "a number that belongs to an answer went"),
    ("1 May 2023; 2 June 2023", ["1 May 2023", "2 June 2023"], [1, 1], "half a date went"),
    ("1 1 May 2023; 2 Rex", ["1 May 2023", "Rex"], [1, 1], "more than the list's number went"),
    ("1 dog; 2 cats", ["1 dog", "cats"], [1, 0], "as written where both ways are as good"),
    ("1 Oslo; Rex", ["Oslo", "Rex"], [0, 1], "a list has all its numbers"),
    ("2 Oslo; 1 Rex", ["Oslo", "Rex"], [0, 0], "a list has its numbers in order"),
    ("1 Oslo", ["Oslo"], [0], "a single answer is no list: its number belongs to it"),
    ("1 Oslo；2 罗马", ["Oslo", "罗马"], [1, 1], "the full-width semicolon"),
])
def test_numbers_go_only_where_more_answers_are_right(prediction, golds, right, mistake):
    assert metrics.objectives_right(prediction, golds) == right, mistake


def test_numbers_go_if_the_answers_are_more_similar_without_them():
    assert metrics.answers_to_compare("1 Max; 2 Rex and Bo", ["x", "Rex and Milo"]) == [
        "Max", "Rex and Bo"], "the log's F1 is that of a list with its numbers"
    assert metrics.answers_to_compare("1 x; 2 y", ["a", "b"]) == ["1 x", "2 y"], "as written"
    for first, second in (("(1) ", "(2) "), ("1: ", "2: "), ("1-", "2-"), ("1 - ", "2 - ")):
        assert metrics.answers_to_compare(f"{first}Max; {second}Rex", ["Max", "Rex"]) == [
            "Max", "Rex"], f"{first!r} is a way to number a list"
    assert metrics.answers_to_compare("1:30; 2:45", ["1:30", "2:45"]) == ["1:30", "2:45"]
    assert metrics.answers_to_compare("10 dogs; 2 cats", ["0 dogs", "cats"]) == [
        "10 dogs", "2 cats"], "10 is no 1 before a 0"
    assert metrics.split_answers("a;;b; ") == ["a", "", "b", ""], "an empty answer keeps its place"


def test_numbers_never_cost_a_right_answer():
    generator = random.Random(10)
    pool = ["dog", "1 dog", "2 dogs", "1 May 2023", "2 June 2023", "1. tea", "", "3 x"]
    for _ in range(2000):
        golds = generator.choices(pool, k=generator.randrange(2, 4))
        parts = generator.choices(pool, k=generator.randrange(1, 5))
        written = [metrics.squad_exact_match(part, gold) for part, gold in zip(parts, golds)]
        right = metrics.objectives_right("; ".join(parts), golds)
        assert sum(right) >= sum(written), f"{parts} for {golds}: the paper's reward is higher"


# What MEM1's reward (qa_multiple.py) and evaluation (eval.py) give, both of commit 6f22061.
MEM1_SCORES = [  # text, golds, reward, exact match, F1
    ("New York; x", ["New-York", "x"], 1, 2, 2),
    ("New-York; x", ["New York", "x"], 1, 2, 2),
    ("Oslo; Rome;", ["Oslo", "Rome"], 2, 0, 0),
    ("the Oslo; Rome", ["Oslo", "Rome"], 2, 1, 2 / 3 + 1),
    ("Oslo; Rome; x", ["Oslo", "Rome"], 2, 0, 0),
    ("Oslo", ["Oslo", "Rome"], 1, 0, 0),
    ("", ["Oslo", "Rome"], 0, 0, 0),
    ("; Rome", ["Oslo", "Rome"], 1, 1, 1),
    ("Oslo.; Rome (Italy)", ["Oslo", "Rome"], 1, 1, 1 + 2 / 3),
    ("St. Paul; dog dog", ["St Paul", "dog"], 1, 1, 2),
]


@pytest.mark.parametrize("text, golds, reward, exact, f1", MEM1_SCORES)
def test_mem1_scores_are_those_of_the_papers_code(text, golds, reward, exact, f1):
    assert sum(metrics.objectives_right(text, golds)) == reward, (
        "the reward drops punctuation and articles, and takes any number of answers")
    assert metrics.objectives_scores(text, golds) == {"exact_match": exact,
                                                      "f1": pytest.approx(f1)}, (
        "the evaluation makes punctuation a space, keeps articles, counts the answers")


def mem1_evaluation(text: str, golds: list[str]) -> tuple[float, float]:
    """MEM1's evaluation in our words: split, blank out punctuation, compare, count."""
    table = str.maketrans(dict.fromkeys(string.punctuation, " "))
    given = [part.lower().translate(table).split() for part in text.split(";")]
    wanted = [gold.lower().translate(table).split() for gold in golds]
    if len(given) != len(wanted):
        return 0, 0
    exact = sum(a == b for a, b in zip(given, wanted))
    shared = [2 * len({*a} & {*b}) / max(len({*a}) + len({*b}), 1) for a, b in zip(given, wanted)]
    return exact, sum(shared)


def test_mem1_scores_against_an_independent_evaluation():
    generator = random.Random(11)
    n_right = 0
    for _ in range(3000):
        texts = [awkward(generator, 3).encode("ascii", "ignore").decode().replace(";", "")
                 for _ in range(3)]
        golds = texts[:2]
        text = ";".join(generator.choice([gold, gold + ".", generator.choice(texts)])
                        for gold in [*golds, ""][:generator.choice([2, 2, 2, 3])])
        exact, f1 = mem1_evaluation(text, golds)
        if metrics.answers_to_compare(text, golds) != [part.strip() for part in text.split(";")]:
            continue  # a numbered list, which only our tasks ask for
        n_right += exact == 2
        assert metrics.objectives_scores(text, golds) == {
            "exact_match": exact, "f1": pytest.approx(f1)}, f"{text!r} for {golds}"
    assert n_right > 500, "the test's own answers are hardly ever right, so it shows nothing"


def test_context_sizes_by_hand():
    found = metrics.context_sizes([10, 30, 25], [4, 6, 9])
    assert found == {"peak_tokens_with_prompt": 36, "peak_tokens": 26,
                     "dependency": 2 * 4 + 23 * 6 + 19 * 9}, (
        "largest prompt + response; less the first prompt, which is the task, in both figures")
    assert metrics.context_sizes([], []) == {"peak_tokens_with_prompt": 0, "peak_tokens": 0,
                                     "dependency": 0}
    many = metrics.context_sizes([10] * 11 + [500], [1] * 12)
    assert many["peak_tokens_with_prompt"] == 501, "turns beyond the tenth count too"


def test_context_sizes_against_mem1s_evaluation():
    """eval.py reads texts t, r, i of each turn: a thought, what follows it, what came back."""
    generator = random.Random(12)
    for _ in range(200):
        turns = [[generator.randrange(1, 60) for _ in "tri"]
                 for _ in range(generator.randrange(1, 11))]
        task, past, peak, pairs, n_written = 25, 0, 0, 0, 0
        for thought, action, result in turns:
            peak = max(peak, past + thought + action)
            pairs += (past + thought // 2) * thought
            pairs += (past + thought + action // 2) * action
            n_written += thought + action
            past = thought + action + result  # compression: the last turn is all that stays
        prompts = [task, *(task + sum(turn) for turn in turns[:-1])]
        found = metrics.context_sizes(prompts, [sum(turn[:2]) for turn in turns])
        assert found["peak_tokens"] == peak, "the task's own tokens count, or a result too early"
        # Each of eval.py's two halves is rounded down, each of ours as a whole.
        assert abs(found["dependency"] - pairs) <= n_written, (
            "written tokens depend on the last turn and on each other, not on the task")


# ---- tables --------------------------------------------------------------------------------------

def test_summarise_by_hand():
    table = metrics.summarise(["The beach.", "two dogs", "owl", "2022"],
                              ["beach", "Two dogs, Rex and Milo", "dog", 2022],
                              ["temporal", "single-hop", "single-hop", "temporal"])
    assert table["count"] == 4
    assert table["exact_match"] == 0.5, "exact_match must be the reward, squad_exact_match"
    assert table["strict_exact_match"] == 0.25, "strict_exact_match must be Mem0's comparison"
    assert table["f1"] == pytest.approx((2 / 3 + 4 / 7 + 0 + 1) / 4), "mean over all questions"
    assert list(table["by_category"]) == ["single-hop", "temporal"], "categories as given, sorted"
    single = table["by_category"]["single-hop"]
    assert single["count"] == 2 and single["exact_match"] == 0
    assert single["f1"] == pytest.approx(2 / 7), "a category's mean is over its own questions"
    assert set(single) == set(table) - {"by_category"}, "each category has the same five numbers"


def test_summarise_totals_are_means_over_questions():
    generator = random.Random(6)
    predictions, answers = zip(*pairs(7, 300))
    categories = [generator.choice([1, 1, 1, 1, 2, 4]) for _ in predictions]
    table = metrics.summarise(predictions, answers, categories)
    assert list(table["by_category"]) == [1, 2, 4], "numbers must serve as categories too"
    for name in ("exact_match", "strict_exact_match", "f1", "bleu1"):
        weighted = sum(part[name] * part["count"] for part in table["by_category"].values()) / 300
        assert table[name] == pytest.approx(weighted, abs=1e-12), (
            f"{name}: the total is a mean over questions, not a mean of the category means")


def test_summarise_of_nothing_and_of_unequal_lengths():
    assert metrics.summarise([], [], []) == {
        "exact_match": 0, "strict_exact_match": 0, "f1": 0, "bleu1": 0, "count": 0,
        "by_category": {}}, "no questions must give zeros, not a division by zero"
    with pytest.raises(ValueError, match="2 predictions, 1 answers and 1 categories"):
        metrics.summarise(["a", "b"], ["a"], [1])  # zip() alone would drop the rest in silence
