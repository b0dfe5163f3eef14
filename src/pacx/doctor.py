"""What is installed and what this machine can do, for bug reports and before a long run."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pacx import __version__

__all__ = ["doctor"]

_PACKAGES = {
    "base": ("numpy", "scipy", "pillow", "pydicom", "pandas", "pyarrow", "jsonargparse", "wfdb"),
    "train": ("torch", "torchvision", "lightning", "timm", "peft", "safetensors", "matplotlib"),
    "dicom": ("pylibjpeg", "pylibjpeg-libjpeg", "pylibjpeg-openjpeg"),
    "export": ("onnx", "onnxscript", "onnxruntime"),
    "serve": ("onnxruntime", "fastapi", "uvicorn", "prometheus-client", "python-multipart"),
}


def doctor(*, folder: Path = Path()) -> dict[str, object]:
    """Print what is installed, the devices, and the free disk space.

    Example:
        pacx doctor

    Args:
        folder: where runs will be written; its free space is shown.
    """
    facts: dict[str, object] = {
        "pacx": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count() or 1,
        "free disk": f"{shutil.disk_usage(folder).free / 1e9:.0f} GB",
    }
    for extra, names in _PACKAGES.items():
        facts[f"packages [{extra}]"] = ", ".join(f"{name} {_version(name)}" for name in names)
    facts["accelerator"] = _accelerator()
    width = max(map(len, facts))
    for key, item in facts.items():
        print(f"{key:<{width}}  {item}")
    return facts


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def _accelerator() -> str:
    try:
        import torch
    except ModuleNotFoundError:
        return "unknown (torch is absent; the extra [train] brings it)"
    if torch.cuda.is_available():
        return ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
    return "mps" if torch.backends.mps.is_available() else f"none; {torch.get_num_threads()} CPU threads"
