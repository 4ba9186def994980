"""Policies: every form of file says the same, every mistake is named with its place, saving loses nothing."""

import json
import sys

import pytest

from erasure_core import BadInput, Concept
from erasure_core.firewall import HELP, LARGEST, Policy, Rule, parse_policy, read_policy, write_policy
from erasure_core.firewall.files import FIELDS

RULES = (
    Rule(Concept("Pikachu", "mouse", ("pika", "pika pika"), kind="character"), 0.8),
    Rule(Concept("cat", preserve=("a dog",), weight=2.0), 0.5, ("cat burglar", "cool cat")),
    Rule(Concept("Monet", kind="style"), 0.0),
)
JSON = """{"preserve": ["a person"], "rules": [
 {"concept": "Pikachu", "anchor": "mouse", "aliases": ["pika", "pika pika"], "kind": "character", "sensitivity": 0.8},
 {"concept": "cat", "preserve": ["a dog"], "weight": 2, "except": ["cat burglar", "cool cat"]},
 {"concept": "Monet", "kind": "style", "sensitivity": 0}]}"""
TOML = """
preserve = ["a person"]
[[rules]]
concept = "Pikachu"
anchor = "mouse"
aliases = ["pika", "pika pika"]
kind = "character"
sensitivity = 0.8
[[rules]]
concept = "cat"
preserve = ["a dog"]
weight = 2
except = ["cat burglar", "cool cat"]
[[rules]]
concept = "Monet"
kind = "style"
sensitivity = 0
"""
CSV = """concept, anchor, aliases, kind, sensitivity, weight, preserve, except
Pikachu, mouse, pika | pika pika, character, 0.8,,,
"cat",,,, ,2, a dog, cat burglar|cool cat

Monet,,,style,0,,,
"""
needs_tomllib = pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib came with Python 3.11")


@pytest.mark.parametrize(
    ("text", "preserve"),
    [(JSON, ("a person",)), pytest.param(TOML, ("a person",), marks=needs_tomllib), (CSV, ())],
    ids=["json", "toml", "csv"],
)
def test_all_forms_say_the_same_with_and_without_an_ending(text, preserve):
    expected = Policy(RULES, preserve)
    ending = {JSON: "json", TOML: "toml", CSV: "csv"}[text]
    for name in (f"p.{ending}", f"P.{ending.upper()}", "policy", "p.txt"):
        assert parse_policy(text, name) == expected
        assert parse_policy(text, name).fingerprint == expected.fingerprint


def test_a_plain_list_is_concept_text():
    policy = parse_policy("# mine\npikachu | pika -> mouse\nstyle: Monet @ 2\n+ a dog\n", "list.txt")
    assert [r.concept.phrases for r in policy] == [("pikachu", "pika"), ("Monet",)]
    assert policy.rules[1].concept.kind == "style" and policy.preserve == ("a dog",)
    assert parse_policy("concept\n") == parse_policy("concept", "list.txt")
    assert parse_policy('["cat", {"concept": "dog"}]') == parse_policy("cat\ndog")


