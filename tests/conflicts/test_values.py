"""Values as sentences write them: what is the same in another notation, and what is not."""

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atomlora.conflicts.values import values
from atomlora.questions.words import MONTHS

DATES = st.dates(date(1969, 1, 1), date(2068, 12, 31))  # what two digits of a year can say


def value_of(text):
    """The one value of "It is `text`."."""
    (found,) = values(f"It is {text}.")
    return found


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("12 am", "0:00"),
        ("12:30 am", "0:30"),
        ("12 pm", "12:00"),
        ("12:15 p.m.", "12.15"),
        ("11:59 pm", "23:59"),
        ("9,50 euros", "9,5 euros"),
        ("1,5 kW", "1500 W"),
        ("1,5 m", "150 cm"),
        ("1.850,50 euros", "€1,850.50"),
        ("1\u202f234,5 kg", "1234.5 kg"),
        ("0,125 kg", "125 g"),
        ("-5 °C", "−5 °C"),
        ("-2,5 °C", "-2.5 °C"),
        ("Monday", "Mondays"),
        ("03/05/2024", "3/5/24"),
    ],
)
def test_one_value_in_two_notations(one, two):
    left, right = value_of(one), value_of(two)
    assert left.comparable(right)
    assert left.agrees(right)


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("12 am", "12 pm"),
        ("12:30 am", "12:30 pm"),
        ("1 am", "1 pm"),
        ("-5 °C", "5 °C"),
        ("-500 euros", "500 euros"),
        ("1,850 litres", "1.8 litres"),
        ("10,5 kg", "105 kg"),
        ("05.03.2024", "5 April 2024"),
        ("05.03.2024", "3 May 2024"),
        ("25/3/2024", "24 March 2024"),
        ("3/25/24", "25 March 1924"),
        ("31.12.99", "31.12.2099"),
        ("03/05/2024", "03/06/2024"),
    ],
)
def test_values_that_differ(one, two):
    left, right = value_of(one), value_of(two)
    assert left.comparable(right)
    assert not left.agrees(right)


@pytest.mark.parametrize("text", ["10%-20% off", "10% to 20% off", "10 % -20 % off"])
def test_a_dash_between_numbers_is_no_minus(text):
    assert [value.key for value in values(f"It is {text}.")] == [(10.0,), (20.0,)]


def test_a_list_without_blanks_has_no_decimal_comma():
    assert value_of("5,10,15 kg").key == (5.0, 10.0, 15.0)


@pytest.mark.parametrize("one", ["03/05/2024", "Monday", "19th century"])
def test_it_cannot_be_told_whether_a_written_date_is_that_day(one):
    assert not value_of(one).comparable(value_of("March 5, 2024"))


@given(DATES)
def test_a_date_is_itself_in_every_notation(day):
    month = MONTHS.split("|")[day.month - 1]
    known = value_of(f"{day.day} {month} {day.year}")
    slashes = (day.strftime("%d/%m/%Y"), day.strftime("%m/%d/%y"))
    for text in (f"{day.day}.{day.month}.{day.year}", day.strftime("%d.%m.%y"), day.isoformat(), *slashes):
        other = value_of(text)
        assert other.agrees(known) or (text in slashes and not other.comparable(known))


@given(st.integers(0, 10**7), st.sampled_from((1, 2)))
def test_a_decimal_comma_says_what_a_point_does(number, places):
    written = f"{number / 10**places:.{places}f}"
    grouped = f"{number / 10**places:,.{places}f}"
    german = grouped.translate(str.maketrans(",.", ".,"))
    keys = [value_of(f"{text} euros").key for text in (written, written.replace(".", ","), grouped, german)]
    assert keys == [(float(written),)] * 4
