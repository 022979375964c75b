"""Writes and reads what a run folder holds."""
