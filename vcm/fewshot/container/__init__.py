"""What a challenge takes: its contracts, a package that answers them, and the check before it is sent."""
