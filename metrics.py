"""How an answer is scored: exact match, token F1 and BLEU-1. Pure functions of two strings.

Exact match is also the reward of Memory-R1 (arXiv 2508.19828, Eq. 4). The columns of its tables are
F1, BLEU-1 and an LLM judge, which needs another model (training/judge.py). The paper's scores
come from Mem0's evaluation/metrics/utils.py, a copy of A-Mem's utils.py. `strict_exact_match`,
`f1` and `bleu1` give the values of Mem0's code, without NLTK.

Where this differs from the paper
1. The paper does not say how it normalises before comparing for the reward. We use SQuAD's way
   (`squad_exact_match`). Mem0's own is `strict_exact_match`.
2. NLTK first cuts a text into sentences with a trained model ("punkt"). `sentences` has punkt's
   rules without the abbreviations that it learned, because these are a file of its own. So "Dr. Wu"
   ends a sentence here.
3. For an empty pair Mem0's code returns 0, but `strict_exact_match` finds two empty strings equal.
4. Scores are means in 0..1; the paper prints them times 100.
5. The paper's data is English. Where a script puts no space between words (Chinese, Japanese, Thai)
   each letter counts as a word, and Unicode's punctuation is dropped like ASCII's. So score MLQA
   (Lewis et al. 2020, arXiv 1910.07475) and CMRC 2018 (Cui et al. 2019, arXiv 1810.07366) in
   Chinese. On ASCII text no score differs.
Scores of several answers at once, and what they change in MEM1's, stand under "Several objectives
at once". All metrics beside their sources, with versions: docs/metrics.md.

    python -c "import metrics; print(metrics.f1('two dogs', 'Two dogs, Rex and Milo'))"

prints 0.5714285714285715, which is 2 / (1/1 + 5/2).
"""

from __future__ import annotations

import math
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from memory_bank import UNSPACED

_UNSPACED_LETTER = re.compile(f"[{UNSPACED}]")


def spaced(text: Any) -> str:
    """Text with spaces around each letter of a script that has none between words.

    A letter with an accent has one spelling afterwards (Unicode's NFC), because texts from macOS or
    from some tokenizers spell it as two characters.

    >>> spaced("Rex住在北京。")
    'Rex 住  在  北  京 。'
    """
    return _UNSPACED_LETTER.sub(r" \g<0> ", unicodedata.normalize("NFC", str(text)))


# ---- Exact match ---------------------------------------------------------------------------------


def strict_exact_match(prediction: Any, answer: Any) -> int:
    """1 if the two are equal up to case and outer white space, else 0: Mem0's comparison."""
    predicted, wanted = (unicodedata.normalize("NFC", str(text)).strip().lower()
                         for text in (prediction, answer))
    return int(predicted == wanted)


def _is_punctuation(letter: str) -> bool:
    """Whether SQuAD's script drops the character (ASCII), or MLQA's does (the rest)."""
    # Some of ASCII's marks are symbols to Unicode, such as $ and +. SQuAD drops those too.
    return letter in string.punctuation or unicodedata.category(letter).startswith("P")


def _squad_normalise(text: Any) -> str:
    """Lower case, no punctuation, no articles, single spaces: SQuAD's evaluation script."""
    text = "".join(letter for letter in spaced(text).lower() if not _is_punctuation(letter))
    # Articles are removed after the punctuation, as in SQuAD, so that "the." goes too.
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def squad_exact_match(prediction: Any, answer: Any) -> int:
    """1 if the two are equal after SQuAD's normalisation, else 0: the reward for training.

    The paper leaves the normalisation open. Strict equality would punish "The beach." for the
    answer "beach", though a period or an article says nothing about memory. Each such miss would
    waste a rollout, because few rollouts earn the reward. Search-R1 and MEM1 reward in the same
    way. Two blind spots are known: "3.5" equals "35", and "-5" equals "5".

    Of an answer like "The..." nothing remains. It is compared strictly, because otherwise an empty
    prediction would earn the reward.

    Source: the SQuAD 1.1 evaluation script (Rajpurkar et al. 2016, arXiv 1606.05250).
    """
    wanted = _squad_normalise(answer)
    if not wanted:
        return strict_exact_match(prediction, answer)
    return int(_squad_normalise(prediction) == wanted)


# ---- F1 over sets of words -----------------------------------------------------------------------


def _word_set(text: Any) -> set[str]:
    """The different words of a text, in lower case."""
    # Only these four marks and their East Asian twins, as in Mem0: "Rex;" and "(Rex)" stay
    # different words from "Rex".
    return set(re.sub(r"[.,!?。．，、！？]", " ", spaced(text).lower()).split())


