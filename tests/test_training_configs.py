"""Files of settings made for SPM, LECO, Concept Sliders and ACE say the same here."""

import pytest

from erasure_core.errors import BadInput
from erasure_core.options import read_options
from erasure_core.training import read_configuration
from erasure_core.training.methods import method_named

SPM = """
prompts_file: "configs/cat/prompt.yaml"
pretrained_model:
  name_or_path: "some/model"
  v2: false
  v_pred: false
  clip_skip: 1
network:
  rank: 1
  alpha: 1.0
train:
  precision: float32
  noise_scheduler: "ddim"
  iterations: 3000
  batch_size: 1
  lr: 0.0001
  unet_lr: 0.0002
  text_encoder_lr: 5e-05
  optimizer_type: "AdamW8bit"
  lr_scheduler: "cosine_with_restarts"
  lr_warmup_steps: 500
  lr_scheduler_num_cycles: 3
  max_denoising_steps: 30
save:
  name: "cat"
  path: "output/cat"
  per_steps: 500
  precision: float32
logging:
  use_wandb: true
  interval: 500
  seed: 0
  prompts: ['cat', '', 'dog']
other:
  use_xformers: true
"""
SPM_PROMPTS = """
- target: "cat"
  positive: "cat"
  unconditional: ""
  neutral: "animal"
  action: "erase_with_la"
  guidance_scale: "1.5"
  resolution: 512
  batch_size: 1
  dynamic_resolution: true
  la_strength: 1000
  sampling_batch_size: 4
"""
LECO = """
prompts_file: "./prompts.yaml"
pretrained_model:
  name_or_path: "some/model"
  v2: true
  v_pred: true
network:
  type: "lierla"
  rank: 8
  alpha: 2.0
train:
  precision: "bfloat16"
  noise_scheduler: "ddim"
  iterations: 700
  lr: 1e-4
  optimizer: "lion"
  lr_scheduler: "linear"
save:
  name: "monet"
logging:
  use_wandb: true
other:
  use_xformers: true
"""
LECO_PROMPTS = """
- target: "monet"
  guidance_scale: 2
  resolution: 256
  batch_size: 2
"""
SLIDER = """
prompts_file: "./data/prompts.yaml"
pretrained_model:
  name_or_path: "some/model"
network:
  type: "c3lier"
  rank: 4
  alpha: 1.0
  training_method: "noxattn"
train:
  precision: "bfloat16"
  noise_scheduler: "ddim"
  iterations: 1000
  lr: 0.0002
  optimizer: "AdamW"
  lr_scheduler: "constant"
  max_denoising_steps: 50
save:
  name: "temp"
"""
SLIDER_PROMPTS = """
- target: "person"
  positive: "person, very old"
  unconditional: "person, very young"
  neutral: "person"
  action: "enhance"
  guidance_scale: 4
  resolution: 512
  dynamic_resolution: false
  batch_size: 1
- target: "sky"
  positive: "dark sky"
  unconditional: "sky"
  neutral: "sky"
  action: "erase"
  guidance_scale: 2
  resolution: 512
  batch_size: 1
"""
ACE = r"""#! /bin/bash
export CONCEPT="Some Mouse"
CUDA_VISIBLE_DEVICES=0 python src/train_ace.py \
  --prompt "$CONCEPT" \
  --surrogate '' \
  --train_method 'full' \
  --devices '0,0' \
  --iterations 1500 \
  --change_step_rate 1 \
  --lr 0.001 \
  --negative_guidance 3 \
  --surrogate_guidance 1.5 \
  --ddim_steps 30 \
  --anchor_prompt_path "data/words.txt" \
  --anchor_batch_size 2 \
  --pl_weight 0.8 \
  --null_weight 0.99 \
  --sc_clip_path "outputs/clip_${CONCEPT}.json" \
  --is_train_null \
  --with_prior_preservation \
  --no_certain_sur \
"""


def written(folder, files):
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder / next(iter(files))


def settings_of(found):
    """The method's own settings, which refuse names and values that it does not know."""
    return read_options(method_named(found.method).Settings, found.options, found.method)


def test_spm(tmp_path):
    files = {"configs/cat/config.yaml": SPM, "configs/cat/prompt.yaml": SPM_PROMPTS}
    found = read_configuration(written(tmp_path, files))
    settings = settings_of(found)
    assert found.method == "spm" and [c.to_text() for c in found.concepts] == ["cat -> animal"]
    (example,) = found.examples
    assert example.texts["concept"] == "cat" and example.texts["anchor"] == "animal" and example.eta is None
    assert (settings.steps, settings.lr, settings.warmup, settings.schedule) == (3000, 2e-4, 500, "cosine")
    assert (settings.rank, settings.alpha, settings.grid, settings.clip, settings.draws) == (1, 1.0, 30, 0.0, 1)
    assert (settings.eta, settings.random_anchors, settings.word_anchors, settings.anchor_weight) == (1.5, 4, 0, 1000.0)
    assert settings.size == 512
    said = " ".join(found.notes)
    assert all(word in said for word in ("dynamic_resolution", "AdamW8bit", "restarts", "pretrained_model"))
    assert "save" not in said and "not known" not in said


