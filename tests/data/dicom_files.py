"""Builds small DICOM files for the tests, in memory."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DigitalXRayImageStorageForPresentation,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    generate_uid,
)

__all__ = ["dicom_bytes", "jpeg_dicom", "lookup_table", "make_dicom"]


def make_dicom(
    stored: NDArray[Any], *, bits: int, syntax: str = ExplicitVRLittleEndian, **elements: Any
) -> FileDataset:
    """Wrap stored values, (H, W), (F, H, W) or (H, W, 3) in RGB, in a DX data set; `elements` are added or replaced."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["pacx"])
    encoding = {"is_implicit_VR": syntax == ImplicitVRLittleEndian, "is_little_endian": syntax != ExplicitVRBigEndian}
    ds = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128, **encoding)
    ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID, "DX"
    colour = stored.ndim == 3 and stored.shape[2] == 3
    ds.SamplesPerPixel = 3 if colour else 1
    ds.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        ds.PlanarConfiguration = 0
    elif stored.ndim == 3:
        ds.NumberOfFrames = len(stored)
    ds.Rows, ds.Columns = stored.shape[:2] if colour else stored.shape[-2:]
    ds.BitsAllocated = 8 * stored.dtype.itemsize
    ds.BitsStored, ds.HighBit = bits, bits - 1
    ds.PixelRepresentation = int(stored.dtype.kind == "i")
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    pixels = stored.astype(stored.dtype.newbyteorder(order)).tobytes()
    ds.PixelData = pixels + b"\0" * (len(pixels) % 2)
    ds["PixelData"].VR = "OB" if stored.dtype.itemsize == 1 else "OW"
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    return ds


def dicom_bytes(ds: FileDataset, *, preamble: bool = True, meta: bool = True) -> bytes:
    """Write a data set, with or without its preamble and file meta group."""
    stream = BytesIO()
    if meta:
        ds.save_as(stream, enforce_file_format=True)
        return stream.getvalue() if preamble else stream.getvalue()[132:]
    syntax = ds.file_meta.TransferSyntaxUID
    bare = Dataset()
    bare.update(ds)
    little = syntax != ExplicitVRBigEndian
    bare.save_as(stream, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=little, enforce_file_format=False)
    return stream.getvalue()


def jpeg_dicom(stored: NDArray[np.uint8], **elements: Any) -> FileDataset:
    """Wrap 8-bit gray pixels as JPEG Baseline."""
    stream = BytesIO()
    Image.fromarray(stored).save(stream, "JPEG", quality=95)
    ds = make_dicom(stored, bits=8, syntax=JPEGBaseline8Bit)
    ds.PixelData = encapsulate([stream.getvalue()])
    ds["PixelData"].is_undefined_length = True
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    return ds


def lookup_table(entries: list[int], *, first: int, bits: int) -> Dataset:
    """Build the item of a modality or VOI LUT sequence."""
    item = Dataset()
    item.LUTDescriptor = [len(entries), first, bits]
    item.LUTData = entries
    item["LUTDescriptor"].VR = "US"
    item["LUTData"].VR = "US"
    return item
