"""``python -m pipeline`` is ``dlpipe``."""

import sys

from pipeline.cli import main

sys.exit(main())
