"""Fixtures that all tests share."""

import os
from pathlib import Path

import pytest

if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):  # `make test` runs several: they share the cores
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(workers))))


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Tests neither find nor leave anything in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VIDEO_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def video_data() -> Path:
    """The folder of real videos: $VIDEO_TEST_DATA, or shared/data beside the repository; skips without one."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("VIDEO_TEST_DATA") or beside)
    if not folder.is_dir():
        pytest.skip("no real videos here: set VIDEO_TEST_DATA to a folder of them")
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """The three training stages at tiny size (tests.tiny.Runs), eight updates each; not to be changed by a test."""
    from tests.tiny import train_all  # imports the whole project, which most tests do not need
    return train_all(tmp_path_factory.mktemp("tiny") / "results", "--steps", "8", "loop.save_every=4", "loop.log_every=2",
                     "loop.validate_every=4", "loop.sample_every=4")
