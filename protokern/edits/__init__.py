"""Corrections by people: forbid, replace, add, move or share prototypes; the last layer is solved again after each."""
