"""What a long video takes: memory that does not grow with its length, and time that grows as the length does."""

import time
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from latent_diffusion.pipeline import VideoDiffusion
from tools.memory import peak_bytes

LENGTHS, STEPS = (64, 256, 1024), 2  # frames of a video, and sampler steps of a clip
MB = 1e6


def measure(model: VideoDiffusion, lengths: Sequence[int] = LENGTHS, steps: int = STEPS) -> dict[str, Any]:
    """Generate a video of each length, the shortest first, and let go of its frames as they come.

    A peak does not go down again: what a longer video shows beyond that of a shorter one is what its length takes. The
    shortest is made once before, so that libraries are loaded and memory is laid out. The threads' processor time tells how
    the work grows on a machine that others use, too.

    Returns:
        For each length ("64_frames") "seconds", "frames_per_second", "cpu_ms_per_frame" and "peak_mb" of the process until
        then; "memory_growth", the peak of the longest over that of the shortest, "time_growth", the same of
        "cpu_ms_per_frame", and "longest_mb", the size of the longest video itself.
    """
    lengths = sorted(lengths)
    result: dict[str, Any] = {}
    with tqdm(total=sum(lengths) + lengths[0], desc="long videos", unit="frame", delay=1) as bar:
        def make(frames: int) -> None:
            for piece in model.stream(None, frames, steps=steps):
                bar.update(piece.shape[1])

        make(lengths[0])
        for frames in lengths:
            begun, spent = time.perf_counter(), time.process_time()
            make(frames)
            seconds, work = time.perf_counter() - begun, time.process_time() - spent
            result[f"{frames}_frames"] = {"seconds": seconds, "frames_per_second": frames / seconds,
                                          "cpu_ms_per_frame": 1000 * work / frames, "peak_mb": peak_bytes() / MB}
    first, last = (result[f"{frames}_frames"] for frames in (lengths[0], lengths[-1]))
    height, width = model.size
    return {**result, "memory_growth": last["peak_mb"] / first["peak_mb"],
            "time_growth": last["cpu_ms_per_frame"] / first["cpu_ms_per_frame"],
            "longest_mb": lengths[-1] * height * width * model.model.codec.config.in_channels / MB}
