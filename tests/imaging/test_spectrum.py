"""Closed forms: a plane wave lies in one band, white noise in all alike, a blur is its transfer function."""

import itertools

import numpy as np
import pytest

from vcm.imaging.spectrum import BANDS, band_names, band_power, power_ratio


def wave(cycles_per_mm: float, axis: int, shape=(40, 48, 32), spacing=2.0) -> np.ndarray:
    place = np.arange(shape[axis]) * spacing
    line = np.cos(2 * np.pi * cycles_per_mm * place)
    return np.broadcast_to(np.expand_dims(line, [a for a in range(3) if a != axis]), shape)


@pytest.mark.parametrize(("axis", "length"), [(0, 40), (1, 48), (2, 32)])
def test_the_power_of_a_wave_lies_in_its_band_alone(axis: int, length: int) -> None:
    frequency = 8 / (2.0 * length)  # a whole number of periods: 0.1, 0.083 or 0.125 per mm
    inside = int(np.digitize(frequency, BANDS)) - 1
    power = band_power(wave(frequency, axis), (2.0, 2.0, 2.0))
    assert power[inside] > 0
    assert np.delete(power, inside) == pytest.approx(0, abs=1e-9 * power[inside])


def test_the_sum_over_all_bands_is_parsevals() -> None:
    volume = np.random.default_rng(0).standard_normal((12, 10, 9))
    bands = (0.0, 10.0)
    power = band_power(volume, (1.0, 1.0, 1.0), bands)[0]
    assert power == pytest.approx(np.square(volume).sum(), rel=1e-12)


def test_half_the_amplitude_is_a_quarter_of_the_power_in_every_band() -> None:
    volume = np.random.default_rng(1).standard_normal((40, 48, 40))
    assert power_ratio(volume / 2, volume, (2.0, 2.0, 2.0)) == pytest.approx(0.25, rel=1e-12)


def test_a_mean_of_two_neighbours_keeps_the_square_of_its_transfer_function() -> None:
    volume = np.zeros((48, 48, 48))
    volume[24, 24, 24] = 1.0  # power 1 at every frequency
    blurred = (volume + np.roll(volume, 1, 0)) / 2  # |H|^2 = cos^2(pi f_x d)
    bands = (0.0, 0.02, 0.05, 0.1, 0.2)
    axis = np.fft.fftfreq(48, 2.0)
    x, y, z = np.meshgrid(axis, axis, axis, indexing="ij")
    length, kept = np.sqrt(x**2 + y**2 + z**2), np.cos(np.pi * x * 2.0) ** 2
    expected = [
        kept[(length >= low) & (length < high)].mean() for low, high in itertools.pairwise(bands)
    ]
    assert power_ratio(blurred, volume, (2.0, 2.0, 2.0), bands) == pytest.approx(expected)


def test_a_band_without_frequencies_is_no_number() -> None:
    assert np.isnan(band_power(np.ones((4, 4, 4)), (1.0, 1.0, 1.0), (0.3, 0.31))).all()


def test_no_power_in_the_scan_is_no_ratio() -> None:
    assert np.isnan(power_ratio(np.ones((8, 8, 8)), np.zeros((8, 8, 8)), (2.0, 2.0, 2.0))).all()


def test_names_are_the_borders() -> None:
    assert band_names((0.05, 0.075, 0.1)) == ["0.05-0.075", "0.075-0.1"]


def test_powers_of_different_grids_are_not_compared() -> None:
    with pytest.raises(ValueError, match="shapes differ"):
        power_ratio(np.ones((4, 4, 4)), np.ones((4, 4, 6)), (1.0, 1.0, 1.0))
