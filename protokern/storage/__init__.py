"""Names that a file system takes, and folders of outputs in which nothing of anybody else is replaced."""
