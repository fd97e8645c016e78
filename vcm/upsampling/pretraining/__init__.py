"""Train the networks of `vcm upsample`, and draw what they learn from."""
