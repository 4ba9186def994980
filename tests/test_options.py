"""Settings of methods: reading, converting, refusing with the range beside the name."""

from dataclasses import dataclass

import pytest

from erasure_core.errors import BadInput
from erasure_core.options import choice, describe_options, flag, number, parse_options, read_options


@dataclass(frozen=True)
class Settings:
    epochs: int = number(3, 1, 50, "rounds", whole=True)
    reg: float = number(0.1, 0.0, 1e3, "ridge")
    scale: float | None = number(None, 0.0, 10.0, "weight, or the method's own")
    variant: str = choice("close", ("close", "hard"), "which")
    exact: bool = flag(False, "keep all")
    expand: bool | None = flag(None, "sentences")


def read(**given):
    return read_options(Settings, given, "rece")


def test_defaults_are_those_of_the_dataclass():
    assert read() == Settings(3, 0.1, None, "close", False, None)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"epochs": "5"}, 5),
        ({"epochs": 50}, 50),
        ({"epochs": 2.0}, 2),
        ({"reg": "1e-3"}, 0.001),
        ({"reg": 0}, 0.0),
        ({"reg": 1000}, 1000.0),
        ({"scale": None}, None),
        ({"scale": "0.5"}, 0.5),
        ({"variant": "hard"}, "hard"),
        ({"exact": "yes"}, True),
        ({"exact": "On"}, True),
        ({"exact": "0"}, False),
        ({"exact": True}, True),
        ({"expand": None}, None),
        ({"expand": "false"}, False),
    ],
)
def test_numbers_and_texts_are_converted(given, expected):
    (name,) = given
    value = getattr(read(**given), name)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("given", "takes"),
    [
        ({"epochs": 0}, "1 to 50"),
        ({"epochs": 51}, "1 to 50"),
        ({"epochs": 2.5}, "1 to 50"),
        ({"epochs": "many"}, "1 to 50"),
        ({"epochs": True}, "1 to 50"),
        ({"epochs": None}, "1 to 50"),
        ({"epochs": [3]}, "1 to 50"),
        ({"reg": float("nan")}, "0 to 1000"),
        ({"reg": float("inf")}, "0 to 1000"),
        ({"reg": -1e-9}, "0 to 1000"),
        ({"scale": "none"}, "0 to 10"),
        ({"variant": "soft"}, r"close \| hard"),
        ({"variant": None}, r"close \| hard"),
        ({"exact": "maybe"}, r"yes \| no"),
        ({"exact": 2}, r"yes \| no"),
        ({"exact": None}, r"yes \| no"),
    ],
)
def test_what_does_not_fit_is_refused_with_name_value_and_range(given, takes):
    ((name, value),) = given.items()
    with pytest.raises(BadInput, match=rf"option '{name}' cannot be .*\. It takes {takes}: \w+") as caught:
        read(**given)
    assert repr(value) in str(caught.value)


def test_an_unknown_name_lists_all_with_ranges_and_defaults():
    with pytest.raises(BadInput) as caught:
        read(epoch=3)
    assert str(caught.value) == f"'rece' has no option 'epoch'. Its options: {describe_options(Settings)}."


def test_the_description_is_one_line_of_names_ranges_and_defaults():
    assert describe_options(Settings) == (
        "epochs (1 to 50; default 3), reg (0 to 1000; default 0.1), scale (0 to 10; default chosen by the method), "
        "variant (close | hard; default close), exact (yes | no; default no), "
        "expand (yes | no; default chosen by the method)"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        (" , ,", {}),
        ("epochs=3, reg=0.1", {"epochs": "3", "reg": "0.1"}),
        ("epochs = 3\nreg=0.1,", {"epochs": "3", "reg": "0.1"}),
        ("name=a=b", {"name": "a=b"}),
    ],
)
def test_options_are_written_as_name_and_value(text, expected):
    assert parse_options(text) == expected


@pytest.mark.parametrize("text", ["epochs", "epochs=", "=3", "epochs:3", "reg=1, exact"])
def test_what_is_not_an_option_is_quoted(text):
    with pytest.raises(BadInput, match=r"is not an option\. Write name=value, separated by commas"):
        parse_options(text)


def test_an_option_given_twice_is_refused():
    with pytest.raises(BadInput, match="'reg' is given twice"):
        parse_options("reg=1, epochs=3, reg=2")


def test_text_goes_all_the_way_to_settings():
    assert read(**parse_options("epochs=7, variant=hard, exact=yes")) == Settings(7, 0.1, None, "hard", True, None)
