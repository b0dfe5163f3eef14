"""Measures at thresholds, of calibration and of precision and recall: equal to scikit-learn's, also in every draw."""

import numpy as np
import pytest
from sklearn.calibration import calibration_curve as sklearn_calibration_curve
from sklearn.metrics import (
    accuracy_score,
    average_precision_score,
    balanced_accuracy_score,
    brier_score_loss,
    confusion_matrix,
    f1_score,
    precision_recall_curve,
    precision_score,
    recall_score,
    roc_curve,
)

from pacx.errors import PacxError
from pacx.statistics import (
    average_precision_draws,
    brier,
    brier_draws,
    calibration_curve,
    calibration_error,
    calibration_error_draws,
    f1_threshold,
    multiclass_draws,
    rates,
    rates_draws,
    resample_patients,
    sensitivity_at_specificity,
    sensitivity_at_specificity_draws,
    specificity_threshold,
)


def _cohort(seed, *, rows=150, patients=60):
    rng = np.random.default_rng(seed)
    target = (rng.random(rows) < 0.3).astype(float)
    probability = np.round(1 / (1 + np.exp(-(rng.normal(size=rows) + target - 0.5))), 2)  # with ties
    return target, probability, rng.integers(0, patients, rows)


def _repeated(resamples, draw):
    """The rows of a draw, written out."""
    return np.repeat(np.arange(len(resamples.codes)), resamples.weights[draw][resamples.codes].astype(int))


