import numpy as np
import pytest

from pacx.errors import PacxError
from pacx.frozen.half import HalfScale

RNG = np.random.default_rng(0)


def test_the_error_goes_with_the_distance_from_the_centre_not_with_the_value():
    x = (100 + 0.5 * RNG.standard_normal((500, 20))).astype(np.float32)
    scale = HalfScale.of(x[:64])
    error = np.abs(scale.unpack(scale.pack(x)) - x)
    assert (error <= 2.0**-11 * np.abs(x - scale.centre) + 2.0**-25 * scale.scale + 2e-5).all()  # 2e-5: float32 at 100
    assert np.abs(x.astype(np.float16) - x).max() > 30 * error.max()  # half of 2^-4 against half of 2^-10 or 2^-9


def test_dimensions_that_do_not_vary_among_the_reference_rows_may_vary_later():
    reference = np.full((8, 3), 2.0, dtype=np.float32)
    later = np.array([[2.0, 3.0, -40.0]], dtype=np.float32)
    scale = HalfScale.of(reference)
    np.testing.assert_allclose(scale.unpack(scale.pack(later)), later, rtol=2.0**-10)
    nothing = HalfScale.of(np.zeros((4, 2), dtype=np.float32))
    np.testing.assert_allclose(nothing.unpack(nothing.pack(np.array([[1.0, 0.0]], np.float32))), [[1.0, 0.0]])


def test_what_half_precision_cannot_hold_is_an_error():
    scale = HalfScale.of(np.ones((4, 2), dtype=np.float32))
    for wrong in (np.nan, np.inf, 1e6):
        with pytest.raises(PacxError, match="not finite"):
            scale.pack(np.array([[1.0, wrong]], dtype=np.float32))


def test_with_its_remainder_a_number_has_twenty_two_bits():
    x = (100 + 0.5 * RNG.standard_normal((500, 20))).astype(np.float32)
    scale = HalfScale.of(x[:64])
    half = scale.pack(x)
    error = np.abs(scale.unpack(half, scale.remainder(x, half)) - x)
    assert (error <= 2.0**-21 * np.abs(x - scale.centre) + 2e-5).all()  # 2e-5: float32 at 100
    assert np.abs(scale.unpack(half) - x).max() > 10 * error.max()
