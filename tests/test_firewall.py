"""The firewall: off is off to the last bit, what is named is gone, and its maps are the joint solution."""

import dataclasses

import pytest
import torch
from tiny_models import tiny_sdxl

from erasure_core import BadInput, Concept, UnknownFormat
from erasure_core.closed_form.uce import problems_of
from erasure_core.firewall import (
    MOST,
    Firewall,
    Policy,
    Rule,
    build_index,
    index_path,
    load_index,
    mapped_context,
    mapped_pooled,
    parse_policy,
    ready_index,
    save_index,
)
from erasure_core.firewall import solve as solving
from erasure_core.gates import PromptRow, words_of
from erasure_core.solver import EditProblem

POLICY = parse_policy("circle | disc -> square\nheart -> star\nmoon -> cross")
UNTOUCHED = [f"a {c} {s}" for c in ("red", "blue", "green", "yellow") for s in ("star", "ring", "triangle", "cross")]
UNTOUCHED += [
    "",
    "circular saw",
    "a discotheque",
    "hearty soup, moonlight",
    "catalogue",
    "square",
    "(star:1.3)",
    "ring",
]


@pytest.fixture(scope="module")
def wall(demo):
    return Firewall(POLICY, demo)


@pytest.fixture(scope="module")
def index(demo):
    return build_index(POLICY, demo)


@pytest.fixture(scope="module")
def sdxl():
    pytest.importorskip("diffusers")
    from erasure_core.models import from_pipeline

    return from_pipeline(tiny_sdxl())


def row_of(model, prompt, blind=False):
    encoded = model.encode([prompt])
    return PromptRow(encoded.hidden[0], None if blind else words_of(encoded)[0])


def names(touches):
    return [touch.rule.concept.target for touch in touches]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a red circle", ["circle"]),
        ("two DISCS, ((hearts:0.4)) in moonlight", ["circle", "heart"]),
        ("moon moon moon", ["moon"]),
        ("a circle's heart on a moon", ["circle", "heart", "moon"]),
        ("heart shaped pool", []),
        ("a red star", []),
        (", ".join(["a big green star on a gray background"] * 12) + ", and a disc", ["circle"]),
    ],
)
def test_words_decide_what_is_touched(demo, wall, prompt, expected):
    touches = wall.touched(row_of(demo, prompt))
    assert names(touches) == expected
    assert all((t.activation, t.mode) == (1.0, "exact") for t in touches)


def test_untouched_prompts_give_bitwise_the_same_pictures_and_do_no_work(demo, monkeypatch):
    assert len(UNTOUCHED) == 24
    fresh = Firewall(POLICY, demo)
    monkeypatch.setattr(fresh, "_solver", None)
    assert fresh.map_for([]) is None
    plain, kept = demo.encode(UNTOUCHED), fresh.encode(UNTOUCHED)
    assert torch.equal(plain.hidden, kept.hidden)
    assert torch.equal(demo.sample(plain, seed=2, steps=3), demo.sample(kept, seed=2, steps=3))


def test_a_touched_prompt_leaves_the_others_of_its_batch_alone(demo, wall):
    prompts = ["a red star", "a red circle", "a green ring"]
    before, after = (demo.sample(e, seed=2, steps=3) for e in (demo.encode(prompts), wall.encode(prompts)))
    assert torch.equal(before[[0, 2]], after[[0, 2]]) and not torch.equal(before[1], after[1])


def test_what_a_prompt_names_is_gone(demo, wall):
    from erasure_core.demo.detector import load_detector

    prompts = ["a red circle", "a blue disc", "a green heart", "a yellow moon"] * 4
    wanted = ["circle", "circle", "heart", "moon"] * 4
    instead = ["square", "square", "star", "cross"] * 4
    read = load_detector().read
    plain, kept = (
        [r.shape for r in read(demo.decode(demo.sample(e, seed=4, steps=12)))]
        for e in (demo.encode(prompts), wall.encode(prompts))
    )
    assert sum(shape == want for shape, want in zip(plain, wanted, strict=True)) >= 14
    assert sum(shape == want for shape, want in zip(kept, wanted, strict=True)) == 0
    assert sum(shape == new for shape, new in zip(kept, instead, strict=True)) >= 14


