"""Panels: which labs, under which names and codes, in which unit, within which limits.

The default panel is the 50 items of Symile-MIMIC in the column order of its arrays: ascending item id, not the order of
its CSV files. A lab is found by MIMIC-IV item id, LOINC code, name or alias; matching ignores case and repeated spaces,
except for names of one letter.

* A LOINC code says substance, specimen, method and kind of quantity. Listed are the codes of the same quantity:
  serum or plasma for chemistry, whole blood for counts and gases. The first of each is the one that MIMIC's own
  concept map gives to the item (MIT-LCP/mimic-code, `d_labitems_to_loinc.csv`). H, I and L, the indices of haemolysis,
  icterus and lipaemia, have none there and none here.
* Left out on purpose, as they measure something else: whole-blood and bedside glucose, potassium, sodium, chloride;
  bicarbonate of a blood gas, which is calculated; the base deficit (sign); the anion gap without potassium (LOINC
  10466-1), about 4 mEq/L below this one.
* Limits are wide: what lies outside is a wrong unit or a typing error, not a very ill patient.
* Molar masses are those of the substance whose mass the US unit counts: urea NITROGEN (2 N = 28.013 of the 60.055
  g/mol of urea), phosphorus in phosphate, haemoglobin per monomer with one iron (16,114.5 g/mol, as European
  laboratories count it). They follow from IUPAC's 2021 standard atomic weights; haemoglobin's is the ICSH's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pacx.data.labs.units import factor, parse_unit, same_number
from pacx.errors import PacxError

__all__ = ["PANEL", "Lab", "LabIndex", "item_key"]


def item_key(item: str) -> str:
    """Return the form in which items are compared: without case and repeated spaces, one letter as it stands."""
    text = " ".join(item.split())
    return text if len(text) == 1 else text.casefold().removeprefix("loinc:")


class Lab(NamedTuple):
    """One laboratory item of a panel."""

    item_id: int
    """Item number in MIMIC-IV's dictionary of laboratory items; 0 for none."""
    name: str
    """Name as in Symile-MIMIC, spelling included."""
    unit: str
    """Conventional US unit, as MIMIC-IV reports it."""
    low: float
    """Below this no living patient's value lies: unit or entry error."""
    high: float
    """Above this likewise."""
    loinc: tuple[str, ...] = ()
    """LOINC codes of the same quantity, the most usual first."""
    aliases: tuple[str, ...] = ()
    """Other names and local ids: those of eICU and of the ricu and YAIB tables, and usual abbreviations."""
    molar_mass: float | None = None
    """g/mol of what the unit of mass weighs, for mass to amount and back; None where nobody reports both."""
    charge: int | None = None
    """Charge number, for mEq to mmol and back."""
    also: tuple[tuple[str, float], ...] = ()
    """Further (unit, factor) that the dimension of `unit` does not give."""
    weighed: tuple[tuple[str, float], ...] = ()
    """(alias or code, g/mol): under this name a unit of mass weighs something else, e.g. urea and not its nitrogen."""

    def convert(self, unit: str, *, item: str = "") -> float | None:
        """Return the factor from `unit` to the lab's unit, or None where the unit is unknown or does not fit.

        Args:
            unit: as the table spells it; empty where it does not say.
            item: under which name or code the value came.
        """
        if not unit.strip() and not self.unit_may_lack:
            return None
        extra = {name.casefold(): scale for name, scale in self.also}
        if unit.strip().casefold() in extra:
            return extra[unit.strip().casefold()]
        if not unit.strip():
            return 1.0
        scale = factor(unit, self.unit, molar_mass=self.molar_mass, charge=self.charge)
        weight = dict(self.weighed).get(item_key(item))
        if scale is not None and weight is not None and self.molar_mass and "mass/volume" in parse_unit(unit):
            scale *= self.molar_mass / weight
        return scale

    @property
    def unit_may_lack(self) -> bool:
        """All usual units give the same number (pH, INR, mEq/L and mmol/L of sodium), so none is needed."""
        return same_number(self.unit, molar_mass=self.molar_mass, charge=self.charge)


