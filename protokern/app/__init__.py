"""The workbench: a local page on which a net is questioned and corrected."""
