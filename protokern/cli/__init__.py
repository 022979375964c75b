"""The command line: one file per verb. Only this part and `report` write for people."""
