"""A scan of thick slices, read and made ready for a model."""
