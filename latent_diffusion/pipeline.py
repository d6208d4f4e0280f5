"""The public Python API: given some frames of a video, make the others."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from latent_diffusion.completion import Completion
from latent_diffusion.masks import parse_known
from latent_diffusion.modelfile import DiffusionModel, load_diffusion
from latent_diffusion.settings import Settings, check_options
from tools import dist
from tools.video import read_video

Frames = Tensor | np.ndarray | str | Path


class VideoDiffusion:
    """A trained model with its autoencoder.

    Videos are uint8 b t h w c (or t h w c: one video, or h w c: one frame), as torch or numpy, or the path of a file;
    results are uint8 torch tensors b t h w c on the CPU.

    Example:
        model = VideoDiffusion.load("results/ddpm_main_UCF101_42")
        video = model.predict("past.mp4", 32, seed=1)
    """

    def __init__(self, model: DiffusionModel):
        self.model = model

    @classmethod
    def load(cls, path: str | Path, *, first_model: str | Path | None = None, weights: str = "ema",
             device: str | torch.device | None = None) -> "VideoDiffusion":
        """Load a run folder, a model file, a step checkpoint, or PVDM's released U-Net (with first_model)."""
        model = load_diffusion(path, first_model, weights)
        device = torch.device(device) if device is not None else dist.device()
        model.net.to(device)
        model.codec.to(device)
        return cls(model)

    @property
    def clip(self) -> int:
        """Frames of one clip, T."""
        return self.model.codec.frames

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the frames, in pixels."""
        return self.model.codec.size

    def complete(self, frames: Frames, known: Tensor | np.ndarray | Sequence[bool], *,
                 ids: Sequence[tuple[int, int]] | None = None, progress: Callable[[int], None] | None = None,
                 **options) -> Tensor:
        """Make the unknown frames of videos; the known ones come back exactly.

        Args:
            frames: videos; what lies at unknown frames is not looked at.
            known: bool b t or t: True = given.
            ids: (video, sample) of each row, of which its noise is a function; default (row, 0).
            progress: called with the number of network evaluations x videos just made.
            options: those of Settings (see settings.py), such as sampler="ddim", steps=50, seed=0, guidance=1.5,
                scheme="autoreg", overlap=1; `guide` and `content` are VideoDiffusions, too.

        Raises:
            ValueError: frames of another size or type than the model's, or a task that it was not trained for.
            TypeError: an option that there is not.
        """
        video = self._video(frames)
        mask = self._mask(known, video)
        settings, ids = self.settings(**options), self._ids(ids, len(video))
        out = video.clone()
        patterns: dict[bytes, list[int]] = {}  # rows with the same known frames are made together
        for row in range(len(video)):
            patterns.setdefault(mask[row].numpy().tobytes(), []).append(row)
        for rows in patterns.values():
            work = Completion(self.model, settings, mask[rows[0]], [ids[row] for row in rows], progress)
            out[rows] = work.run(video[rows])
        return out

    def stream(self, given: Frames | None, frames: int, *, known: Tensor | np.ndarray | Sequence[bool] | None = None,
               videos: int = 1, ids: Sequence[tuple[int, int]] | None = None,
               progress: Callable[[int], None] | None = None, **options) -> Iterator[Tensor]:
        """Make videos of any length piece by piece: finished frames in their order, given ones included.

        Schemes that go forward (autoreg, shift) take the same memory for any length. With another, a piece comes when
        all before it are finished, and what is made ahead is held until then.

        Args:
            given: the known frames alone, b k h w c; None: nothing is known.
            frames: of the whole videos.
            known: bool t, where in them the given frames lie; default: they come first.
            videos: how many, where nothing is given.
            ids, progress, options: as in `complete`, which makes the same frames.

        Returns:
            An iterator of uint8 b t h w c, up to a clip each. What is wrong is told before it is asked for a frame.
        """
        shape = (*self.size, self.model.codec.config.in_channels)
        start = torch.zeros(videos, 0, *shape, dtype=torch.uint8) if given is None else self._video(given)
        if frames < 1:
            raise ValueError(f"a video needs at least one frame, got frames={frames}")
        mask = np.arange(frames) < start.shape[1] if known is None else known
        mask = torch.as_tensor(np.asarray(mask) if not isinstance(mask, Tensor) else mask).cpu()
        if mask.dtype != torch.bool or tuple(mask.shape) != (frames,) or int(mask.sum()) != start.shape[1]:
            raise ValueError(f"known must be bool t = ({frames},) with as many known frames as are given, {start.shape[1]}, "
                             f"got {mask.dtype} of shape {tuple(mask.shape)} with {int(mask.sum())}")
        work = Completion(self.model, self.settings(**options), mask, self._ids(ids, len(start)), progress)
        return work.pieces(start)

    @staticmethod
    def settings(*, steps: int | str | None = None, **options) -> Settings:
        """Options of `complete`, checked."""
        check_options(options)
        options = {key: value.model if isinstance(value, VideoDiffusion) else value for key, value in options.items()}
        for name in ("guide", "content"):
            if not isinstance(options.get(name), DiffusionModel | None):
                raise ValueError(f"{name} must be a model, got {options[name]!r}; give VideoDiffusion.load(PATH)")
        return Settings(steps=None if steps is None else str(steps), **options)

    @staticmethod
    def _ids(ids: Sequence[tuple[int, int]] | None, rows: int) -> list[tuple[int, int]]:
        ids = list(ids) if ids is not None else [(row, 0) for row in range(rows)]
        if len(ids) != rows:
            raise ValueError(f"got {len(ids)} ids for {rows} videos; give one (video, sample) for each")
        return ids

    def generate(self, count: int = 1, *, frames: int | None = None, **options) -> Tensor:
        """Make `count` videos from nothing; options as in `complete`."""
        frames = self.clip if frames is None else frames
        _check_count("generate", "video", count=count)
        _check_count("generate", "frame", frames=frames)
        blank = torch.zeros(count, frames, *self.size, self.model.codec.config.in_channels, dtype=torch.uint8)
        return self.complete(blank, torch.zeros(count, frames, dtype=torch.bool), **options)

    def predict(self, past: Frames, count: int, **options) -> Tensor:
        """Continue videos by `count` frames; returns past and future together."""
        past = self._given("predict", past)
        _check_count("predict", "frame", count=count)
        blank = past.new_zeros(len(past), count, *past.shape[2:])
        known = torch.arange(past.shape[1] + count) < past.shape[1]
        return self.complete(torch.cat([past, blank], 1), known, **options)

    def predict_backward(self, future: Frames, count: int, **options) -> Tensor:
        """Make the `count` frames before videos; returns past and future together."""
        future = self._given("predict_backward", future)
        _check_count("predict_backward", "frame", count=count)
        blank = future.new_zeros(len(future), count, *future.shape[2:])
        known = torch.arange(count + future.shape[1]) >= count
        return self.complete(torch.cat([blank, future], 1), known, **options)

    def interpolate(self, first: Frames, last: Frames, count: int, **options) -> Tensor:
        """Make `count` frames between two videos, of one frame or more; returns all in order."""
        first, last = self._given("interpolate", first), self._given("interpolate", last)
        _check_count("interpolate", "frame", count=count)
        if len(first) != len(last):
            raise ValueError(f"interpolate needs as many first videos as last ones, got {len(first)} and {len(last)}")
        blank = first.new_zeros(len(first), count, *first.shape[2:])
        frame = torch.arange(first.shape[1] + count + last.shape[1])
        known = (frame < first.shape[1]) | (frame >= first.shape[1] + count)
        return self.complete(torch.cat([first, blank, last], 1), known, **options)

    def infill(self, frames: Frames, known: str | Sequence[bool], **options) -> Tensor:
        """Make the frames that are not known; `known` may be a SPEC such as "0-3,12" (see masks.parse_known)."""
        video = self._video(frames)
        mask = parse_known(known, video.shape[1]) if isinstance(known, str) else known
        return self.complete(video, mask, **options)

    def _given(self, task: str, frames: Frames) -> Tensor:
        """A video of which a task needs a frame or more."""
        video = self._video(frames)
        if not video.shape[1]:
            raise ValueError(f"{task} needs at least one given frame, got a video of none; use generate")
        return video

    def _video(self, frames: Frames) -> Tensor:
        """Accept what people have; say what it was where it cannot be used."""
        if isinstance(frames, (str, Path)):
            frames = read_video(frames)
        if isinstance(frames, np.ndarray):
            frames = torch.from_numpy(np.ascontiguousarray(frames))
        if not isinstance(frames, Tensor):
            raise ValueError(f"frames must be a torch tensor, a numpy array or a path, got {type(frames).__name__}")
        want = (*self.size, self.model.codec.config.in_channels)
        if frames.dim() == 4 or tuple(frames.shape) == want:
            frames = frames[None] if frames.dim() == 4 else frames[None, None]
        if frames.dtype != torch.uint8 or frames.dim() != 5 or tuple(frames.shape[2:]) != want:
            how = "resize them with tools.video.resize_crop"
            if frames.dtype != torch.uint8:
                how = "bring them to whole numbers of 0 to 255 in that type"
            elif frames.dim() != 5 or frames.shape[-1] != want[-1]:
                how = "the order is batch, time, height, width, channels"
            raise ValueError(f"frames must be uint8 b t h w c with h w c = {want}, got {frames.dtype} of shape "
                             f"{tuple(frames.shape)}; {how}")
        return frames.cpu()

    @staticmethod
    def _mask(known, video: Tensor) -> Tensor:
        mask = torch.as_tensor(np.asarray(known) if not isinstance(known, Tensor) else known).cpu()
        if mask.dim() == 1:
            mask = mask.expand(len(video), -1)
        if mask.dtype != torch.bool or tuple(mask.shape) != tuple(video.shape[:2]):
            raise ValueError(f"known must be bool b t = {tuple(video.shape[:2])}, True = given, got {mask.dtype} of shape "
                             f"{tuple(mask.shape)}; frames by number go to infill, as in known=\"0-3,12\"")
        return mask.contiguous()


def _check_count(task: str, what: str, **given: int) -> None:
    (name, count), = given.items()
    if not isinstance(count, int | np.integer) or count < 1:
        raise ValueError(f"{task} makes at least one {what}, got {name}={count!r}; give a whole number")
