"""The simulated radiograph: exact geometry, monotone effects of every severity, nuisance that dominates."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import label

from pacx.data.phantom.acquisition import Acquisition, probability_of_ap, sample_acquisition
from pacx.data.phantom.anatomy import Radiograph, aim, render
from pacx.data.phantom.latents import Patient
from pacx.data.phantom.projection import Beam, Ellipsoid, meet
from pacx.data.phantom.thorax import build_thorax
from pacx.data.phantom.tubes import draw_tubes, polyline

SIZE = 112
HEALTHY = Patient(
    patient_id="healthy",
    age=50.0,
    sex="M",
    height=174.0,
    bmi=24.0,
    lv_dilation=0.0,
    lv_hypertrophy=0.0,
    congestion=0.0,
    hyperinflation=0.0,
    renal_dysfunction=0.0,
    infection=0.0,
    rhythm="sinus",
    conduction="normal",
    nodule=False,
    rib_fracture=False,
    device=False,
)
PA = Acquisition(
    view="PA",
    distance=180.0,
    rotation=0.0,
    tilt=0.0,
    roll=0.0,
    inspiration=0.3,
    field=42.0,
    shift=(0.0, 3.0),
    exposure=1500.0,
    hardness=1.0,
    scatter=0.5,
    contrast=1.0,
    brightness=0.0,
    sharpness=0.5,
    border="none",
    collimation=(0.0, 0.0, 0.0, 0.0),
    arms=0.4,
    electrodes=0,
    catheter=False,
    marker="L",
    seed=1,
)


def shoot(patient: Patient = HEALTHY, acquisition: Acquisition = PA, *, size: int = SIZE, seed: int = 0) -> Radiograph:
    return render(patient, acquisition, size=size, rng=np.random.default_rng(seed))


def extent(mask: np.ndarray, axis: int) -> int:
    found = np.flatnonzero(mask.any(axis))
    return int(found[-1] - found[0] + 1)


def cardiothoracic_ratio(image: Radiograph) -> float:
    return extent(image.heart, 0) / extent(image.lungs, 0)


def severities(name: str, values: tuple[float, ...] = (-1, 0, 1, 2, 3), **fixed: float) -> list[Patient]:
    return [replace(HEALTHY, **{name: float(value)}, **fixed) for value in values]


def tilted_beam(size: int = 24) -> Beam:
    acquisition = replace(PA, view="AP", distance=100.0, rotation=0.2, tilt=0.1, roll=0.1)
    return aim(build_thorax(HEALTHY, acquisition), acquisition, size=size)


BODY = Ellipsoid((2.0, 1.0, -1.0), (6.0, 9.0, 4.0), roll=0.3, yaw=0.4, pitch=-0.2)


def points_on_rays(beam: Beam, steps: int) -> tuple[np.ndarray, np.ndarray]:
    pixels = (
        beam.origin + beam.u[None, :, None].astype(float) * beam.right + beam.v[:, None, None].astype(float) * beam.down
    )
    along = (np.arange(steps) + 0.5) / steps
    rays = pixels - beam.source
    return beam.source + along[:, None, None, None] * rays, np.linalg.norm(rays, axis=-1) / steps


def test_path_through_an_ellipsoid_equals_numeric_integration() -> None:
    beam = tilted_beam()
    points, step = points_on_rays(beam, 4000)
    numeric = BODY.inside(points).sum(0) * step
    assert numeric.max() > 7
    np.testing.assert_allclose(beam.thickness(BODY), numeric, atol=0.08)
    np.testing.assert_allclose(beam.length(beam.trace(BODY)), numeric, atol=0.08)


def test_common_path_of_two_ellipsoids_equals_numeric_integration() -> None:
    beam = tilted_beam()
    other = Ellipsoid((-1.0, 3.0, 1.0), (7.0, 5.0, 5.0), roll=-0.5)
    points, step = points_on_rays(beam, 4000)
    numeric = (BODY.inside(points) & other.inside(points)).sum(0) * step
    assert numeric.max() > 4
    np.testing.assert_allclose(beam.length(meet(beam.trace(BODY), beam.trace(other))), numeric, atol=0.08)


def test_line_integral_of_a_gaussian_blob_equals_numeric_integration() -> None:
    beam = tilted_beam()
    blob = Ellipsoid((1.0, 2.0, 0.0), (1.5, 2.5, 2.0), roll=0.4)
    points, step = points_on_rays(beam, 800)
    distance = (((points - np.array(blob.centre)) @ blob.whitening().T) ** 2).sum(-1)
    numeric = np.exp(-distance / 2).sum(0) * step
    np.testing.assert_allclose(beam.blob(blob), numeric, atol=0.012)


def test_a_hollow_tube_is_brighter_at_its_edges_and_as_thick_as_its_diameter() -> None:
    beam = aim(build_thorax(HEALTHY, PA), PA, size=224)
    points = np.linspace([-10.0, 3.0, 0.0], [10.0, 3.0, 0.0], 30)
    solid = draw_tubes(beam, polyline(points, radius=1.5, wall=1.0))[:, 112]
    hollow = draw_tubes(beam, polyline(points, radius=1.5, wall=1.0, core=0.0, hollow=0.8))[:, 112]
    assert solid.max() == pytest.approx(3.0, rel=0.02)
    middle = int(np.argmax(solid))
    assert hollow[middle] == pytest.approx(0.6, rel=0.1)
    assert 2.2 * hollow[middle] < hollow.max() <= 1.8 + 1e-3  # 2 sqrt(1.5^2 - 1.2^2), met between two pixels


def test_a_beam_from_half_the_distance_magnifies_as_similar_triangles_say() -> None:
    beam = aim(build_thorax(HEALTHY, PA), PA, size=64)
    near_detector = float(beam.origin[2])
    *_, magnification = beam.project(np.array([[0.0, 0.0, near_detector], [0.0, 0.0, near_detector - 90.0]]))
    np.testing.assert_allclose(magnification, [1.0, 2.0], rtol=1e-6)


def test_an_image_has_the_promised_shape_type_and_range() -> None:
    image = shoot()
    assert image.pixels.shape == image.lungs.shape == image.heart.shape == image.body.shape == (SIZE, SIZE)
    assert image.pixels.dtype == np.float32
    assert image.lungs.dtype == image.heart.dtype == image.body.dtype == bool
    assert image.pixels.min() >= 0
    assert image.pixels.max() <= 1


def test_the_same_patient_acquisition_and_stream_give_the_same_image() -> None:
    np.testing.assert_array_equal(shoot().pixels, shoot().pixels)
    assert not np.array_equal(shoot().pixels, shoot(seed=1).pixels)
    np.testing.assert_array_equal(shoot().lungs, shoot(seed=1).lungs)


def test_every_random_acquisition_gives_a_finite_image() -> None:
    rng = np.random.default_rng(5)
    for number in range(30):
        draws = rng.normal(0, 1.5, 6)
        patient = replace(
            HEALTHY,
            patient_id=str(number),
            sex="F" if number % 2 else "M",
            bmi=float(rng.uniform(15, 50)),
            height=float(rng.uniform(140, 205)),
            age=float(rng.uniform(18, 100)),
            lv_dilation=draws[0],
            lv_hypertrophy=draws[1],
            congestion=draws[2],
            hyperinflation=draws[3],
            renal_dysfunction=draws[4],
            infection=draws[5],
            nodule=True,
            rib_fracture=True,
            device=True,
        )
        image = render(patient, sample_acquisition(patient, rng), size=64, rng=rng)
        assert np.isfinite(image.pixels).all()
        assert image.pixels.std() > 0.05
        assert image.heart.any()
        assert image.lungs.any()


def test_masks_have_anatomical_size_and_do_not_overlap() -> None:
    image = shoot()
    assert 0.22 < image.lungs.mean() < 0.42
    assert 0.04 < image.heart.mean() < 0.12
    assert not (image.lungs & image.heart).any()
    assert 0.42 < cardiothoracic_ratio(image) < 0.50


def test_no_lung_lies_below_the_costophrenic_angles() -> None:
    for index in range(12):
        patient = replace(HEALTHY, patient_id=f"p{index}", hyperinflation=index / 4 - 1, bmi=20.0 + index)
        acquisition = replace(sample_acquisition(patient, np.random.default_rng(index)), field=48.0)
        image = shoot(patient, acquisition)
        parts, count = label(image.lungs)
        sizes = np.bincount(parts.ravel())[1:]
        lungs = np.isin(parts, np.argsort(sizes)[-2:] + 1)
        lowest = np.flatnonzero(lungs.any(axis=1)).max()
        assert not image.lungs[lowest + 1 :].any()
        assert sizes.sum() - np.sort(sizes)[-2:].sum() < 0.01 * sizes.sum(), count


def test_heart_and_lungs_lie_inside_the_trunk_and_the_trunk_inside_the_body() -> None:
    beam = aim(build_thorax(HEALTHY, PA), PA, size=SIZE)
    trunk = beam.trace(*build_thorax(HEALTHY, PA).torso).hit
    image = shoot()
    assert trunk[image.lungs].all()
    assert trunk[image.heart].all()
    assert image.body[trunk].all()
    assert image.body.sum() > trunk.sum(), "arms belong to it"


def test_the_body_is_one_piece_and_what_is_outside_of_it_is_darkest() -> None:
    image = shoot()
    assert label(image.body)[1] == 1
    assert 0.05 < (~image.body).mean() < 0.3
    assert image.pixels[image.heart].mean() > image.pixels[image.lungs].mean() + 0.12
    assert image.pixels[~image.body].mean() < image.pixels[image.lungs].mean() - 0.12


def test_rays_outside_of_the_body_meet_nothing_of_it() -> None:
    """Numeric steps along each ray against the closed-form shadow."""
    thorax = build_thorax(HEALTHY, PA)
    beam = aim(thorax, PA, size=24)
    points, _ = points_on_rays(beam, 4000)
    met = np.zeros((24, 24), bool)
    for part in (*thorax.torso, *thorax.arms):
        met |= part.inside(points).any(0)
    np.testing.assert_array_equal(shoot(size=24).body, met)


def test_dilation_widens_the_heart_monotonically_beyond_55_percent() -> None:
    ratios = [cardiothoracic_ratio(shoot(patient, size=224)) for patient in severities("lv_dilation")]
    assert np.all(np.diff(ratios) > 0)
    assert ratios[-1] > 0.55


def test_dilation_moves_the_left_border_more_than_the_right() -> None:
    before, after = (np.flatnonzero(shoot(p, size=224).heart.any(0)) for p in severities("lv_dilation", (0, 3)))
    assert after[-1] - before[-1] > 2 * (before[0] - after[0]) > 0


def test_hypertrophy_enlarges_the_heart_less_than_dilation_does() -> None:
    areas = [shoot(patient, size=224).heart.sum() for patient in severities("lv_hypertrophy")]
    dilated = [shoot(patient, size=224).heart.sum() for patient in severities("lv_dilation")]
    assert np.all(np.diff(areas) > 0)
    assert areas[-1] - areas[1] < 0.6 * (dilated[-1] - dilated[1])


def test_hyperinflation_lengthens_the_lungs_and_narrows_the_heart() -> None:
    images = [shoot(patient, size=224) for patient in severities("hyperinflation")]
    domes = [np.flatnonzero(image.lungs[:, : int(0.38 * 224)].sum(1) > 20)[-1] for image in images]
    assert np.all(np.diff([image.lungs.sum() for image in images]) > 0)
    assert domes[-1] > domes[0] + 8
    grays = [image.pixels[image.lungs].mean() for image in images]
    assert np.all(np.diff(grays) < 0)
    ratios = [cardiothoracic_ratio(image) for image in images]
    assert np.all(np.diff(ratios) <= 0)
    assert ratios[-1] < ratios[1] - 0.02


def test_deep_inspiration_lowers_the_diaphragm() -> None:
    shallow, deep = (shoot(acquisition=replace(PA, inspiration=breath)).lungs.sum() for breath in (-1.0, 1.0))
    assert deep > 1.08 * shallow


@pytest.mark.parametrize("severity", ["congestion", "infection"])
def test_fluid_and_pneumonia_whiten_the_lungs_monotonically(severity: str) -> None:
    healthy = shoot().lungs
    whiteness = [shoot(patient).pixels[healthy].mean() for patient in severities(severity, (0, 1.5, 2.25, 3))]
    assert np.all(np.diff(whiteness) > 0)


def test_congestion_fills_the_costophrenic_angles() -> None:
    images = [shoot(patient, size=224) for patient in severities("congestion", (0, 2, 3.5))]
    bottom = np.flatnonzero(images[0].lungs.any(1))[-1]
    corner = images[0].lungs & (np.arange(224)[:, None] > bottom - 22)
    levels = [image.pixels[corner].mean() for image in images]
    assert np.all(np.diff(levels) > 0.02)


def test_renal_dysfunction_alone_shows_only_weakly() -> None:
    change = np.abs(shoot(replace(HEALTHY, renal_dysfunction=2.0)).pixels - shoot().pixels).mean()
    assert 0 < change < np.abs(shoot(replace(HEALTHY, congestion=2.0)).pixels - shoot().pixels).mean()


@pytest.mark.parametrize(("finding", "largest"), [("nodule", 0.03), ("rib_fracture", 0.03), ("device", 0.12)])
def test_findings_without_physiology_change_only_a_small_region(finding: str, largest: float) -> None:
    change = np.abs(shoot(replace(HEALTHY, **{finding: True})).pixels - shoot().pixels)
    assert change.max() > 0.03  # a rib's own contrast is 0.035
    assert 0.0005 < (change > 0.01).mean() < largest


def test_findings_without_physiology_leave_the_masks_alone() -> None:
    burdened = shoot(replace(HEALTHY, nodule=True, rib_fracture=True, device=True))
    np.testing.assert_array_equal(burdened.lungs, shoot().lungs)
    np.testing.assert_array_equal(burdened.heart, shoot().heart)
    np.testing.assert_array_equal(burdened.body, shoot().body)


def test_an_ap_view_magnifies_the_heart() -> None:
    near = replace(PA, view="AP", distance=100.0)
    assert cardiothoracic_ratio(shoot(acquisition=near, size=224)) > cardiothoracic_ratio(shoot(size=224)) + 0.01
    assert extent(shoot(acquisition=near, size=224).heart, 0) > 1.04 * extent(shoot(size=224).heart, 0)


def test_heavier_patients_are_wider() -> None:
    def width(bmi: float) -> int:
        patient = replace(HEALTHY, bmi=bmi)
        wide = replace(PA, field=60.0)
        beam = aim(build_thorax(patient, wide), wide, size=SIZE)
        return extent(beam.trace(*build_thorax(patient, wide).torso).hit[SIZE // 2 :], 0)

    assert width(20.0) < width(28.0) < width(40.0)


def test_images_of_one_patient_share_their_anatomy_and_those_of_others_do_not() -> None:
    again = build_thorax(HEALTHY, replace(PA, seed=99))
    assert again == build_thorax(HEALTHY, PA)
    assert build_thorax(replace(HEALTHY, patient_id="other"), PA) != again


def test_sicker_patients_are_imaged_ap_more_often() -> None:
    chances = [probability_of_ap(patient) for patient in severities("congestion")]
    assert np.all(np.diff(chances) > 0)
    rng = np.random.default_rng(0)
    views = [sample_acquisition(replace(HEALTHY, congestion=3.0, infection=2.0), rng).view for _ in range(200)]
    assert 0.6 < np.mean([view == "AP" for view in views]) < 1.0


def test_nuisance_explains_most_of_the_pixel_variance() -> None:
    rng = np.random.default_rng(2)
    names = ("lv_dilation", "lv_hypertrophy", "congestion", "hyperinflation", "renal_dysfunction", "infection")
    ill = [replace(HEALTHY, **dict(zip(names, rng.normal(size=6).tolist(), strict=True))) for _ in range(24)]
    same_acquisition = np.stack([shoot(patient, size=64).pixels for patient in ill])
    others = [replace(HEALTHY, patient_id=str(i), bmi=float(rng.normal(26, 4))) for i in range(24)]
    same_latents = np.stack([shoot(other, sample_acquisition(HEALTHY, rng), size=64).pixels for other in others])
    assert same_latents.var(0).mean() > 4 * same_acquisition.var(0).mean()


def test_size_changes_the_sampling_and_not_the_picture() -> None:
    coarse, fine = shoot(size=96).pixels, shoot(size=192).pixels.reshape(96, 2, 96, 2).mean((1, 3))
    assert np.corrcoef(coarse.ravel(), fine.ravel())[0, 1] > 0.98
    assert abs(shoot(size=96).lungs.mean() - shoot(size=192).lungs.mean()) < 0.01
