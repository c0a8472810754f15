"""`python -m troth` is the same as the `troth` command."""

from troth.http.cli import main

if __name__ == "__main__":
    main()
