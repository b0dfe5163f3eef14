"""Draw docs/data-flow.svg: `python docs/make_data_flow.py`. Boxes and arrows are data, so it stays true."""

from __future__ import annotations

from html import escape
from pathlib import Path

WIDTH, HEIGHT = 1188, 470
COLUMNS = {"files": 16, "readers": 216, "store": 416, "stages": 616, "keep": 816, "final": 1012}
BOX = 160

# name: (column, y, height, title, lines, kind)
BOXES = {
    "cxr": ("files", 40, 62, "Chest X-rays", ["DICOM, PNG, JPEG"], "file"),
    "ecg": ("files", 132, 62, "ECGs", ["WFDB, NumPy"], "file"),
    "labs": ("files", 224, 62, "Lab tables", ["CSV, parquet"], "file"),
    "phantom": ("files", 346, 62, "Simulated cohort", ["known truth"], "file"),
    "images": ("readers", 40, 62, "data.images", ["decode, [0, 1] gray"], "code"),
    "read_ecg": ("readers", 132, 62, "data.ecg", ["12 leads, 500 Hz"], "code"),
    "read_labs": ("readers", 224, 62, "data.labs", ["percentiles + mask"], "code"),
    "store": ("store", 40, 368, "Store", ["images uint8", "masks", "ECG", "labs", "labels", "patients, split"], "data"),
    "pretrain": ("stages", 40, 62, "pretrain", ["masked autoencoding"], "stage"),
    "fit_ecg": ("stages", 132, 62, "fit-ecg", ["ECG teacher"], "stage"),
    "fit_labs": ("stages", 224, 62, "fit-labs", ["labs teacher"], "stage"),
    "encoder": ("keep", 40, 62, "MAE encoder", ["weights + config"], "data"),
    "bank": ("keep", 178, 62, "Banks", ["teacher embeddings"], "data"),
    "distill": ("final", 109, 62, "distill", ["InfoNCE, cosine, LoRA"], "stage"),
    "pacx": ("final", 224, 62, "PaCX encoder", ["needs a CXR, no more"], "final"),
    "judge": ("final", 346, 62, "Judge", ["probe align explain ..."], "stage"),
    "report": ("keep", 346, 62, "report", ["one HTML page"], "final"),
}
# (from, side, to, side)
ARROWS = [
    ("cxr", "right", "images", "left"),
    ("ecg", "right", "read_ecg", "left"),
    ("labs", "right", "read_labs", "left"),
    ("images", "right", "store", "left"),
    ("read_ecg", "right", "store", "left"),
    ("read_labs", "right", "store", "left"),
    ("phantom", "right", "store", "left"),
    ("store", "right", "pretrain", "left"),
    ("store", "right", "fit_ecg", "left"),
    ("store", "right", "fit_labs", "left"),
    ("pretrain", "right", "encoder", "left"),
    ("fit_ecg", "right", "bank", "left"),
    ("fit_labs", "right", "bank", "left"),
    ("encoder", "right", "distill", "left"),
    ("bank", "right", "distill", "left"),
    ("distill", "bottom", "pacx", "top"),
    ("pacx", "bottom", "judge", "top"),
    ("judge", "left", "report", "right"),
]
FILL = {"file": "#f2f4f5", "code": "#e3eef7", "data": "#fdf3dc", "stage": "#e2f3ee", "final": "#cfe9e0"}
EDGE = {"file": "#8a959c", "code": "#4c86b5", "data": "#c99a2e", "stage": "#2a8f74", "final": "#146b54"}


def main() -> None:
    """Write the picture beside this file."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'font-family="system-ui, sans-serif" font-size="13">',
        "<title>The way of the data through pacx</title>",
        "<desc>Files are read by one reader per modality into a store. From the store a masked autoencoder and two "
        "teachers are trained; the teachers' embeddings are distilled into the autoencoder's encoder. The encoder that "
        "remains needs only a chest X-ray, is judged beside the one it came from, and reported.</desc>",
        '<rect width="100%" height="100%" fill="#ffffff"/>',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="#6b757b"/></marker></defs>',
        *(_arrow(*arrow) for arrow in ARROWS),
        *(_box(*box) for box in BOXES.values()),
        f'<text x="16" y="{HEIGHT - 22}" fill="#566067">One direction, no way back. The teachers and every head are '
        "dropped after distillation: at inference there is the X-ray encoder and nothing else.</text>",
        "</svg>",
    ]
    Path(__file__).with_name("data-flow.svg").write_text("\n".join(parts) + "\n", encoding="utf-8")


def _box(column: str, y: int, height: int, title: str, lines: list[str], kind: str) -> str:
    x = COLUMNS[column]
    rows = [
        f'<rect x="{x}" y="{y}" width="{BOX}" height="{height}" rx="7" fill="{FILL[kind]}" stroke="{EDGE[kind]}"/>',
        f'<text x="{x + 12}" y="{y + 25}" font-weight="600" fill="#1d2529">{escape(title)}</text>',
    ]
    rows += [
        f'<text x="{x + 12}" y="{y + 46 + 20 * i}" fill="#465159">{escape(line)}</text>' for i, line in enumerate(lines)
    ]
    return "\n".join(rows)


def _arrow(source: str, leave: str, target: str, enter: str) -> str:
    x0, y0 = _port(source, leave, other=target)
    x1, y1 = _port(target, enter, other=source)
    bend = (x0 + x1) / 2
    path = f"M{x0} {y0}C{bend} {y0} {bend} {y1} {x1} {y1}"
    return f'<path d="{path}" fill="none" stroke="#6b757b" stroke-width="1.4" marker-end="url(#tip)"/>'


def _port(name: str, side: str, *, other: str) -> tuple[float, float]:
    """Where an arrow touches a box; tall boxes are met at the height of the box at the other end."""
    column, y, height, *_ = BOXES[name]
    x = COLUMNS[column]
    _, other_y, other_height, *_ = BOXES[other]
    level = other_y + other_height / 2 if height > 100 else y + height / 2
    return {
        "left": (x - 2, level),
        "right": (x + BOX + (2 if name == "report" else 0), level),
        "top": (x + BOX / 2, y - 2),
        "bottom": (x + BOX / 2, y + height),
    }[side]


if __name__ == "__main__":
    main()
