"""Train a module, and the networks that later stay frozen."""
