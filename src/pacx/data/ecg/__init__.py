"""ECGs in: any record to 12 leads x 5000 samples, and these to what the network sees.

reading                `read_ecg`: everything in order, and an account of what was done
files, tables          WFDB records, `.npy` arrays, text
leads                  names, Einthoven and Goldberger, exchanged electrodes
signal                 rate, length, gaps
checks                 what is refused, what is only said
recipe                 `prepare_ecg`: ECGFounder's filters and z-score
"""

from pacx.data.ecg.leads import LEADS, EcgError
from pacx.data.ecg.reading import Ecg, read_ecg
from pacx.data.ecg.signal import RATE, SAMPLES

__all__ = ["LEADS", "RATE", "SAMPLES", "Ecg", "EcgError", "read_ecg"]