@pytest.mark.parametrize("seed", range(5))
def test_rates_equal_those_of_scikit_learn(seed):
    target, probability, _ = _cohort(seed)
    found, called = rates(target, probability, threshold=0.5), probability >= 0.5
    tn, fp, fn, tp = confusion_matrix(target, called).ravel()
    assert found == pytest.approx(
        {
            "f1": f1_score(target, called),
            "precision": precision_score(target, called),
            "sensitivity": recall_score(target, called),
            "specificity": tn / (tn + fp),
            "accuracy": accuracy_score(target, called),
            "balanced_accuracy": balanced_accuracy_score(target, called),
        },
        abs=1e-12,
    )
    assert found["sensitivity"] == pytest.approx(tp / (tp + fn), abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_every_draw_equals_scikit_learn_on_the_rows_written_out(seed):
    target, probability, patient = _cohort(seed, rows=80, patients=30)
    resamples = resample_patients(patient, draws=20, seed=seed)
    precision = average_precision_draws(target, probability, resamples)
    counted = rates_draws(target, probability, resamples, threshold=0.4)
    squared = brier_draws(target, probability, resamples)
    caught = sensitivity_at_specificity_draws(target, probability, resamples, specificity=0.8)
    for draw in range(20):
        rows = _repeated(resamples, draw)
        y, p = target[rows], probability[rows]
        assert precision[draw] == pytest.approx(average_precision_score(y, p), abs=1e-12)
        assert counted.f1[draw] == pytest.approx(f1_score(y, p >= 0.4), abs=1e-12)
        assert counted.balanced_accuracy[draw] == pytest.approx(balanced_accuracy_score(y, p >= 0.4), abs=1e-12)
        assert squared[draw] == pytest.approx(brier_score_loss(y, p), abs=1e-12)
        assert caught[draw] == pytest.approx(_sensitivity_on_the_roc(y, p, 0.8), abs=1e-12)


def _sensitivity_on_the_roc(target, score, specificity):
    false, true, _ = roc_curve(target, score, drop_intermediate=False)
    return true[1 - false >= specificity - 1e-9].max()


def test_calling_nothing_positive_has_a_precision_of_zero_and_one_class_has_no_rates():
    nothing = rates([0, 1, 1], [0.1, 0.2, 0.3], threshold=0.9)
    assert (nothing["precision"], nothing["f1"], nothing["specificity"]) == (0, 0, 1)
    assert all(np.isnan(value) for value in rates([1, 1, np.nan], [0.1, 0.7, 0.2], threshold=0.5).values())
    assert all(np.isnan(value) for value in rates([0, 1], [0.1, 0.7], threshold=np.nan).values())


@pytest.mark.parametrize("seed", range(5))
def test_the_threshold_of_the_largest_f1_is_the_best_of_all(seed):
    target, probability, _ = _cohort(seed)
    threshold = f1_threshold(target, probability)
    precision, recall, thresholds = precision_recall_curve(target, probability)
    f1 = 2 * precision[:-1] * recall[:-1] / np.maximum(precision[:-1] + recall[:-1], 1e-12)
    assert rates(target, probability, threshold=threshold)["f1"] == pytest.approx(f1.max(), abs=1e-12)
    assert threshold == thresholds[np.isclose(f1, f1.max(), atol=1e-12)].max()


def test_of_equal_f1_the_highest_threshold_is_taken():
    # at .9: 1 of 1 called, 2 positives, F1 2/3; at .2: 2 of 4 called right, F1 4/6
    assert f1_threshold([1, 0, 0, 1], [0.9, 0.8, 0.7, 0.2]) == 0.9


def test_the_threshold_of_a_specificity_is_the_lowest_that_reaches_it():
    target = np.array([0] * 10 + [1] * 3)
    score = np.array([*range(10), 8.5, 9.5, 3.0])
    threshold = specificity_threshold(target, score, specificity=0.9)
    assert threshold == 9.0 - 0.5  # nine of ten negatives lie below the positive at 8.5
    assert rates(target, score, threshold=threshold)["specificity"] == 0.9
    assert rates(target, score, threshold=threshold)["sensitivity"] == pytest.approx(2 / 3)
    assert sensitivity_at_specificity(target, score) == pytest.approx(2 / 3)
    assert specificity_threshold([0, 1], [1.0, 0.0], specificity=1.0) == np.inf
    assert sensitivity_at_specificity([0, 1], [1.0, 0.0], specificity=1.0) == 0.0


def test_operating_points_of_one_class_are_undefined():
    assert np.isnan(f1_threshold([1, 1], [0.1, 0.2]))
    assert np.isnan(specificity_threshold([0, np.nan], [0.1, 0.2]))
    assert np.isnan(sensitivity_at_specificity([0, 0], [0.1, 0.2]))
    with pytest.raises(PacxError, match=r"lies in \[0, 1\]"):
        specificity_threshold([0, 1], [0.1, 0.2], specificity=90)


def test_brier_score_and_calibration_curve_equal_scikit_learn():
    rng = np.random.default_rng(0)
    probability = rng.random(400)  # without ties, where quantile bins are the same by any definition
    target = (rng.random(400) < probability**2).astype(float)
    assert brier(target, probability) == pytest.approx(brier_score_loss(target, probability), abs=1e-12)
    observed, predicted = sklearn_calibration_curve(target, probability, n_bins=10, strategy="quantile")
    curve = calibration_curve(target, probability)
    assert [one.observed for one in curve] == pytest.approx(observed, abs=1e-12)
    assert [one.predicted for one in curve] == pytest.approx(predicted, abs=1e-12)
    assert [one.num for one in curve] == [40] * 10
    error = np.average(np.abs(observed - predicted), weights=[one.num for one in curve])
    assert calibration_error(target, probability) == pytest.approx(error, abs=1e-12)


def test_calibration_error_of_a_worked_example():
    # two bins of two: mean p .15 against 0 positives of 2; mean p .8 against 1 of 2
    assert calibration_error([0, 0, 1, 0], [0.1, 0.2, 0.7, 0.9], bins=2) == pytest.approx((0.15 + 0.3) / 2)
    assert calibration_error([1, 0, 1, 0], [0.5] * 4, bins=10) == 0.0
    assert np.isnan(calibration_error([1, 1], [0.1, 0.2]))
    assert np.isnan(brier([0, 0], [0.1, 0.2]))
    with pytest.raises(PacxError, match="Log-odds"):
        brier([0, 1], [-2.0, 3.0])


def test_draws_of_the_calibration_error_lie_around_that_of_the_data():
    target, probability, patient = _cohort(3, rows=400, patients=200)
    drawn = calibration_error_draws(target, probability, resample_patients(patient, draws=400))
    assert drawn.min() >= 0
    assert drawn.mean() == pytest.approx(calibration_error(target, probability), abs=2e-3)


def test_accuracy_and_macro_f1_of_several_classes_equal_scikit_learn():
    rng = np.random.default_rng(1)
    true = rng.integers(0, 4, 90)
    score = rng.normal(size=(90, 4)) + 1.5 * np.eye(4)[true]
    resamples = resample_patients(np.arange(90) // 2, draws=10)
    accuracy, f1 = multiclass_draws(np.eye(4)[true], score, resamples)
    for draw in range(10):
        rows = _repeated(resamples, draw)
        called = score[rows].argmax(axis=1)
        assert accuracy[draw] == pytest.approx(accuracy_score(true[rows], called), abs=1e-12)
        assert f1[draw] == pytest.approx(f1_score(true[rows], called, average="macro"), abs=1e-12)
    one_class, _ = multiclass_draws(
        np.eye(4)[np.zeros(5, dtype=int)], rng.normal(size=(5, 4)), resample_patients([0] * 5)
    )
    assert np.isnan(one_class).all()
