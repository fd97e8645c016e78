"""`python -m vcm` is the command `vcm`."""

from vcm.cli import main

if __name__ == "__main__":
    main()
