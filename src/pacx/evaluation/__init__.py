"""What an encoder is worth: features, probes, alignment, attention, report."""