def f1(prediction: Any, answer: Any) -> float:
    """Harmonic mean of precision and recall over sets of words; 0 if they share none.

    A repeated word counts once, unlike in SQuAD and in LoCoMo's own scorer, which use multisets.
    There is no stemming, and articles count as words.

    >>> f1("two dogs", "Two dogs, Rex and Milo")  # 2 / (1/1 + 5/2)
    0.5714285714285715
    """
    return _set_f1(_word_set(prediction), _word_set(answer))


def _set_f1(predicted: set[str], wanted: set[str]) -> float:
    """F1 of two sets of words."""
    common = len(predicted & wanted)
    if common == 0:  # also for an empty text, which would divide by 0
        return 0.0
    precision, recall = common / len(predicted), common / len(wanted)
    return 2 * precision * recall / (precision + recall)


# ---- BLEU-1 --------------------------------------------------------------------------------------

# The Penn Treebank rules as the word tokeniser of NLTK 3.9.1 applies them (nltk/tokenize/
# destructive.py, Apache 2.0), in this order. They put spaces around each token, and the text is
# then split at white space. Later versions also cut at long dashes (3.9.4) and after the opening
# quote of a 'word' (3.10). The authors' stored scores follow the old rules.
_TOKEN_RULES = [(re.compile(pattern), replacement) for pattern, replacement in [
    # Opening quotes. A double quote opens at the start and after a space or bracket.
    (r"([«“‘„]|`+)", r" \1 "),
    (r'^"', "``"),
    (r"(``)", r" \1 "),
    (r"([ (\[{<])(\"|'{2})", r"\1 `` "),
    (r"(?i)(')(?!re|ve|ll|m|t|s|d|n)(\w)\b", r"\1 \2"),
    # Punctuation. Only a sentence's last period is a token, so that "3.5" and "U.S" stay whole; a
    # comma or colon stays in "3,000" and "7:30".
    (r"([^.])(\.)([\])}>\"'»”’ ]*)\s*$", r"\1 \2 \3 "),
    (r"([:,])([^\d])", r" \1 \2"),
    (r"([:,])$", r" \1 "),
    (r"\.{2,}", r" \g<0> "),
    (r"[;@#$%&]", r" \g<0> "),
    (r"[?!]", r" \g<0> "),
    (r"([^'])' ", r"\1 ' "),
    (r"[*]", r" \g<0> "),
    (r"[\]\[(){}<>]", r" \g<0> "),
    (r"--", " -- "),
    # A space at both ends, because the rules below need one; then closing quotes, and 's, 'll, n't.
    (r"^|\Z", " "),
    (r"([»”’])", r" \1 "),
    (r"''|\"", " '' "),
    (r"\s+", " "),
    (r"([^' ])('[sSmMdD]|') ", r"\1 \2 "),
    (r"([^' ])('ll|'LL|'re|'RE|'ve|'VE|n't|N'T) ", r"\1 \2 "),
    # Words grown together: cannot, d'ye, gimme, gonna, gotta, lemme, more'n, wanna, 'tis, 'twas.
    *[(rf"(?i)\b({first})({second})\b", r" \1 \2 ") for first, second in [
        ("can", "not"), ("d", "'ye"), ("gim", "me"), ("gon", "na"), ("got", "ta"), ("lem", "me"),
        ("more", "'n")]],
    (r"(?i)\b(wan)(na)(?=\s)", r" \1 \2 "),
    (r"(?i) ('t)(is|was)\b", r" \1 \2 "),
]]


# Where punkt (nltk/tokenize/punkt.py) ends a sentence of a text in lower case. The first two lines
# are for what is no end: "1. tea", or an initial as in "j. smith". In the third . ! and ? end a
# sentence before white space and before some marks. Closing quotes and brackets belong to the
# sentence before them. The last of several periods ends none.
_SENTENCE_END = re.compile(
    rf"(?<![^\s(){{}}\[\]\"`:;&#*@])-*(?:[.,]?\d[\d.,-]*|[^\W\d_])\."
    rf"(?=\s*[;:,]|\s+[^\W\d_{UNSPACED}])"
    r"|(?P<end>(?:(?<!\.)\.|[!?])(?:\s*[\"')\]}]+(?=\s|--|$)|(?=[\s)\"'(\[\]{};:*@!?])))")


