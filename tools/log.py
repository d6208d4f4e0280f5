"""The run folder: whose it is, its log, its metrics, its progress bar."""

from __future__ import annotations

import datetime
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Set
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from tqdm import tqdm

from tools.boards import Board, LogConfig, TensorBoard, WandB
from tools.files import write_text

ABSENT = "absent"
SHOWN = {".png": "picture", ".mp4": "video"}  # what a board makes of a file


def claim(folder: str | Path, config: Mapping[str, Any], volatile: Set[str] = frozenset()) -> str:
    """Take a run folder for a configuration, which is kept there as config.yaml.

    Args:
        config: plain nested dictionary.
        volatile: dotted keys that may change when a run is continued, such as "loop.steps"; a key stands for
            all below it.

    Returns:
        "new", or "continue" if the folder holds a run of the same configuration.

    Raises:
        ValueError: the folder holds a run of another configuration, or something else.
    """
    folder = Path(folder)
    path = folder / "config.yaml"
    text = OmegaConf.to_yaml(OmegaConf.create(dict(config)))
    config = OmegaConf.to_container(OmegaConf.create(text))  # as it will be read: no tuples
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file, wanted a run folder; use another --id, or move it away")
    if not path.exists():
        if folder.exists() and any(p.suffix != ".tmp" for p in folder.iterdir()):
            raise ValueError(f"{folder} exists and is no run (it has no config.yaml); "
                             "use another --id, or move it away")
        folder.mkdir(parents=True, exist_ok=True)
        state = "new"
    else:
        _refuse_change(folder, _read_config(path), config, volatile)
        state = "continue"
    write_text(path, text)
    return state


def begun(folder: str | Path) -> bool:
    """Tell whether a run folder holds training, or a process that is at it.

    A command that failed before (no data, say) leaves a folder with nothing to lose: its settings may still change.
    """
    folder = Path(folder)
    if any(folder.glob("checkpoints/*")) or read_metrics(folder / "metrics.jsonl"):
        return True
    if not (folder / "config.yaml").exists():
        return False
    try:
        lock = _lock(folder)
    except ValueError:
        return True
    if lock is not None:
        lock.close()
    return False


def _read_config(path: Path) -> dict[str, Any]:
    try:
        return OmegaConf.to_container(OmegaConf.load(path))
    except Exception as error:  # yaml raises a family of its own for each way to be broken
        raise ValueError(f"{path} cannot be read ({type(error).__name__}); "
                         "restore it, or use another --id") from error


def _refuse_change(folder: Path, old: Mapping, new: Mapping, volatile: Set[str]) -> None:
    before, now = dict(_flat(old)), dict(_flat(new))
    changed = [key for key in {**before, **now} if before.get(key) != now.get(key)  # a new key that is null changes nothing
               and not any(key == v or key.startswith(v + ".") for v in volatile)]
    if changed:
        text = ", ".join(f"{k} {before.get(k, ABSENT)} -> {now.get(k, ABSENT)}" for k in changed[:3])
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise ValueError(f"{folder} holds a run with other settings: {text}{more}; "
                         "use another --id, or the same settings to continue it")


