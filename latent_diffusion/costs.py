"""The costs of training at any size, counted and measured: python -m latent_diffusion.costs --help."""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from tqdm import tqdm

from autoencoder.codec import Codec
from autoencoder.config import FirstStageConfig
from autoencoder.losses import LossConfig
from autoencoder.model import AutoencoderConfig, build_autoencoder
from autoencoder.stage import AutoencoderStage
from latent_diffusion.config import DiffusionStageConfig
from latent_diffusion.denoiser import LatentDenoiser
from latent_diffusion.footprint import Footprint, autoencoder_footprint, memory, traffic, unet_footprint
from latent_diffusion.modelfile import model_config
from latent_diffusion.stage import DiffusionStage
from latent_diffusion.unet import UNetConfig
from tools import fsdp
from tools.memory import peak_bytes

GB, MB = 1e9, 1e6
SHOWN_CLIPS = (1, 8)  # of a GPU in an update, in the plan


@dataclass(frozen=True)
class CostConfig:
    """What is counted; the defaults are PVDM's published sizes."""
    model: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    unet: UNetConfig = field(default_factory=UNetConfig)
    condition: dict[str, Any] = field(default_factory=lambda: {"name": "concat", "sees": ["past"], "mask": False})
    grad_checkpoint: bool = True  # of both networks
    averages: int = 1             # ema.decays
    clips: int = 1                # of a process in a micro-batch: what is measured


@dataclass(frozen=True)
class Machine:
    """What the plan assumes of the hardware; none of it is measured."""
    gpus: int = 8               # in a machine
    gpu_memory: float = 80.0    # GB
    tflops: float = 60.0        # that a GPU sustains
    link: float = 200.0         # GB/s between the GPUs of a machine, each way
    network: float = 25.0       # GB/s of a GPU to other machines, each way (200 Gb/s)

    def bandwidth(self, processes: int) -> float:
        """Bytes a second that a ring passes on: every GPU of a machine takes its share to the next machine."""
        return 1e9 * (self.link if processes <= self.gpus else min(self.link, self.network * self.gpus))


LARGER = {"model.channels": 1280, "model.heads": 24, "unet.width": 808}  # ten times the parameters of each network


class Row(NamedTuple):
    """One line of the plan."""
    network: str
    gpus: int
    strategy: str
    state: float          # GB of a process: weights, gradients, moments, averages, what is gathered, the frozen autoencoder
    clips: int            # the most of a process that fit
    traffic: float        # GB that a process sends in an update
    exchange: float       # seconds of it
    seconds: float        # of computing for one clip

    def computing(self, clips: int) -> float:
        """Share of an update that is computing, if nothing is sent meanwhile."""
        return clips * self.seconds / (clips * self.seconds + self.exchange)


def footprints(cfg: CostConfig) -> dict[str, Footprint]:
    """The networks of a configuration."""
    unet = replace(cfg.unet, grad_checkpoint=cfg.grad_checkpoint)
    return {"autoencoder": autoencoder_footprint(cfg.model, clips=cfg.clips, grad_checkpoint=cfg.grad_checkpoint),
            "U-Net": unet_footprint(unet, cfg.condition, cfg.model, clips=cfg.clips)}


