"""The ladder of formats: one file of each published kind is told by its content, and what is damaged is refused."""

import format_fixtures as f
import pytest
import torch
from safetensors.torch import save_file

from erasure_core.errors import UnknownFormat, WrongFamily
from erasure_core.formats import describe, load
from erasure_core.formats.detect import kind_of
from erasure_core.formats.folder import open_header
from erasure_core.keys import SD2, SDXL

ROWS = {
    "1 SPM": (f.SPM_SD1, f.TRIO, "spm"),
    "1 SPM of SDXL": (f.SPM_SDXL, f.TRIO, "spm"),
    "1 SPM, stripped": (f.SPM_SD1, None, "spm-stripped"),
    "2 ACE": (f.ACE_SD1, {**f.TRIO, "rank": "4"}, "ace"),
    "3 slider": (f.SLIDER_SD1, None, "slider"),
    "3 slider of SDXL": (f.SLIDER_SDXL, None, "slider"),
    "4 Flux slider": (f.FLUX_SLIDER, None, "flux-slider"),
    "5 kohya": (f.KOHYA_SDXL, {"ss_network_dim": "8"}, "kohya"),
    "5 LECO": (f.LECO_SD1, None, "kohya"),
    "6 EraseAnything": (f.ERASE_ANYTHING, {"format": "pt"}, "erase-anything"),
    "7 attention processors": (f.MACE_LORA, None, "attn-procs"),
    "8 PEFT": (f.PEFT_SDXL, None, "peft"),
    "9 differences": (f.DIFF_SD1, None, "diff"),
    "9 differences by ComfyUI's names": (f.DIFF_COMFY, None, "diff"),
    "9 set_weight": (f.SET_WEIGHT, None, "set-weight"),
    "12 U-Net": (f.UNET_SD1, None, "unet"),
    "12 U-Net, wrapped": ({f"module.{key}": shape for key, shape in f.UNET_SD1.items()}, None, "unet"),
    "13 ESD": (f.ESD_SD1, None, "partial-unet"),
    "13 ESD strict": (f.ESD_STRICT_SD1, None, "partial-unet"),
    "13 ESD of SDXL": (f.ESD_SDXL, None, "partial-unet"),
    "14 checkpoint": (f.CHECKPOINT_SD1, None, "checkpoint"),
    "15 text encoder": (f.TEXT_MODEL, None, "text-encoder"),
    "15 AdvUnlearn": (f.ADV_UNLEARN, None, "text-encoder"),
    "16 Receler": (f.RECELER, None, "receler"),
    "17 ESD's wrapper": (f.WRAPPER, None, "esd-wrapper"),
}


@pytest.mark.parametrize("row", ROWS)
def test_every_kind_is_told_by_its_content(tmp_path, row):
    shapes, metadata, kind = ROWS[row]
    assert kind_of(open_header(f.hollow(tmp_path / "x.safetensors", shapes, metadata))).name == kind


def zeros(shapes, few=4):
    """The first tensors: torch.save has no files without content."""
    return {key: torch.zeros(shape) for key, shape in list(shapes.items())[:few]}


ARCHIVES = {
    "3 slider": (zeros(f.SLIDER_SD1, 99), "slider"),
    "10 CA": ({"unet": zeros(f.ESD_STRICT_SD1)}, "ca-delta"),
    "10 CA with words": ({"unet": zeros(f.ESD_STRICT_SD1), "modifier_token": {"<new1>": torch.zeros(768)}}, "ca-delta"),
    "11 CA checkpoint": ({"state_dict": zeros(f.CA_CKPT), "embed": torch.zeros(1, 768)}, "ca-ckpt"),
    "12 U-Net": (zeros({k: s for k, s in f.UNET_SD1.items() if "up_blocks" not in k}, 9), "unet"),
    "13 UCE": (zeros(f.ESD_STRICT_SD1), "partial-unet"),
    "16 Receler": (f.nested(f.RECELER), "receler"),
}


