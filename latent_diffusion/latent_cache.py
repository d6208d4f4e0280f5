"""Latents that were encoded once: what a cache folder holds, whose it is, and the batches that training takes from it.

    plan.json          whose latents they are to be, and how they are made; written first
    shard-00000.safetensors, ...   latents, and which of them each draw of a mask needs
    index.safetensors  the windows of each video
    manifest.json      written last: without it the cache is not complete

A shard holds each encoded clip once, however many windows and masks need it. All files are mapped into memory, not read.
"""

import hashlib
import json
import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from autoencoder.codec import Codec
from latent_diffusion.condition import CONDITIONS, Condition
from latent_diffusion.config import DiffusionStageConfig
from latent_diffusion.example import window_frames
from tools import dist
from tools.checkpoint import state_hash
from tools.clips import Clips, check_batch, open_source
from tools.files import replacing
from tools.loop import LoopConfig, MicroBatches
from tools.manifest import dataset_hash
from tools.mixture import Part
from tools.rng import numpy_rng, rand
from tools.sources import VideoSource
from tools.windows import span

FORMAT = "latents-1"
PLAN, MANIFEST, INDEX = "plan.json", "manifest.json", "index.safetensors"
NOT_OF_THE_PIXELS = ("path", "workers", "on_error", "frames", "resolution")  # in the data section; see identity


def fingerprint(source: VideoSource) -> str:
    """Twelve hex digits that tell datasets apart: by the names of all videos and, where they are files, their bytes."""
    digest = hashlib.blake2b(dataset_hash(source).encode(), digest_size=6)
    for path in getattr(source, "paths", ()):
        found = os.stat(path)
        digest.update(f"{found.st_size if stat.S_ISREG(found.st_mode) else ''} ".encode())
    return digest.hexdigest()


def geometry(condition: Condition) -> dict[str, Any]:
    """What of a condition decides which clips are encoded; concat, spade and implicit may share a cache."""
    if condition.observes:
        return {name: getattr(condition, name) for name in ("slots", "overlap", "spacing", "reach", "fewer")}
    return {"sees": list(condition.sees)}


def identity(cfg: DiffusionStageConfig, codec: Codec, condition: Condition, source: VideoSource) -> dict[str, Any]:
    """All that a run and the cache that it trains from must share, as plain values."""
    data = {key: value for key, value in asdict(cfg.data).items() if key not in NOT_OF_THE_PIXELS}
    data["mixture"] = [{key: value for key, value in entry.items() if key != "path"} for entry in cfg.data.mixture]
    whole = {"autoencoder": {"weights": codec.weights_hash, "statistics": state_hash({"mean": codec.mean, "std": codec.std})},
             "data": data | {"size": list(codec.size), "videos": len(source), "files": fingerprint(source)},
             "window": {"frames": window_frames(condition, cfg.mask), "clip": codec.frames},
             "mask": dict(cfg.mask), "condition": geometry(condition)}
    return json.loads(json.dumps(whole))


def identity_of(cfg: DiffusionStageConfig, codec: Codec) -> dict[str, Any]:
    """The same of a run that has opened nothing yet."""
    condition = CONDITIONS.bind(cfg.condition)(codec.shape, codec.channels, codec.frames)
    return identity(cfg, codec, condition, open_source(cfg.data))


def short_hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def default_folder(model: str | Path, identity: Mapping[str, Any]) -> Path:
    """Where the latents of a dataset lie if nobody says so: beside the weights that made them."""
    return latents_of(model) / f"{identity['data']['name']}-{short_hash(identity)}"


