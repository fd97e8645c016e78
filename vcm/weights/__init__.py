"""Models as files: find, load, check, import, fetch and pack them."""
