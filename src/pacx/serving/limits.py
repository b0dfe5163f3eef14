"""Every limit of the server in one place: what it takes, how long it waits, how much it does at once."""

from __future__ import annotations

from dataclasses import dataclass, fields

from pacx.data.workers import available_cores
from pacx.errors import PacxError

__all__ = ["Limits"]


@dataclass(frozen=True)
class Limits:
    """Numbers that keep one client, or one file, from taking the server away from all others."""

    max_bytes: int = 64 * 2**20
    """of one file; the largest uncompressed radiographs have about 50 MB"""
    max_files: int = 8
    """in one request"""
    max_pixels: int = 50_000_000
    """that a header may declare, refused before anything is decoded; the largest detectors have 25 million"""
    max_requests: int = 64
    """with uploads that are served at once; more are told to come back (429)"""
    max_body_memory: int = 512 * 2**20
    """bytes of all uploads that are held at once; beyond it requests are told to come back (429)"""
    queue_size: int = 64
    """preprocessed images that wait for a model; beyond it requests are told to come back (429)"""
    batch_size: int = 8
    """most images of one forward pass: what has come while the model was busy goes in together"""
    body_seconds: float = 30.0
    """for a request's body to arrive; slower ones are ended (408)"""
    decode_seconds: float = 10.0
    """for one file to be decoded; then the process that decodes it is killed (422)"""
    decode_memory: int = 3 * 2**30
    """bytes of address space of a process that decodes"""
    request_seconds: float = 60.0
    """from the end of the body to the answer; then the request is told to come back (503)"""
    drain_seconds: float = 0.5
    """between the order to stop and the end of accepting: what is on its way is still answered"""
    decoders: int = available_cores()
    """processes that decode, for each worker"""

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if not value > 0:
                raise PacxError(f"Found {item.name} = {value}; a limit is a number above 0.")