@pytest.mark.parametrize("row", ARCHIVES)
def test_archives_of_torch_are_told_by_the_same_tests(tmp_path, row):
    content, kind = ARCHIVES[row]
    torch.save(content, tmp_path / "x.pt")
    assert kind_of(open_header(tmp_path / "x.pt")).name == kind


@pytest.mark.parametrize(
    "file", ["diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.fp16.safetensors", "in pieces"]
)
def test_the_folder_of_a_pipeline(tmp_path, file):
    (tmp_path / "unet").mkdir()
    (tmp_path / "text_encoder").mkdir()
    (tmp_path / "model_index.json").write_text("{}")
    f.hollow(tmp_path / "text_encoder" / "model.safetensors", f.TEXT_MODEL)
    if file == "in pieces":
        for i, keys in enumerate((list(f.UNET_SD1)[:4], list(f.UNET_SD1)[4:]), start=1):
            name = f"diffusion_pytorch_model-0000{i}-of-00002.safetensors"
            f.hollow(tmp_path / "unet" / name, {key: f.UNET_SD1[key] for key in keys})
    else:
        f.hollow(tmp_path / "unet" / file, f.UNET_SD1)
    header = open_header(tmp_path)
    assert kind_of(header).name == "pipeline"
    assert set(header.shapes) == {f"unet.{k}" for k in f.UNET_SD1} | {f"text_encoder.{k}" for k in f.TEXT_MODEL}
    assert kind_of(open_header(tmp_path / "unet")).name == "unet" or file == "in pieces"
    assert kind_of(open_header(tmp_path / "text_encoder")).name == "text-encoder"


def test_a_pipeline_without_weights_says_so(tmp_path):
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(UnknownFormat, match=r"whole pipeline, but there are no weights in its folder unet"):
        load(tmp_path)


@pytest.mark.parametrize("row", [row for row in ROWS if row[:2] not in ("1 ", "17")])
def test_a_truncated_file_of_every_kind_is_a_sentence(tmp_path, row):
    path = f.hollow(tmp_path / "x.safetensors", *ROWS[row][:2])
    with path.open("r+b") as stream:
        stream.truncate(path.stat().st_size - 1)
    with pytest.raises(UnknownFormat, match=r"^x\.safetensors is cut off"):
        load(path)


@pytest.mark.parametrize(("row", "method"), [("4 Flux slider", "slider"), ("6 EraseAnything", "eraseanything")])
def test_files_for_flux_are_read_as_flux(tmp_path, row, method):
    erasure = load(f.hollow(tmp_path / "x.safetensors", *ROWS[row][:2]))
    assert (erasure.base["family"], erasure.recipe["method"]) == ("flux", method)
    assert "unmatched" not in erasure.diagnostics


def test_a_membrane_of_sd1_on_sdxl_names_the_key_and_the_widths(tmp_path):
    path = f.hollow(tmp_path / "x.safetensors", {k: s for k, s in f.SPM_SD1.items() if "attn2" in k}, f.TRIO)
    with pytest.raises(
        WrongFamily, match=r"attn2_to_v changes a weight of shape \(1280, 768\).*sdxl has \(1280, 2048\)"
    ):
        load(path, base=SDXL.shapes())


@pytest.mark.parametrize("shapes", [f.SPM_SD1, f.ESD_SD1], ids=["SPM", "ESD"])
def test_what_fits_a_model_but_for_the_text_is_not_loaded_in_half(tmp_path, shapes):
    """SD1 and SD2 differ in the width of the text alone, so that most of a file would fit."""
    path = f.hollow(tmp_path / "x.safetensors", shapes, f.TRIO if shapes is f.SPM_SD1 else None)
    base = {name: torch.zeros(()).expand(shape) for name, shape in SD2.shapes().items()}
    wrong = r"(2 of its 7|32 of its 64) entries do not fit sd2, first .*to_k.* \(\d+, 768\) .* has \(\d+, 1024\)"
    with pytest.raises(WrongFamily, match=wrong):
        load(path, base=base)


