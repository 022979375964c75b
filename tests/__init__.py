"""Tests mirror the package: one file per module. `tests.<part>.contract` is what every implementation must meet."""
