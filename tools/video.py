"""Video in memory and on disk: the only uint8 <-> float conversion, resizing, and one reader for all files.

`frames` are uint8 (t h w c, or b t h w c in a batch), `clip` is float32 b c t h w in [-1, 1].
"""

from __future__ import annotations

import contextlib
import os
import zipfile
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyspng
import torch
import torch.nn.functional as F
from einops import rearrange
from natsort import natsorted
from PIL import Image
from torch import Tensor

from tools.container import CONTAINERS, centred, file_index, read_container
from tools.writers import grid_frames, strip, write_gif, write_mp4, write_png

__all__ = ["IMAGES", "VIDEOS", "centre", "frame_files", "grid_frames", "num_frames", "read_video", "resize_crop", "strip",
           "to_clip", "to_frames", "write_gif", "write_mp4", "write_png"]

IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".tif", ".tiff"}
_ARRAYS = {".npy", ".npz"}
VIDEOS = CONTAINERS | _ARRAYS
_NPZ_KEYS = ("frames", "video", "image", "arr_0")  # tried in this order where an npz holds several arrays


def to_clip(frames: Tensor | np.ndarray) -> Tensor:
    """Convert uint8 b t h w c to float32 b c t h w in [-1, 1]."""
    frames = torch.as_tensor(frames)
    assert frames.dtype == torch.uint8, f"frames are uint8, got {frames.dtype}"
    return rearrange(frames, "b t h w c -> b c t h w").to(torch.float32, memory_format=torch.contiguous_format) \
        .div_(127.5).sub_(1)


def to_frames(clip: Tensor) -> Tensor:
    """Convert float b c t h w in [-1, 1] to uint8 b t h w c: clamped, and rounded (truncation would darken)."""
    levels = (clip.detach().float() + 1).mul_(127.5).clamp_(0, 255).round_()
    return rearrange(levels, "b c t h w -> b t h w c").to(torch.uint8, memory_format=torch.contiguous_format)


def resize_crop(frames: np.ndarray, size: tuple[int, int], mode: str = "crop") -> np.ndarray:
    """Bring uint8 t h w c to the given (height, width) with an antialiased bilinear filter.

    Args:
        frames: uint8 t h w c; returned as it is where it has that size already.
        size: target height and width.
        mode: "crop" cuts the largest centred part of the target's aspect, and scales that; "stretch" scales all.
    """
    if mode not in ("crop", "stretch"):
        raise ValueError(f'resize mode must be "crop" or "stretch", got "{mode}"')
    if frames.shape[1:3] == tuple(size):
        return frames
    frames = np.ascontiguousarray(centre(frames, size) if mode == "crop" else frames)  # before scaling, which is then of less
    if frames.shape[1:3] == tuple(size):
        return frames
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2)  # t c h w, channels last
    pixels = F.interpolate(pixels, tuple(size), mode="bilinear", align_corners=False, antialias=True)
    return np.ascontiguousarray(pixels.permute(0, 2, 3, 1).numpy())


