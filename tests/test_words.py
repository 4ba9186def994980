"""Words of a text: the same from its ids and from itself, and phrases found in them, against independent loops."""

import itertools
import random

import pytest

from erasure_core.gates import words_of
from erasure_core.inflection import plurals, singular
from erasure_core.matching import EXACT, INFLECTED, Finder
from erasure_core.naming import Named, Naming
from erasure_core.senses import CLEAR, DOUBTFUL, OTHER, sense
from erasure_core.words import APART, BESIDE, BOUNDARY, folded, words_of_ids, words_of_prompt, words_of_text

PROMPTS = [
    "a photo of Spider-Man, 8k",
    "((masterpiece)), (van Gogh:1.3) style",
    "the café's O'Keeffe painting; r2d2 & C-3PO",
    "rock 'n' roll, the cats' house",
    "naïve Ångström øl, ŁÓDŹ",
    "「猫」 and 東京タワー",
    "a \\(round\\) [thing] {of} wood!",
    "half-timbered house | 1950s, f/1.8",
    "don't we'll 'spiderman' said",
    "",
]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_ids_and_text_give_the_same_letters(demo, prompt):
    (ids,) = words_of(demo.encode([prompt]))
    from_ids, from_text = words_of_ids(ids), words_of_prompt(prompt)
    assert "".join(from_ids.texts) == "".join(from_text.texts)


@pytest.mark.parametrize("prompt", [PROMPTS[i] for i in (0, 1, 2, 6, 7)])
def test_ids_and_text_give_the_same_words_and_gaps(demo, prompt):
    (ids,) = words_of(demo.encode([prompt]))
    assert words_of_ids(ids) == words_of_prompt(prompt)


def test_words_survive_the_seam_of_two_chunks(demo):
    for count in range(70, 77):
        prompt = " ".join(["red"] * count) + " Spider-Man, O'Keeffe's house"
        (ids,) = words_of(demo.encode([prompt]))
        assert words_of_ids(ids) == words_of_prompt(prompt)


def test_weights_brackets_case_and_accents_do_not_matter():
    plain = words_of_prompt("cafe noir").texts
    for other in ("CAFÉ noir", "(café) noir", "((cafe:1.2) noir:0.5)", "cafe-noir", "cafe_noir", "[café] noir"):
        assert words_of_prompt(other).texts == plain
    assert folded("ÆØÅ ß") == "aeoa ss"


def test_marks_part_and_commas_bound():
    assert words_of_text("a b, c. d-e f").gaps == (BESIDE, BOUNDARY, APART, BESIDE, BESIDE, BESIDE)


def test_vectors_of_an_inversion_and_special_tokens_are_boundaries(demo):
    (ids,) = words_of(demo.encode(["red star"]))
    for odd in (-1, 49406, 49407, 60000):
        assert words_of_ids((ids[0], odd, ids[1])).gaps[0] == BOUNDARY


def test_plurals_and_singulars_undo_each_other():
    for word in ("cat", "box", "berry", "toy", "wolf", "knife", "mouse", "dress", "tomato", "witch", "snowman"):
        assert singular(plurals(word)[0]) == word
    assert "foxes" in plurals("fox") and "children" in plurals("child")
    assert all(singular(word) == word for word in ("glass", "news", "bus", "iris", "gas"))


def naive(phrases, texts):
    """Owners of phrases whose letters some run of words spells, by trying all runs."""
    found = set()
    for owner, phrase in enumerate(phrases):
        wanted = "".join(words_of_text(phrase).texts)
        for i in range(len(texts)):
            for j in range(i + 1, len(texts) + 1):
                if "".join(texts[i:j]) == wanted:
                    found.add(owner)
    return found


def test_the_finder_equals_a_loop_over_all_runs_of_words():
    rng = random.Random(0)
    syllables = ["ba", "bab", "ab", "ka", "kab", "zu"]
    phrases = [" ".join(rng.choice(syllables) for _ in range(rng.randint(1, 3))) for _ in range(60)]
    finder = Finder((i, phrase, False) for i, phrase in enumerate(phrases))
    for _ in range(200):
        text = words_of_text(" ".join(rng.choice(syllables) for _ in range(8)))
        exact = {hit.entry.owner for hit in finder(text) if hit.sure == EXACT}
        assert exact == naive(phrases, text.texts)


