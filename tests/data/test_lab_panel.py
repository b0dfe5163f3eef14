from __future__ import annotations

from pathlib import Path

import pytest

from pacx.data.labs.panel import PANEL, Lab, LabIndex
from pacx.data.labs.panel_file import read_panel
from pacx.data.labs.units import factor, parse_unit
from pacx.errors import PacxError

INDEX = LabIndex(PANEL)


def lab(name: str) -> Lab:
    position = INDEX.find(name)
    assert position is not None, name
    return INDEX.panel[position]


def converted(name: str, value: float, unit: str) -> float:
    scale = lab(name).convert(unit, item=name)
    assert scale is not None, unit
    return value * scale


# By hand: value x molar mass [g/mol], mol/L to mmol/L and L to dL; or from a laboratory's own conversion table.
@pytest.mark.parametrize(
    ("name", "value", "unit", "expected"),
    [
        ("glucose", 7.0, "mmol/L", 126.11),  # 7e-3 mol/L x 180.156 g/mol = 1.2611 g/L
        ("creatinine", 88.4, "umol/L", 1.0),  # 88.4e-6 x 113.12 = 0.0100 g/L
        ("creatinine", 88.4, "µmol/l", 1.0),
        ("creatinine", 88.4, "μmol/L", 1.0),  # the Greek letter, not the micro sign
        ("total bilirubin", 17.1, "umol/L", 1.0),  # 17.1e-6 x 584.66
        ("BUN", 7.14, "mmol/L", 20.0),  # 7.14e-3 x 28.013, two nitrogens per urea
        ("urea", 7.14, "mmol/L", 20.0),
        ("urea", 42.88, "mg/dL", 20.0),  # 60.055 g of urea hold 28.013 g of nitrogen
        ("3091-6", 42.88, "mg/dL", 20.0),
        ("BUN", 20.0, "mg/dL", 20.0),
        ("hemoglobin", 140.0, "g/L", 14.0),
        ("haemoglobin", 8.69, "mmol/L", 14.0),  # 8.69e-3 x 16114.5, per monomer
        ("hematocrit", 0.42, "L/L", 42.0),
        ("hematocrit", 0.42, "fraction", 42.0),
        ("calcium", 2.5, "mmol/L", 10.02),  # 2.5e-3 x 40.078
        ("calcium", 5.0, "mEq/L", 10.02),  # two charges
        ("magnesium", 0.82, "mmol/L", 1.993),
        ("magnesium", 1.64, "mEq/L", 1.993),
        ("phosphate", 1.13, "mmol/L", 3.5),  # as phosphorus: 1.13e-3 x 30.974
        ("albumin", 40.0, "g/L", 4.0),
        ("lactate", 18.0, "mg/dL", 1.998),  # 0.18 g/L / 90.078
        ("lactate", 2.0, "mEq/L", 2.0),
        ("pCO2", 5.33, "kPa", 39.98),  # 1 mmHg = 0.133322 kPa
        ("pO2", 13.3, "kPa", 99.76),
        ("pCO2", 40.0, "mm Hg", 40.0),
        ("pCO2", 40.0, "mm[Hg]", 40.0),
        ("wbc", 9.5, "10^9/L", 9.5),
        ("wbc", 9.5, "x10E9/L", 9.5),
        ("wbc", 9.5, "10*3/uL", 9.5),
        ("wbc", 9.5, "K/mcL", 9.5),
        ("wbc", 9.5, "G/L", 9.5),  # giga, as no white cell weighs a gram
        ("wbc", 9500.0, "/uL", 9.5),
        ("wbc", 9500.0, "cells/mm3", 9.5),
        ("platelets", 250000.0, "/mm^3", 250.0),
        ("rbc", 4.7, "10^12/L", 4.7),
        ("rbc", 4.7, "M/mcL", 4.7),
        ("rbc", 4.7, "m/uL", 4.7),
        ("alt", 0.5, "ukat/L", 30.0),  # 1 kat = 1 mol/s = 6e7 umol/min
        ("alt", 30.0, "Units/L", 30.0),
        ("MCH", 1.86, "fmol", 29.97),
        ("MCHC", 20.5, "mmol/L", 33.03),
        ("MCHC", 330.0, "g/L", 33.0),
        ("MCHC", 33.0, "%", 33.0),
        ("sodium", 140.0, "mmol/L", 140.0),
        ("PTT", 30.0, "seconds", 30.0),
        ("INR", 1.1, "", 1.1),
        ("pH", 7.4, "", 7.4),
        ("anion gap", 12.0, "", 12.0),
    ],
)
def test_units_become_the_panels_as_by_hand(name: str, value: float, unit: str, expected: float) -> None:
    assert converted(name, value, unit) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("glucose", ""),  # mg/dL or mmol/L
        ("lactate", ""),
        ("hematocrit", ""),  # per cent or a fraction
        ("wbc", ""),
        ("glucose", "mg/kg"),
        ("glucose", "mEq/L"),  # no charge
        ("wbc", "%"),
        ("RDW", "fL"),  # that is RDW-SD
        ("albumin", "umol/L"),  # nobody agrees on its mass
        ("sodium", "mg/dL"),
        ("pH", "nmol/L"),
    ],
)
def test_a_unit_that_is_absent_unknown_or_does_not_fit_is_never_guessed(name: str, unit: str) -> None:
    assert lab(name).convert(unit, item=name) is None


