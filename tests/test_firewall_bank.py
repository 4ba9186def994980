"""The benchmark's figures on a tenth of its bank, so that no change of a rule or word list goes unnoticed."""

import importlib.util
import random
from pathlib import Path

import pytest

from erasure_core.naming import Named, Naming
from erasure_core.words import words_of_prompt

BANK = Path(__file__).resolve().parents[1] / "benchmarks" / "firewall_bank.py"


@pytest.fixture(scope="module")
def bank():
    spec = importlib.util.spec_from_file_location("firewall_bank", BANK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def concepts(bank):
    return bank.concepts(1000)


@pytest.fixture(scope="module")
def naming(concepts):
    return Naming([Named((name, alias) if alias else (name,), kind=kind) for kind, name, alias, _ in concepts])


def test_the_bank_is_what_it_says(bank, concepts):
    assert sum(trap for *_, trap in concepts) == 500
    assert bank.concepts(1000) == concepts
    halves = [bank.neutral(which) for which in bank.HALVES]
    assert sum(map(len, halves)) == 300 and not set(halves[0]) & set(halves[1])
    assert sum(sort == "hard" for half in halves for sort, _ in half) >= 100


def test_concepts_that_are_named_fire(bank, concepts, naming):
    rng, shapes = random.Random(0), bank.templates("seen")
    fired = [
        number in naming(words_of_prompt(prompt))
        for number, (_, name, alias, _) in enumerate(concepts)
        for prompt in bank.ways(name, alias, rng.choice(shapes), rng).values()
    ]
    assert len(fired) == 4500 and sum(fired) >= 0.98 * len(fired)


def test_prompts_that_name_nothing_stay_untouched(bank, naming):
    wrong = [prompt for _, prompt in bank.neutral("seen") if naming(words_of_prompt(prompt))]
    assert len(wrong) <= 0.02 * 150, wrong