@pytest.mark.parametrize("row", [row for row in ROWS if row[0] in "1235789" and row[1] == " "])
def test_one_screen_says_what_it_is(tmp_path, row):
    shapes, metadata, _ = ROWS[row]
    path = f.hollow(tmp_path / "x.safetensors", shapes, metadata)
    lines = describe(path).splitlines()
    assert len(lines) <= 25
    assert any(line.startswith("format") and kind_of(open_header(path)).title in line for line in lines)


def test_a_stripped_spm_is_loaded_and_asks_for_its_concept(tmp_path):
    path = f.hollow(tmp_path / "x.safetensors", f.SPM_SD1)
    erasure = load(path)
    assert "phrases" not in erasure.gate and erasure.gate["rows"] == "positive"
    assert erasure.diagnostics["concept"].startswith("probably SPM, concept unknown: name the concept")
    told = load(path, concept="Mickey Mouse | mickey")
    assert told.gate == {"neighbours": [], "rows": "positive", "phrases": ["Mickey Mouse", "mickey"]}
    assert told.recipe["concepts"][0]["target"] == "Mickey Mouse" and "concept" not in told.diagnostics


@pytest.mark.parametrize(
    ("shapes", "metadata", "gate", "method"),
    [
        (f.SPM_SD1, {**f.TRIO, "prompts": '["Mickey Mouse", "a, b"]'}, ("positive", ["Mickey Mouse", "a, b"]), "spm"),
        (f.SPM_SD1, {**f.TRIO, "prompts": "Mickey Mouse,mickey"}, ("positive", ["Mickey Mouse", "mickey"]), "spm"),
        (f.ACE_SD1, {**f.TRIO, "rank": "4"}, ("full", ["Mickey Mouse"]), "ace"),
        (f.SLIDER_SD1, None, ("full", None), "slider"),
        (f.LECO_SD1, None, (None, None), "lora"),
        (f.MACE_LORA, None, (None, None), "lora"),
    ],
)
def test_the_gate_that_a_format_calls_for(tmp_path, shapes, metadata, gate, method):
    erasure = load(f.hollow(tmp_path / "x.safetensors", shapes, metadata))
    assert (erasure.gate.get("rows"), erasure.gate.get("phrases")) == gate
    assert erasure.recipe["method"] == method and erasure.recipe["format"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_slider_as_published_loads_whole(tmp_path, dtype):
    torch.manual_seed(3)
    file = {k: torch.randn(s, dtype=dtype) if s else torch.tensor(1.0, dtype=dtype) for k, s in f.SLIDER_SD1.items()}
    torch.save(file, tmp_path / "age_alpha1.0_rank4_noxattn_last.pt")
    erasure = load(tmp_path / "age_alpha1.0_rank4_noxattn_last.pt")
    assert len(erasure.weight_deltas) == 7 and {d.scale for d in erasure.weight_deltas.values()} == {0.25}
    stem = "lora_unet_down_blocks_0_resnets_0_conv1"
    down, up = file[f"{stem}.lora_down.weight"].double(), file[f"{stem}.lora_up.weight"].double()
    expected = 0.25 * torch.einsum("or,rihw->oihw", up[:, :, 0, 0], down)
    found = erasure.weight_deltas["unet.down_blocks.0.resnets.0.conv1.weight"].dense().double()
    assert (found - expected).norm() <= 1e-6 * expected.norm()


def test_a_key_that_is_no_tensor_is_ignored_and_a_program_refused(tmp_path):
    class Trap:
        def __reduce__(self):
            return (print, ("sprung",))

    torch.save({"unet": zeros(f.ESD_STRICT_SD1), "trap": Trap()}, tmp_path / "delta.bin")
    with pytest.raises(UnknownFormat, match="asks for more than tensors"):
        load(tmp_path / "delta.bin")


def test_files_without_a_head_are_refused(tmp_path):
    save_file({"down_blocks.0.attentions.0.down.weight": torch.zeros(8, 32)}, tmp_path / "x.safetensors")
    with pytest.raises(UnknownFormat, match=r"the eraser of down_blocks\.0\.attentions\.0 is not whole"):
        load(tmp_path / "x.safetensors")
