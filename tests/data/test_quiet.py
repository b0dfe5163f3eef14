from __future__ import annotations

import subprocess
import sys

from tests.data.seed_files import CANARY

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
