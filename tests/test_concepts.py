"""The concept text: what it accepts, what it refuses and how it says so; and that it survives a round trip."""

import random
import unicodedata

import pytest

from erasure_core.concepts import KINDS, NEUTRAL, Concept, ConceptSet, concept_set, parse_concepts
from erasure_core.errors import BadInput


def only(text: str, kind: str = "object") -> Concept:
    found = parse_concepts(text, kind)
    assert len(found) == 1
    return found.concepts[0]


def test_the_full_line():
    assert only("van gogh | vincent van gogh -> art @ 1.5   # comment") == Concept(
        "van gogh", "art", ("vincent van gogh",), weight=1.5
    )


@pytest.mark.parametrize(
    "line",
    [
        "circle | disc -> square @ 1.5",
        "circle|disc->square@1.5",
        "\tcircle |\tdisc  ->\t square   @1.5  ",
        "circle | disc → square @ 1.5",
        "circle | disc => square @ 1,5",
        "circle | disc –> square @ 1.5",
        "- circle | disc -> square @ 1.5",
        "* circle | disc -> square @ 1.5",
        "• circle | disc -> square @ 1.5",
        "circle | disc | -> square | @ 1.5",
        "circle || disc -> square @ 1.5 #",
        "circle @ 1.5 -> square".replace("circle", "circle | disc"),
        "ｃｉｒｃｌｅ｜disc －＞ square ＠１．５",
        "circle\u3000|\u00a0disc -> square @ 1.50",
        "\ufeffcircle | disc -> square @ 1.5",
        "cir\u00adcle | di\u200bsc -> square @ 1.5",
        '"circle" | "disc" -> "square" @ 1.5',
        "“circle” | „disc“ -> ”square” @ 1.5",
        "object: circle | disc -> square @ 1.5",
        "Object : circle | disc -> square @ 1.5",
        "\n# note\n\ncircle | disc -> square @ 1.5\r\n   # end\r",
    ],
)
def test_forgiving_spellings_of_one_concept(line):
    assert only(line) == Concept("circle", "square", ("disc",), weight=1.5)


@pytest.mark.parametrize(
    ("line", "target"),
    [
        ('"a | b -> c @ 2 # + [d] (e:1.2)"', "a | b -> c @ 2 # + [d] (e:1.2)"),
        (r'"say \"hi\""', 'say "hi"'),
        (r'"back\slash \(kept\)"', r"back\slash \(kept\)"),
        (r'"ends with \\"', "ends with \\"),
        (r"van gogh \(artist\)", "van gogh (artist)"),
        (r"mail\@home \| work \-> out", "mail@home | work -> out"),
        ('Dwayne "The Rock" Johnson', 'Dwayne "The Rock" Johnson'),
        ('a 5" disc', 'a 5" disc'),
        ("c#", "c#"),
        ("well-known = equal", "well-known = equal"),
        ("artist: Monet", "artist: Monet"),
        ("🐱 猫 кошка", "🐱 猫 кошка"),
        ("👩\u200d🎨", "👩\u200d🎨"),
        ("Cafe\u0301", "Caf\u00e9"),
        ("  many    spaces ", "many spaces"),
    ],
)
def test_phrases_are_read_as_meant(line, target):
    assert only(line).target == target


def test_kind_prefix_and_default_kind():
    found = parse_concepts('style: Monet\nPERSON: Ann\ncat\nsafety:"a: b"', kind="character")
    assert [(c.kind, c.target) for c in found] == [
        ("style", "Monet"),
        ("person", "Ann"),
        ("character", "cat"),
        ("safety", "a: b"),
    ]


def test_preserved_phrases():
    found = parse_concepts('circle\n+ a red square\n+triangle | star # two\n- + "a -> b"\n+ triangle')
    assert found.preserve == ("a red square", "triangle", "star", "a -> b")


def test_neutral_anchors_are_resolved_not_stored():
    for kind in KINDS:
        concept = Concept("x", kind=kind)
        assert concept.anchor == ""
        assert concept.resolved_anchor() == NEUTRAL[kind]
    assert Concept("x", kind="style").resolved_anchor({"style": "picture"}) == "picture"
    assert Concept("x", kind="object").resolved_anchor({"style": "picture"}) == "thing"
    assert Concept("x", anchor="y").resolved_anchor({"object": "z"}) == "y"
    assert only("circle ->").anchor == only('circle -> "" @ 2').anchor == ""