def test_powers_of_ten_are_exact() -> None:
    assert lab("albumin").convert("g/L") == 0.1
    assert lab("wbc").convert("10^9/L") == 1.0
    assert lab("creatinine").convert("mg/dL") == 1.0


def test_conversion_there_and_back_changes_nothing() -> None:
    for substance in PANEL:
        for unit in ("mmol/L", "g/L", "mEq/L", "10^9/L", "ukat/L", "kPa", "fraction"):
            there = factor(unit, substance.unit, molar_mass=substance.molar_mass, charge=substance.charge)
            back = factor(substance.unit, unit, molar_mass=substance.molar_mass, charge=substance.charge)
            assert (there is None) == (back is None)
            if there is not None and back is not None:
                assert there * back == pytest.approx(1, rel=1e-12)


def test_every_unit_of_the_panel_is_understood() -> None:
    for item in PANEL:
        assert parse_unit(item.unit), item
        assert item.convert(item.unit) == 1.0


def test_a_letter_for_giga_and_one_for_gram_are_told_apart_by_the_lab() -> None:
    assert lab("plt").convert("G/L") == 1.0
    assert lab("hgb").convert("G/L") == 0.1


def luhn(code: str) -> bool:
    digits = [int(digit) for digit in reversed(code.replace("-", ""))]
    doubled = [digit * 2 - 9 * (digit > 4) if place % 2 else digit for place, digit in enumerate(digits)]
    return sum(doubled) % 10 == 0


def test_loinc_codes_have_their_check_digit_and_only_the_indices_of_the_sample_have_none() -> None:
    assert [code for item in PANEL for code in item.loinc if not luhn(code)] == []
    assert [item.name for item in PANEL if not item.loinc] == ["H", "I", "L"]
    assert not luhn("2345-6")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("50912", "Creatinine"), ("2160-0", "Creatinine"), ("LOINC:2160-0", "Creatinine"), ("CREATININE", "Creatinine"),
        (" wbc  x 1000", "White Blood Cells"), ("NA", "Sodium"), ("K", "Potassium"), ("-polys", "Neutrophils"),
        ("PT - INR", "INR(PT)"), ("Aspartate aminotransferase", "Asparate Aminotransferase (AST)"), ("L", "L"),
    ],
)  # fmt: skip
def test_a_lab_is_found_by_item_id_loinc_code_name_or_alias(text: str, name: str) -> None:
    assert lab(text).name == name


