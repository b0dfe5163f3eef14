from __future__ import annotations

import subprocess
import sys

import pytest
from tests.data.seed_files import CANARY

from pacx.data.pixels import ImageError, refuse_damage

CODE = f"""
import sys, numpy as np
sys.path[:0] = {sys.path!r}
from tests.data.dicom_files import dicom_bytes, make_dicom
from pacx.data.images import read_cxr
from pacx.data.quiet import quiet_decoders
if sys.argv[1] == "quiet":
    quiet_decoders()
ds = make_dicom(np.zeros((3, 4), dtype=np.uint8), bits=8, ViewPosition="PA")
read_cxr(dicom_bytes(ds).replace(b"CS\\x02\\0PA", b"UI\\x02\\0{CANARY[:2]}"))
"""


def said(how: str) -> str:
    found = subprocess.run([sys.executable, "-c", CODE, how], capture_output=True, text=True, check=True)
    return found.stderr


def test_quieted_decoders_say_nothing_of_a_damaged_header() -> None:
    assert "UI" in said("loud") and "Ca" in said("loud")
    assert said("quiet") == ""


@pytest.mark.parametrize("value", [CANARY, f"O'{CANARY}", f'{CANARY}"', f"'\"{CANARY}", CANARY.encode()])
def test_the_reason_for_a_refusal_does_not_quote_the_header(value: str | bytes) -> None:
    """Found by fuzzing: the name of a patient in `invalid literal for int() with base 10: 'NAME'`."""
    with pytest.raises(ImageError, match="damaged") as caught, refuse_damage("It can't be read"):
        raise ValueError(f"this can't be a number: {value!r}, and neither can {value!r}")
    assert CANARY not in str(caught.value)
    assert "this can't be a number: …, and neither can" in str(caught.value)
    with pytest.raises(ImageError, match=r"base 10: …\)") as caught, refuse_damage("It cannot be read"):
        int(CANARY + "\0" * 500)
    with pytest.raises(ImageError, match=r"\(KeyError\)"), refuse_damage("It cannot be read"):
        raise KeyError(value)