def test_all_ways_to_write_a_name_are_one():
    finder = Finder([(0, "Spider-Man", False)])
    for way in ("spider man", "spiderman", "SPIDER-MAN", "a Spíder-man's", "(spider) man"):
        assert [hit.entry.owner for hit in finder(words_of_prompt(way)) if hit.sure == EXACT] == [0]
    assert {hit.sure for hit in finder(words_of_text("two spider men"))} == {INFLECTED}
    assert not finder(words_of_text("spider, man")) and not finder(words_of_text("spidermannequin"))


def test_joining_words_loses_none_of_them():
    assert not Finder([(0, "therapist", False)])(words_of_text("the rapist"))
    assert Finder([(0, "the rock", False)])(words_of_text("the rock"))


def senses_of(prompt, phrase, kind="object"):
    text = words_of_prompt(prompt)
    return {sense(text, hit.start, hit.end, kind) for hit in Finder([(0, phrase, False)])(text)}


@pytest.mark.parametrize(
    ("prompt", "phrase", "kind", "expected"),
    [
        ("a cat", "cat", "object", CLEAR),
        ("a cat portrait", "cat", "object", CLEAR),
        ("a cat oil painting", "cat", "object", CLEAR),
        ("cat sleeping on a sofa", "cat", "object", CLEAR),
        ("a cat's tail", "cat", "object", CLEAR),
        ("cat. sofa", "cat", "object", CLEAR),
        ("cat jumps over a wall", "cat", "object", CLEAR),
        ("cat collar", "cat", "object", DOUBTFUL),
        ("an orange sunset", "orange", "object", DOUBTFUL),
        ("orange and teal", "orange", "object", DOUBTFUL),
        ("orange juice", "orange", "object", OTHER),
        ("heart shaped pool", "heart", "object", OTHER),
        ("a teddy bear", "bear", "object", OTHER),
        ("an orange sunset", "orange", "style", CLEAR),
        ("pikachu forest", "pikachu", "character", CLEAR),
        ("jordan river", "jordan", "person", OTHER),
        ("ruins in jordan", "jordan", "person", DOUBTFUL),
        ("jordan laughing", "jordan", "person", CLEAR),
        ("fog in autumn", "autumn", "person", DOUBTFUL),
        ("apple pie orchard", "apple pie", "object", CLEAR),
    ],
)
def test_senses(prompt, phrase, kind, expected):
    assert senses_of(prompt, phrase, kind) == {expected}


def test_a_word_inside_another_is_never_found():
    for prompt in ("catalogue", "concatenate", "scat", "cat5ish"):
        assert not senses_of(prompt.replace("5", "s"), "cat")


def test_more_sensitivity_never_names_less():
    prompts = ["a cat", "cats", "cat collar", "cat walk", "hot dogs", "orange juice", "jordan river", "catalogue"]
    steps = [0.0, 0.1, 0.3, 0.5, 0.6, 0.9, 1.0]
    phrases = [("cat",), ("dog",), ("orange",), ("jordan",)]
    for prompt in prompts:
        text = words_of_prompt(prompt)
        found = [set(Naming([Named(p, sensitivity=s) for p in phrases])(text)) for s in steps]
        assert all(less <= more for less, more in itertools.pairwise(found))
    cats = [bool(Naming([Named(("cat",), sensitivity=s)])(words_of_prompt("cats"))) for s in steps]
    assert cats == [False, True, True, True, True, True, True]


def test_excuses_hold_at_any_sensitivity_and_only_where_they_stand():
    naming = Naming([Named(("cat",), ("cat burglar",), sensitivity=1.0)])
    assert not naming(words_of_prompt("a (cat:1.2) burglar and two cat burglars"))
    assert naming(words_of_prompt("a cat burglar with a cat")) == [0]
