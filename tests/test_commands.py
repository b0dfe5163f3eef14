"""From a typed function to flags, recipe keys and help."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest

from pacx import commands
from pacx.commands import COMMANDS, build_parser, check_arguments, friendly_arguments
from pacx.errors import MissingExtraError, PacxError


def bake(
    what: str,
    *,
    out: Path,
    minutes: float = 30.0,
    sizes: list[int] | None = None,
    toppings: list[str] | None = None,
    span: tuple[float, float] = (0.0, 1.0),
    shape: Literal["round", "square"] = "round",
    glaze: bool = False,
) -> dict[str, object]:
    """Bake a cake.

    Longer words about baking.

    Example:
        pacx bake sponge --out cake

    Args:
        what: the kind of cake.
        out: where it goes;
            a folder.
        minutes: time in the oven.
        sizes: diameters in cm.
        toppings: what goes on it.
        span: from and to.
        shape: of the tin.
        glaze: sugar on top.
    """
    return {
        "what": what,
        "out": out,
        "minutes": minutes,
        "sizes": sizes,
        "toppings": toppings,
        "span": span,
        "shape": shape,
        "glaze": glaze,
    }


def test_help_shows_description_defaults_choices_and_the_example() -> None:
    text = " ".join(build_parser("bake", bake).format_help().split())
    for words in (
        "Longer words about baking",
        "where it goes; a folder.",
        "default: 30.0",
        "{round,square}",
        "example: pacx bake sponge --out cake",
    ):
        assert words in text


def test_flags_may_be_written_the_usual_way() -> None:
    argv = friendly_arguments(bake, ["sponge", "--glaze", "--sizes", "20", "26", "--out", "x"])
    assert argv == ["sponge", "--glaze", "true", "--sizes", "[20,26]", "--out", "x"]
    parsed = build_parser("bake", bake).parse_args(argv)
    assert (parsed.what, parsed.glaze, parsed.sizes, parsed.out) == ("sponge", True, [20, 26], Path("x"))


def test_a_list_may_be_given_in_several_parts() -> None:
    argv = friendly_arguments(bake, ["sponge", "--sizes", "20", "--out", "x", "--sizes", "26", "28"])
    assert argv == ["sponge", "--sizes", "[20,26,28]", "--out", "x"]


def sell(cakes: list[Path], *, out: Path, price: float = 1.0) -> None:
    """Sell cakes.

    Args:
        cakes: which ones.
        out: where to.
        price: each.
    """
    del cakes, out, price


def test_a_list_may_be_given_by_position_by_its_flag_or_both() -> None:
    for argv in (["a", "b", "--out", "x"], ["--cakes", "a", "b", "--out", "x"], ["a", "--out", "x", "--cakes", "b"]):
        parsed = build_parser("sell", sell).parse_args(friendly_arguments(sell, argv))
        assert (parsed.cakes, parsed.out) == ([Path("a"), Path("b")], Path("x"))
    assert check_arguments("sell", sell, {"cakes": ["a"], "out": "x"})["cakes"] == [Path("a")]
    assert friendly_arguments(sell, ["--help"]) == ["--help"]
    assert friendly_arguments(sell, ["-h"]) == ["-h"]
    assert friendly_arguments(sell, []) == []


def test_words_in_a_list_stay_words_and_a_pair_may_be_written_with_a_blank() -> None:
    argv = friendly_arguments(bake, ["sponge", "--toppings", "No", "A, B", "--span", "0.5", "1", "--out", "x"])
    parsed = build_parser("bake", bake).parse_args(argv)
    assert parsed.toppings == ["No", "A, B"]
    assert tuple(parsed.span) == (0.5, 1.0)


def test_dashes_in_flags_are_as_good_as_underscores() -> None:
    argv = friendly_arguments(bake, ["--bake-time", "3", "--tin-size=4", "a-b", "--out", "c-d"])
    assert argv == ["--bake_time", "3", "--tin_size=4", "a-b", "--out", "c-d"]


def test_a_flag_given_its_value_keeps_it() -> None:
    argv = friendly_arguments(bake, ["sponge", "--glaze", "false", "--sizes=[1]", "--out", "x"])
    assert argv == ["sponge", "--glaze", "false", "--sizes=[1]", "--out", "x"]


def test_recipe_arguments_are_typed_and_completed_with_defaults() -> None:
    checked = check_arguments("bake", bake, {"what": "sponge", "out": "x", "minutes": 5})
    assert checked == {
        "what": "sponge",
        "out": Path("x"),
        "minutes": 5.0,
        "sizes": None,
        "toppings": None,
        "span": (0.0, 1.0),
        "shape": "round",
        "glaze": False,
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"what": "a", "out": "x", "minuets": 5}, "no argument minuets.*It takes: what, out, minutes"),
        ({"what": "a", "out": "x", "minutes": "long"}, "minutes"),
        ({"what": "a", "out": "x", "shape": "oval"}, "shape"),
        ({"out": "x"}, "what"),
    ],
)
def test_a_wrong_recipe_argument_is_named(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(PacxError, match=message):
        check_arguments("bake", bake, arguments)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = commands.Command("no_such_package.module:function", "x", "train", "train")
    monkeypatch.setitem(COMMANDS, "absent", absent)
    with pytest.raises(MissingExtraError, match=r"pip install '\.\[train\]'"):
        commands.load("absent")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_for_every_flag_and_an_example(name: str) -> None:
    parser = build_parser(name, commands.load(name))
    assert f"example: pacx {name}" in " ".join(parser.format_help().split())
    silent = [action.dest for action in parser._actions if not (action.help or "").strip()]
    assert not silent
