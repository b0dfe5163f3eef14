"""Ours beside the peer's, in one process and in turns; see README.md here."""