class LabIndex:
    """Finds the labs of a panel by item id, LOINC code, name or alias.

    Raises:
        PacxError: two labs of the panel share a name or code.
    """

    def __init__(self, panel: Sequence[Lab]) -> None:
        self.panel = tuple(panel)
        self._positions: dict[str, int] = {}
        for position, lab in enumerate(self.panel):
            for key in {item_key(text) for text in _keys(lab)}:
                other = self._positions.setdefault(key, position)
                if other != position:
                    raise PacxError(
                        f"The labs {self.panel[other].name!r} and {lab.name!r} of the panel both answer to {key!r}. "
                        "Each name, item id and LOINC code may belong to one lab only."
                    )

    def find(self, item: str) -> int | None:
        """Return the position of the lab that answers to `item`, or None."""
        return self._positions.get(item_key(item))


def _keys(lab: Lab) -> Iterable[str]:
    return (*([str(lab.item_id)] if lab.item_id else []), lab.name, *lab.loinc, *lab.aliases)


_UREA, _UREA_NITROGEN = 60.055, 28.013
_HAEMOGLOBIN = 16114.5
_GRAM_PER_DECILITRE_AS_PERCENT = (("%", 1.0),)

# fmt: off
PANEL: tuple[Lab, ...] = (
    Lab(50802, "Base Excess", "mEq/L", -50, 50, ("11555-0", "1925-7", "1927-3"), ("be",), charge=1),
    Lab(50804, "Calculated Total CO2", "mEq/L", 1, 80, ("34728-6", "2026-3", "2027-1"), ("total co2",), charge=1),
    Lab(50813, "Lactate", "mmol/L", 0.1, 40, ("32693-4", "2524-7", "2518-9", "2519-7"), ("lact", "lactic acid"),
        90.078, 1),
    Lab(50818, "pCO2", "mmHg", 5, 250, ("11557-6", "2019-8", "2021-4", "2020-6"), ("paco2",)),
    Lab(50820, "pH", "units", 6.3, 8.0, ("11558-4", "2744-1", "2746-6", "2745-8"), ("blood ph",)),
    Lab(50821, "pO2", "mmHg", 5, 800, ("11556-8", "2703-7", "2705-2", "2704-5"), ("pao2",)),
    Lab(50861, "Alanine Aminotransferase (ALT)", "IU/L", 0, 30000, ("1742-6", "1743-4", "1744-2"),
        ("alt", "alt (sgpt)", "sgpt", "alat", "alanine aminotransferase")),
    Lab(50862, "Albumin", "g/dL", 0.3, 8, ("1751-7", "61151-7", "61152-5"), ("alb",)),
    Lab(50863, "Alkaline Phosphatase", "IU/L", 1, 6000, ("6768-6",), ("alp", "alkaline phos.", "alk phos")),
    Lab(50868, "Anion Gap", "mEq/L", -15, 70, ("1863-0", "33037-3"), charge=1),
    Lab(50878, "Asparate Aminotransferase (AST)", "IU/L", 0, 50000, ("1920-8", "30239-8"),
        ("ast", "ast (sgot)", "sgot", "asat", "aspartate aminotransferase", "aspartate aminotransferase (ast)")),
    Lab(50882, "Bicarbonate", "mEq/L", 1, 70, ("1963-8", "2028-9"), ("bicar",), charge=1),
    Lab(50885, "Bilirubin, Total", "mg/dL", 0, 90, ("1975-2", "14631-6"),
        ("bili", "total bilirubin", "bilirubin total"), 584.66),
    Lab(50893, "Calcium, Total", "mg/dL", 2, 25, ("17861-6", "2000-8"), ("ca", "calcium", "total calcium"), 40.078, 2),
    Lab(50902, "Chloride", "mEq/L", 50, 180, ("2075-0",), ("cl",), charge=1),
    Lab(50910, "Creatine Kinase (CK)", "IU/L", 0, 500000, ("2157-6",), ("ck", "cpk", "creatine kinase")),
    Lab(50912, "Creatinine", "mg/dL", 0, 50, ("2160-0", "14682-9", "38483-4"), ("crea", "creat"), 113.12),
    Lab(50931, "Glucose", "mg/dL", 5, 3000, ("2345-7", "14749-6"), ("glu",), 180.156),
    Lab(50934, "H", "index", 0, 5000, (), ("hemolysis index", "haemolysis index")),
    Lab(50947, "I", "index", 0, 200, (), ("icterus index", "icteric index")),
    Lab(50960, "Magnesium", "mg/dL", 0.2, 15, ("19123-9", "2601-3"), ("mg",), 24.305, 2),
    Lab(50970, "Phosphate", "mg/dL", 0.1, 30, ("2777-1", "14879-1"), ("phos", "phosphorus", "inorganic phosphate"),
        30.974),
    Lab(50971, "Potassium", "mEq/L", 0.8, 15, ("2823-3",), ("K", "k"), charge=1),
    Lab(50983, "Sodium", "mEq/L", 80, 220, ("2951-2",), ("na",), charge=1),
    Lab(51006, "Urea Nitrogen", "mg/dL", 0, 400, ("3094-0", "14937-7", "3091-6", "22664-7"),
        ("bun", "blood urea nitrogen", "urea"), _UREA_NITROGEN, weighed=(("urea", _UREA), ("3091-6", _UREA))),
    Lab(51133, "Absolute Lymphocyte Count", "K/uL", 0, 800, ("731-0", "26474-7", "732-8"),
        ("lymphocytes (absolute)", "lymphocytes_abs")),
    Lab(51146, "Basophils", "%", 0, 100, ("706-2", "30180-4", "707-0"), ("basos", "-basos", "baso")),
    Lab(51200, "Eosinophils", "%", 0, 100, ("713-8", "26450-7", "714-6"), ("eos", "-eos")),
    Lab(51221, "Hematocrit", "%", 5, 80, ("4544-3", "20570-8", "4545-0"), ("hct", "haematocrit")),
    Lab(51222, "Hemoglobin", "g/dL", 1, 27, ("718-7", "59260-0"), ("hgb", "hb", "haemoglobin"), _HAEMOGLOBIN),
    Lab(51237, "INR(PT)", "ratio", 0.5, 30, ("6301-6", "34714-6"), ("inr", "inr_pt", "pt - inr")),
    Lab(51244, "Lymphocytes", "%", 0, 100, ("736-9", "26478-8", "737-7"), ("lymph", "-lymphs", "lymphs")),
    Lab(51248, "MCH", "pg", 8, 60, ("785-6", "28539-5"), ("mean corpuscular hemoglobin",), _HAEMOGLOBIN),
    # g/dL of cells: older reports write it as a percentage, which is the same number.
    Lab(51249, "MCHC", "g/dL", 15, 50, ("786-4", "28540-3"), (), _HAEMOGLOBIN, also=_GRAM_PER_DECILITRE_AS_PERCENT),
    Lab(51250, "MCV", "fL", 40, 170, ("787-2", "30428-7"), ("mean corpuscular volume",)),
    Lab(51254, "Monocytes", "%", 0, 100, ("5905-5", "26485-3", "744-3"), ("-monos", "monos", "mono")),
    Lab(51256, "Neutrophils", "%", 0, 100, ("770-8", "26511-6"), ("neut", "-polys", "polys")),
    Lab(51265, "Platelet Count", "K/uL", 0, 5000, ("777-3", "26515-7", "778-1"),
        ("plt", "platelets", "platelets x 1000")),
    Lab(51274, "PT", "sec", 5, 200, ("5902-2", "5964-2"), ("prothrombin time",)),
    Lab(51275, "PTT", "sec", 10, 300, ("14979-9", "3173-2"), ("aptt", "partial thromboplastin time")),
    Lab(51277, "RDW", "%", 8, 50, ("788-0", "30385-9"), ("rdw-cv",)),
    Lab(51279, "Red Blood Cells", "M/uL", 0.3, 10, ("789-8", "26453-1"), ("rbc", "erythrocytes")),
    Lab(51301, "White Blood Cells", "K/uL", 0, 1000, ("6690-2", "26464-8", "804-5"),
        ("wbc", "wbc x 1000", "leukocytes", "white blood cell count")),
    Lab(51678, "L", "index", 0, 5000, (), ("lipemia index", "lipaemia index")),
    Lab(52069, "Absolute Basophil Count", "K/uL", 0, 200, ("704-7", "26444-0", "705-4")),
    Lab(52073, "Absolute Eosinophil Count", "K/uL", 0, 300, ("711-2", "26449-9", "712-0")),
    Lab(52074, "Absolute Monocyte Count", "K/uL", 0, 500, ("742-7", "26484-6", "743-5")),
    Lab(52075, "Absolute Neutrophil Count", "K/uL", 0, 800, ("751-8", "26499-4", "753-4"), ("neutrophils_abs",)),
    Lab(52135, "Immature Granulocytes", "%", 0, 100, ("38518-7", "71695-1")),
    Lab(52172, "RDW-SD", "fL", 15, 200, ("21000-5", "30384-2")),
)
# fmt: on
