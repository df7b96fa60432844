"""What all tests share."""

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is no fault of the code.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")


@pytest.fixture(autouse=True, scope="session")
def own_cache_folder(tmp_path_factory):
    """Nothing that a test computes, here or in a process of its own, is kept among the user's files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OVPARTS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
