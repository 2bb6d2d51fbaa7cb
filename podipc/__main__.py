"""`python -m podipc`."""

import sys

from podipc.cli import main

sys.exit(main())
