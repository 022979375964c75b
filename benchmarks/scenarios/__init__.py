"""What is made of the ops, timed against what it replaces; one file each."""
