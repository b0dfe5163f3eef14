"""The simulated cohort: X-ray, ECG, labs and labels from one latent physiology."""