def plan(counts: Mapping[str, Footprint], machine: Machine, processes: Sequence[int], averages: int = 1) -> list[Row]:
    """Memory and time of an update, for each network, strategy and number of GPUs."""
    rows = []
    for name, count in counts.items():
        for n in processes:
            for strategy in ("ddp", "fsdp")[:1 if n == 1 else 2]:
                state = memory(count, strategy, n, averages=averages).state / GB
                clips = max(0, int((machine.gpu_memory - state) * GB // (count.activations / count.clips)))
                sent = traffic(count, strategy, n)
                rows.append(Row(name, n, strategy, state, clips, sent / GB, sent / machine.bandwidth(n),
                                count.step_flops / (1e12 * machine.tflops)))
    return rows


def table(head: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    """Markdown; numbers with three digits."""
    def text(value: Any) -> str:
        if isinstance(value, float):
            return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
        return f"{value:,}" if isinstance(value, int) else str(value)
    rows = [list(map(text, line)) for line in [head, *lines]]
    rows.insert(1, ["---"] * len(head))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def show_counts(counts: Mapping[str, Footprint], averages: int) -> str:
    """What is exact, and the activations of a clip."""
    lines = []
    for name, count in counts.items():
        part = memory(count, averages=averages)
        lines.append((name, count.parameters, *(size / GB for size in part[:5]), count.activations / count.clips / GB,
                      count.forward_flops / 1e9, count.step_flops / 1e9))
    return table(("network", "parameters", "weights", "gradients", "AdamW", "averages", "frozen", "activations a clip",
                  "GFLOP forward", "GFLOP an update of a clip"), lines) + "\n\nBytes are in GB (1e9)."


def show_plan(rows: Sequence[Row]) -> str:
    def line(row: Row) -> tuple:
        return (*row[:4], row.clips or "none", row.traffic, 1000 * row.exchange, 1000 * row.seconds,
                *(f"{row.computing(clips):.0%}" for clips in SHOWN_CLIPS))
    return table(("network", "GPUs", "strategy", "GB a GPU without clips", "clips a GPU that fit", "GB sent an update",
                  "ms to send", "ms to compute a clip", *(f"computing share, {n} a GPU" for n in SHOWN_CLIPS)), map(line, rows))


# ---- measured --------------------------------------------------------------------------------------------------------

SMALL_UNET = {"unet.width": 64, "unet.mult": [1, 2], "unet.res_blocks": 1, "unet.attention": [2, 1], "unet.heads": 4,
              "model.channels": 32, "model.heads": 2, "model.head_dim": 16, "model.depth": 1, "model.resolution": 64,
              "model.frames": 8, "clips": 4, "grad_checkpoint": False}
SMALL_AUTOENCODER = {"model.channels": 128, "model.heads": 4, "model.head_dim": 32, "model.depth": 2, "model.resolution": 64,
                     "model.frames": 8, "clips": 2, "grad_checkpoint": False}
GRID = {"U-Net": (SMALL_UNET, {"unet.width": 128, "unet.res_blocks": 2, "model.frames": 16, "clips": 8,
                               "grad_checkpoint": True}),
        "autoencoder": (SMALL_AUTOENCODER, {"model.channels": 256, "model.depth": 4, "model.frames": 16, "clips": 4,
                                            "grad_checkpoint": True})}


def grid() -> list[tuple[str, dict[str, Any]]]:
    """A small model of each network, and the same with one key changed."""
    return [(name, {**base, **change}) for name, (base, changes) in GRID.items()
            for change in ({}, *({key: value} for key, value in changes.items()))]


def run_once(network: str, cfg: CostConfig, updates: int = 2) -> dict[str, float]:
    """Train a network for some updates in this process, and tell how much memory that took (see `measured`)."""
    torch.set_num_threads(1)
    indices = torch.arange(cfg.clips)
    frames = torch.randint(0, 256, (cfg.clips, cfg.model.frames, *cfg.model.size, cfg.model.in_channels), dtype=torch.uint8)
    torch.nn.functional.conv2d(torch.ones(1, 8, 8, 8, requires_grad=True), torch.ones(8, 8, 3, 3)).sum().backward()
    torch.nn.functional.scaled_dot_product_attention(*torch.ones(3, 1, 1, 8, 8, requires_grad=True)).sum().backward()
    before = peak_bytes()  # libraries are loaded
    if network == "autoencoder":
        first = FirstStageConfig(model=cfg.model, loss=LossConfig(perceptual_weight=0.0))
        first = replace(first, train=replace(first.train, grad_checkpoint=cfg.grad_checkpoint))
        stage: AutoencoderStage | DiffusionStage = AutoencoderStage(first, build_autoencoder(cfg.model).train(), frames[:1], {})
    else:
        second = DiffusionStageConfig(unet=replace(cfg.unet, grad_checkpoint=cfg.grad_checkpoint), condition=cfg.condition)
        codec = Codec(build_autoencoder(cfg.model))
        net = LatentDenoiser(second.unet, second.condition, codec.shape, codec.channels, codec.frames)
        stage = DiffusionStage(second, net, codec, frames[:1], model_config(second, codec), {})
    if network != "autoencoder":
        frames = frames.repeat(1, 2, 1, 1, 1)  # the clip before, too
    for step in range(updates):
        stage.train_step(step, [{"frames": frames, "index": indices}], cfg.clips)
    return {"parameters": sum(p.numel() for p in stage.net.parameters()),
            "moments": sum(v.numel() * v.element_size() for s in stage.optimizer.state.values() for v in s.values() if v.ndim),
            "averages": sum(fsdp.local(c).numel() * c.element_size() for copies in stage.ema.copies.values() for c in copies),
            "before": before, "peak": peak_bytes()}


def measured(network: str, keys: Mapping[str, Any]) -> dict[str, float]:
    """`run_once` in a process of its own, since a peak does not go down again.

    glibc keeps what is freed in pieces below 32 MB, up to twice of what is needed; here it gives everything back.
    """
    command = [sys.executable, "-m", "latent_diffusion.costs", "--run", network, *_words(keys)]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True,
                          env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"})
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def predicted(network: str, cfg: CostConfig) -> int:
    """Bytes at the peak of the second update of one process."""
    count = footprints(cfg)[network]
    part = memory(count, averages=1)
    return round(part.state - part.gradients + count.alone)


def compare(cases: Sequence[tuple[str, Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Run cases one after the other, and tell what was counted beside what was measured."""
    found = []
    for network, keys in tqdm(cases, desc="measuring", unit="run"):
        told, cfg = measured(network, keys), configure(_words(keys))
        took, counted = told["peak"] - told["before"], predicted(network, cfg)
        found.append({"network": network, "keys": dict(keys), "measured_mb": took / MB, "counted_mb": counted / MB,
                      "ratio": took / counted, "parameters": told["parameters"]})
    return found


def show_measured(found: Sequence[Mapping[str, Any]]) -> str:
    def line(case: Mapping[str, Any]) -> tuple:
        keys, unet = case["keys"], case["network"] == "U-Net"
        width, blocks = (keys["unet.width"], keys["unet.res_blocks"]) if unet else (keys["model.channels"], keys["model.depth"])
        return (case["network"], case["parameters"], width, blocks, keys["model.frames"], keys["clips"],
                "yes" if keys["grad_checkpoint"] else "no", case["measured_mb"], case["counted_mb"], case["ratio"])
    return table(("network", "parameters", "width", "blocks", "frames", "clips", "grad_checkpoint", "measured MB", "counted MB",
                  "measured / counted"), map(line, found))


# ---- the command -----------------------------------------------------------------------------------------------------

def configure(words: Sequence[str], kind: type = CostConfig) -> Any:
    """KEY=VALUE words on top of the defaults.

    Raises:
        ValueError: an unknown key, or a value of the wrong type.
    """
    for word in words:
        if "=" not in word:
            raise ValueError(f'"{word}" is no setting; write key=value, such as unet.width=128')
    try:
        defaults = OmegaConf.structured(kind() if not any(word.startswith("condition.name=") for word in words)
                                        else replace(kind(), condition={}))  # the options of one are not those of another
        merged = OmegaConf.merge(defaults, OmegaConf.from_dotlist(list(words)))
        return OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        sections = ", ".join(asdict(kind()))
        raise ValueError(f"{' '.join(words)}: {str(error).splitlines()[0]}; the sections and keys are {sections}") from None


def _words(keys: Mapping[str, Any]) -> list[str]:
    return [f"{key}={json.dumps(value)}" for key, value in keys.items()]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m latent_diffusion.costs", description=__doc__, epilog=(
        "Settings: model.* of the autoencoder, unet.* and condition.* as in the YAMLs; grad_checkpoint, averages, clips."))
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 8, 64, 512], metavar="N", help="GPUs of the plan")
    parser.add_argument("--machine", nargs="+", default=[], metavar="KEY=VALUE",
                        help="what the plan assumes: " + ", ".join(f"{k}={v}" for k, v in asdict(Machine()).items()))
    parser.add_argument("--larger", action="store_true", help="networks of ten times the published parameters")
    parser.add_argument("--measure", action="store_true", help="train small models for two updates each, and compare")
    parser.add_argument("--out", metavar="FILE", help="write what is printed as JSON, too")
    parser.add_argument("--run", choices=list(GRID), help=argparse.SUPPRESS)  # one measurement, in a process of its own
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    args = parser.parse_intermixed_args(argv)
    try:
        cfg = configure([*(_words(LARGER) if args.larger else []), *args.settings])
        machine = configure(args.machine, Machine)
        if min(args.processes) < 1:
            raise ValueError(f"--processes counts GPUs, got {min(args.processes)}")
        if args.run:
            print(json.dumps(run_once(args.run, cfg)))
            return 0
        if args.measure:
            result: Any = compare([(name, {**keys, **_given(args.settings)}) for name, keys in grid()])
            print(show_measured(result))
        else:
            counts = footprints(cfg)
            rows = plan(counts, machine, args.processes, cfg.averages)
            print(show_counts(counts, cfg.averages) + "\n\n" + show_plan(rows))
            result = {"networks": {name: count._asdict() for name, count in counts.items()}, "machine": asdict(machine),
                      "plan": [row._asdict() for row in rows]}
    except ValueError as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        return 2
    if args.out:
        Path(args.out).write_text(json.dumps(result, indent=1))
    return 0


def _given(words: Sequence[str]) -> dict[str, Any]:
    return {word.partition("=")[0]: json.loads(word.partition("=")[2]) for word in words}


if __name__ == "__main__":
    sys.exit(main())
