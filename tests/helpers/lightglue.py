"""Whether the optional package that brings ALIKED, DISK and LightGlue is installed."""

from __future__ import annotations

import pytest

from locate.errors import MissingExtraError
from locate.matching import lightglue

try:
    lightglue.package()
    MISSING = ""
except MissingExtraError as error:
    MISSING = str(error)
installed = pytest.mark.skipif(bool(MISSING), reason=MISSING)
