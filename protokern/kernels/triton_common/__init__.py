"""What the Triton kernels of all ops share: whether they can run, on what limits, with which tiles.

`availability` and `limits` import no triton, so that they can be asked where it is not installed.
"""