def sentences(text: str) -> list[str]:
    """The sentences of a text in lower case, as NLTK's punkt cuts it without its abbreviations.

    >>> sentences('he said "go." then left. 2. tea')
    ['he said "go."', ' then left.', ' 2. tea']
    """
    ends = [match.end() for match in _SENTENCE_END.finditer(text) if match["end"]]
    return [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)])]


def word_tokens(text: str) -> list[str]:
    """The tokens of NLTK's word_tokenize for a text in lower case (but see difference 2 above)."""
    tokens: list[str] = []
    # Sentence by sentence, because the rule for the last period looks at the end of the string.
    for sentence in sentences(text):
        sentence = sentence.strip()  # because a quote at the very start is an opening one
        for pattern, replacement in _TOKEN_RULES:
            sentence = pattern.sub(replacement, sentence)
        tokens += sentence.split()
    return tokens


def bleu1(prediction: Any, answer: Any) -> float:
    """Clipped unigram precision times the brevity penalty; 0 if no token is shared.

    Equals NLTK's sentence_bleu with weights (1, 0, 0, 0) and smoothing method 1. The smoothing adds
    0.1 to empty counts. It never acts on unigrams, because NLTK returns 0 first when none matches.
    Source: Papineni et al. 2002 (ACL), sections 2.1 and 2.2.2.
    """
    predicted = Counter(word_tokens(spaced(prediction).strip().lower()))
    wanted = Counter(word_tokens(spaced(answer).strip().lower()))
    common = (predicted & wanted).total()  # & keeps the smaller count: each word pays only once
    if common == 0:
        return 0.0
    length, wanted_length = predicted.total(), wanted.total()
    brevity = 1.0 if length > wanted_length else math.exp(1 - wanted_length / length)
    # NLTK computes exp(log(p)), which can differ from p in the last bit; equal bits are testable.
    return brevity * math.exp(math.log(common / length))


# ---- Several objectives at once (MEM1, arXiv 2506.15841) -----------------------------------------


# The paper's code (github.com/MIT-MI/MEM1, commit 6f22061) has two scores. The reward is
# Mem1/train/verl/utils/reward_score/qa_multiple.py: `objectives_right` here. The evaluation is
# Mem1/inference/eval.py: `objectives_scores` and `context_sizes`.


def split_answers(text: str) -> list[str]:
    """The answers in a response to several questions: the parts between semicolons (; or ；).

    >>> split_answers(" Oslo; Rex and Milo ;")
    ['Oslo', 'Rex and Milo', '']
    """
    return [part.strip() for part in re.split("[;；]", text)]


def answers_to_compare(text: str, answers: Sequence[str]) -> list[str]:
    """The parts of a response that are compared with the gold answers, in their order.

    If all parts begin with 1, 2, 3, ..., these may be the numbers of a list, or belong to the
    answers, as in "1 dog; 2 cats". The numbers go only where more answers are right without them,
    or if none is, more similar. A single answer keeps its number, because it is no list.

    >>> answers_to_compare("1 Oslo; (2) Rex and Milo", ["Oslo", "Rex"])
    ['Oslo', 'Rex and Milo']
    >>> answers_to_compare("1 May 2023; 2 June 2023", ["1 May 2023", "9 June 2023"])
    ['1 May 2023', '2 June 2023']
    """
    def closeness(parts: list[str]) -> tuple[float, float]:
        return (sum(map(squad_exact_match, parts, answers)), sum(map(f1, parts, answers)))

    parts = split_answers(text)
    # A part may also be empty, such as the last one in "1 Oslo; 2 Rex;".
    numbers = [re.match(rf"(?:\({place}\)\s*|{place}(?:\s?[.):–-]\s*|\s+))(?=\S)|$", part)
               for place, part in enumerate(parts, 1)]
    if not all(numbers) or sum(map(bool, parts)) < 2:
        return parts
    without_numbers = [part[number.end():] for part, number in zip(parts, numbers)]
    return max(parts, without_numbers, key=closeness)


def objectives_right(prediction: str, answers: Sequence[str]) -> list[int]:
    """For each question 1 if the answer at its position is right, else 0. MEM1's reward is the sum.

    A missing answer is wrong; surplus answers cost nothing, as in the paper's code. That code takes
    no numbers off, because its questions have none (environments.py).
    """
    parts = answers_to_compare(prediction, answers)
    return [squad_exact_match(parts[i], answer) if i < len(parts) else 0
            for i, answer in enumerate(answers)]


