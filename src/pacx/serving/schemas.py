"""The shapes of requests and answers, for the server's OpenAPI description."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, Field

from pacx.serving.problems import MEDIA_TYPE

__all__ = ["Explanations", "Features", "Models", "Predictions", "Status", "problems", "upload"]


class Status(BaseModel):
    """Whether the server lives, or is ready."""

    status: str


class ImageFacts(BaseModel):
    """What a file is, found in its content."""

    format: Literal["DICOM", "PNG", "JPEG", "TIFF"]
    height: int = Field(description="pixels")
    width: int = Field(description="pixels")
    view: str | None = Field(description="View Position of a DICOM (PA, AP, LL, ...)")
    steps: list[str] = Field(description="what was done to the stored values, in order")


class OutputAnswer(BaseModel):
    """A calibrated probability and its threshold."""

    name: str
    probability: float = Field(ge=0, le=1)
    threshold: float = Field(ge=0, le=1)
    positive: bool = Field(description="whether the probability reaches the threshold")


class Prediction(BaseModel):
    """What a model says of one image."""

    image: ImageFacts
    outputs: list[OutputAnswer]


class Predictions(BaseModel):
    """Of all files of a request, in their order."""

    model: str
    results: list[Prediction]


class FeatureRow(BaseModel):
    """The embedding of one image."""

    image: ImageFacts
    features: list[float]


class Features(BaseModel):
    """Of all files of a request, in their order."""

    model: str
    results: list[FeatureRow]


class Attention(BaseModel):
    """Where the model looked: rows of patches from the top, sum 1."""

    kind: Literal["rollout"]
    grid: list[list[float]]
    geometry: Literal["squash", "crop", "pad"] = Field(
        description="how the image became the square that the grid covers: whole, its centre square, or with black bars"
    )


class NeighbourAnswer(BaseModel):
    """A known image that the model takes for alike."""

    id: str
    similarity: float = Field(description="cosine, the mean of all known images taken off")
    thumbnail: str = Field(description="path of a small PNG")
    labels: dict[str, float | None] = Field(description="1, 0, a class's number, or null = unknown")


class Explanation(Prediction):
    """What a model says of one image, where it looked, and what it has seen that is alike."""

    attention: Attention | None
    neighbours: list[NeighbourAnswer]


class Explanations(BaseModel):
    """Of all files of a request, in their order."""

    model: str
    results: list[Explanation]


class ModelCard(BaseModel):
    """What a model knows of itself; more keys than these."""

    name: str
    kind: Literal["classifier", "encoder"]
    about: str
    intended_use: str
    licence: str
    image_size: int
    width: int
    precision: str
    sha256: str
    attention: bool
    outputs: list[dict[str, Any]]
    calibration: dict[str, Any] | None
    neighbours: int
    training_data: str
    parity: float | None = Field(description="largest difference to the trained network, found at export")
    provenance: dict[str, Any]


class UploadLimits(BaseModel):
    """What may be sent."""

    max_bytes: int
    max_pixels: int
    max_files: int


class Models(BaseModel):
    """All models that are served, the first one answers if none is named."""

    models: list[ModelCard]
    limits: UploadLimits


class ProblemAnswer(BaseModel):
    """RFC 9457."""

    type: str
    title: str
    status: int
    detail: str
    file: int | None = Field(None, description="which of the files, from 0")


_WHAT = {
    400: "malformed request",
    401: "no or wrong token",
    403: "sent by another site's page",
    404: "no such model or place",
    405: "no such method here",
    408: "the body came too slowly",
    413: "too many bytes, pixels or files",
    415: "not an image of a known format",
    422: "a damaged image, no file, or a parameter or form field that is wrong or unknown",
    429: "busy; Retry-After says when to come back",
    503: "not ready, stopping, or timed out; Retry-After says when to come back",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe the faults that a place answers with."""
    schema = {"schema": {"$ref": "#/components/schemas/ProblemAnswer"}}
    return {status: {"description": _WHAT[status], "content": {MEDIA_TYPE: schema}} for status in statuses}


def upload(*, several: bool = True) -> dict[str, Any]:
    """Describe the body of an upload."""
    binary = {"schema": {"type": "string", "format": "binary"}}
    file: dict[str, Any] = {"type": "string", "format": "binary"}
    form = {"type": "array", "items": file, "minItems": 1} if several else file
    bare = ("application/octet-stream", "application/dicom", "image/png", "image/jpeg", "image/tiff")
    return {
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "properties": {"file": form},
                        "required": ["file"],
                        "additionalProperties": False,
                    }
                },
                **dict.fromkeys(bare, binary),
            },
        }
    }
