"""The validation panel: held-out windows whose second half is predicted again and again while training.

Windows and noise are the same at each step, and in all runs on the same data with the same train.seed, autoencoder and
sample_steps, so that their curves can be compared: the numbers of repeat_last tell whether the windows are the same.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from evals.frechet import GaussianStats, frechet_distance
from evals.i3d import LEAST_FRAMES, load_i3d
from evals.psnr import PooledPSNR
from evals.ssim import SSIM, check_size
from latent_diffusion.baselines import repeat_last
from latent_diffusion.completion import Completion
from latent_diffusion.config import DiffusionTrainConfig
from latent_diffusion.pipeline import VideoDiffusion

FVD = "fvd_small_sample_noise"  # an FVD of a few videos is mostly bias: no number to report or to choose by


class Panel:
    """Windows, and what is known of them.

    Args:
        truth: uint8 b t h w c.
        known: bool t.
        steps: of the sampler.
        i3d: what describes videos for the FVD, of whole windows; None: no FVD.
    """

    def __init__(self, truth: Tensor, known: Tensor, *, steps: int, i3d=None):
        self.truth, self.known, self.steps, self.i3d = truth, known, steps, i3d
        self.fixed: dict[str, float] = {}  # what no training changes, measured at the first time
        self.real: GaussianStats | None = None

    def measure(self, model: VideoDiffusion, at_once: int) -> dict[str, float]:
        """Predict the windows, `at_once` together, and return PSNR (pooled) and SSIM of the made frames, the same of
        repeat_last, the number of windows and, if there is an i3d, the FVD."""
        made = []
        for rows in torch.arange(len(self.truth)).split(at_once):
            ids = [(row, 0) for row in rows.tolist()]  # the noise is of the window, not of its place in a batch
            made.append(model.complete(self.truth[rows], self.known, ids=ids, steps=self.steps))
        fake = torch.cat(made)
        self.fixed = self.fixed or {f"repeat_last/{name}": value for name, value in
                                    self._scores(repeat_last(self.truth, self.known)).items()}
        values = {**self._scores(fake), **self.fixed, "clips": float(len(fake))}
        if self.i3d:
            self.real = self.real or self._described(self.truth, at_once, model)
            values[FVD] = frechet_distance(self.real, self._described(fake, at_once, model))
        return values

    def _scores(self, fake: Tensor) -> dict[str, float]:
        scores = {"psnr_pooled": PooledPSNR(), "ssim": SSIM()}
        for metric in scores.values():
            metric.update(self.truth[:, ~self.known], fake[:, ~self.known])
        return {name: metric.compute()["mean"] for name, metric in scores.items()}

    def _described(self, frames: Tensor, at_once: int, model: VideoDiffusion) -> GaussianStats:
        stats = GaussianStats(self.i3d.dim)
        for part in frames.split(at_once):
            stats.update(self.i3d.features(part.to(model.model.codec.device)))
        return stats


def open_panel(model: VideoDiffusion, validation: Tensor, cfg: DiffusionTrainConfig) -> Panel | None:
    """The panel that a run asks for, if it does; what could not be measured is refused at once.

    Args:
        model: as it will be measured; its weights are not looked at.
        validation: uint8 windows b t h w c, of which the first are taken.
    """
    if not cfg.panel_clips:
        return None
    known = half_known(model.model.net.condition, model.clip, validation.shape[1])
    truth = validation[:cfg.panel_clips, :len(known)]
    try:
        check_size(truth[0])
        Completion(model.model, model.settings(steps=cfg.sample_steps), known, [(0, 0)])
    except ValueError as error:
        what = str(error).partition(";")[0]  # what follows is for the flags of other commands
        raise ValueError(f"train.panel_clips={cfg.panel_clips}: {what}; change that, or set train.panel_clips=0") from None
    if not cfg.panel_fvd:
        return Panel(truth, known, steps=cfg.sample_steps)
    if len(known) < LEAST_FRAMES:
        raise ValueError(f"train.panel_fvd=true: I3D looks at {LEAST_FRAMES} frames or more, got windows of {len(known)}; "
                         "leave it out")
    try:
        i3d = load_i3d()
    except ValueError as error:
        raise ValueError(f"train.panel_fvd=true: {error}; or leave it out") from None
    return Panel(truth, known, steps=cfg.sample_steps, i3d=i3d)


def half_known(condition: nn.Module, clip: int, frames: int) -> Tensor:
    """Which frames are known, bool t: the first half, in whole clips for what looks back, else half of a single clip.

    Args:
        clip: frames of a clip.
        frames: of a window.
    """
    clips = frames // clip
    if clips >= 2 and ("past" in condition.sees or condition.observes):
        return torch.arange(clips * clip) < clips // 2 * clip
    if clip >= 2 and frames >= clip and ("self" in condition.sees or condition.observes):
        return torch.arange(clip) < clip // 2
    raise ValueError("train.panel_clips are windows that are continued, but this training knows nothing of a window "
                     f"(condition.sees={list(condition.sees)}, windows of {frames} frames, clips of {clip}); set "
                     "train.panel_clips=0")
