"""The ops: who computes them, how they are timed and checked."""
