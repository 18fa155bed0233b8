"""`python -m recexp`."""

from recexp.cli import main

if __name__ == "__main__":  # not in the processes of a sweep's jobs, which import this again
    main()
