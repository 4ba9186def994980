"""Every name of ComfyUI that the nodes use exists in the version at hand, and takes what we give it."""

import host_code
import pytest

# variables that hold the host's objects, and the files of the nodes they occur in; the script has one of each
OBJECTS = {
    "patcher": {"host"},
    "model": {"host"},
    "clip": {"host"},
    "clone": {"host"},
    "guider": {"host"},
    "executor": {"host"},
    "denoiser": {"host"},
    "network": {"host"},
    "config": {"host"},
    "vae": {"host"},
    "bar": {"host"},
    "tokenizer": {"host"},
    "instance": {"host"},
}


@pytest.fixture(scope="module")
def wanted():
    return host_code.read(OBJECTS)


@pytest.fixture(scope="module")
def answer(wanted, in_comfy):
    given = {name: sorted(getattr(wanted, name)) for name in ("names", "attributes", "calls", "overrides")}
    return in_comfy("host_names", **given)


def test_the_list_is_read_from_the_code(wanted):
    assert {"comfy.patcher_extension.WrappersMP.OUTER_SAMPLE", "folder_paths.get_full_path_or_raise"} <= wanted.names
    assert "comfy.weight_adapter.LoRAAdapter" in wanted.names
    assert {"patcher.get_key_patches", "clip.patcher", "model.get_wrappers", "guider.conds"} <= wanted.attributes
    assert {"model.clone", "executor.class_obj"} <= wanted.attributes
    assert ("clone.patcher.add_object_patch", 2, ()) in wanted.calls
    assert ("comfy.latent_formats.LatentFormat", "scale_factor") in wanted.overrides
    assert {name.split(".")[0] for name in wanted.attributes} == OBJECTS.keys(), (
        "an object of the table is not used any more"
    )
    assert wanted.untyped <= OBJECTS.keys(), "a new object of the host: say in the table what it is"
    assert len(wanted.names) > 30 and len(wanted.attributes) > 20


def test_the_check_can_fail(answer):
    assert answer["control"][0] == ["comfy.sd.NoSuchThing", "clip.no_such"]
    assert answer["control"][1][0][0] == "clip.clone"


def test_every_name_exists(answer):
    assert answer["names"] == []


def test_every_attribute_of_its_objects_exists(answer):
    assert answer["objects"] == sorted(OBJECTS)
    assert answer["attributes"] == []


def test_every_call_is_taken(answer):
    assert answer["calls"] == []


def test_what_we_override_is_there_to_be_overridden(answer):
    assert answer["overrides"] == []
