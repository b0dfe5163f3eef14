"""Everything that turns files into arrays. Knows nothing of models."""
