"""All that a run folder holds, there and back."""
