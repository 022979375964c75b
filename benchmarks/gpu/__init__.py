"""Everything that a GPU is wanted for, in one command of nine minutes: `python -m benchmarks gpu`, or `make gpu`.

A stage is a list of units. Worker processes do the units; the process that a person starts knows no torch, hands them
out, keeps the time and writes every result down at once. benchmarks/README.md says what comes out.
"""