def reference(model, policy, numbers, space):
    """The joint map of rules from one EditProblem over all of their rows, preserved rows as the firewall's."""
    parts = [problems_of(model, [policy.rules[i].concept], ())[space].rows for i in numbers]
    known = Firewall(policy, model)._solver._prepare()[space]
    problem = EditProblem(
        torch.cat([p.erase for p in parts]),
        torch.cat([p.anchors for p in parts]),
        known.preserve,
        known.ridge,
        torch.cat([p.omega for p in parts]),
        known.weights,
        space=space,
    )
    up, down = problem.factors()
    return torch.eye(problem.width).double() + up @ down


def dense(emap):
    factor = emap.factors[0]
    return torch.eye(emap.width).double() + factor.up.double() @ factor.down.double()


@pytest.mark.parametrize("numbers", [[0], [0, 2], [0, 1, 2]])
def test_maps_equal_one_edit_problem_over_all_touched_rows(demo, wall, numbers):
    touches = [t for t in wall.touched(row_of(demo, "circle, heart, moon")) if t.number in numbers]
    maps = wall.map_for(touches)
    assert list(maps) == ["clip_l"] and not maps["clip_l"].factors[0].up.requires_grad
    assert torch.allclose(dense(maps["clip_l"]), reference(demo, POLICY, numbers, "clip_l"), atol=2e-5)
    assert len(maps["clip_l"].factors) == 1 and maps["clip_l"].factors[0].bias is None


def test_order_does_not_matter_and_gains_scale_their_own_terms(demo, wall):
    touches = wall.touched(row_of(demo, "circle, heart"))
    both, turned = wall.map_for(touches), wall.map_for(touches[::-1])
    assert torch.equal(both["clip_l"].factors[0].up, turned["clip_l"].factors[0].up)
    half = wall.map_for([dataclasses.replace(touches[0], activation=0.5), touches[1]])["clip_l"].factors[0]
    whole = both["clip_l"].factors[0]
    ratio = (half.up.norm(dim=0) / whole.up.norm(dim=0)).tolist()
    assert sorted({round(r, 5) for r in ratio}) == [0.5, 1.0]
    assert torch.equal(half.down, whole.down)


def test_neighbours_of_a_touched_rule_stay(demo):
    kept = Policy((Rule(Concept("circle", "square", preserve=("ring",))),))
    plain = Policy((Rule(Concept("circle", "square")),))
    row = demo.encode(["ring"]).hidden[0]
    moved = [
        float((mapped_context(row, w.map_for(w.touched(row_of(demo, "circle")))) - row).norm())
        for w in (Firewall(kept, demo), Firewall(plain, demo))
    ]
    assert moved[0] < 0.5 * moved[1]


def test_both_text_spaces_of_sdxl_are_mapped(sdxl):
    wall = Firewall(POLICY, sdxl)
    plain, (kept, touches) = sdxl.encode(["a circle", "a star"]), wall.screened(["a circle", "a star"])
    assert [names(found) for found in touches] == [["circle"], []]
    maps = wall.map_for(touches[0])
    assert set(maps) == {"sdxl_lg", "sdxl_pooled"}
    for space in maps:
        assert torch.allclose(dense(maps[space]), reference(sdxl, POLICY, [0], space), atol=2e-4)
    assert torch.equal(kept.hidden[0], mapped_context(plain.hidden[0], maps))
    assert torch.equal(kept.pooled[0], mapped_pooled(plain.pooled[0], maps))
    assert torch.equal(kept.hidden[1], plain.hidden[1]) and torch.equal(kept.pooled[1], plain.pooled[1])
    assert not torch.equal(kept.pooled[0], plain.pooled[0])


