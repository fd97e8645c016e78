import pytest
from source_folders import without_slow_parts


@pytest.fixture
def no_registration(monkeypatch):
    """Registration is tested elsewhere and takes seconds, as pictures do."""
    without_slow_parts(monkeypatch)
