"""The benchmark of long videos: which videos are made, and what is said of them."""

import torch

from latent_diffusion import bench_long
from latent_diffusion.bench_long import measure
from latent_diffusion.bench_parts import Settings, make_model
from tests.fakes import diffusion_config, first_config


class Streaming:
    """Makes frames of four bytes, and remembers how many."""
    size = (1, 1)

    def __init__(self):
        self.asked, self.made = [], 0
        self.model = type("Model", (), {"codec": type("Codec", (), {"config": type("Config", (), {"in_channels": 4})})})

    def stream(self, given, frames, *, steps):
        self.asked.append((given, frames, steps))
        for _ in range(0, frames, 4):
            self.made += 4
            yield torch.zeros(1, 4, 1, 1, 4, dtype=torch.uint8)


def test_each_length_is_made_the_shortest_twice_and_first():
    model = Streaming()
    found = measure(model, [64, 8, 16], steps=3)
    assert model.asked == [(None, frames, 3) for frames in (8, 8, 16, 64)]
    assert list(found)[:3] == ["8_frames", "16_frames", "64_frames"] and found["longest_mb"] == 64 * 4 / 1e6


def test_time_is_told_for_a_frame_and_for_the_whole(monkeypatch):
    clocks = {name: iter(times) for name, times in (("perf_counter", [0, 2, 10, 14]), ("process_time", [0, 1, 5, 8]))}
    for name, times in clocks.items():
        monkeypatch.setattr(bench_long.time, name, lambda times=times: next(times))
    found = measure(Streaming(), [4, 8])
    assert [found[f"{n}_frames"]["seconds"] for n in (4, 8)] == [2, 4]
    assert [found[f"{n}_frames"]["frames_per_second"] for n in (4, 8)] == [2, 2]
    assert [found[f"{n}_frames"]["cpu_ms_per_frame"] for n in (4, 8)] == [250, 375] and found["time_growth"] == 1.5


def test_a_model_that_kept_its_frames_would_be_seen(monkeypatch):
    model = Streaming()
    monkeypatch.setattr(bench_long, "peak_bytes", lambda: 1000 * model.made)
    found = measure(model, [4, 16])
    assert [found[f"{n}_frames"]["peak_mb"] for n in (4, 16)] == [0.008, 0.024] and found["memory_growth"] == 3


def test_a_pipeline_makes_as_many_frames_as_are_asked_for(monkeypatch):
    model = make_model(Settings(first_config(), diffusion_config("unet.mult=[1]", "unet.attention=[]")))
    made, stream = [], model.stream

    def counted(*args, **options):
        for piece in stream(*args, **options):
            made.append(piece.shape[1])
            yield piece
    monkeypatch.setattr(model, "stream", counted)
    found = measure(model, [6, 30], steps=1)
    assert sum(made) == 6 + 6 + 30
    assert 1 <= found["memory_growth"] < 1.1
