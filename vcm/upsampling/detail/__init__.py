"""What is added between the slices, and what they measured kept."""
