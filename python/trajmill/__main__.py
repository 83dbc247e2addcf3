"""``python -m trajmill`` is the command ``trajmill``."""

import sys

from trajmill.cli import main

if __name__ == "__main__":
    sys.exit(main())
