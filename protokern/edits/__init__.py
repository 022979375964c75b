"""Corrections by people: other prototypes, other classes of prototypes, limits of classes; then the last layer anew."""
