"""The command `vcm`: parsing only, a file per job. Heavy imports happen inside the commands."""
