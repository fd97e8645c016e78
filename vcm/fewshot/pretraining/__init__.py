"""Pretrain an encoder on scans without labels."""
