import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("VCM_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture
def real_scans() -> Path:
    if not SHARED.is_dir():
        pytest.skip(f"real scans are not at {SHARED}; set VCM_TEST_DATA")
    return SHARED
