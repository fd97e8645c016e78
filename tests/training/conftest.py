import pytest


@pytest.fixture(autouse=True)
def short_mixture(monkeypatch) -> None:
    """The linear start of a training run is fitted to few mixtures: the networks here are small."""
    monkeypatch.setattr("vcm.training.linear_start.MIXED", 8)
