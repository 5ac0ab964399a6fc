"""Problem 9: the tree mask and its positions. python -m pytest assignments/tests/test_09_tree.py"""

from __future__ import annotations

import pytest
import torch
from course_helpers import ROOT, plain, random_model, random_policy, tensor, work

# 1 ─┬─ 2 ─┬─ 3         places in the row: 0 ─┬─ 1 ─┬─ 2
#    │     └─ 4 ── 5                           │     └─ 3 ── 4
#    └─ 6                                      └─ 5
SEQUENCES = [[1, 2, 3], [1, 2, 4, 5], [1, 6]]
PATHS = {0: {0}, 1: {0, 1}, 2: {0, 1, 2}, 3: {0, 1, 3}, 4: {0, 1, 3, 4}, 5: {0, 5}}
ENDS = [6, 5, 3, 5, 5, 6]


def row_of(sequences):
    row = work("trees.Row")()
    for sequence in sequences:
        row.add(sequence)
    return row


# ---- the layout ----------------------------------------------------------------------------------


def test_shared_tokens_stand_once():
    row = row_of(SEQUENCES)
    assert plain(row.input_ids) == [1, 2, 3, 4, 5, 6], (
        "nine tokens in three sequences, six different ones in the tree, in depth-first order")


def test_positions_are_depths():
    row = row_of(SEQUENCES)
    assert plain(row.position_ids) == [0, 1, 2, 2, 3, 1], (
        "the position of a token is its depth in the tree, as in a row of its own; counting on "
        "along the row (0 to 5) tells the model that branch follows branch")


def test_every_subtree_ends_behind_its_last_token():
    row = row_of(SEQUENCES)
    assert plain(row.ends) == ENDS, (
        "`ends` is the place behind the last descendant: token 2, at place 1, has its last one at "
        "place 4, so 5; a new sequence moves the ends of all tokens on its path, and of no others")


def test_the_path_is_that_of_the_last_sequence():
    row = work("trees.Row")()
    for sequence, path in zip(SEQUENCES, ([0, 1, 2], [0, 1, 3, 4], [0, 5])):
        row.add(sequence)
        assert plain(row.path) == path, f"after {sequence} its tokens stand at {path}"


def test_a_sequence_that_is_there_already_adds_nothing():
    row = row_of([[7, 8], [7, 8], [7, 8, 9]])
    assert plain(row.input_ids) == [7, 8, 9] and plain(row.path) == [0, 1, 2]
    assert plain(row.ends) == [3, 3, 3], "one branch: everything ends behind its last token"


# ---- the mask ------------------------------------------------------------------------------------


def mask_of(ends, dtype=torch.float32) -> torch.Tensor:
    found = work("trees.tree_mask")(torch.tensor(ends), dtype)
    n_rows, size = len(ends), len(ends[0])
    return tensor(found, (n_rows, 1, size, size), "the mask")


def test_who_sees_whom():
    mask = mask_of([ENDS])[0, 0]
    for query, path in PATHS.items():
        seen = {key for key in range(6) if mask[query, key] == 0}
        assert seen == path, (
            f"the token at place {query} sees the places {sorted(seen)}; it must see its own path "
            f"from the root, {sorted(path)}: those at or before it whose subtree has not ended")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_mask_is_added_to_the_scores(dtype):
    mask = mask_of([ENDS], dtype)
    assert mask.dtype == dtype, "the mask has the model's dtype"
    assert set(mask.flatten().tolist()) == {0.0, torch.finfo(dtype).min}, (
        "0 where a token may look and the dtype's minimum where not: ones and zeros would be "
        "added to the scores and forbid nothing; -inf makes NaN of a row that sees nothing")


def test_rows_of_a_batch_and_padding():
    mask = mask_of([ENDS, [2, 2, 6, 6, 6, 6]])  # the second row has two tokens, then padding
    assert torch.equal(mask[0], mask_of([ENDS])[0]), "a row's mask depends on its neighbour"
    seen = [[key for key in range(6) if mask[1, 0, query, key] == 0] for query in range(6)]
    assert seen[:2] == [[0], [0, 1]], "two tokens in a line see as in any causal model"
    assert all(0 not in row and 1 not in row for row in seen[2:]), "padding sees a finished branch"
    assert all(row for row in seen), "a place that sees nothing at all becomes NaN in the softmax"


def test_a_plain_sequence_is_causal():
    mask = mask_of([[5] * 5])[0, 0]
    assert torch.equal(mask == 0, torch.ones(5, 5).tril().bool()), (
        "without branches this is the ordinary causal mask")


# ---- both with a model ---------------------------------------------------------------------------


def test_a_tree_gives_the_logits_of_separate_rows():
    row, tree_mask, model = row_of(SEQUENCES), work("trees.tree_mask"), random_model()
    with torch.no_grad():
        packed = model(torch.tensor([row.input_ids]),
                       position_ids=torch.tensor([row.position_ids]),
                       attention_mask=tree_mask(torch.tensor([row.ends]), torch.float32),
                       use_cache=False).logits[0]
        for sequence, path in zip(SEQUENCES, ([0, 1, 2], [0, 1, 3, 4], [0, 5])):
            error = (packed[path] - model(torch.tensor([sequence])).logits[0]).abs().max().item()
            assert error < 1e-4, (
                f"{sequence}: logits off by {error:.1e} from a row of its own; the layout must be "
                "exact, positions and mask both")


def test_the_policy_finds_that_it_may_pack():
    work("trees.tree_mask")
    policy = random_policy()
    assert policy.packs, (
        f"{policy.why_plain}: Policy._why_plain compares trees with plain rows when a model is "
        "loaded. Everything now runs on plain rows: right, but several times slower")


def test_a_trained_model_reads_trees():
    from policy import load_policy
    work("trees.Row.add")
    policy = load_policy(ROOT / "tiny")
    from trees import Step
    words = policy.tokenizer.encode(" Sarah has a dog named Rusty")
    group = [Step(words[:4], words[4:], False), Step(words[:4], words[5:], False)]
    together = policy.token_log_probs([group])
    alone = torch.cat([policy.token_log_probs([[step]]) for step in group])
    assert torch.allclose(together, alone, atol=1e-3, rtol=0), (
        "a sample's log-probs depend on its sibling")
