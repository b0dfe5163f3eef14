"""Write docs/data-sets/*.md from the sources' docstrings and cards: `python docs/make_data_sets.py`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

from pacx.data.catalogue import card_of, count_lines, prepare_command
from pacx.data.sources import SOURCES, source_module
from pacx.data.sources.card import Card

ACCESS = {
    "open": "anybody",
    "registration": "an account and a click",
    "restricted": "a signed agreement",
    "credentialed": "training on research with human subjects and a signed agreement",
}


def pages() -> dict[str, str]:
    """Return file name -> content."""
    cards = {name: card for name in SOURCES if (card := card_of(name)) is not None}
    return {"index.md": "\n".join(_index(cards)) + "\n"} | {
        f"{name}.md": "\n".join(_page(name, card)) + "\n" for name, card in cards.items()
    }


INTRODUCTION = """# Public data sets

`pacx prepare NAME FOLDER --out STORE` reads each of these as it is downloaded, and refuses half a download. We have
access to none of the restricted ones: their readers are built from what is published about the files and tested on
miniatures, `pacx simulate --format NAME`, with the same folders, names, columns and types. If a real one is refused,
the message says what does not fit; please report it, without any data.

This page and those of the data sets are written by `python docs/make_data_sets.py` from the readers themselves;
`pacx data list` and `pacx data show NAME` print the same. For files of your own there are the sources `folder`, `table`
and `labs` ([commands](../commands.md)). The way from access to a table of the paper is [here](../access-to-table.md).
"""


def _index(cards: dict[str, Card]) -> Iterator[str]:
    yield INTRODUCTION
    yield "| name | data set | images | access | use in the paper |\n|---|---|---:|---|---|"
    for name, card in cards.items():
        images = "" if card.expected.rows is None else f"{card.expected.rows:,}"
        yield f"| [`{name}`]({name}.md) | {card.title} | {images} | {card.access} | {card.use} |"
    yield "\n" + "; ".join(f"**{kind}**: {meaning}" for kind, meaning in ACCESS.items()) + "."


def _page(name: str, card: Card) -> Iterator[str]:
    about = inspect.cleandoc(source_module(name).__doc__ or "")
    title, _, body = about.partition("\n\n")
    yield f"# {card.title}\n\n{_sentence(title.partition(': ')[2] or title)}\n"
    for paragraph in body.split("\n\n"):
        heading, colon, text = paragraph.partition(":")
        known = colon and len(heading) < 40 and not heading.startswith("*")
        yield f"**{heading}.** {_sentence(text.strip())}\n" if known else f"{paragraph}\n"
    yield "## Access\n"
    yield f"{card.access}: {ACCESS[card.access]}. {card.where}. Licence: {card.license}.\n"
    yield "## Prepare\n"
    yield f"```console\n{prepare_command(name)}\n```\n"
    yield "Below the folder there should be: " + ", ".join(f"`{one}`" for one in card.files) + "."
    counts = [f"* {line}" for line in count_lines(card)]
    if counts:
        yield "\n" + "\n".join(counts)
    if card.patients_of:
        yield f"\nPatient ids: namespace `{card.patients_of}` (see [leaks](../leaks.md))."
    if card.reference_split:
        yield f"\n`--split reference`: {card.reference_split}."
    yield "\n## Try it without access\n"
    yield f"```console\npacx simulate --patients 80 --size 64 --format {name} --out miniature\n```"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def main(folder: Path) -> None:
    """Write the pages."""
    folder.mkdir(exist_ok=True)
    for name, text in pages().items():
        (folder / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("data-sets"))
