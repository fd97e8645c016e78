"""The one training loop: knows no brain and no model."""
