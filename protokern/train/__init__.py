"""Staged training of prototype nets: the order of the steps, the loop, and the state that is saved and resumed."""
