"""Solvers of the last layer on fixed activations; they know no trainer."""