def test_spm_without_anchoring_and_with_its_own_sentences(tmp_path):
    prompts = "- {target: cat, action: erase, use_template: true}\n"
    found = read_configuration(written(tmp_path, {"config.yaml": SPM, "configs/cat/prompt.yaml": prompts}))
    assert found.options["random_anchors"] == 0
    assert len(found.examples) == 30 and all("cat" in e.texts["concept"] for e in found.examples)
    assert {e.texts["anchor"] for e in found.examples} == {""}


def test_spm_that_moves_one_text_away_from_another_is_trained_as_leco(tmp_path):
    prompts = "- {target: cat, positive: sleeping cat, neutral: dog, action: erase_with_la}\n"
    found = read_configuration(written(tmp_path, {"config.yaml": SPM, "configs/cat/prompt.yaml": prompts}))
    assert (found.method, found.options["scope"]) == ("leco", "xformer")
    (example,) = found.examples
    assert [example.texts[role] for role in ("positive", "unconditional", "neutral")] == ["sleeping cat", "dog", "dog"]
    assert settings_of(found).random_anchors == 4
    assert "trained as leco" in " ".join(found.notes)


def test_leco(tmp_path):
    found = read_configuration(written(tmp_path, {"config.yaml": LECO, "prompts.yaml": LECO_PROMPTS}))
    settings = settings_of(found)
    assert found.method == "leco" and [c.to_text() for c in found.concepts] == ["monet"]
    assert dict(found.examples[0].texts) == {
        "concept": "monet", "positive": "monet", "unconditional": "", "neutral": "", "anchor": "",
    }  # fmt: skip
    assert (settings.eta, settings.scope, settings.rank, settings.alpha) == (2.0, "attention", 8, 2.0)
    assert (settings.steps, settings.lr, settings.schedule, settings.warmup) == (700, 1e-4, "constant", 0)
    assert (settings.size, settings.draws, settings.grid, settings.word_anchors) == (256, 2, 50, 0)
    said = " ".join(found.notes)
    assert all(word in said for word in ("lion", "linear", "bfloat16"))


def test_sliders_keep_the_strength_and_the_sign_of_every_pair(tmp_path):
    found = read_configuration(written(tmp_path, {"data/config.yaml": SLIDER, "data/prompts.yaml": SLIDER_PROMPTS}))
    settings = settings_of(found)
    assert found.method == "slider" and settings.scope == "slider"
    assert [e.eta for e in found.examples] == [-4.0, 2.0]
    assert found.examples[0].texts["unconditional"] == "person, very young"
    assert [c.target for c in found.concepts] == ["person", "sky"]
    assert (settings.steps, settings.lr, settings.grid) == (1000, 2e-4, 50)


def test_attributes_go_before_every_text(tmp_path):
    path = written(tmp_path, {"config.yaml": SLIDER, "data/prompts.yaml": SLIDER_PROMPTS})
    found = read_configuration(path, attributes=("male", "female"))
    assert [e.texts["concept"] for e in found.examples] == ["male person", "male sky", "female person", "female sky"]
    assert found.examples[3].texts["positive"] == "female dark sky" and found.examples[3].eta == 2.0


@pytest.mark.parametrize(
    ("kind", "layers", "scope"),
    [
        ("c3lier", "full", "c3lier"),
        ("c3lier", "xattn", "xattn"),
        ("lierla", "noxattn", "selfattn"),
        ("lierla", "full", "attention"),
        ("c3lier", "noxattn-hspace", "slider"),
    ],
)
def test_layers_of_sliders(tmp_path, kind, layers, scope):
    text = SLIDER.replace('"c3lier"', kind).replace('"noxattn"', layers)
    found = read_configuration(written(tmp_path, {"config.yaml": text, "data/prompts.yaml": SLIDER_PROMPTS}))
    assert found.options["scope"] == scope
    assert ("hspace" in " ".join(found.notes)) == ("hspace" in layers)


def test_a_list_of_prompts_alone(tmp_path):
    found = read_configuration(written(tmp_path, {"prompts.yaml": LECO_PROMPTS}))
    assert found.method == "leco" and settings_of(found).steps == 500