def latents_of(model: str | Path) -> Path:
    model = Path(model)
    return (model if model.is_dir() else model.parent) / "latents"


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Words for what is not alike in two plain mappings, or nothing."""
    def flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                yield from flat(inner, f"{name}.{key}" if name else key)
        else:
            yield name, value
    before, now = dict(flat(there, "")), dict(flat(here, ""))
    changed = [key for key in {**before, **now} if before.get(key, "absent") != now.get(key, "absent")]
    more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
    return ", ".join(f"{key} {before.get(key, 'absent')} there, {now.get(key, 'absent')} here" for key in changed[:3]) + more


def read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read ({type(error).__name__}); remove the folder and encode again") from None
    if content.get("format") != FORMAT:
        raise ValueError(f"{path} has the format {content.get('format')}, wanted {FORMAT}; encode again to another --out")
    return content


def find_latents(choice: str, model: str | Path, wanted: Callable[[], dict[str, Any]],
                 begun: tuple[str | None] | None = None) -> Path | None:
    """The cache that a training run takes, or None: it encodes as it goes.

    Args:
        choice: a folder, "none", or "auto": what lies in the default place, if anything does.
        model: the path given as the autoencoder.
        wanted: makes the run's identity; it looks at every file of the dataset, so only where there are latents.
        begun: the cache (or None) that the run was begun with; None for a new run. With "auto" it stays with that.
    """
    if choice == "none" or (choice == "auto" and begun == (None,)):
        return None
    if choice == "auto":
        own = wanted() if latents_of(model).is_dir() else None
        folder = default_folder(model, own) if own else None
        if folder is None or not (folder / MANIFEST).is_file():
            if begun:
                raise ValueError(f"the run was begun on the latents {begun[0]}, and {latents_of(model)} holds none for its "
                                 "settings; give their folder with --latents DIR")
            return None
    else:
        folder, own = Path(choice), None
        if not (folder / MANIFEST).is_file():
            what = "no whole cache: --exp encode did not finish there" if (folder / PLAN).is_file() else \
                "no cache of latents; make one with --exp encode --out, or give --latents none"
            raise ValueError(f"--latents {folder} holds {what}")
    LatentCache(folder).check(own or wanted())
    return folder


class Draw(NamedTuple):
    """Where in a cache a sample is."""
    entry: int  # a window as it is or flipped
    draw: int   # of its masks


class LatentCache:
    """A complete cache of latents.

    Args:
        folder: where --exp encode wrote it.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.manifest = read_json(self.folder / MANIFEST)
        self.settings: dict[str, Any] = self.manifest["settings"]
        for name, size in self.manifest["files"].items():
            file = self.folder / name
            if not file.is_file() or file.stat().st_size != size:
                raise ValueError(f"{file} is {'damaged' if file.is_file() else 'missing'}; remove it and {MANIFEST} beside it, "
                                 "and give the same --exp encode command again")
        self.index = _mapped(self.folder / INDEX)
        self._shards: dict[int, dict[str, np.ndarray]] = {}

    @property
    def id(self) -> str:
        """Of all that decides what is in it."""
        return short_hash([self.manifest["identity"], self.settings])

    @property
    def frames(self) -> int:
        """Of a window."""
        return self.manifest["frames"]

    def check(self, wanted: Mapping[str, Any]) -> None:
        """Refuse a run to which these latents do not belong."""
        if words := differences(self.manifest["identity"], wanted):
            raise ValueError(f"the latents in {self.folder} are of something else: {words}; encode again with the settings of "
                             "this run, or give --latents none")

    def check_training(self, cfg: DiffusionStageConfig) -> None:
        """Refuse what a cache cannot do."""
        if cfg.train.shift:
            raise ValueError(f"cached latents are of windows that are not translated, got train.shift={cfg.train.shift}; "
                             "set train.shift=0, or give --latents none")
        if cfg.train.flip and self.settings["flips"] == 1:
            raise ValueError(f"the latents in {self.folder} are of windows as they are, got train.flip={cfg.train.flip}; "
                             "encode with the same train.flip, or set train.flip=0")
        left_out = self.manifest["left_out"]
        if left_out and cfg.data.on_error == "raise":
            raise ValueError(f"the latents in {self.folder} leave out {len(left_out)} videos or windows, as {left_out[0]}; "
                             "give data.on_error=skip, with which they were encoded")

    def describe(self) -> str:
        made, size = self.manifest, sum(self.manifest["files"].values()) / 2**20
        error = f" (error {made['error']['rms_relative']:.1e} of their size)" if self.settings["dtype"] != "float32" else ""
        return (f"latents {self.id} of {made['windows']} windows of {made['frames']} frames in {made['videos']} videos, "
                f"{self.settings['draws']} masks each{', flipped too' if self.settings['flips'] == 2 else ''}, "
                f"{made['clips']} clips in {self.settings['dtype']}{error}, {size:.1f} MiB: {self.folder}")

    def batches(self, cfg: DiffusionStageConfig) -> Callable[[int, int], Iterator[MicroBatches]]:
        """What tools.feed gives a run, but of latents: (start_step, stop_step) -> this process's share of each step."""
        self.check_training(cfg)
        return partial(self._batches, Choice(self, cfg), cfg.loop)

    def _batches(self, choose: "Choice", loop: LoopConfig, start: int, stop: int) -> Iterator[MicroBatches]:
        pin = dist.device().type == "cuda"

        def fetch(shares: list[list[int]]) -> MicroBatches:
            made = [self.read([choose(g) for g in share]) | {"index": torch.tensor(share)} for share in shares]
            return [{name: value.pin_memory() for name, value in batch.items()} for batch in made] if pin else made
        return ahead(fetch, _shares(loop, start, stop, dist.rank(), dist.world()))

    def read(self, draws: list[Draw]) -> dict[str, torch.Tensor]:
        """The latents of samples, and what is known of them: see example.from_latents."""
        samples = [self._sample(*draw) for draw in draws]
        return {name: torch.from_numpy(np.stack([sample[name] for sample in samples])) for name in samples[0]}

    def _sample(self, entry: int, draw: int) -> dict[str, np.ndarray]:
        number, place = divmod(entry, self.settings["windows_per_shard"] * self.settings["flips"])
        if number not in self._shards:
            self._shards[number] = _mapped(self.folder / shard_name(number))
        shard = self._shards[number]
        sample = {"latent": _rows(shard["latents"], shard["target"][place, draw]),
                  "seen": _rows(shard["latents"], shard["seen"][place, draw]), "known": shard["known"][place, draw]}
        if "start" not in shard:
            return sample | {"latent": sample["latent"][0]}
        return sample | {name: shard[name][place, draw] for name in ("start", "there")}


