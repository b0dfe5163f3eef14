"""What an encoder's `config.json` says of the data that it learned from."""

from __future__ import annotations

from typing import Any

from pacx.data.store import Store

__all__ = ["training_data"]


def training_data(store: Store) -> list[dict[str, Any]]:
    """Describe the train split of a store: its name, the hashes of content and split, the licence."""
    return [
        {
            "name": store.name,
            "content_hash": store.content_hash,
            "split_hash": store.meta["split_hash"],
            "split": "train",
            "license": store.meta["license"],
        }
    ]
