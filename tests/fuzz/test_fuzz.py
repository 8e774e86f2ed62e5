"""Damaged input ends in a result or in one clear line; ``benchmarks.fuzz`` has more."""

import random

import pytest
from fuzz_harness import FAULTS, attempt, make_template
from fuzz_readers import READERS

EXAMPLES = 80
CHEAP = [reader for reader in READERS if not reader.slow]


def name_of(reader):
    return reader.name


def test_readers_have_names_of_their_own():
    assert len({reader.name for reader in READERS}) == len(READERS)


@pytest.mark.parametrize("reader", CHEAP, ids=name_of)
def test_what_is_not_damaged_is_accepted(reader, tmp_path):
    template = make_template(reader, tmp_path)
    outcome = attempt(reader, template, tmp_path, None)
    assert outcome.verdict == "accepted", outcome.text


@pytest.mark.parametrize("reader", CHEAP, ids=name_of)
def test_damaged_input_ends_in_a_result_or_one_clear_line(reader, tmp_path):
    template = make_template(reader, tmp_path)
    places = [(file, way) for file in reader.damages for way in reader.damages[file]]
    for seed in range(EXAMPLES):
        # Every way in every file, in turn.
        outcome = attempt(
            reader,
            template,
            tmp_path,
            random.Random(seed),
            places[seed % len(places)],
        )
        assert outcome.verdict not in FAULTS, f"{seed}: " + "\n".join(outcome)
