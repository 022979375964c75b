"""Plain data that is passed between the parts: no layers, no files, no drawing."""