def test_saving_and_reading_gives_an_equal_policy(tmp_path):
    policy = Policy(RULES, ("a person",))
    file = write_policy(policy, tmp_path / "sub" / "p.json")
    assert read_policy(file) == policy and read_policy(file).fingerprint == policy.fingerprint
    write_policy(read_policy(file), tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == file.read_bytes()
    assert [p.name for p in file.parent.iterdir()] == ["p.json"]


def test_what_stands_at_the_top_holds_for_rules_that_say_nothing_else():
    text = '{"sensitivity": 0.2, "kind": "person", "rules": ["ann", {"concept": "bob", "sensitivity": 1}]}'
    assert [(r.sensitivity, r.concept.kind) for r in parse_policy(text)] == [(0.2, "person"), (1.0, "person")]


def test_the_same_concept_twice_is_one_rule():
    first = Rule(Concept("cat", aliases=("kitty",)), 0.5, ("cat burglar",))
    second = Rule(Concept("Cat", aliases=("kitten",)), 0.5, ("cat walk",))
    (rule,) = Policy((first, second))
    assert rule.concept.aliases == ("kitty", "kitten") and rule.excuses == ("cat burglar", "cat walk")


def test_the_fingerprint_sees_every_field():
    rule = RULES[1]
    changed = [Rule(rule.concept, 0.6, rule.excuses), Rule(rule.concept, 0.5, ("cat burglar",)), Rule(RULES[2].concept)]
    prints = {Policy((each,)).fingerprint for each in (rule, *changed)} | {Policy((rule,), ("sky",)).fingerprint}
    assert len(prints) == 5


@pytest.mark.parametrize(
    ("text", "name", "sentence"),
    [
        (
            '{"rules": [{"concept": "a", "alias": ["b"]}]}',
            "p.json",
            r"p\.json, rule 1: there is no field 'alias'\. Did",
        ),
        ('{"rules": ["ok", {"aliases": []}]}', "p.json", r"p\.json, rule 2: the field 'concept' is missing\. Write"),
        ('{"rules": [{"concept": "a", "aliases": "b"}]}', "p.json", r"rule 1: aliases is a list of phrases, not 'b'"),
        ('{"rules": [{"concept": "a", "kind": "animal"}]}', "p.json", r"rule 1: 'animal' is no kind of concept"),
        ('{"rules": [{"concept": "a", "sensitivity": 3}]}', "p.json", r"rule 1: The sensitivity is a number from 0"),
        ('{"rules": [{"concept": "a", "except": ["b"]}]}', "p.json", r"rule 1: The exception 'b' does not contain 'a'"),
        ('{"rules": [{"concept": "!?"}]}', "p.json", r"rule 1: '!\?' holds no letter or digit"),
        ('{"rules": [{"concept": 3}]}', "p.json", r"rule 1: The target of a concept is text, not int"),
        ('{"rules": [7]}', "p.json", r"rule 1: a rule is a name or a table of fields, not 7"),
        ('{"rules": [\n"a",\n]}', "p.json", r"p\.json, line \d: this is no valid JSON"),
        ('{"rule": []}', "p.json", r"p\.json has no list of rules"),
        ('{"rules": [], "policy": 1}', "p.json", r"There is no concept to erase"),
        ('{"rules": ["a"], "policy": 2}', "p.json", r"policy of version 2\. Update Membrane"),
        ("concept,kind\na,animal", "p.csv", r"p\.csv, line 2: 'animal' is no kind"),
        ("concept,kind\na,style,x", "p.csv", r"p\.csv, line 2: there are more cells than columns"),
        ("name,kind\na,style", "p.csv", r"p\.csv, line 1: there is no field 'name'"),
        ("aliases,kind\na,style", "p.csv", r"p\.csv, line 1: the header row must name the column 'concept'"),
        ("concept,weight\n\na,much", "p.csv", r"p\.csv, line 3: the weight 'much' is no number"),
        ("cat -> a -> b", "p.txt", r"p\.txt: Line 1, column \d+: two anchors"),
        pytest.param("[[rules]]\nconcept = x", "p.toml", r"p\.toml: this is no valid TOML", marks=needs_tomllib),
    ],
)
def test_mistakes_are_named_with_their_place(text, name, sentence):
    with pytest.raises(BadInput, match=sentence):
        parse_policy(text, name)


def test_contradictions_between_rules_name_one_of_them():
    text = '{"rules": ["dog", {"concept": "cat", "sensitivity": 0.1}, {"concept": "cat", "sensitivity": 0.9}]}'
    with pytest.raises(BadInput, match=r"p\.json, rule 2: 'cat' has two sensitivities, 0\.1 and 0\.9"):
        parse_policy(text, "p.json")
    with pytest.raises(BadInput, match="has two anchors"):
        parse_policy('{"rules": [{"concept": "a", "anchor": "b"}, {"concept": "a", "anchor": "c"}]}')


def test_ten_thousand_rules_are_the_limit():
    rules = tuple(Rule(Concept(f"thing {i}")) for i in range(LARGEST))
    assert len(Policy(rules)) == LARGEST
    with pytest.raises(BadInput, match=r"holds up to 10,000 rules, this one has 10,001"):
        Policy((*rules, Rule(Concept("one more"))))


def test_unreadable_files_are_refused_in_a_sentence(tmp_path):
    with pytest.raises(BadInput, match=r"The policy none\.json cannot be read: .*Check the path"):
        read_policy(tmp_path / "none.json")
    (tmp_path / "bad.csv").write_bytes(b"concept\n\xff\xfe")
    with pytest.raises(BadInput, match=r"bad\.csv is no text in UTF-8"):
        read_policy(tmp_path / "bad.csv")


def test_old_python_is_told_so(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 10, 0))
    with pytest.raises(BadInput, match=r"reading TOML needs Python 3\.11"):
        parse_policy(TOML, "p.toml")


def test_the_help_names_every_field_and_its_example_can_be_read():
    assert all(f"\n{field} " in HELP for field in FIELDS)
    example = HELP[HELP.index('{"sensitivity"') : HELP.index("``;\n")]
    assert len(parse_policy(json.dumps(json.loads(example)))) == 2
