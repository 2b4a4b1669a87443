"""The rule against loops: which tokens are forbidden, and to whom."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from atomlora.runtime.loops import LOOP_TOKENS, NoLoops, no_loops

PROMPT = [7, 8, 9, 7, 8, 9, 7, 8]


def forbidden(said, rows=True):
    """Tokens that may not follow the answer tokens `said`."""
    ids = torch.tensor([[*PROMPT, *said]])
    scores = NoLoops(len(PROMPT), torch.tensor([rows]))(ids, torch.zeros(1, 10))
    return set(scores[0].isinf().nonzero()[:, 0].tolist())


def test_a_run_of_the_answer_is_not_repeated():
    assert forbidden([1, 2, 3, 4, 5, 1, 2, 3]) == {4}
    assert forbidden([1, 2, 3, 4, 5, 2, 1, 3]) == set()
    assert forbidden([6, 6, 6, 6]) == {6}
    assert forbidden([1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3]) == {4, 5}


def test_the_prompt_may_be_repeated_and_a_short_answer_is_free():
    assert forbidden([7, 8, 9]) == set()
    assert forbidden([9, 7, 8, 9, 7]) == set()
    assert forbidden([]) == set()


def test_a_row_without_atoms_is_the_bare_bases():
    assert forbidden([6, 6, 6, 6], rows=False) == set()
    assert no_loops(3, None) == []
    assert no_loops(3, torch.tensor([[-1, -1]])) == []
    (processor,) = no_loops(3, torch.tensor([[-1], [4]]))
    assert processor.rows.tolist() == [False, True]


@given(st.lists(st.integers(0, 3), max_size=24))
def test_it_forbids_what_a_search_forbids(said):
    tail = said[1 - LOOP_TOKENS :]
    runs = [said[i : i + LOOP_TOKENS] for i in range(len(said) - LOOP_TOKENS + 1)]
    assert forbidden(said) == ({run[-1] for run in runs if run[:-1] == tail})