@pytest.mark.parametrize("text", ["l", "h", "bedside glucose", "HCO3", "Base Deficit", "10466-1", "0", ""])
def test_what_is_another_quantity_is_not_found(text: str) -> None:
    assert INDEX.find(text) is None


def test_two_labs_of_one_name_are_refused() -> None:
    with pytest.raises(PacxError, match="'Sodium' and 'Salt' of the panel both answer to 'na'"):
        LabIndex([lab("sodium"), Lab(0, "Salt", "g/L", 0, 1, aliases=("NA",))])


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_panel_file_takes_from_the_default_what_it_leaves_out(tmp_path: Path) -> None:
    panel = read_panel(
        write(
            tmp_path / "p.yaml",
            "- Sodium\n- {name: Glucose, unit: mmol/L}\n"
            "- {name: C-Reactive Protein, ids: [50889, crp], loinc: 1988-5, unit: mg/L, low: 0, high: 1000}\n",
        )
    )
    assert [item.name for item in panel] == ["Sodium", "Glucose", "C-Reactive Protein"]
    assert panel[0] == lab("sodium")
    assert panel[1].convert("mg/dL") == pytest.approx(1 / 18.0156, rel=1e-5)
    assert panel[1].high == pytest.approx(3000 / 18.0156, rel=1e-5)
    crp = panel[2]
    assert (crp.loinc, crp.aliases, crp.low, crp.high) == (("1988-5",), ("50889", "crp"), 0, 1000)
    assert crp.convert("mg/dL") == 10


def test_a_panel_may_be_a_csv_file(tmp_path: Path) -> None:
    panel = read_panel(write(tmp_path / "p.csv", "name,ids,unit,low,high\nSodium,,,,\nIL-6,il6;x17,pg/mL,0,\n"))
    assert panel[0] == lab("sodium")
    assert panel[1].aliases == ("il6", "x17")
    assert panel[1].high == float("inf")


def test_urea_in_a_panel_of_ones_own_is_the_molecule_and_not_its_nitrogen(tmp_path: Path) -> None:
    (urea,) = read_panel(write(tmp_path / "p.yaml", "- {name: Urea, unit: mg/dL, ids: [uree]}"))
    assert urea.convert("mg/dL", item="urea") == urea.convert("mg/dL", item="uree") == 1.0
    assert urea.convert("mmol/L", item="urea") == pytest.approx(6.006, abs=1e-3)  # 60.06 g/mol
    assert urea.convert("mg/dL", item="BUN") == pytest.approx(60.06 / 28.014, abs=1e-3)
    assert urea.high == pytest.approx(400 * 60.06 / 28.014, rel=1e-3)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is not a list of labs"),
        ("[]", "lists no labs"),
        ("sodium: 1", "is not a list of labs"),
        ("- {unit: mg/L}", "Lab 1 of .* has no name"),
        ("- IL-6", "'IL-6', has no unit"),
        ("- {name: IL-6, unit: pg/mL, max: 3}", "unknown fields max"),
        ("- {name: IL-6, unit: pg/mL, low: few}", "low 'few', which is not a number"),
        ("- {name: IL-6, unit: pg/mL, low: 3, high: 1}", "low 3 above high 1"),
        ("- Sodium\n- sodium", "both answer to"),
        ("- {name: Sodium, charge: .inf}", "charge inf; it must be a whole number"),
        ("- {name: Glucose, unit: mmHg}", "'mmHg', which does not fit Glucose"),
        ("- [", "cannot be read as a panel"),
    ],
)
def test_panels_that_cannot_be_used_are_refused_with_a_reason(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(PacxError, match=says):
        read_panel(write(tmp_path / "p.yaml", text))
    with pytest.raises(PacxError, match="cannot be read as a panel"):
        read_panel(tmp_path / "absent.yaml")
