"""The commands `data list` and `data show`: which public data sets there are, and all that is known of each."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterator

from pacx.data.sources import SOURCES, source_module
from pacx.data.sources.card import Card, Expected
from pacx.errors import PacxError

__all__ = ["card_of", "count_lines", "describe_source", "list_sources", "prepare_command", "show_source"]


def list_sources() -> dict[str, str]:
    """List the public data sets that `pacx prepare` reads, with who may get them and what they are for.

    Example:
        pacx data list

    Returns:
        Title of each data set, by the name that `pacx prepare` knows it by.
    """
    rows = [("name", "images", "access", "use in the paper")]
    cards = {name: card for name in SOURCES if (card := card_of(name)) is not None}
    for name, card in cards.items():
        images = "" if card.expected.rows is None else f"{card.expected.rows:,}"
        rows.append((name, images, card.access, card.use))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for name, images, access, use in rows:
        print(f"{name:<{widths[0]}}  {images:>{widths[1]}}  {access:<{widths[2]}}  {use}")
    print(
        "\nopen: anybody; registration: an account; restricted: a signed agreement; credentialed: training and a signed"
        "\nagreement. `pacx data show NAME` tells more. For files of your own: folder, table, labs."
    )
    return {name: card.title for name, card in cards.items()}


def show_source(name: str) -> dict[str, str]:
    """Print all that is known of a public data set: contents, labels, splits, access, faults, citation, how to prepare.

    Example:
        pacx data show nih

    Args:
        name: as in `pacx data list`.

    Returns:
        The text, by the name.

    Raises:
        PacxError: there is no such data set.
    """
    text = describe_source(name)
    print(text)
    return {name: text}


def card_of(name: str) -> Card | None:
    """Return the card of a source; None for those that read anybody's own files."""
    return getattr(source_module(name), "CARD", None)


def describe_source(name: str) -> str:
    """Return the text of `data show`.

    Raises:
        PacxError: there is no such data set.
    """
    card = card_of(name)
    if card is None:
        public = ", ".join(one for one in SOURCES if card_of(one) is not None)
        raise PacxError(f"{name!r} reads your own files and is no public data set. These are: {public}.")
    about = inspect.cleandoc(source_module(name).__doc__ or "")
    facts = [
        f"Access: {card.access} ({card.where}).",
        f"Licence: {card.license}.",
        f"Patient ids: {card.patients_of or 'unknown'} (stores of one name share patients).",
        f"Expected below the root: {', '.join(card.files)}.",
        *count_lines(card),
        f"Prepare: {prepare_command(name)}",
    ]
    wrapped = [textwrap.fill(one, width=100, subsequent_indent="  ", break_on_hyphens=False) for one in facts]
    return "\n".join([about, "", *wrapped])


def prepare_command(name: str) -> str:
    """Return the command line that prepares a data set."""
    extra = {
        "medmod": " --images /data/mimic-cxr-jpg",
        "vindr": " --annotations /data/vindr/annotations",
    }.get(name, "")
    return f"pacx prepare {name} /data/{name}{extra} --out stores/{name}"


def count_lines(card: Card) -> Iterator[str]:
    """Say how many images the full release has, whole and by part."""
    yield from _counted(card.expected, "")
    for part, expected in card.expected_of_part.items():
        yield from _counted(expected, f" with --part {part}")


def _counted(expected: Expected, suffix: str) -> Iterator[str]:
    if expected.rows is None:
        return
    splits = ", ".join(f"{number:,} {split}" for split, number in expected.splits.items())
    positives = ", ".join(f"{label} {number:,}" for label, number in expected.positives.items())
    text = f"Images{suffix}: {expected.rows:,}" + (f" ({splits})" if splits else "")
    yield text + (f"; positives: {positives}" if positives else "") + "."
