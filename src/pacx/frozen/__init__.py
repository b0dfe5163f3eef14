"""What a frozen encoder makes of a store, computed once and kept: embeddings and patch tokens."""
