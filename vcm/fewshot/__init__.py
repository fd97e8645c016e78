"""Few-shot evaluation: how well a task is learned from a handful of labelled scans, with intervals."""
