"""Everything that needs a GPU, in one command of nine minutes: `python -m benchmarks gpu`, or `make gpu`.

A stage is a list of units. Worker processes do the units; the process that a person starts knows no torch, hands them
out, keeps the time and stores every result at once. benchmarks/README.md says what comes out.
"""
