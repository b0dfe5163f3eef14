"""Laboratory values in: tables of any shape to one value per row and lab, and values to percentiles.

panel, panel_file      which labs, by which ids and names, in which units, within which limits
units                  how units are spelt and converted
tables                 `read_lab_table`: long or wide tables, with an account of every value
columns, files, texts, pieces, gather, report      the steps of reading one
reference              `LabReference`: the training set's distribution, which makes percentiles
percentiles            tables that hold percentiles already
"""

from pacx.data.labs.panel import PANEL, Lab
from pacx.data.labs.reference import LabReference, drop_implausible

__all__ = ["PANEL", "Lab", "LabReference", "drop_implausible"]