def test_the_same_concept_twice_is_one():
    found = parse_concepts("Circle | disc -> square\ncircle | round thing -> Square")
    assert found.concepts == (Concept("Circle", "square", ("disc", "round thing")),)


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("-> square", "Line 1, column 1", "the phrase to erase is missing"),
        ("| disc -> square", "Line 1, column 1", "the phrase to erase is missing"),
        ("a\n  style: -> art", "Line 2, column 10", "the phrase to erase is missing"),
        ('"" | a', "Line 1, column 1", "the phrase to erase is missing"),
        ("a -> b -> c", "Line 1, column 11", "two anchors"),
        ("a -> b | c", "Line 1, column 10", "two anchors"),
        ("\r\na @ much", "Line 2, column 5", "'much' is no weight"),
        ("a @", "Line 1, column 4", "'' is no weight"),
        ("a @ nan", "Line 1, column 5", "is no weight"),
        ("a @ -1", "Line 1, column 5", "is no weight"),
        ("a @ 0", "Line 1, column 5", "out of range"),
        ("a @ 100.5", "Line 1, column 5", "at most 100"),
        ("a @ 1e999", "Line 1, column 5", "out of range"),
        ("a @ 1 @ 2", "Line 1, column 9", "two weights"),
        ('ok\nfine | "open', "Line 2, column 8", "never closed"),
        ('"open \\"', "Line 1, column 1", "never closed"),
        ('"a" b', "Line 1, column 4", "follows a closing quote"),
        ("a -> b\n\n A -> c", "Line 3, column 2", "'A' has two anchors, 'b' and 'c'"),
        ("a | b -> c\nb -> d", "Line 2, column 1", "'b' has two anchors"),
        ("a -> b\na -> b @ 2", "Line 2, column 1", "listed twice"),
        ("a -> A", "Line 1, column 1", "replaced by itself"),
        ("a | b -> b", "Line 1, column 1", "replaced by itself"),
        ("a\x00b", "Line 1, column 2", "U+0000"),
        ("ok\na\ud800", "Line 2, column 2", "U+D800"),
        ("a\n+", "Line 2, column 2", "nothing follows the +"),
        ("a\n+ b -> c", "Line 2, column 8", "has no anchor"),
        ("a\n+ b @ 2", "Line 2, column 7", "no weight"),
        ("+ b\na | B", "Line 1, column 3", "to be erased and to be preserved"),
        ("ok -> " + "word " * 10_000, "Line 1, column 7", "10000 words"),
        ("x" * 1001, "Line 1, column 1", "1001 characters"),
    ],
)
def test_errors_name_the_place_and_show_the_way(text, place, words):
    with pytest.raises(BadInput) as caught:
        parse_concepts(text)
    message = str(caught.value)
    assert message.startswith(place + ": ")
    assert words in message
    assert message.count("Line ") == 1
    assert "\n" not in message and len(message) < 400


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n  # at all", "+ only this"])
def test_an_empty_list_says_how_to_write_one(text):
    with pytest.raises(BadInput, match=r"no concept to erase.*circle \| disc -> square @ 1.5"):
        parse_concepts(text)


@pytest.mark.parametrize("text", [None, 3, b"circle", ["circle"]])
def test_text_must_be_text(text):
    with pytest.raises(BadInput, match="written as text"):
        parse_concepts(text)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"target": ""}, "The target is empty"),
        ({"target": " \u200b "}, "The target is empty"),
        ({"target": 3}, "is text, not int"),
        ({"target": None}, "is text, not NoneType"),
        ({"target": "a\nb"}, "stays on one line"),
        ({"target": "a\x07"}, r"U\+0007"),
        ({"target": "word " * 76}, "76 words"),
        ({"target": "a", "aliases": "b"}, "list of phrases"),
        ({"target": "a", "aliases": ["", "b"]}, "aliases is empty"),
        ({"target": "a", "preserve": 3}, "list of phrases"),
        ({"target": "a", "anchor": "a"}, "replaced by itself"),
        ({"target": "a", "kind": "stlye"}, "Did you mean 'style'"),
        ({"target": "a", "kind": None}, "no kind of concept"),
        ({"target": "a", "weight": 0}, "out of range"),
        ({"target": "a", "weight": float("nan")}, "out of range"),
        ({"target": "a", "weight": float("inf")}, "out of range"),
        ({"target": "a", "weight": "1"}, "is a number, not str"),
        ({"target": "a", "weight": True}, "is a number, not bool"),
    ],
)
def test_a_concept_checks_itself(fields, words):
    with pytest.raises(BadInput, match=words) as caught:
        Concept(**fields)
    assert "Line " not in str(caught.value)


