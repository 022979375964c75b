"""Plain data that passes between the parts: no layer, no disk, no drawing."""
