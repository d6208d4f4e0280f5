"""A model and videos for the command sample; not to be changed by a test."""

import numpy as np
import pytest
from fakes import video
from sampling import make_model


@pytest.fixture(scope="session")
def seeing_model(tmp_path_factory):
    """A model that sees the clip itself, the one before and the one after."""
    return make_model(tmp_path_factory.mktemp("seeing"), "condition.sees=[past,self,future]", "condition.mask=true")


def _folder(folder, *lengths):
    frames = {f"v{i}": video(1, length, seed=i)[0] for i, length in enumerate(lengths)}
    for name, value in frames.items():
        np.save(folder / f"{name}.npy", value.numpy())
    return folder, frames


@pytest.fixture(scope="session")
def videos(tmp_path_factory):
    """A folder of three videos of 14, 9 and 5 frames, and the frames by name."""
    return _folder(tmp_path_factory.mktemp("videos"), 14, 9, 5)


@pytest.fixture(scope="session")
def long_videos(tmp_path_factory):
    """A folder of two videos of 30 and 25 frames."""
    return _folder(tmp_path_factory.mktemp("long_videos"), 30, 25)[0]
