"""The command plan: JSON of windows and nothing else."""

import json

import pytest

from latent_diffusion.plan import print_plan
from latent_diffusion.schemes import SCHEMES, plan


@pytest.mark.parametrize("scheme", sorted(set(SCHEMES) - {"full"}))
@pytest.mark.parametrize("frames, known, window, stride", [(30, "0-3", 8, 4), (12, None, 5, 2), (9, "0,-1", 4, 1)])
def test_stdout_is_the_plan_in_frames(capsys, scheme, frames, known, window, stride):
    print_plan(scheme=scheme, frames=frames, known=known, window=window, stride=stride)
    given = {"0-3": [0, 1, 2, 3], None: [], "0,-1": [0, 8]}[known]
    wanted = plan(scheme, frames, given, window=window, stride=stride)
    assert json.loads(capsys.readouterr().out) == [{"observed": list(w.observed), "target": list(w.target)} for w in wanted]


def test_sizes_default_to_fdms(capsys):
    print_plan(scheme="autoreg", frames=50, known="0-9", window=None, stride=None)
    windows = json.loads(capsys.readouterr().out)
    assert [len(w["target"]) for w in windows] == [10] * 4 and len(windows[0]["observed"]) == 10


def test_the_length_is_needed():
    with pytest.raises(ValueError, match="--frames"):
        print_plan(scheme="autoreg", frames=None, known=None, window=4, stride=2)
