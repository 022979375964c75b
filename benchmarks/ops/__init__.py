"""The ops: their providers, timing and checks."""
