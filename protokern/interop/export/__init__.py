"""Trained models as files for other programs: ONNX, programs of torch, folders in the shape of the model hubs.

docs/export.md says what is in each. `protokern.interop.export.formats` has one row a format.
"""
