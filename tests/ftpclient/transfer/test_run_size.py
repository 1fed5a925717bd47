"""How much goes in one request of many small files: the rules alone."""

from __future__ import annotations

from ftpclient.transfer.run_size import FIRST, LEAST, RunBudget, RunSize
from ftpwire.messages import MAX_BYTES, MAX_ITEMS, MAX_REQUEST_SIZE
from ftpwire.pacing import Pace
from tests.clock import Clock


def test_quick_answers_make_it_larger_up_to_what_a_request_may_have() -> None:
    size = RunSize()
    assert size.limit == FIRST
    seen = []
    for _ in range(4):
        size.took(0.1)
        seen.append(size.limit)
    assert seen == [2 * FIRST, MAX_BYTES, MAX_BYTES, MAX_BYTES]


def test_one_that_took_long_makes_it_smaller_and_one_between_leaves_it() -> None:
    size = RunSize()
    size.took(0.5)
    assert size.limit == FIRST
    size.took(1.5)
    assert size.limit == FIRST // 2
    for _ in range(20):
        size.took(5)
    assert size.limit == LEAST


def test_a_limit_of_the_rate_is_kept_to_as_it_is_at_the_time() -> None:
    pace = Pace(20_000)
    size = RunSize(pace)
    assert size.limit == 20_000
    pace.rate = 10
    size.took(0.1)
    assert size.limit == LEAST
    pace.rate = 10**9
    size.took(0.1)
    assert size.limit == MAX_BYTES


def test_of_several_unanswered_each_took_the_time_since_the_answer_before() -> None:
    clock = Clock()
    size = RunSize(clock=clock)
    first, second = size.sent(), size.sent()
    clock.now += 0.9  # as long as the first took the second waited for its turn
    size.answered(first)
    assert size.limit == FIRST
    clock.now += 0.2
    size.answered(second)
    assert size.limit == 2 * FIRST


def test_a_request_far_below_the_limit_says_nothing_of_a_larger_one() -> None:
    size = RunSize(clock=lambda: 0.0)
    size.took(0.1, size.limit // 2 - 1)
    assert size.limit == FIRST
    size.took(2.0, 1)
    assert size.limit == FIRST // 2
    size.took(0.1, size.limit // 2)
    assert size.limit == FIRST


def test_bytes_of_files_fit_up_to_the_limit_as_it_is_at_the_time() -> None:
    size = RunSize()
    budget = RunBudget(size, overhead=10)
    budget.add(4, FIRST - 100)
    assert budget.data == FIRST - 100
    assert budget.fits(1, 4, 100) and not budget.fits(1, 4, 101)
    size.took(0.1)
    assert budget.fits(1, 4, FIRST + 100) and not budget.fits(1, 4, FIRST + 101)
    budget.add(4, 100)
    assert budget.data == FIRST


def test_no_more_items_fit_than_a_request_may_have() -> None:
    budget = RunBudget(RunSize(), overhead=1)
    for _ in range(MAX_ITEMS - 2):
        budget.add(1)
    assert budget.fits(2, 1) and not budget.fits(3, 1)
    budget.add(1)
    assert budget.fits(1, 1) and not budget.fits(2, 1)


def test_names_and_what_is_around_them_fit_up_to_the_length_of_a_request() -> None:
    budget = RunBudget(RunSize(), overhead=10)
    budget.add(MAX_REQUEST_SIZE - 130)
    assert budget.fits(1, 110) and not budget.fits(1, 111)
    assert budget.fits(2, 100) and not budget.fits(2, 101)
    budget.add(90)
    assert budget.fits(1, 10) and not budget.fits(1, 11)


def test_a_new_request_has_all_of_it_again_and_takes_one_file_of_any_size() -> None:
    budget = RunBudget(RunSize(), overhead=10)
    assert budget.fits(2, 4096, 10 * FIRST)
    budget.add(4096, 10 * FIRST)
    assert not budget.fits(1, 1)
    budget.clear()
    assert budget.data == 0 and budget.fits(2, 4096, 10 * FIRST)
