"""Quality of autoencoder architectures against their operations, all trained alike for as many updates.

    python -m autoencoder.bench --data_path DIR --out architectures.json --plot architectures.png

Small models of each on clips of 8 frames of 64x64: the same clips in the same order, the same loss and schedule, and for
each the best of the same learning rates. What --out already holds is not measured again.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from tqdm import tqdm

from autoencoder.config import AutoencoderTrainConfig, FirstStageConfig
from autoencoder.flops import published_flops
from autoencoder.losses import LossConfig
from autoencoder.model import AutoencoderConfig, build_autoencoder
from autoencoder.stage import AutoencoderStage
from tools import dist
from tools.clips import DataConfig
from tools.dry_run import hollow
from tools.ema import EmaConfig
from tools.feed import Feed, open_feed
from tools.files import replacing
from tools.log import write_text
from tools.loop import LoopConfig
from tools.optim import OptimConfig
from tools.rng import fork
from tools.sources import SOURCES
from tools.speed import count_flops

FRAMES, SIDE = 8, 64
REFERENCE = "pvdm 128"  # the published architecture, scaled down; the others are held against its operations
RATES = (1e-3, 2e-3, 4e-3)
BATCH = 4
PARTS = 4               # of a run, after each of which it is measured


def _model(arch: str, channels: int, depth: int = 4, **options: Any) -> AutoencoderConfig:
    return AutoencoderConfig(arch=arch, channels=channels, frames=FRAMES, resolution=SIDE, depth=depth, heads=4,
                             head_dim=channels // 4, tanh=False, options=options)


def _pvdm(channels: int) -> AutoencoderConfig:
    return _model("pvdm", channels, projection_depth=2, projection_mlp=2 * channels)


MODELS = {
    "pvdm 64": _pvdm(64),
    REFERENCE: _pvdm(128),
    "compact 48": _model("compact", 48, 2, fine_channels=24, fine_depth=1),
    "compact 64": _model("compact", 64, fine_channels=48),
    "compact 96": _model("compact", 96, fine_channels=64),
    "separable 96": _model("separable", 96, 7),
    "separable 144": _model("separable", 144, 7),
}


def operations(config: AutoencoderConfig) -> int:
    """Of encoding and decoding a clip; for the published architecture as published, whatever our code of it saves."""
    if config.arch == "pvdm":
        return sum(published_flops(config, **config.options))
    with hollow(lambda: build_autoencoder(config)) as net, torch.no_grad():
        return count_flops(lambda: net(torch.empty(1, *config.clip_shape)))[0]


def settings(model: AutoencoderConfig, data: DataConfig, *, rate: float, updates: int, seed: int) -> FirstStageConfig:
    """How every architecture is trained: a warm-up over a twelfth of the updates, then a cosine to zero."""
    return FirstStageConfig(
        model=model, data=data, loss=LossConfig(pixel="log_l2", pixel_weight=1.0, perceptual_weight=0.0),
        optim=OptimConfig(lr=rate, warmup=updates // 12, schedule="cosine"), ema=EmaConfig((0.97,)),
        loop=LoopConfig(steps=updates, batch_size=BATCH), train=AutoencoderTrainConfig(reverse=0.5, seed=seed))


def train(cfg: FirstStageConfig, feed: Feed) -> dict[str, Any]:
    """Train one model; `psnr` is of its averaged weights on clips that no update saw, after each quarter of the run."""
    with fork(cfg.train.seed, "init"):
        net = build_autoencoder(cfg.model).to(dist.device())
    stage, steps, psnr = AutoencoderStage(cfg, net, feed.validation, asdict(cfg.model)), cfg.loop.steps, []
    marks = {steps * part // PARTS for part in range(1, PARTS + 1)}
    begin = time.process_time()
    for step, batches in enumerate(feed.batches(0, steps)):
        stage.train_step(step, batches, cfg.loop.batch_size)
        if step + 1 in marks:
            psnr.append(stage.measure()["psnr"])
    return {"parameters": sum(p.numel() for p in net.parameters()), "gflop": operations(cfg.model) / 1e9, "psnr": psnr,
            "processor_seconds": time.process_time() - begin}


def measure(data: DataConfig, *, models: Mapping[str, AutoencoderConfig] = MODELS, rates: Sequence[float] = RATES,
            updates: int = 240, seeds: Sequence[int] = (42,), out: Path | None = None) -> list[dict[str, Any]]:
    """Rows of "model", "rate", "updates", "seed" and what `train` says, each written to `out` as soon as it is there.

    Raises:
        ValueError: too few updates.
    """
    if updates < 12:
        raise ValueError(f"bench needs 12 updates at least, got {updates}; set --updates to some hundreds")
    rows = json.loads(out.read_text()) if out and out.exists() else []
    work = [{"model": name, "rate": rate, "updates": updates, "seed": seed}
            for seed in seeds for rate in rates for name in models]
    feed, read = None, None
    missing = [key for key in work if not any(key.items() <= row.items() for row in rows)]
    for key in tqdm(missing, desc="models", unit="model"):
        cfg = settings(models[key["model"]], data, rate=key["rate"], updates=updates, seed=key["seed"])
        if read != key["seed"]:
            feed, read = _read(cfg), key["seed"]
        rows.append(key | train(cfg, feed))
        if out:
            write_text(out, json.dumps(rows, indent=1) + "\n")
    return rows


def _read(cfg: FirstStageConfig) -> Feed:
    """The clips of a run, in memory: every model sees the same, and is timed without their decoding."""
    feed = open_feed(cfg.data, cfg.loop, frames=FRAMES, seed=cfg.train.seed, validation_clips=cfg.train.validation_clips)
    kept = list(tqdm(feed.batches(0, cfg.loop.steps), total=cfg.loop.steps, desc="reading", unit="batch", delay=1))
    return feed._replace(batches=lambda start, stop: iter(kept[start:stop]))


def best(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of each model and number of updates the rate whose runs end best as a mean over seeds; by operations.

    Each has "psnr", that mean, "spread", the difference of its seeds, and "tried", the mean at every rate.
    """
    groups: dict[tuple[str, int], dict[float, list[Mapping[str, Any]]]] = {}
    for row in rows:
        groups.setdefault((row["model"], row["updates"]), {}).setdefault(row["rate"], []).append(row)
    found = []
    for (model, updates), by_rate in groups.items():
        ends = {rate: [row["psnr"][-1] for row in runs] for rate, runs in by_rate.items()}
        tried = {rate: mean(values) for rate, values in ends.items()}
        rate = max(tried, key=tried.__getitem__)
        row = by_rate[rate][0]
        found.append({"model": model, "updates": updates, "rate": rate, "gflop": row["gflop"], "parameters": row["parameters"],
                      "psnr": tried[rate], "spread": max(ends[rate]) - min(ends[rate]), "seeds": len(ends[rate]),
                      "tried": tried, "processor_seconds": mean(row["processor_seconds"] for row in by_rate[rate])})
    return sorted(found, key=lambda row: (row["updates"], row["gflop"]))


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The best of each model as text."""
    lines = [f"{'model':16} {'updates':>7} {'GFLOP':>7} {'M param.':>8} {'PSNR':>6} {'seeds':>5} {'apart':>5}  dB by rate"]
    for row in best(rows):
        tried = ", ".join(f"{rate:g}: {psnr:.2f}" for rate, psnr in sorted(row["tried"].items()))
        lines.append(f"{row['model']:16} {row['updates']:7} {row['gflop']:7.2f} {row['parameters'] / 1e6:8.2f} "
                     f"{row['psnr']:6.2f} {row['seeds']:5} {row['spread']:5.2f}  {tried}")
    return "\n".join(lines)


def plot(rows: Sequence[Mapping[str, Any]], out: str | Path) -> None:
    """Draw PSNR over operations: a panel for each number of updates, a curve for each architecture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # not pyplot: no display, no global state

    found = best(rows)
    panels = sorted({row["updates"] for row in found})
    quarter = next((row["gflop"] / 4 for row in found if row["model"] == REFERENCE), None)
    archs = sorted({row["model"].split()[0] for row in found})
    figure = Figure(figsize=(5.4 * len(panels), 4), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, updates in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for arch in archs:
            own = [row for row in found if row["updates"] == updates and row["model"].split()[0] == arch]
            if own:
                axis.plot([row["gflop"] for row in own], [row["psnr"] for row in own], marker="o",
                          color=f"C{archs.index(arch)}", label="published architecture (pvdm)" if arch == "pvdm" else arch)
            for row in own:
                axis.annotate(f"rate {row['rate']:g}", (row["gflop"], row["psnr"]), fontsize=6, xytext=(3, -8),
                              textcoords="offset points")
        if quarter:
            axis.axvline(quarter, color="black", linewidth=0.6, linestyle=":")
            axis.annotate("a quarter", (quarter, axis.get_ylim()[0]), fontsize=7, rotation=90, ha="right", va="bottom")
        axis.set(xscale="log", xlabel=f"GFLOP to encode and decode a clip ({SIDE}x{SIDE}, {FRAMES} frames)",
                 ylabel=f"PSNR of unseen clips after {updates} updates, dB")
        axis.set_xticks([0.25, 0.5, 1, 2, 4])
        axis.get_xaxis().set_major_formatter("{x:g}")
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    with replacing(out) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m autoencoder.bench", description=__doc__.split("\n")[0])
    parser.add_argument("--data", default="VIDEOS", choices=list(SOURCES), help="dataset: trained on its train side")
    parser.add_argument("--data_path", metavar="DIR", help="its folder")
    parser.add_argument("--models", type=lambda text: text.split(","), default=list(MODELS), metavar="NAME,NAME",
                        help=f"default: {','.join(MODELS)}")
    parser.add_argument("--rates", type=_list(float), default=RATES, metavar="R,R",
                        help="peak learning rates (default 1e-3,2e-3,4e-3)")
    parser.add_argument("--updates", type=int, default=240, help=f"of {BATCH} clips (default 240)")
    parser.add_argument("--seeds", type=_list(int), default=(42,), metavar="N,N", help="default 42")
    parser.add_argument("--out", type=Path, metavar="JSON", help="where the numbers go; rows that it holds are kept")
    parser.add_argument("--plot", metavar="PNG", help="where the curves go")
    args = parser.parse_args(words)
    try:
        unknown = [name for name in args.models if name not in MODELS]
        if unknown:
            raise ValueError(f"--models: unknown {', '.join(unknown)}; use some of {', '.join(MODELS)}")
        dist.start()
        data = DataConfig(name=args.data, path=args.data_path, resolution=SIDE, frames=FRAMES, workers=0)
        rows = measure(data, models={name: MODELS[name] for name in args.models}, rates=args.rates, updates=args.updates,
                       seeds=args.seeds, out=args.out)
        if args.plot:
            plot(rows, args.plot)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(table(rows))
    return 0


def _list(kind: type) -> Callable[[str], list]:
    return lambda text: [kind(part) for part in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
