"""Videos whose pixels tell which they are, and the batches of them, for the tests of what loads videos."""

import numpy as np
import torch

from tools.clips import Clips, loader


class Counted:
    """Videos whose pixels tell their number and frame: red = video, green = frame."""

    def __init__(self, lengths, broken=()):
        self.lengths, self.broken, self.notes = list(lengths), broken, []

    def __len__(self):
        return len(self.lengths)

    def num_frames(self, i):
        if i in self.broken:
            raise ValueError(f"video{i}.mp4: damaged")
        return self.lengths[i]

    def read(self, i, start=0, stop=None, step=1):
        frames = np.zeros((self.lengths[i], 6, 8, 3), np.uint8)
        frames[..., 0] = i
        frames[..., 1] = np.arange(self.lengths[i])[:, None, None]
        return frames[start:stop:step]

    def name(self, i):
        return f"video{i}"


def video_of(frames):
    """The number of the video that a clip is from."""
    return int(frames[0, 0, 0, 0])


def frame_of(frames, t=0):
    """The number of a frame of a clip in its video."""
    return int(frames[t, 0, 0, 1])


def clips(source, **options):
    return Clips(source, **{"frames": 4, "size": (6, 8), "seed": 3, **options})


def run(source, stop=4, **options):
    """All batches of all ranks as {global index: frames}, and the shape of the iteration."""
    given = {"batch_size": 4, "start_step": 0, "stop_step": stop, **options}
    out, shape = {}, []
    for rank in range(given.get("world", 1)):
        for micro_batches in loader(source, rank=rank, **given):
            shape.append([len(m["index"]) for m in micro_batches])
            for m in micro_batches:
                assert m["frames"].dtype == torch.uint8 and m["index"].dtype == torch.int64
                assert m["index"].tolist() == sorted(m["index"].tolist())
                out.update(zip(m["index"].tolist(), m["frames"]))
    return out, shape


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[g], b[g]) for g in a)
