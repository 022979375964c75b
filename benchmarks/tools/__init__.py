"""Tables that the package ships with, made by measuring and compiling."""