def _flat(config: Mapping, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Return the lines of a metrics.jsonl; a last line that a kill tore is left out."""
    path = Path(path)
    lines = path.read_text().splitlines() if path.exists() else []
    records = []
    for number, line in enumerate(lines, 1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            if number < len(lines):
                raise ValueError(f"{path} line {number} is no JSON: {line[:60]!r}; remove the line") from None
    return records


class Run:
    """What a run tells: log.txt and stdout, metrics.jsonl and boards, a progress bar with the time left.

    Only the first process has a folder; Run.null() is the silent one of the others.

    Args:
        cfg: the boards besides TensorBoard (default none).
        config: plain nested dictionary of the run's settings, which boards show.
    """

    def __init__(self, folder: str | Path | None, cfg: LogConfig | None = None, config: Mapping[str, Any] = {}):
        self.folder = Path(folder) if folder is not None else None
        self._bar: tqdm | None = None
        self._tensorboard: TensorBoard | None = None  # made at the first metric: its import takes a second
        self._others: list[Board] = []
        self._purge: int | None = None
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = _lock(self.folder)
            if cfg is not None and cfg.wandb:
                self._others.append(WandB(self.folder, cfg, config))

    @classmethod
    def null(cls) -> Run:
        """Return a run that writes nothing."""
        return cls(None)

    @property
    def checkpoints(self) -> Path:
        """The folder of the step checkpoints."""
        return self.folder / "checkpoints"

    @property
    def samples(self) -> Path:
        """The folder of what is made while training."""
        return self.folder / "samples"

    def log(self, text: str, *, echo: bool = True) -> None:
        """Write a line to log.txt, and to stdout if `echo`."""
        if self.folder is None:
            return
        now = datetime.datetime.now().isoformat(" ", timespec="seconds")
        with open(self.folder / "log.txt", "a") as file:
            file.write(f"{now}  {text}\n")
        if echo:
            tqdm.write(text, file=sys.stdout)  # does not cut through the bar
            sys.stdout.flush()

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Record named numbers after `step` updates; one that is not finite is null in the JSON."""
        if self.folder is None:
            return
        lines = [json.dumps({"step": step, "name": name, "value": value if math.isfinite(value) else None})
                 for name, value in values.items()]
        with open(self.folder / "metrics.jsonl", "a") as file:
            file.write("".join(line + "\n" for line in lines))
        for board in self._boards():
            board.scalars(step, values)

    def histogram(self, step: int, name: str, values: np.ndarray) -> None:
        """Show how the finite ones of some values are distributed, on the boards only."""
        values = np.asarray(values, np.float64).ravel()
        values = values[np.isfinite(values)]
        if self.folder is None or not values.size:
            return
        for board in self._boards():
            board.histogram(step, name, values)

    def show(self, step: int, files: Iterable[Path]) -> None:
        """Put the png and mp4 files among these on the boards: step-00001000.mp4 of samples/ is its samples/video."""
        if self.folder is None:
            return
        for file in (file for file in files if file.suffix in SHOWN):
            of_what = file.stem.removesuffix(f"{step:08d}").strip("-_").removeprefix("step")
            name = "/".join([file.parent.name, "_".join(filter(None, [of_what, SHOWN[file.suffix]]))])
            for board in self._boards():
                getattr(board, SHOWN[file.suffix])(step, name, file)

    def cut(self, step: int) -> None:
        """Forget the metrics after `step`, from which the run continues."""
        if self.folder is None:
            return
        path = self.folder / "metrics.jsonl"
        kept = [r for r in read_metrics(path) if r["step"] <= step]
        write_text(path, "".join(json.dumps(r) + "\n" for r in kept))
        assert self._tensorboard is None, "cut() comes before metrics()"
        self._purge = step + 1

    def flush(self) -> None:
        """Bring the tensorboard events to the disk: before a checkpoint, so that none is lost behind it."""
        if self._tensorboard is not None:
            self._tensorboard.flush()

    def progress(self, total: int, start: int = 0) -> tqdm:
        """Return a bar of `total` steps, shown on a terminal only."""
        self._bar = tqdm(total=total, initial=start, unit="step", dynamic_ncols=True, smoothing=0.05,
                         disable=None if self.folder is not None else True)
        return self._bar

    @property
    def bar_shown(self) -> bool:
        """Tell whether a progress bar is on the screen."""
        return self._bar is not None and not self._bar.disable

    def postfix(self, text: str) -> None:
        """Show a text at the end of the bar."""
        if self.bar_shown:
            self._bar.set_postfix_str(text)

    def close(self) -> None:
        """Close the files; the folder may then be moved."""
        if self._bar is not None:
            self._bar.close()
        for board in [self._tensorboard, *self._others]:
            if board is not None:
                board.close()
        if self.folder is not None and self._lock is not None:
            self._lock.close()
            self._lock = None

    def _boards(self) -> list[Board]:
        if self._tensorboard is None:
            self._tensorboard = TensorBoard(self.folder, self._purge)
        return [self._tensorboard, *self._others]


def _lock(folder: Path):
    """Refuse a second process on the same run. The lock ends with the process, however it ends."""
    try:
        import fcntl
    except ImportError:  # not a Unix
        return None
    file = open(folder / ".lock", "w")  # noqa: SIM115  (held open until the run is closed)
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # lockf: unlike flock, not inherited by data workers
    except (BlockingIOError, PermissionError):
        file.close()
        raise ValueError(f"another process is training in {folder}; wait for it, stop it, or use another --id"
                         ) from None
    except OSError:  # a network drive without locks
        file.close()
        return None
    return file
