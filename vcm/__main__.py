"""`python -m vcm` is the command `vcm`."""

from vcm.cli.main import main

if __name__ == "__main__":
    main()
