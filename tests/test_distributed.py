"""Two processes that share the work do what one process does."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from tests.tiny import DDPM, FAST, FIRST, GAN, SHAPES, environment, model_states, run

WORKER = """
import json, sys
from main import main
from tools import dist
stop, dist.stop = dist.stop, lambda: None  # one group for all commands: starting the processes takes longer than they do
assert [main(words) for words in json.loads(sys.argv[1])] == [0, 0, 0, 0]
stop()
"""


def commands(tiny, results):
    """The three training stages, each from the same beginning, and sampling."""
    train = (*SHAPES, *FAST, "--steps", "6", "--results", results)
    lines = {"first_stage_main_SHAPES_42": (*FIRST, *train),
             "first_stage_gan_SHAPES_42": (*GAN, *train, "--first_stage_folder", tiny.first),
             "ddpm_main_SHAPES_42": (*DDPM, *train, "--first_model", tiny.gan),
             "sampled": ("--exp", "sample", "--model", tiny.ddpm, "--data", "SHAPES", "data.size=16", "--num_videos", "3",
                         "--steps", "2", "--out", results / "sampled")}
    return {name: [str(word) for word in words] for name, words in lines.items()}


@pytest.fixture(scope="module")
def pair(tiny, tmp_path_factory):
    """What one process makes, and what two make."""
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    (two / "worker.py").write_text(WORKER)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(two / "worker.py")]
    done = subprocess.run([*launch, json.dumps(list(commands(tiny, two).values()))], env=environment(), cwd=two,
                          capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    for words in commands(tiny, one).values():
        run(*words)
    return one, two


@pytest.mark.parametrize("stage", ["first_stage_main", "first_stage_gan", "ddpm_main"])
def test_two_processes_train_the_weights_of_one(pair, stage):
    one, two = (model_states(folder / f"{stage}_SHAPES_42") for folder in pair)
    torch.testing.assert_close(two, one, rtol=1e-5, atol=1e-5)


def test_two_processes_make_the_videos_of_one(pair):
    one, two = ({path.name: np.load(path).astype(int) for path in folder.glob("sampled/samples/*")} for folder in pair)
    assert sorted(one) == sorted(two) == ["00000_00.npy", "00001_00.npy", "00002_00.npy"]
    assert all(np.abs(one[name] - two[name]).max() <= 1 for name in one)
    assert (pair[1] / "sampled" / "sample.json").is_file()