def _spaced_out(text: Any) -> str:
    """Lower case, each punctuation mark a space, single spaces: the text in MEM1's evaluation."""
    return " ".join("".join(" " if _is_punctuation(letter) else letter
                            for letter in spaced(text).lower()).split())


def objectives_scores(prediction: str, answers: Sequence[str]) -> dict[str, float]:
    """MEM1's evaluation: exact match and F1, each summed over the questions (0 .. their number).

    Three things are unlike the reward. Both scores are 0 unless there are exactly as many answers
    as questions, and the empty one behind a last semicolon counts. A punctuation mark becomes a
    space, so "New-York" equals "New York". Articles count as words.

    On ASCII text the numbers are those of the paper's code, but for numbered lists (see
    `answers_to_compare`). The code also reports a substring match and a judge. They are left out,
    because its substring match looks at one alias only and its judge always says 1.

    >>> objectives_scores("New York; a dog", ["New-York", "dog"])
    {'exact_match': 1.0, 'f1': 1.6666666666666665}
    """
    parts = answers_to_compare(prediction, answers)
    if len(parts) != len(answers):
        return {"exact_match": 0.0, "f1": 0.0}
    pairs = [(_spaced_out(part), _spaced_out(answer)) for part, answer in zip(parts, answers)]
    return {"exact_match": float(sum(part == answer for part, answer in pairs)),
            "f1": float(sum(_set_f1(set(part.split()), set(answer.split()))
                            for part, answer in pairs))}


def context_sizes(prompt_lengths: Sequence[int], response_lengths: Sequence[int]) -> dict[str, int]:
    """What a trajectory of several calls of the model had in context, in tokens.

    - "peak_tokens_with_prompt" is the longest prompt with its response.
    - "peak_tokens", the paper's figure, is the same without the first prompt, which is the task.
    - "dependency", also without the task, counts the pairs of a written token and a token that it
      depends on. A call adds (prompt + response / 2) * response.

    Where this differs from the paper's code
    1. A thought counts once. The code counts it twice, because it keeps the thought beside the
       whole response.
    2. All turns count. The code ignores those from the eleventh on.
    3. Tables have the mean over all trajectories. The code leaves out the peaks of those without a
       right answer, so agents are compared on different tasks.
    4. Tokens are the model's own. The code counts those of gpt-4o-mini.
    """
    task = prompt_lengths[0] if prompt_lengths else 0
    peak = max(map(sum, zip(prompt_lengths, response_lengths)), default=0)
    pairs = [(prompt - task + response // 2) * response
             for prompt, response in zip(prompt_lengths, response_lengths)]
    return {"peak_tokens_with_prompt": peak, "peak_tokens": peak - task, "dependency": sum(pairs)}


# ---- Many questions ------------------------------------------------------------------------------

SCORES: dict[str, Callable[[Any, Any], float]] = {
    # As in the reward, because a table and a training curve should show the same number.
    "exact_match": squad_exact_match,
    "strict_exact_match": strict_exact_match,
    "f1": f1,
    "bleu1": bleu1,
}


def _means(rows: Sequence[dict[str, float]]) -> dict[str, Any]:
    """The mean of each score, and how many there were."""
    # Without a question the means are 0; only the count tells such a 0 from a bad score.
    means = {name: sum(row[name] for row in rows) / max(len(rows), 1) for name in SCORES}
    return {**means, "count": len(rows)}


def summarise(predictions: Sequence[Any], answers: Sequence[Any],
              categories: Sequence[Hashable]) -> dict[str, Any]:
    """Mean scores in 0..1 over all questions, and by category.

    Returns {"exact_match", "strict_exact_match", "f1", "bleu1", "count", "by_category"}. The last
    maps each category to the same five numbers. "exact_match" is `squad_exact_match`, the reward;
    "strict_exact_match" is Mem0's. As in the paper the means are over questions, so
    large categories weigh more. Without a question all scores are 0.

    Raises ValueError if the three differ in length.
    """
    if not len(predictions) == len(answers) == len(categories):
        raise ValueError(f"summarise: {len(predictions)} predictions, {len(answers)} answers and "
                         f"{len(categories)} categories; pass one of each for every question")
    rows = [{name: score(prediction, answer) for name, score in SCORES.items()}
            for prediction, answer in zip(predictions, answers)]
    by_category: dict[Hashable, list[dict[str, float]]] = {}
    for category, row in zip(categories, rows):
        by_category.setdefault(category, []).append(row)
    return {**_means(rows), "by_category": {category: _means(by_category[category])
                                            for category in sorted(by_category, key=str)}}
