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


RUN = list(range(1, LOOP_TOKENS + 1))


def test_a_run_of_the_answer_is_not_repeated():
    assert forbidden([*RUN, 9, *RUN[:-1]]) == {RUN[-1]}
    assert forbidden([*RUN, 9, 2, *RUN[1:-1]]) == set()
    assert forbidden([6] * LOOP_TOKENS) == {6}
    assert forbidden([*RUN, *RUN[:-1], 9, *RUN[:-1]]) == {RUN[-1], 9}


def test_a_number_or_a_year_that_a_statement_holds_twice_may_be_said():
    """A digit is a token of its own: "Passengers: 225; Cars: 22"."""
    assert forbidden([3, 1, 2, 2, 5, 4, 3, 1, 2]) == set()


def test_the_prompt_may_be_repeated_and_a_short_answer_is_free():
    assert forbidden([7, 8, 9]) == set()
    assert forbidden([9, 7, 8, 9, 7]) == set()
    assert forbidden([]) == set()


def test_a_row_without_atoms_is_the_bare_bases():
    assert forbidden([6] * LOOP_TOKENS, rows=False) == set()
    assert no_loops(3, None) == []
    assert no_loops(3, torch.tensor([[-1, -1]])) == []
    (processor,) = no_loops(3, torch.tensor([[-1], [4]]))
    assert processor.rows.tolist() == [False, True]


@given(st.lists(st.integers(0, 3), max_size=24))
def test_it_forbids_what_a_search_forbids(said):
    tail = said[1 - LOOP_TOKENS :]
    runs = [said[i : i + LOOP_TOKENS] for i in range(len(said) - LOOP_TOKENS + 1)]
    assert forbidden(said) == ({run[-1] for run in runs if run[:-1] == tail})


def test_each_row_has_the_rule_of_its_own():
    """A watched row, one that is not, and one without atoms, in one batch."""
    ids = torch.tensor([[*PROMPT, 3, 1, 2, 2, 5, 4, 3, 1, 2]] * 3)
    scores = torch.zeros(3, 10)
    for process in no_loops(len(PROMPT), torch.tensor([[0], [1], [-1]]), torch.tensor([True, False, True])):
        scores = process(ids, scores)
    assert scores.isinf().nonzero().tolist() == [[0, 2]]
