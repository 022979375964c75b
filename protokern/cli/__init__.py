"""The command line: one file for each verb. The only part of the package, with the report, that writes for people."""
