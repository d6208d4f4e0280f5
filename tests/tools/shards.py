"""Files in MCVD's layout, and the smallest MNIST."""

import gzip

import h5py
import numpy as np


def put_shard(path, videos, *, scalars=None, **groups):
    """Write videos (uint8 t h w or t h w 3) as MCVD does: a dataset a frame, lzf; `groups` such as person=[1, 21]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        for name in ("len", "videos", *groups):
            file.create_group(name)
        for name, value in (scalars or {}).items():
            file.create_dataset(name, data=value)
        for i, video in enumerate(videos):
            file["len"].create_dataset(str(i), data=len(video))
            for name, values in groups.items():
                file[name].create_dataset(str(i), data=values[i])
            for t, frame in enumerate(video):
                file.create_dataset(f"{i}/{t}", data=frame, compression="lzf" if frame.ndim > 1 else None)
    return path


def put_mnist(path, pictures):
    """Write pictures (uint8 n h w) as MNIST's idx, packed if the name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.array([2051, *pictures.shape], ">u4").tobytes() + pictures.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
