"""Who the simulated patients are: the latent state that X-ray, ECG, labs and labels are all drawn from.

Causal graph (parent -> child; names in brackets are never seen by any model nor stored):

    age, bmi              -> [hypertension]
    age, sex              -> [ischaemia]
    sex                   -> [smoking]
    [ischaemia], [hypertension]                  -> lv_dilation
    age, [hypertension], lv_dilation             -> renal_dysfunction
    [hypertension], renal_dysfunction            -> lv_hypertrophy
    lv_dilation, lv_hypertrophy, renal_dysfunction -> congestion
    [smoking], age, bmi (negatively)             -> hyperinflation
    hyperinflation, age, renal_dysfunction       -> infection
    age, lv_dilation, lv_hypertrophy             -> rhythm (atrial fibrillation)
    age, lv_dilation | age, hyperinflation       -> conduction (left | right bundle branch block)
    nothing                                      -> nodule, rib_fracture, device

    all of the above -> X-ray (anatomy.py) and its view | ECG (heart.py) | labs (blood.py, orders.py) | labels

Each of these four has noise of its own, so given the latent state they are independent: whatever an X-ray encoder can
learn from an ECG or from labs, it learns about the latent state. The heart and the kidney make each other worse in
life; here low output (dilation) harms the kidney and the kidney holds back fluid (congestion), which keeps the graph
without cycles.

Equations. With a = (age - 61.9) / 15.9, b = ln(bmi / 27.5) / 0.19, m = +1 men, -1 women, and e independent N(0, 1):

    hypertension   = .45 a + .35 b                + .82 e
    ischaemia      = .40 a + .20 m                + .89 e
    smoking        = .30 m                        + .95 e
    lv_dilation    = .45 ischaemia + .20 hypertension + .85 e
    renal          = .30 a + .30 hypertension + .20 lv_dilation + .80 e
    lv_hypertrophy = .50 hypertension + .20 renal + .78 e
    congestion     = .45 lv_dilation + .20 lv_hypertrophy + .25 renal + .73 (.63 e_patient + .77 e_visit)
    hyperinflation = .60 smoking + .20 a - .20 b + .75 e
    infection      = .20 hyperinflation + .15 a + .10 renal + .95 (.45 e_patient + .89 e_visit)
    P(atrial fibrillation) = logistic(-2.9 + .8 a + .7 lv_dilation + .2 lv_hypertrophy)
    P(left bundle branch block)  = logistic(-3.4 + .9 lv_dilation + .3 a)
    P(right bundle branch block) = logistic(-2.9 + .4 a + .5 hyperinflation)

The weight of each e makes the variance 1, the weights of the parents are chosen, not fitted: they give the sign and the
rough strength that a clinician expects. Congestion and infection differ between the visits of one patient, all else
stays.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np

__all__ = ["SEVERITIES", "Conduction", "Patient", "Rhythm", "random_stream", "sample_patient"]

Rhythm = Literal["sinus", "atrial_fibrillation"]
Conduction = Literal["normal", "lbbb", "rbbb"]

SEVERITIES = ("lv_dilation", "lv_hypertrophy", "congestion", "hyperinflation", "renal_dysfunction", "infection")


@dataclass(frozen=True)
class Patient:
    """One simulated patient at one visit.

    The severities are in standard-deviation units of the cohort (0 = average, clinically overt from about 1.3).
    """

    patient_id: str
    """unique over cohorts of different seeds too"""
    age: float
    """years, 18 to 100"""
    sex: Literal["F", "M"]
    height: float
    """cm"""
    bmi: float
    """kg/m2"""
    lv_dilation: float
    """severity of left-ventricular dilation"""
    lv_hypertrophy: float
    """severity of left-ventricular hypertrophy"""
    congestion: float
    """severity of pulmonary congestion and fluid overload"""
    hyperinflation: float
    """severity of emphysematous hyperinflation"""
    renal_dysfunction: float
    """severity of loss of kidney function"""
    infection: float
    """severity of pulmonary infection"""
    rhythm: Rhythm
    conduction: Conduction
    nodule: bool
    """a lung nodule, independent of every severity"""
    rib_fracture: bool
    """a displaced rib fracture, independent of every severity"""
    device: bool
    """a pacemaker with leads on the X-ray, independent of every severity; it is off and leaves no trace on the ECG"""


def random_stream(purpose: str, *key: int) -> np.random.Generator:
    """Open the random stream of one purpose, e.g. `random_stream("ecg", seed, patient, visit)`.

    Streams of different purposes or keys are independent (SeedSequence), and a stream depends on nothing but its
    name and key. So results do not change with the number of workers, with their order, or when one purpose starts
    to draw more numbers.

    Args:
        purpose: what the numbers are for.
        *key: non-negative integers.
    """
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([zlib.crc32(purpose.encode()), *key])))


def sample_patient(index: int, *, seed: int, visit: int = 0) -> Patient:
    """Draw one patient of the cohort by the equations in the module's docstring.

    Args:
        index: number of the patient, from 0.
        seed: seed of the cohort, not negative.
        visit: number of the visit; visits of one patient differ in congestion and infection only.
    """
    chronic = random_stream("patient", seed, index)
    # Every number is drawn here, before any is used, so that a new equation cannot shift another one's noise.
    e = chronic.standard_normal(12)
    u = chronic.uniform(size=6)
    e_visit = random_stream("visit", seed, index, visit).standard_normal(2)

    male = bool(u[0] < 0.53)
    m = 1.0 if male else -1.0
    age = 18.0 + 82.0 * float(chronic.beta(3.0, 2.6))
    a = (age - 61.9) / 15.9
    height = (175.5 if male else 162.0) - 0.08 * (age - 60.0) + 6.6 * e[0]
    bmi = float(np.clip(27.5 * np.exp(0.19 * e[1]), 15.0, 60.0))
    b = np.log(bmi / 27.5) / 0.19

    hypertension = 0.45 * a + 0.35 * b + 0.82 * e[2]
    ischaemia = 0.40 * a + 0.20 * m + 0.89 * e[3]
    smoking = 0.30 * m + 0.95 * e[4]
    dilation = 0.45 * ischaemia + 0.20 * hypertension + 0.85 * e[5]
    renal = 0.30 * a + 0.30 * hypertension + 0.20 * dilation + 0.80 * e[6]
    hypertrophy = 0.50 * hypertension + 0.20 * renal + 0.78 * e[7]
    congestion = 0.45 * dilation + 0.20 * hypertrophy + 0.25 * renal + 0.73 * (0.63 * e[8] + 0.77 * e_visit[0])
    hyperinflation = 0.60 * smoking + 0.20 * a - 0.20 * b + 0.75 * e[9]
    infection = 0.20 * hyperinflation + 0.15 * a + 0.10 * renal + 0.95 * (0.45 * e[10] + 0.89 * e_visit[1])

    fibrillates = u[1] < _logistic(-2.9 + 0.8 * a + 0.7 * dilation + 0.2 * hypertrophy)
    return Patient(
        patient_id=f"P{seed}-{index:06d}",
        age=age,
        sex="M" if male else "F",
        height=float(height),
        bmi=bmi,
        lv_dilation=float(dilation),
        lv_hypertrophy=float(hypertrophy),
        congestion=float(congestion),
        hyperinflation=float(hyperinflation),
        renal_dysfunction=float(renal),
        infection=float(infection),
        rhythm="atrial_fibrillation" if fibrillates else "sinus",
        conduction=_conduction(
            float(u[2]),
            left=_logistic(-3.4 + 0.9 * dilation + 0.3 * a),
            right=_logistic(-2.9 + 0.4 * a + 0.5 * hyperinflation),
        ),
        nodule=bool(u[3] < 0.15),
        rib_fracture=bool(u[4] < 0.14),
        device=bool(u[5] < 0.18),
    )


def _conduction(u: float, *, left: float, right: float) -> Conduction:
    if u < left:
        return "lbbb"
    return "rbbb" if u < left + right else "normal"


def _logistic(x: float) -> float:
    return float(1.0 / (1.0 + np.exp(-x)))
