"""Fixtures that all tests share."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def video_data() -> Path:
    """The folder of real videos: $VIDEO_TEST_DATA, or shared/data beside the repository; skips without one."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get("VIDEO_TEST_DATA") or beside)
    if not folder.is_dir():
        pytest.skip("no real videos here: set VIDEO_TEST_DATA to a folder of them")
    return folder
