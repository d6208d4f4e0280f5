"""When activations are computed again: by what is asked, or by what is free."""

import pytest
import torch
from fakes import autoencoder, first_config

from autoencoder import saving
from autoencoder.saving import SHARE, choose_saving, clip_activations
from autoencoder.stage import AutoencoderStage
from autoencoder.train import train_first_stage
from tools import checkpoint, dry_run
from tools.log import Run

CPU = torch.device("cpu")


def config(*overrides):
    return first_config("tiny.yaml", "loop.batch_size=2", *overrides)


@pytest.fixture
def room(monkeypatch):
    """Set how many bytes activations may take."""
    def set_room(size):
        monkeypatch.setattr(saving, "free_bytes", lambda device: None if size is None else size / SHARE["cpu"])
    return set_room


@pytest.mark.parametrize("asked", [True, False])
def test_what_is_asked_is_done(room, asked):
    room(0)
    assert choose_saving(config(f"train.grad_checkpoint={asked}".lower()), CPU) == (asked, "")


@pytest.mark.parametrize("overrides, clips", [((), 2), (("loop.micro_batch=1",), 1)])
def test_auto_saves_where_a_micro_batch_does_not_fit(room, overrides, clips):
    cfg = config(*overrides)
    need = clips * clip_activations(cfg.model)
    room(0.99 * need)
    on, note = choose_saving(cfg, CPU)
    assert on and f"{clips} clip" in note and len(note.splitlines()) == 1
    room(1.01 * need)
    assert choose_saving(cfg, CPU) == (False, "")


def test_processes_of_a_machine_share_its_memory(room, monkeypatch):
    cfg = config()
    room(2 * 2 * clip_activations(cfg.model))
    assert not choose_saving(cfg, CPU).on
    for name, value in {"RANK": 0, "WORLD_SIZE": 4, "LOCAL_WORLD_SIZE": 4}.items():
        monkeypatch.setenv(name, str(value))
    assert choose_saving(cfg, CPU).on


@pytest.mark.parametrize("size", [None, 1 << 40])
def test_where_all_fits_or_nothing_is_told_nothing_is_counted(room, monkeypatch, size):
    room(size)
    monkeypatch.setattr(saving, "clip_activations", lambda *args, **options: pytest.fail("counted"))
    assert choose_saving(config(), CPU) == (False, "")


def test_the_count_is_what_the_real_pass_holds():
    cfg = config().model
    net = autoencoder(config()).train().requires_grad_(True)
    for net.grad_checkpoint in (False, True):
        held = dry_run.peak(lambda: net(torch.zeros(1, *cfg.clip_shape)).clip.square().mean().backward())
        assert clip_activations(cfg, saving=net.grad_checkpoint) == pytest.approx(held, rel=0.05)
        net.zero_grad()


def test_the_stage_follows_the_choice(room):
    room(1)
    cfg = config()
    frames = torch.zeros(2, 4, 16, 16, 3, dtype=torch.uint8)
    assert AutoencoderStage(cfg, autoencoder(cfg), frames, {}).net.grad_checkpoint


def test_a_run_says_so_and_its_weights_are_the_same_to_the_bit(room, tmp_path):
    made = []
    for name, size in (("saves", 1), ("keeps", 1 << 40)):
        room(size)
        run = Run(tmp_path / name)
        train_first_stage(config("loop.steps=2", "loop.save_every=2", "train.validation_clips=2"), run)
        run.close()
        assert ("grad_checkpoint=auto: on" in (tmp_path / name / "log.txt").read_text()) == (name == "saves")
        made.append(checkpoint.load(tmp_path / name / "model_last.pth")["state"])
    assert all(torch.equal(value, made[1][key]) for key, value in made[0].items())


def test_another_word_is_refused():
    with pytest.raises(ValueError, match="grad_checkpoint=maybe is not known; use auto"):
        config("train.grad_checkpoint=maybe")
