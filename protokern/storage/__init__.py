"""Names that a file system takes, and folders of outputs in which no other files are replaced."""
