"""Staged training of prototype nets: settings, the stage list, the loop, checkpoints. No data reading, no printing."""