def test_more_than_64_concepts_are_refused(demo):
    wall = Firewall(Policy(tuple(Rule(Concept(f"zib{chr(97 + i // 9)}{i % 9}x", "thing")) for i in range(70))), demo)
    prompt = PromptRow(torch.zeros(1, 1), words_of(demo.encode([", ".join(r.concept.target for r in wall.policy)]))[0])
    touches = wall.touched(prompt)
    assert len(touches) == 70
    with pytest.raises(BadInput, match=f"names 70 concepts of the policy; at most {MOST}"):
        wall.map_for(touches)


def test_rows_are_encoded_once_and_forgotten_in_order(demo, monkeypatch):
    monkeypatch.setattr(solving, "REMEMBERED", 2)
    wall, asked = Firewall(POLICY, demo), []
    real = solving._rows
    monkeypatch.setattr(solving, "_rows", lambda model, concept: asked.append(concept.target) or real(model, concept))
    for prompt in ("circle", "heart", "circle", "moon", "circle", "heart"):
        wall.map_for(wall.touched(row_of(demo, prompt)))
    assert asked == ["circle", "heart", "moon", "heart"]


def test_texts_without_words_are_judged_by_the_index_alone(demo, wall, index):
    sees = Firewall(POLICY, demo, index)
    assert sees.sees_vectors and not wall.sees_vectors
    assert wall.touched(row_of(demo, "a red circle", blind=True)) == []
    (touch,) = sees.touched(row_of(demo, "a red circle", blind=True))
    assert touch.rule.concept.target == "circle" and touch.activation > 0.9 and touch.mode == "approximate"
    assert sees.touched(row_of(demo, "a red star", blind=True)) == []
    assert sees.touched(row_of(demo, "a red star")) == []


def test_max_and_product_combine_words_and_likeness(demo, index):
    def touched(combine, prompt):
        return {t.number: t for t in Firewall(POLICY, demo, index, combine).touched(row_of(demo, prompt))}

    for prompt in ("a red circle", "a star", "a circle and a heart", "hearts", "a rround disc"):
        like = index(row_of(demo, prompt).rows)
        named = touched("words", prompt)
        most, least = touched("max", prompt), touched("product", prompt)
        for i in range(3):
            word, alike = float(i in named), float(like[i])
            assert (most[i].activation if i in most else 0.0) == pytest.approx(max(word, alike))
            assert (least[i].activation if i in least else 0.0) == pytest.approx(word * alike)


def test_an_index_is_kept_beside_its_policy_and_used_only_with_it(demo, sdxl, index, tmp_path, monkeypatch):
    path = index_path(tmp_path / "mine.json")
    assert path.name == "mine.json.index.safetensors"
    seen = []
    built = ready_index(path, POLICY, demo, lambda done, total: seen.append((done, total)))
    assert seen == [(3, 3)] and [p.name for p in tmp_path.iterdir()] == [path.name]
    monkeypatch.setattr("erasure_core.firewall.index.measure", None)
    again = ready_index(path, POLICY, demo)
    for field in dataclasses.fields(built):
        assert torch.equal(getattr(built, field.name), getattr(again, field.name))
        assert torch.equal(getattr(built, field.name), getattr(index, field.name))
    assert load_index(path, parse_policy("circle"), demo) is None
    save_index(built, path, POLICY, demo)
    assert load_index(path, POLICY, sdxl) is None
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UnknownFormat, match=r"The index mine\.json\.index\.safetensors cannot be read: .* Delete it"):
        load_index(path, POLICY, demo)


def test_a_stopped_build_leaves_no_file(demo, tmp_path):
    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ready_index(tmp_path / "i.safetensors", POLICY, demo, stop)
    assert not list(tmp_path.iterdir())


def test_wrong_settings_are_refused(demo, index):
    with pytest.raises(BadInput, match=r"combine is one of words, max, product, not 'sum'"):
        Firewall(POLICY, demo, index, "sum")
    with pytest.raises(BadInput, match="combine=max needs the index"):
        Firewall(POLICY, demo, combine="max")
    with pytest.raises(BadInput, match="The index is of 3 rules, the policy has 1"):
        Firewall(parse_policy("circle"), demo, index)
