"""The server that is written first: twenty lines of FastAPI around an encoder and a linear head. The peer of `serve`.

    NAIVE_ENCODER=ENCODER_FOLDER NAIVE_HEAD=head.safetensors uvicorn benchmarks.naive_server:app

One image per request, a `def` endpoint in the framework's thread pool, torch in eager mode with its default threads.
The network runs as timm wrote it. Files are read and pixels prepared with pacx, so that both sides see the same input.
"""

from __future__ import annotations

import os

import torch
from fastapi import FastAPI, HTTPException, UploadFile
from safetensors.torch import load_file

from pacx.data.images import ImageError, read_cxr
from pacx.models.encoder import load_encoder

encoder = load_encoder(os.environ["NAIVE_ENCODER"]).eval()
weights = load_file(os.environ["NAIVE_HEAD"])
head = torch.nn.Linear(*reversed(weights["weight"].shape))
head.load_state_dict(weights)
app = FastAPI()


@app.post("/predict")
def predict(file: UploadFile) -> dict[str, list[float]]:
    """Return the probabilities of one image."""
    try:
        pixels = read_cxr(file.file.read()).pixels
    except ImageError as error:
        raise HTTPException(422, str(error)) from error
    image = torch.from_numpy(encoder.config.preprocess(pixels))[None]
    with torch.inference_mode():
        return {"probabilities": torch.sigmoid(head(encoder.vit(image)))[0].tolist()}
