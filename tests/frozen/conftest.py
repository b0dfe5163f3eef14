"""The tiny store and encoder of the evaluation's tests."""

from tests.evaluation.conftest import encoder, encoder_folder, store

__all__ = ["encoder", "encoder_folder", "store"]
