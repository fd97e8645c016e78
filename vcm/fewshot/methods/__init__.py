"""What is fitted to shots: features and lines on them, networks, and the model that remains."""
