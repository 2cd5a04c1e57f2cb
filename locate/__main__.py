"""`python -m locate`."""

import sys

from pipelines.cli import main

sys.exit(main())
