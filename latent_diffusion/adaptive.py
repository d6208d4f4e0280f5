"""Sampling schemes that choose what to observe by content: frames unlike each other tell more than near copies.

The adaptive schemes of Harvey et al. 2022 (FDM), sec. 4 and app. B. Beside what lies next to the targets, they
observe the finished frame that is least like those chosen already, and so on (farthest-point sampling).

A scheme asks `distance(i, j)` about finished frames only, when its next window is drawn. Any measure will do; one
that compares features (thumbnails, latents, LPIPS embeddings) is made by `feature_distance`.
"""

from collections.abc import Callable, Collection, Iterator
from functools import partial

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from latent_diffusion import schemes
from latent_diffusion.schemes import SCHEMES, Around, Distance, Window


@SCHEMES.register("adaptive-autoreg")
def adaptive_autoreg(total: int, known: Collection[int], distance: Distance, *, window: int, stride: int) -> Iterator[Window]:
    """The next frames from those between them, the nearest on either side, and then the most unlike ones."""
    done = set(known)
    yield from schemes.opening(range(min(window, total)), done)
    while len(done) < total:
        target = schemes.next_frames(total, done, window, stride)
        near = schemes.around(done, target)
        nearest = schemes.by_nearness([*near.between, *near.before[:1], *near.after[:1]], target)
        observed = most_unlike(nearest, schemes.by_nearness(done, target), schemes.room(window, stride, target), distance)
        yield Window(sorted(observed), target)
        done.update(target)


def _adaptive_hierarchy(total: int, known: Collection[int], distance: Distance, *,
                        window: int, stride: int, levels: int) -> Iterator[Window]:
    """The targets of hierarchy-N; beside the nearest frames on both sides, it observes the most unlike ones."""
    if window < 3:
        return adaptive_autoreg(total, known, distance, window=window, stride=stride)

    def beside(near: Around, count: int, level: int) -> list[int]:
        # The second frame before gives way first: without the one after, the targets would not meet it.
        nearest = [*near.before[:1], *near.after[:1], *near.before[1:2]]
        others, between = sorted(near.before + near.after), len(near.between)
        return most_unlike([*near.between, *nearest[:count]], others, between + count, distance)[between:]

    return schemes.hierarchy(total, known, beside, window=window, stride=stride, levels=levels)


for _levels in (2, 3):
    SCHEMES.register(f"adaptive-hierarchy-{_levels}")(partial(_adaptive_hierarchy, levels=_levels))


def most_unlike(chosen: Collection[int], candidates: Collection[int], count: int, distance: Distance) -> list[int]:
    """Add to `chosen` the candidate that is farthest from all of them, until they are `count`.

    Of candidates as far, the first is taken. More than `count` chosen ones are cut.
    """
    chosen = list(chosen)[:count]
    left = {frame: min(distance(frame, other) for other in chosen)
            for frame in candidates if len(chosen) < count and frame not in chosen}
    while left and len(chosen) < count:
        best = max(left, key=left.__getitem__)
        del left[best]
        chosen.append(best)
        if len(chosen) < count:
            left = {frame: min(far, distance(frame, best)) for frame, far in left.items()}
    return chosen


def feature_distance(feature: Callable[[int], Tensor]) -> Distance:
    """Mean squared difference between the features of two frames.

    Args:
        feature: frame -> tensor of any one shape. It is asked once, when the frame is first compared; a frame
            that is finished does not change.
    """
    features: dict[int, Tensor] = {}

    def of(frame: int):
        if frame not in features:
            features[frame] = feature(frame).detach().float().cpu().flatten()
        return features[frame]

    return lambda i, j: F.mse_loss(of(i), of(j)).item()


def thumbnails(frames: Tensor, side: int = 16) -> Tensor:
    """Shrink uint8 t h w c to float t c side side in [0, 1], each pixel the mean of its area."""
    return F.adaptive_avg_pool2d(rearrange(frames, "t h w c -> t c h w").float() / 255, side)


def pixel_distance(frames: Tensor) -> Distance:
    """Mean squared difference between thumbnails of uint8 t h w c, whose unfinished frames may still be filled in."""
    return feature_distance(lambda frame: thumbnails(frames[frame:frame + 1]))
