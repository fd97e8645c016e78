"""What a few-shot task is, and its cases: found, prepared, drawn as shots."""
