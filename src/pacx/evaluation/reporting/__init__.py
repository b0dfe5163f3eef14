"""The parts of the report: what was found, as data; then as pictures and words."""
