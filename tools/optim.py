"""The optimizer and its schedule, which is a function of the step and holds no state."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tools import dist, fsdp

SCHEDULES = ("constant", "cosine")


@dataclass(frozen=True)
class OptimConfig:
    lr: float = 1e-4                          # peak, after the warm-up
    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = 1e-8
    weight_decay: float = 0.01                # on matrices and kernels, not on biases and norms
    warmup: int = 1000                        # optimizer steps
    schedule: str = "constant"                # after the warm-up: constant, or cosine to 0 at the last step
    clip_norm: float | None = 1.0             # None = do not clip

    def __post_init__(self):
        if self.lr <= 0:
            raise ValueError(f"optim.lr must be positive, got {self.lr}")
        if len(self.betas) != 2 or not all(0 <= b < 1 for b in self.betas):
            raise ValueError(f"optim.betas must be two numbers in [0, 1), got {list(self.betas)}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f'optim.schedule must be {" or ".join(SCHEDULES)}, got "{self.schedule}"')
        if self.warmup < 0 or self.weight_decay < 0 or self.eps <= 0:
            raise ValueError(f"optim.warmup, optim.weight_decay must be >= 0 and optim.eps > 0, "
                             f"got {self.warmup}, {self.weight_decay}, {self.eps}")
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise ValueError(f"optim.clip_norm must be positive, got {self.clip_norm}; null does not clip")


def learning_rate(step: int, cfg: OptimConfig, steps: int) -> float:
    """Return the rate of update number `step` (from 0) of a run of `steps` updates."""
    if step < cfg.warmup:
        return cfg.lr * (step + 1) / cfg.warmup
    if cfg.schedule == "constant":
        return cfg.lr
    done = (step - cfg.warmup) / max(steps - cfg.warmup, 1)
    return cfg.lr * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def make_optimizer(net: nn.Module, cfg: OptimConfig) -> torch.optim.AdamW:
    """Make AdamW over the trainable parameters of `net`; only tensors of two or more axes decay."""
    trained = [p for p in net.parameters() if p.requires_grad]
    groups = [{"params": [p for p in trained if p.ndim >= 2], "weight_decay": cfg.weight_decay},
              {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0}]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=cfg.lr, betas=tuple(cfg.betas),
                             eps=cfg.eps, fused=True)


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Continue from saved moments; rates, betas and decay stay those of this run's own configuration.

    The moments take the parameters' memory layout, which may differ from that of the file: the fused update walks
    through the memory of both together and does not look at strides.
    """
    own = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, settings in zip(optimizer.param_groups, own):
        group.update(settings)
    for p, moments in optimizer.state.items():
        moments.update({name: torch.empty_like(p, dtype=value.dtype).copy_(fsdp.placed_like(value, p))
                        for name, value in moments.items() if name != "step"})


def allocate_moments(optimizer: torch.optim.AdamW) -> None:
    """Make the moments that the first update would make, so that saved ones can be read into their place."""
    for group in optimizer.param_groups:
        for p in group["params"]:
            if p not in optimizer.state:
                optimizer.state[p] = {"step": torch.zeros((), device=p.device), "exp_avg": torch.zeros_like(p),
                                      "exp_avg_sq": torch.zeros_like(p)}


@torch.no_grad()
def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """Return the L2 norm of all gradients together (0-d, on their device; 0 where there is none)."""
    grads = [p.grad for p in parameters if p.grad is not None]
    if not grads:
        return torch.zeros(())
    norm = torch.stack(torch._foreach_norm(fsdp.locals_of(grads))).norm()
    return dist.all_reduce_sum(norm.square()).sqrt() if fsdp.is_sharded(grads[0]) else norm


@torch.no_grad()
def apply_update(optimizer: torch.optim.Optimizer, net: nn.Module, cfg: OptimConfig, step: int, steps: int,
                 *, loss: Tensor | None = None) -> Tensor:
    """Make update number `step` from the accumulated gradients, and clear them.

    Args:
        net: the raw module, whose names the error uses.
        loss: if given, must be finite too.

    Returns:
        The gradient norm before clipping (0-d tensor).

    Raises:
        FloatingPointError: the loss or a gradient is not finite; weights and optimizer are as before.
    """
    norm = gradient_norm(net.parameters())
    checked = norm if loss is None else norm + loss.detach().to(norm.device)
    if not torch.isfinite(checked):  # the one wait for the device in a step
        raise FloatingPointError(_not_finite(net, step, norm, loss))
    if cfg.clip_norm is not None:
        grads = fsdp.locals_of(p.grad for p in net.parameters() if p.grad is not None)
        torch._foreach_mul_(grads, (cfg.clip_norm / (norm + 1e-6)).clamp(max=1.0))
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(step, cfg, steps)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm


def _not_finite(net: nn.Module, step: int, norm: Tensor, loss: Tensor | None) -> str:
    if loss is not None and not torch.isfinite(loss):
        what = f"the loss is {loss.item()}"
    else:
        grads = {name: fsdp.local(p.grad) for name, p in net.named_parameters() if p.grad is not None}
        bad = [name for name, grad in grads.items() if not grad.isfinite().all()]
        more = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        what = f"the gradient of {', '.join(bad[:3])}{more} is not finite" if bad \
            else f"the gradient norm is {norm.item()}"
    return (f"step {step}: {what}; the update was not made, the last checkpoint is good "
            "(a lower optim.lr, a longer optim.warmup or a smaller optim.clip_norm may help)")