class Choice:
    """Which window a sample of a run is, as a function of (seed, global sample index).

    `Clips` says where the run would read: the cache has the window that begins there, or the one in its place where it does
    not have all. A run on a cache of all windows sees the very windows, flips included, that it would see without.
    """

    def __init__(self, cache: LatentCache, cfg: DiffusionStageConfig):
        self.cache, self.seed, self.flip = cache, cfg.train.seed, cfg.train.flip
        self.places = _Places(cache)
        self.clips = Clips.from_config(self.places, replace(cfg.data, frames=cache.frames, resolution=1), seed=cfg.train.seed)

    def __call__(self, g: int) -> Draw:
        self.clips[g]
        video, start = self.places.last
        first, stop = self.cache.index["first"][video:video + 2].tolist()
        starts = self.cache.index["start"][first:stop]
        place = int(np.searchsorted(starts, start))
        if place == len(starts) or starts[place] != start:
            room = int(self.cache.index["lengths"][video]) - span(self.cache.frames, self.cache.manifest["stride"]) + 1
            place = start * len(starts) // room
        flips, draws = self.cache.settings["flips"], self.cache.settings["draws"]
        flipped = flips == 2 and float(rand((1,), self.seed, "augment", g)) < self.flip  # the first draw of augment()
        entry = int(self.cache.index["window"][first + place]) * flips + flipped
        return Draw(entry, int(numpy_rng(self.seed, "train", "draw", g).integers(draws)))


class _Places:
    """Stands in for the dataset: it has no pixels, and notes which are asked for."""

    def __init__(self, cache: LatentCache):
        self.lengths, self.notes, self.last = cache.index["lengths"], [], (0, 0)
        self.parts = tuple(Part(name, first, count, Fraction(weight), (cache.manifest["stride"],))
                           for name, first, count, weight in cache.manifest["parts"])

    def __len__(self) -> int:
        return len(self.lengths)

    def num_frames(self, i: int) -> int:
        if not self.lengths[i]:
            raise ValueError(f"video {i} was left out when its latents were encoded")
        return int(self.lengths[i])

    def read(self, i: int, start: int = 0, stop: int | None = None, step: int = 1) -> np.ndarray:
        self.last = (i, start)
        return np.zeros((len(range(start, int(self.lengths[i]) if stop is None else stop, step)), 1, 1, 3), np.uint8)

    def name(self, i: int) -> str:
        return str(i)


def shard_name(number: int) -> str:
    return f"shard-{number:05d}.safetensors"


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file whole or not at all."""
    with replacing(path) as temporary:
        save_file(dict(tensors), temporary, metadata=metadata)
        temporary.chmod(0o644)  # as any other file; the library lets nobody else read it


def _mapped(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a file, whose pages come into memory when they are looked at."""
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name).numpy() for name in file.keys()}  # noqa: SIM118  (it is no mapping)


def _rows(latents: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Latents by their numbers from 1 on, float32; number 0 is nothing, zeros."""
    made = np.zeros((len(numbers), *latents.shape[1:]), np.float32)
    there = numbers > 0
    made[there] = latents[numbers[there] - 1]
    return made


def _shares(loop: LoopConfig, start: int, stop: int, rank: int, world: int) -> Iterator[list[list[int]]]:
    """The global sample indices of each step's micro-batches in this process; see tools.clips.loader."""
    rounds = check_batch(loop.batch_size, world, loop.micro_batch)
    for step in range(start, stop):
        mine = list(range(step * loop.batch_size + rank, (step + 1) * loop.batch_size, world))
        micro = len(mine) // rounds
        yield [mine[i:i + micro] for i in range(0, len(mine), micro)]


def ahead(call: Callable[[Any], Any], items: Iterable[Any], depth: int = 2) -> Iterator[Any]:
    """call(item) for each, some of them made by a thread before they are asked for."""
    with ThreadPoolExecutor(1) as pool:
        waiting: deque = deque()
        for item in items:
            waiting.append(pool.submit(call, item))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
