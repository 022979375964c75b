"""Guards of a rebuilding: what an older revision of this repository does, the tree at hand does too, bit for bit.

    python -m tests.guards [--base REV] [--keep DIR] [--skip CHECK ...]

Both revisions make the same tiny runs, call every verb on them, and go on with runs that were stopped within an epoch.
Each also opens what the other wrote. Compared are exit codes, what was printed, and every file, where the clock, the
commit and the folder do not count. See CHECKS in `__main__.py`. With --keep the answers of the base are made once.
"""
