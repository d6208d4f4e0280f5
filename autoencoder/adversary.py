"""The critics' side of the adversarial stage, with all that keeps the game from diverging."""

from typing import Any

import torch
from torch import Tensor

from autoencoder import losses
from autoencoder.config import FirstStageConfig
from autoencoder.discriminator import Critics
from tools import checkpoint, dist
from tools.optim import OptimConfig, apply_update, load_optimizer, make_optimizer
from tools.rng import fork

Pair = tuple[Tensor, Tensor, Tensor]  # real b c t h w, made b c t h w (detached), picked frames b k
CRITICS = ("frame", "clip")          # in the order of their verdicts


class Adversary:
    """Critics, their optimizer and regulariser; judges the autoencoder and learns after each of its updates.

    For the first `loss.critic_warmup` updates only the critics learn. The adversarial part then grows over
    `loss.ramp` updates; in "adaptive" mode it is also scaled to the reconstruction's gradient.
    """

    def __init__(self, cfg: FirstStageConfig, device: torch.device):
        self.cfg, self.loss = cfg, cfg.loss
        with fork(cfg.train.seed, "critics"):
            self.critics = Critics(cfg.model.in_channels, cfg.critic, frames=cfg.model.frames).to(device)
        self.ddp = dist.wrap(self.critics)
        self.optim = OptimConfig(lr=cfg.loss.critic_lr, betas=tuple(cfg.optim.betas), weight_decay=0.0,
                                 warmup=min(100, cfg.loss.critic_warmup), clip_norm=cfg.loss.critic_clip_norm)
        self.optimizer = make_optimizer(self.critics, self.optim)
        self.lecams = [losses.Lecam() for _ in CRITICS]
        self.balance = losses.AdaptiveWeight(cfg.loss.adaptive_max)
        self.gradients: list[Tensor] = []  # of this step's micro-batches, at the last layer: reconstruction, adversarial

    def warming_up(self, step: int) -> bool:
        return step < self.loss.critic_warmup

    def weight(self, step: int) -> float:
        """Factor of the adversarial part at `step`."""
        grown = self.loss.adversarial_weight * losses.ramp(step, self.loss.critic_warmup, self.loss.ramp)
        return grown * (self.balance() if self.loss.weight_mode == "adaptive" else 1.0)

    def against(self, step: int, reconstruction: Tensor, real: Tensor, made: Tensor, pick: Tensor, total: int,
                last_weight: Tensor, logs: dict[str, Any]) -> Tensor:
        """The autoencoder's adversarial loss on one micro-batch: hinge and feature matching.

        Args:
            reconstruction: its other losses, with which the adaptive weight is balanced.
            real, made: b c t h w.
            pick: frames that the 2-D critic sees, b k.
            total: clips in the global batch.
        """
        self.critics.requires_grad_(False)
        verdicts = self.critics(made, losses.take_frames(made, pick))
        with torch.no_grad():
            truths = self.critics(real, losses.take_frames(real, pick))
        samples = (total * pick.shape[1], total)  # the frame critic judges k frames of a clip
        hinge = sum(losses.generator_hinge(v.logits).mean(n) for v, n in zip(verdicts, samples))
        matching = sum(losses.feature_matching(t.features, v.features).mean(n)
                       for t, v, n in zip(truths, verdicts, samples))
        self.critics.requires_grad_(True)
        part = hinge + self.loss.feature_weight * matching
        if self.loss.weight_mode == "adaptive":
            grads = [losses.layer_gradient(loss, last_weight) for loss in (reconstruction, part)]
            self.gradients = [a + b for a, b in zip(self.gradients, grads)] if self.gradients else grads
        weight = self.weight(step)
        for name, share in (("hinge", hinge), ("matching", matching)):
            logs[name] = logs.get(name, 0) + share.detach() * dist.world()
        logs["adversarial_weight"] = weight
        return weight * part

    def learn(self, step: int, pairs: list[Pair], total: int) -> dict[str, Any]:
        """Update the critics on what the autoencoder has just made; every process then holds the same state."""
        logs: dict[str, Any] = {"critic": 0.0}
        means = torch.zeros(4, dtype=torch.float64, device=pairs[0][0].device)  # logits: each critic's of real, of made
        if self.loss.r1 and step % self.loss.r1_every == 0:
            for pair in pairs:  # before the exchange of gradients at the end of the loop below
                self._penalise(pair, total)
        for i, (real, made, pick) in enumerate(pairs):
            samples = (total * pick.shape[1], total)
            with dist.sync(self.ddp, i == len(pairs) - 1):
                both = torch.cat([real, made.to(real)])
                verdicts = self.ddp(both, losses.take_frames(both, torch.cat([pick, pick])))
                halves = [v.logits.chunk(2) for v in verdicts]
                loss = sum(losses.critic_hinge(*half).mean(n) for half, n in zip(halves, samples))
                logs["critic"] = logs["critic"] + loss.detach() * dist.world()
                if self.loss.lecam:
                    loss = loss + self.loss.lecam * sum(lecam.penalty(*half).mean(n)
                                                        for lecam, half, n in zip(self.lecams, halves, samples))
                (loss * dist.world()).backward()
            means += torch.stack([side.detach().double().flatten(1).mean(1).sum() / n
                                  for half, n in zip(halves, samples) for side in half])
        logs["critic_gradient"] = apply_update(self.optimizer, self.critics, self.optim, step, self.cfg.loop.steps,
                                               loss=torch.as_tensor(logs["critic"]))
        logits = dist.all_reduce_sum(means).view(2, 2).tolist()
        for lecam, (of_real, of_made) in zip(self.lecams, logits):
            lecam.update(of_real, of_made)
        if self.gradients:
            rec, gan = (dist.all_reduce_sum(g) for g in self.gradients)
            self.balance.update(rec, gan)
            self.gradients = []
        return logs | {f"logit_{name}_{side}": value for name, pair in zip(CRITICS, logits)
                       for side, value in zip(("real", "made"), pair)}

    def _penalise(self, pair: Pair, total: int) -> None:
        """R1 on real videos, for all the updates until the next penalty (Karras et al. 2020, "lazy")."""
        real, _, pick = pair
        clip = real.detach().requires_grad_()
        frames = losses.take_frames(real, pick).detach().requires_grad_()
        verdicts = self.critics(clip, frames)
        penalty = losses.gradient_penalty(verdicts[0].logits, frames).mean(total * pick.shape[1]) \
            + losses.gradient_penalty(verdicts[1].logits, clip).mean(total)
        (0.5 * self.loss.r1 * self.loss.r1_every * penalty * dist.world()).backward()

    def state_dict(self) -> dict[str, Any]:
        return {"critics": self.critics.state_dict(), "optimizer": self.optimizer.state_dict(),
                "lecam": [lecam.state_dict() for lecam in self.lecams], "balance": self.balance.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        checkpoint.load_strict(self.critics, state["critics"], "the critics' checkpoint")
        load_optimizer(self.optimizer, state["optimizer"])
        for lecam, saved in zip(self.lecams, state["lecam"], strict=True):
            lecam.load_state_dict(saved)
        self.balance.load_state_dict(state["balance"])
