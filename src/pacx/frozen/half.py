"""Half precision that does not handicap an encoder whose features vary little around a large mean.

    kept = float16((x - centre) / scale),        x ~ centre + scale * float32(kept)

with `centre` the mean of some reference rows for every dimension and `scale` the root mean square of their values,
both float32.

* A float16 has 11 significant bits, so the error is at most 2^-11 |x - centre| + 2^-25 scale. What counts is that it
  goes with the distance from the centre: the class token of a random network varies by about 1 % around a large mean,
  which float16 of x itself would round to some twenty steps.
* What rounding takes away can be kept as a second float16, the remainder: together they have 22 significant bits.
* Dividing by one scale buys range and nothing else: float16 reaches from 2^-24 to 65504. A dimension that never varies
  among the reference rows needs no special case, as it would if each were divided by its own standard deviation.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pacx.errors import PacxError

_REMAINDER = np.float32(2.0**-11)
"""the unit of a remainder, as a share of the scale: the largest rounding error of a number of the size of the scale"""

__all__ = ["HalfScale"]


class HalfScale(NamedTuple):
    """Where half-precision numbers have their zero, and their unit."""

    centre: NDArray[np.float32]
    """of the shape of one row"""
    scale: NDArray[np.float32]
    """a positive scalar, ()"""

    @classmethod
    def of(cls, reference: NDArray[np.float32]) -> HalfScale:
        """Measure centre and scale on reference rows, (n, ...)."""
        centre = reference.mean(axis=0, dtype=np.float64).astype(np.float32)
        scale = np.sqrt(np.mean(np.square(reference, dtype=np.float64)))
        return cls(centre, np.asarray(scale if scale > 0 else 1.0, dtype=np.float32))

    def pack(self, values: NDArray[np.float32]) -> NDArray[np.float16]:
        """Round rows to half precision.

        Raises:
            PacxError: a value is not a number, or 65,504 times as large as is usual.
        """
        with np.errstate(over="ignore"):
            half: NDArray[np.float16] = ((values - self.centre) / self.scale).astype(np.float16)
        if not np.isfinite(half).all():
            raise PacxError("The encoder gives features that are not finite: its training diverged. Train it again.")
        return half

    def remainder(self, values: NDArray[np.float32], half: NDArray[np.float16]) -> NDArray[np.float16]:
        """Return what rounding to `half` took away, itself in half precision."""
        rest: NDArray[np.float16] = (((values - self.centre) / self.scale - half) / _REMAINDER).astype(np.float16)
        return rest

    def unpack(self, half: NDArray[np.float16], remainder: NDArray[np.float16] | None = None) -> NDArray[np.float32]:
        """Return the rows as they were: but for rounding, or with their remainder to 2^-22."""
        values: NDArray[np.float32] = half.astype(np.float32)
        if remainder is not None:
            values += remainder * _REMAINDER
        values *= self.scale
        values += self.centre
        return values
