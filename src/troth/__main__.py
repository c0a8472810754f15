"""`python -m troth` is the same as the `troth` command."""

from troth.cli.command import main

if __name__ == "__main__":
    main()
