"""Small videos in memory and on disk, for the tests of what finds, reads and writes them."""

import json

import av
import numpy as np
from PIL import Image

from tools.shapes import Shapes
from tools.writers import write_gif, write_mp4


def moving(length=40, size=(48, 64)):
    """Bouncing shapes: uint8 t h w 3, no two frames alike."""
    return Shapes(size=size, length=length).read(0)


def flat(seed=0, t=4, h=16, w=24):
    """Frames of one colour each: what every lossy format keeps to about one grey level."""
    colours = np.random.default_rng(seed).integers(40, 200, (t, 1, 1, 3), dtype=np.uint8)
    return np.tile(colours, (1, h, w, 1))


def still(value=0, length=3):
    """The smallest video: every pixel is `value`."""
    return np.full((length, 8, 8, 3), value, np.uint8)


def save(path, frames):
    """Write an npy with the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, frames)


def put(path, value=0, length=3):
    """Write a still video as npy."""
    save(path, still(value, length))


def put_frames(folder, frames=None):
    """Write a folder of frame0.png, frame1.png, ..., by default of a still video."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(still() if frames is None else frames):
        Image.fromarray(image).save(folder / f"frame{number}.png")


def encode(path, frames, codec, pix_fmt="yuv420p", times=None, **options):
    """Write a video file with a key frame at least every 8 frames; `times` are in tenths of a second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=10, options={k.replace("_", "-"): str(v) for k, v in options.items()})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pix_fmt
        stream.codec_context.gop_size = 8
        if codec in ("libx264", "mpeg4", "mpeg2video"):
            stream.codec_context.max_b_frames = 2
        for number, image in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = int(times[number]), 1 / stream.codec_context.framerate
            file.mux(stream.encode(frame))
        file.mux(stream.encode())
    return path


def names(source):
    """All names of a source."""
    return [source.name(i) for i in range(len(source))]


def put_samples(folder):
    """Write what `sample` does, two samples of two videos: of four frames two were given, the others are 5 too high."""
    for i in range(2):
        save(folder / "real" / f"{i:05d}.npy", flat(i))
        for k in range(2):
            frames = flat(i) + np.uint8([0, 0, 5, 5])[:, None, None, None]
            save(folder / "samples" / f"{i:05d}_{k:02d}.npy", frames)
            write_mp4(folder / "videos" / f"{i:05d}_{k:02d}.mp4", frames)
    np.savez(folder / "samples.npz", np.stack([np.load(p) for p in sorted((folder / "samples").iterdir())]))
    write_gif(folder / "grid.gif", flat(0))
    (folder / "sample.json").write_text(json.dumps({"known_frames": [0, 1], "samples_per_video": 2, "seed": 7}))
    return folder
