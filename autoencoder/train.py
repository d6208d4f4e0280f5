"""Runs the first stage: data, stage and loop, from a configuration."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from autoencoder.codec import load_autoencoder
from autoencoder.config import FirstStageConfig
from autoencoder.model import ARCHITECTURES, AutoencoderConfig, build_autoencoder
from autoencoder.stage import AutoencoderStage
from tools import checkpoint, dist
from tools.feed import open_feed
from tools.log import Run
from tools.loop import not_begun, train
from tools.rng import fork


def train_first_stage(cfg: FirstStageConfig, run: Run, *, first_stage_folder: str | None = None, resume: str | None = None,
                      init_from: str | None = None) -> None:
    """Train an autoencoder, by reconstruction or, where loss.adversarial_weight > 0, adversarially too.

    Args:
        cfg: settings; the clip's size comes from cfg.data.
        run: the claimed run folder.
        first_stage_folder: run whose last checkpoint this one starts from (weights, averages, optimizers, critics).
        resume: checkpoint file to continue from.
        init_from: model whose weights a new run starts from.
    """
    fresh = not_begun(run)
    with fork(cfg.train.seed, "init"):
        net = build_autoencoder(cfg.model).to(dist.device())
    if init_from and fresh:
        start = load_autoencoder(init_from)
        check_model(cfg.model, start.config, f"the model of --init_from {init_from}")
        checkpoint.load_strict(net, start.net.state_dict(), init_from)
    feed = open_feed(cfg.data, cfg.loop, frames=cfg.data.frames, seed=cfg.train.seed,
                     validation_clips=cfg.train.validation_clips, log=run.log)
    for note in feed.notes:
        run.log(note)
    stage = AutoencoderStage(cfg, net, feed.validation, asdict(cfg.model))
    parameters = sum(p.numel() for p in net.parameters())
    values = cfg.model.latent_channels * net.shape.total
    run.log(f"autoencoder {cfg.model.arch}: {parameters / 1e6:.2f} M parameters, {values} latent values a clip "
            f"({cfg.model.latent_channels} x {net.shape.total})")
    if stage.saving.note:
        run.log(stage.saving.note)
    if first_stage_folder and fresh:
        state, source = _last_state(Path(first_stage_folder))
        stage.continue_from(state, source)
        run.log(f"starting from {source}")
    if fresh:
        stage.take_reference()
    train(stage, feed.batches, run, cfg.loop, seed=cfg.train.seed, resume=Path(resume) if resume else None)


def check_model(asked: AutoencoderConfig, has: AutoencoderConfig, what: str) -> None:
    """Refuse settings that describe another network than a model's own."""
    settings = []
    for config in (asked, has):
        options = {**ARCHITECTURES.options(config.arch), **config.options}
        settings.append(asdict(config) | {"resolution": tuple(config.size), "options": None} | options)
    mine, own = settings
    different = [f"{key} {mine.get(key)} (the model has {own.get(key)})" for key in {**mine, **own}
                 if mine.get(key) != own.get(key)]
    if different:
        raise ValueError(f"the configuration contradicts {what}: {', '.join(different[:3])}; "
                         "give the configuration that it was trained with")


def _last_state(folder: Path) -> tuple[dict[str, Any], str]:
    last = checkpoint.latest(folder / "checkpoints")
    if last is None:
        raise ValueError(f"--first_stage_folder {folder} holds no checkpoints/step-*.pt; give the run folder of a first stage "
                         "that has saved, or a model file with --init_from")
    state = checkpoint.load(last).get("stage", {})
    if state.get("kind") != "autoencoder":
        raise ValueError(f"{last} is not of a first stage; give the run folder of --exp first_stage")
    return state, str(last)