def test_a_set_checks_itself():
    with pytest.raises(BadInput, match="no concept"):
        ConceptSet(())
    with pytest.raises(BadInput, match="Concept objects, not str"):
        ConceptSet(("circle",))
    with pytest.raises(BadInput, match="two anchors"):
        ConceptSet((Concept("a", "b"), Concept("c", "d", aliases=("A",))))
    with pytest.raises(BadInput, match="erased and to be preserved"):
        ConceptSet((Concept("a", preserve=("b",)), Concept("B")))


def test_concept_set_takes_what_a_caller_has():
    one = Concept("circle", "square")
    assert concept_set("circle -> square") == concept_set(one) == concept_set([one]) == ConceptSet((one,))
    mixed = concept_set([one, "star\n+ heart", ConceptSet((Concept("moon"),), ("ring", "heart"))], kind="object")
    assert [c.target for c in mixed] == ["circle", "star", "moon"]
    assert mixed.preserve == ("heart", "ring")
    assert concept_set("Monet", kind="style").concepts[0].kind == "style"
    with pytest.raises(BadInput, match="not int"):
        concept_set(3)


ALPHABET = 'ab Zé猫🐱""|@#+-->→=>\\()[]{}:*•“”＋ｗ.,0 1\u0301\u3000\u00a0\''


def random_phrase(rng: random.Random, prefix: str = "") -> str:
    starts = ["", "", "+", "- ", "style: ", "#", '"', "-> ", "* ", "\\"]
    body = "".join(rng.choice(ALPHABET) for _ in range(rng.randint(1, 12)))
    return f"{prefix}{rng.choice(starts)}x{body}"


def random_set(rng: random.Random) -> ConceptSet:
    concepts = [
        Concept(
            random_phrase(rng, f"t{i} " if rng.random() < 0.5 else ""),
            anchor="" if rng.random() < 0.3 else random_phrase(rng, "anchor "),
            aliases=tuple(random_phrase(rng, f"alias {i} {j} ") for j in range(rng.randint(0, 2))),
            kind=rng.choice(KINDS),
            weight=rng.choice([1.0, 2.0, 1.5, 100.0, rng.uniform(1e-9, 100)]),
        )
        for i in range(rng.randint(1, 3))
    ]
    concepts = list({c.target.casefold(): c for c in concepts}.values())
    return ConceptSet(tuple(concepts), tuple(random_phrase(rng, "keep ") for _ in range(rng.randint(0, 2))))


def test_round_trip_of_random_sets():
    rng = random.Random(7)
    for _ in range(600):
        made = random_set(rng)
        text = made.to_text()
        assert parse_concepts(text) == made, text
        assert parse_concepts(text.replace("\n", "\r\n")).to_text() == text


def test_text_is_deterministic_plain_where_possible_and_writes_all_preserved():
    made = ConceptSet((Concept("circle", "square", ("disc",), ("ring",), "style", 2),), ("a (red) star", "ring"))
    assert made.to_text() == "style: circle | disc -> square @ 2\n+ a (red) star\n+ ring\n"
    assert parse_concepts(made.to_text()).all_preserved == made.all_preserved == ("a (red) star", "ring")


def test_no_text_crashes_the_parser():
    rng = random.Random(3)
    for _ in range(3000):
        text = "".join(rng.choice(ALPHABET + "\n\r\t\x00") for _ in range(rng.randint(0, 30)))
        try:
            found = parse_concepts(text)
        except BadInput as error:
            assert str(error)
        else:
            for concept in found:
                assert concept.target == unicodedata.normalize("NFC", concept.target) != ""
            assert parse_concepts(found.to_text()) == found, repr((text, found.to_text()))


def test_a_list_of_texts_reads_as_one_text() -> None:
    made = concept_set(["circle -> square", "+ star", Concept("moon")])
    assert [c.target for c in made] == ["circle", "moon"] and made.preserve == ("star",)