def centre(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the largest centred part of the aspect of a (height, width), a view: t h w c -> t h' w' c."""
    rows, columns = centred(*frames.shape[1:3], size)
    return frames[:, rows, columns]


def num_frames(path: str | os.PathLike) -> int:
    """Count the frames of anything that read_video reads, decoding as little as is needed to be exact."""
    return _count(_existing(path))


def read_video(path: str | os.PathLike, start: int = 0, stop: int | None = None, step: int = 1, *,
               size: tuple[int, int] | None = None) -> np.ndarray:
    """Read frames start, start + step, ... below stop -> uint8 t h w c.

    Args:
        path: a video file (mp4, avi, mkv, mov, webm, gif, ...), an array (npy, npz; uint8 t h w c), an image
            (one frame), or a folder of images in natural order (frame2 before frame10).
        start: first frame.
        stop: end, exclusive; None reads to the last frame.
        step: distance of the frames read.
        size: height and width to which the `centre` of each frame is scaled; None gives frames as they are. Of a video file the
            planes are scaled before they become RGB where that takes less time (see tools/scaler.py).

    Raises:
        ValueError: the file is missing, damaged or of no known kind, or has not that many frames.
    """
    path = _existing(path)
    count = _count(path)
    stop = count if stop is None else stop
    if not (0 <= start < stop <= count and step >= 1):
        raise ValueError(f"{path}: has {count} frames, got start={start} stop={stop} step={step}; "
                         f"ask for 0 <= start < stop <= {count} and step >= 1")
    wanted = range(start, stop, step)
    suffix = path.suffix.lower()
    is_folder = path.is_dir()
    if not is_folder and suffix in CONTAINERS:
        frames = read_container(path, wanted, size)
        return frames if size is None else resize_crop(frames, size, "stretch")
    if is_folder:
        frames = _read_images([path / name for name in frame_files(path)[start:stop:step]])
    elif suffix in IMAGES:
        frames = _read_images([path])
    else:
        frames = _checked_array(path, _array(path)[start:stop:step])
    return frames if size is None else resize_crop(frames, size)


def frame_files(folder: str | os.PathLike) -> tuple[str, ...]:
    """List the images of a frame folder in natural order; ValueError if there is none."""
    return _frame_files(os.fspath(folder), os.stat(folder).st_mtime_ns)


@lru_cache(maxsize=1 << 16)
def _frame_files(folder: str, mtime: int) -> tuple[str, ...]:
    names = [name for name in os.listdir(folder)
             if os.path.splitext(name)[1].lower() in IMAGES and not name.startswith(".")]
    if not names:
        raise ValueError(f"{folder}: holds no image; a frame folder holds files such as frame00000.png")
    return tuple(natsorted(names))


def _existing(path: str | os.PathLike) -> Path:
    path = Path(path)
    if not path.exists():
        raise ValueError(f"{path}: no such video file or frame folder; check the path")
    return path


def _count(path: Path) -> int:
    if path.is_dir():
        return len(frame_files(path))
    suffix = path.suffix.lower()
    if suffix in IMAGES:
        return 1
    if suffix in _ARRAYS:
        return _array_length(path, path.stat().st_size, path.stat().st_mtime_ns)
    _check_suffix(path)
    return file_index(path).count


def _check_suffix(path: Path) -> None:
    if path.suffix.lower() not in CONTAINERS:
        raise ValueError(f'{path}: a file of unknown kind "{path.suffix}"; wanted a frame folder or one of '
                         f"{' '.join(sorted(VIDEOS | IMAGES))}")


def _read_images(paths: list[Path]) -> np.ndarray:  # t h w 3
    frames = []
    for path in paths:
        frames.append(_read_image(path))
        if frames[-1].shape != frames[0].shape:
            raise ValueError(f"{path}: {_size(frames[-1])} pixels, but {paths[0].name} has {_size(frames[0])}; "
                             f"the frames of one folder must have one size")
    return np.stack(frames)


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"


def _read_image(path: Path) -> np.ndarray:  # h w 3
    if path.suffix.lower() == ".png":
        with contextlib.suppress(RuntimeError, OSError):  # a kind that it does not know, or broken: PIL will tell
            image = pyspng.load(path.read_bytes())  # several times faster than PIL
            if image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] >= 3:
                return image[..., :3]
    try:
        with Image.open(path) as image:
            if image.mode.startswith("I"):  # 16 bits, which convert() would clip instead of scale
                grey = np.rint(np.asarray(image, np.float32) / 257).astype(np.uint8)
                return np.repeat(grey[..., None], 3, axis=-1)
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:  # what PIL raises for broken files
        raise ValueError(f"{path}: damaged image ({error}); replace or remove it, "
                         f"or skip such videos with data.on_error=skip") from None


@lru_cache(maxsize=1 << 16)
def _array_length(path: Path, size: int, mtime: int) -> int:
    if path.suffix.lower() == ".npy" or not zipfile.is_zipfile(path):  # what is no npz after all is told by numpy
        return len(_array(path))
    with _opening(path), zipfile.ZipFile(path) as archive:
        key = _npz_key(path, [name.removesuffix(".npy") for name in archive.namelist()])
        with archive.open(f"{key}.npy") as file:
            shape, _, dtype = npy_head(file)  # and of the pixels, which may be compressed, nothing
    _check_array(path, shape, dtype)
    return shape[0]


def npy_head(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Read an npy up to its numbers: the shape, whether it is stored by columns, and the type."""
    version = np.lib.format.read_magic(file)
    head = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return head(file)


def _array(path: Path) -> np.ndarray:
    """Open the array of an npy (memory-mapped: a slice reads only itself) or npz file."""
    with _opening(path):
        opened = np.load(path, mmap_mode="r", allow_pickle=False)
        if isinstance(opened, np.ndarray):
            array = opened
        else:
            with opened:
                array = opened[_npz_key(path, opened.files)]
    _check_array(path, array.shape, array.dtype)
    return array


@contextlib.contextmanager
def _opening(path: Path) -> Iterator[None]:
    """Tell what numpy and zip find wrong as damage of the file."""
    try:
        yield
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        if str(error).startswith(str(path)):
            raise
        raise ValueError(f"{path}: damaged or not an array ({error}); replace or remove it, "
                         f"or skip such files with data.on_error=skip") from None


def _check_array(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> None:
    if len(shape) != 4 or shape[-1] not in (1, 3, 4) or not shape[0]:
        raise ValueError(f"{path}: an array of shape {shape}; wanted t h w c with 1, 3 or 4 channels last")
    if not np.issubdtype(dtype, np.integer):
        raise ValueError(f"{path}: an array of {dtype}; wanted uint8 0..255, "
                         f"so convert it first (its range cannot be guessed)")


def _npz_key(path: Path, keys: list[str]) -> str:
    key = next((k for k in _NPZ_KEYS if k in keys), keys[0] if len(keys) == 1 else None)
    if key is None:
        raise ValueError(f"{path}: holds the arrays {keys}; name the video one of {', '.join(_NPZ_KEYS)}")
    return key


def _checked_array(path: Path, array: np.ndarray) -> np.ndarray:
    if array.dtype != np.uint8 and (array.min() < 0 or array.max() > 255):
        raise ValueError(f"{path}: values {array.min()}..{array.max()}; wanted uint8 0..255")
    return np.array(array[..., :3] if array.shape[-1] == 4 else array, dtype=np.uint8)
