"""Frozen encoders: what one makes of a store, computed once and kept, and whom it may be judged on."""
