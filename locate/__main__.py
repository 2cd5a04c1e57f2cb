"""`python -m locate`."""

import sys

from pipelines.cli.main import main

sys.exit(main())
