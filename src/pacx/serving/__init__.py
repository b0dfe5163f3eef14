"""Using a trained encoder: export to ONNX, and reading, predicting and serving without torch."""