def test_ace(tmp_path):
    files = {"scripts/train.sh": ACE, "data/words.txt": "Some Mouse\nA Duck\nA Dog\n\nA Duck\n"}
    found = read_configuration(written(tmp_path, files))
    settings = settings_of(found)
    assert found.method == "ace" and [c.to_text() for c in found.concepts] == ["Some Mouse"]
    assert found.concepts.all_preserved == ("A Duck", "A Dog")
    assert (settings.eta_c, settings.eta_u, settings.eta_p) == (3.0, 3.0, 1.5)
    assert (settings.pl, settings.nw, settings.word_anchors, settings.ramp) == (0.8, 0.99, 2, 0)
    assert (settings.steps, settings.lr, settings.grid, settings.size, settings.rank) == (1500, 1e-3, 30, 512, 4)
    assert settings.gamma == "text" and settings.latents == "student"
    assert "finished pictures" in " ".join(found.notes)


def test_ace_without_some_of_its_parts(tmp_path):
    plain = "python src/train_ace.py --prompt='a, b' --seperator ',' --surrogate art --train_method full --no_cond\n"
    found = read_configuration(written(tmp_path, {"train.sh": plain}))
    settings = settings_of(found)
    assert [c.to_text() for c in found.concepts] == ["a -> art", "b -> art"]
    assert (settings.pl, settings.nw, settings.word_anchors, settings.gamma) == (0.0, 1.0, 0, "one")
    assert (settings.steps, settings.lr, settings.eta_c) == (1000, 1e-5, 1.0)
    missing = ACE.replace("data/words.txt", "nowhere.txt")
    assert "nowhere.txt: not there" in " ".join(read_configuration(written(tmp_path, {"b.sh": missing})).notes)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"c.yaml": LECO}, "list of prompts ./prompts.yaml of c.yaml is not there"),
        ({"c.yaml": "train: {lr: 1}\n"}, "names no prompts_file"),
        ({"c.yaml": "prompts_file: p.csv\n"}, "read from .yaml files"),
        ({"c.yaml": "a: [1\nb: 2\n"}, r"damaged in line 2, column 2"),
        ({"c.yaml": "just words\n"}, "has to be a list of names with values"),
        ({"c.yaml": "- {positive: x}\n"}, "Prompt 1 of c.yaml has no target"),
        ({"c.yaml": "- {target: ''}\n"}, "neither a target nor a positive"),
        ({"c.yaml": "- {target: x, action: swap}\n"}, "action in prompt 1 of c.yaml is 'swap'"),
        ({"c.yaml": "- {target: x, guidance_scale: much}\n"}, "guidance_scale .* has to be a number, not 'much'"),
        ({"c.yaml": "- {target: x, resolution: 5.5}\n"}, "has to be a whole number, not 5.5"),
        ({"c.yaml": "- {target: x, dynamic_resolution: 7}\n"}, "has to be yes or no, not 7"),
        ({"c.yaml": "- {target: [x]}\n"}, "target .* has to be text"),
        ({"c.yaml": "- x\n"}, "prompt 1 of c.yaml has to be a list of names"),
        ({"c.yaml": "prompts_file: p.yaml\n", "p.yaml": "{}\n"}, "p.yaml has to be a list of prompts"),
        (
            {"c.yaml": "prompts_file: p.yaml\nnetwork: {type: x}\n", "p.yaml": "- {target: x}\n"},
            "Known: lierla, c3lier",
        ),
        ({"c.yaml": "!!python/object/apply:os.getcwd []\n"}, "damaged"),
        ({"c.sh": "train.py --prompt ''\n"}, "--prompt in c.sh is empty"),
        ({"c.sh": "train.py --prompt 'x\n"}, "quote that is never closed"),
        ({"c.sh": "# --prompt\n"}, "no command with a --prompt"),
    ],
)
def test_what_cannot_be_read_is_said_in_a_sentence(tmp_path, files, message):
    with pytest.raises(BadInput, match=message):
        read_configuration(written(tmp_path, files))


def test_files_that_are_none(tmp_path):
    with pytest.raises(BadInput, match="no file of settings"):
        read_configuration(tmp_path / "nothing.yaml")
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="UTF-8"):
        read_configuration(tmp_path / "b.yaml")
    (tmp_path / "large.yaml").write_text("#" * 1_000_001)
    with pytest.raises(BadInput, match="larger than a megabyte"):
        read_configuration(tmp_path / "large.yaml")


def test_unknown_names_are_said_to_have_no_effect(tmp_path):
    found = read_configuration(written(tmp_path, {"p.yaml": "- {target: x, colour: red}\n"}))
    assert found.notes == ("colour in prompt 1 of p.yaml is not known and has no effect.",)
