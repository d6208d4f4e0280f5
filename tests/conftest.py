"""Fixtures that all tests share."""

import os
from pathlib import Path

import pytest

from tests.tiny import Runs, train_all


@pytest.fixture(scope="session")
def video_data() -> Path:
    """The folder of real videos: $VIDEO_TEST_DATA, or shared/data beside the repository; skips without one."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("VIDEO_TEST_DATA") or beside)
    if not folder.is_dir():
        pytest.skip("no real videos here: set VIDEO_TEST_DATA to a folder of them")
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Runs:
    """The three training stages at tiny size, eight updates each; not to be changed by a test."""
    return train_all(tmp_path_factory.mktemp("tiny") / "results", "--steps", "8", "loop.save_every=4", "loop.log_every=2",
                     "loop.validate_every=4", "loop.sample_every=4", "loop.plot_every=8")
