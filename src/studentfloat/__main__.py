"""``python -m studentfloat``."""

from studentfloat.cli.main import main

if __name__ == "__main__":
    main()
