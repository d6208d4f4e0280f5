"""Two processes that share the work do what one process does."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from toy import TIMING

from latent_diffusion import encode
from tests.tiny import DDPM, FAST, FIRST, GAN, SHAPES, environment, model_states, run
from tools import checkpoint
from tools.log import read_metrics
from tools.modelfile import read_model, to_safetensors

WORKER = """
import json, sys
from main import main
from latent_diffusion import encode
from tools import dist
encode.SHARD_BYTES = int(sys.argv[2])
stop, dist.stop = dist.stop, lambda: None  # one group for all commands: starting the processes takes longer than they do
lines = json.loads(sys.argv[1])
assert [main(words) for words in lines] == [0] * len(lines)
stop()
"""


STAGES = ("first_stage_main", "first_stage_gan", "ddpm_main")
SHARD = 1 << 14  # bytes of encoded latents: several files for each process


def commands(tiny, results, *words):
    """The three training stages, each from the same beginning, with further words; sampling; and encoding."""
    train = (*SHAPES, *FAST, "--steps", "6", "--results", results, *words)
    lines = {"first_stage_main_SHAPES_42": (*FIRST, *train),
             "first_stage_gan_SHAPES_42": (*GAN, *train, "--first_stage_folder", tiny.first),
             "ddpm_main_SHAPES_42": (*DDPM, *train, "--first_model", tiny.gan),
             "sampled": ("--exp", "sample", "--model", tiny.ddpm, "--data", "SHAPES", "data.size=16", "--num_videos", "3",
                         "--steps", "2", "--out", results / "sampled"),
             "encoded": ("--exp", "encode", *DDPM[2:], *SHAPES, *FAST[:1], "--first_model", tiny.gan, "data.options.count=3",
                         "--draws", "2", "--out", results / "encoded")}
    return {name: [str(word) for word in words] for name, words in lines.items()}


@pytest.fixture(scope="module")
def pair(tiny, tmp_path_factory):
    """What one process makes, what two make, and what two that share the weights."""
    one, two, shards = (tmp_path_factory.mktemp(name) for name in ("one", "two", "shards"))
    (two / "worker.py").write_text(WORKER)
    sharded = commands(tiny, shards, "dist.strategy=fsdp", "loop.save_every=3")
    lines = [*commands(tiny, two).values(), *(sharded[f"{stage}_SHAPES_42"] for stage in STAGES)]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(two / "worker.py")]
    done = subprocess.run([*launch, json.dumps(lines), str(SHARD)], env=environment(), cwd=two,
                          capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encode, "SHARD_BYTES", SHARD)
        for words in commands(tiny, one).values():
            run(*words)
    return one, two, shards


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("which", [1, 2], ids=["ddp", "fsdp"])
def test_two_processes_train_the_weights_of_one(pair, stage, which):
    one, two = (model_states(folder / f"{stage}_SHAPES_42") for folder in (pair[0], pair[which]))
    torch.testing.assert_close(two, one, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("which", [1, 2], ids=["ddp", "fsdp"])
def test_two_processes_have_the_losses_of_one(pair, stage, which):
    one, two = ({(r["step"], r["name"]): r["value"] for r in read_metrics(folder / f"{stage}_SHAPES_42" / "metrics.jsonl")
                 if r["name"] not in TIMING} for folder in (pair[0], pair[which]))
    assert two == pytest.approx(one, rel=1e-5, abs=1e-5) and any("validate" in name for _, name in one)


@pytest.mark.parametrize("stage", STAGES)
def test_a_sharded_checkpoint_stands_for_the_model_that_it_holds(pair, stage):
    folder = pair[2] / f"{stage}_SHAPES_42"
    shards = checkpoint.latest(folder / "checkpoints")
    assert shards.is_dir() and sorted(part.name for part in shards.glob("*.distcp")) == ["__0_0.distcp", "__1_0.distcp"]
    for weights, file in (("raw", "model_last.pth"), ("ema", "ema_model_last.pth")):
        written = to_safetensors(shards, folder / f"{weights}.safetensors", weights)
        torch.testing.assert_close(read_model(written).state, read_model(folder / file).state, rtol=0, atol=0)


def test_a_sharded_run_goes_on_in_one_process(pair, tiny, tmp_path):
    half = checkpoint.step_path(pair[2] / "ddpm_main_SHAPES_42" / "checkpoints", 3)
    run(*commands(tiny, tmp_path, "--resume", half)["ddpm_main_SHAPES_42"])
    one, two = (model_states(folder / "ddpm_main_SHAPES_42") for folder in (pair[0], tmp_path))
    # three updates of 4e-4: without the moments or averages of the first half they would be off by that
    torch.testing.assert_close(two, one, rtol=1e-5, atol=5e-5)


def test_two_processes_make_the_videos_of_one(pair):
    one, two = ({path.name: np.load(path).astype(int) for path in folder.glob("sampled/samples/*")} for folder in pair[:2])
    assert sorted(one) == sorted(two) == ["00000_00.npy", "00001_00.npy", "00002_00.npy"]
    assert all(np.abs(one[name] - two[name]).max() <= 1 for name in one)
    assert (pair[1] / "sampled" / "sample.json").is_file()


def test_two_processes_encode_the_latents_of_one(pair):
    one, two = ({path.name: path.read_bytes() for path in (folder / "encoded").iterdir()} for folder in pair[:2])
    assert len([name for name in one if name.startswith("shard")]) >= 4 and "manifest.json" in one
    assert two == one
