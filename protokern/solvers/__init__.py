"""Solvers of the last layer on fixed activations, independent of the trainer."""
