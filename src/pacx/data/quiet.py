"""Keeps what Pillow and pydicom say of damaged files off the screen.

A damaged file can make them say thousands of lines, with words out of its header in them: a patient's name, say. What
is wrong with a file is in the `ImageError` that `read_cxr` raises, so nothing is lost.

Filters of warnings are global, so this is for programs (the command line, its workers, the server), which own their
process; the reader itself leaves them alone.
"""

from __future__ import annotations

import logging
import warnings

__all__ = ["quiet_decoders"]

_TALKERS = ("PIL", "pydicom")


def quiet_decoders() -> None:
    """Ignore the warnings and log records of Pillow and pydicom from now on, in this process."""
    for name in _TALKERS:
        warnings.filterwarnings("ignore", module=rf"{name}(\.|$)")
        logging.getLogger(name).setLevel(logging.CRITICAL)
