"""The one checkpoint format: written whole or not at all, read without running code."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
import pickletools
import re
import shutil
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from tools import dist, fsdp, sharded
from tools.files import replacing

FORMAT = "triplane-video/1"
STEP_FILE = re.compile(r"step-(\d{8,})\.pt")
TENSOR = "tensor of this file"  # stands in JSON where a tensor belongs
REST = "rest.pt"  # of a sharded checkpoint: all but the tensors
PLAIN = {type(None), bool, int, float, str, bytes, torch.Size, torch.dtype}


def save(path: str | Path, payload: Mapping[str, Any]) -> None:
    """Write `payload` (tensors and plain values) so that a reader sees the old file or the whole new one.

    A kill at any moment leaves at most a `*.tmp` file beside it, which every reader ignores.
    """
    path = Path(path)
    payload = {"format": FORMAT, **payload}
    _assert_plain(payload, path.name)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        torch.save(payload, file)
        file.flush()
        os.fsync(file.fileno())


def _assert_plain(value: Any, where: str) -> None:
    """What load() would refuse must fail when it is written, not when the run is resumed."""
    if isinstance(value, dict):
        assert type(value) in (dict, OrderedDict), f"{where} is a {type(value)}"
        for key, item in value.items():
            assert type(key) in PLAIN, f"{where} has the key {key!r} of type {type(key)}"
            _assert_plain(item, f"{where}[{key!r}]")
    elif type(value) in (list, tuple):
        for i, item in enumerate(value):
            _assert_plain(item, f"{where}[{i}]")
    else:
        assert isinstance(value, Tensor) or type(value) in PLAIN, f"{where} is a {type(value)}"


def save_together(path: str | Path, payload: Mapping[str, Any]) -> None:
    """Write what all processes hold, which all call this with the same path: a file, or a folder if some of it are shards.

    The folder takes the name that the file would have; its tensors are written by those who hold them (see sharded.py).
    """
    path, tensors = Path(path), {}
    rest = _parted(payload, "", tensors, {})
    if not any(fsdp.is_sharded(value) for value in tensors.values()):
        if dist.is_main():
            save(path, payload)
        dist.barrier()
        return
    temporary = path.with_name(path.name + ".tmp")
    if dist.is_main():
        _remove(temporary)
        temporary.mkdir(parents=True)
        save(temporary / REST, rest)
    dist.barrier()
    sharded.write(temporary, tensors)
    dist.barrier()
    if dist.is_main():
        _remove(path)
        os.replace(temporary, path)
    dist.barrier()


def _parted(value: Any, name: str, tensors: dict[str, Tensor], places: dict[int, str]) -> Any:
    """A value with {TENSOR: name} in place of its tensors, which move to `tensors`, each once."""
    if isinstance(value, Tensor):
        if id(value) not in places:
            assert name not in tensors, f"two tensors are called {name}"
            places[id(value)], tensors[name] = name, value
        return {TENSOR: places[id(value)]}
    if isinstance(value, Mapping):
        return {key: _parted(item, f"{name}.{key}" if name else str(key), tensors, places) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)([_parted(item, f"{name}.{i}", tensors, places) for i, item in enumerate(value)])
    return value


def _joined(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Inverse of _parted."""
    if isinstance(value, dict):
        if set(value) == {TENSOR}:
            return tensors[value[TENSOR]]
        return {key: _joined(item, tensors) for key, item in value.items()}
    return type(value)([_joined(item, tensors) for item in value]) if isinstance(value, (list, tuple)) else value


def load(path: str | Path, map_location: str | torch.device = "cpu", like: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Read what save() or save_together() wrote; anything else is a one-line ValueError with the file and the reason.

    Args:
        like: a payload with the same tensors as a folder's, which are filled in place where their shapes fit, so that a
            process reads no more than its shards; all processes then call this. Without it they come whole.
    """
    payload = _load_folder(Path(path), like) if like and sharded.is_folder(path) else load_raw(path, map_location)
    check_format(payload, path)
    return payload


def _load_folder(path: Path, like: Mapping[str, Any] | None = None) -> Any:
    targets: dict[str, Tensor] = {}
    _parted(like or {}, "", targets, {})
    rest = load_raw(path / REST)
    try:
        return _joined(rest, sharded.read(path, targets))
    except KeyError as error:
        raise ValueError(f"{path} is damaged: the tensor {error} is missing; copy it again") from error


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def check_format(payload: Any, path: str | Path) -> None:
    """Refuse what save() did not write, or another version of it did."""
    if not isinstance(payload, dict) or "format" not in payload:
        raise ValueError(f'{path} is no checkpoint of this project: it has no "format" entry, '
                         f'wanted "{FORMAT}"; give a file of a run folder')
    if payload["format"] != FORMAT:
        raise ValueError(f'{path} has the format "{payload["format"]}", wanted "{FORMAT}"; '
                         "read it with the version that wrote it")


def load_raw(path: str | Path, map_location: str | torch.device = "cpu", *, mmap: bool = False) -> Any:
    """Read a file of any origin (such as a released state dict) without running code from it.

    Args:
        mmap: leave the tensors on the disk until they are looked at; their checksums are not verified then.
    """
    path = Path(path)
    if sharded.is_folder(path):
        return _load_folder(path)
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise ValueError(f"checkpoint {path} {what}; give the path of a checkpoint file")
    if is_safetensors(path):
        return load_safetensors(path, map_location)
    if _is_script(path):
        raise ValueError(f"{path} is refused: it is TorchScript, which is code; save the state_dict() of what it holds")
    try:
        mmap = mmap and zipfile.is_zipfile(path)  # what torch wrote before 1.6 must be read
        if zipfile.is_zipfile(path) and not mmap:
            _check_sums(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch's remark on pickles that it then refuses
            return torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)
    except torch.OutOfMemoryError:
        raise
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        if code or _is_bare_pickle(path):
            what = code[1] if code else _first_global(path) or "more than tensors and plain values"
            raise ValueError(f"{path} is refused: it holds {what}, and reading that could run code; "
                             "save it again as tensors and plain values") from error
        raise ValueError(_damaged(path, error)) from error
    except (zipfile.BadZipFile, EOFError, RuntimeError, OSError, ValueError, LookupError, TypeError,
            AttributeError, safetensors.SafetensorError) as error:
        # what torch raises for a damaged file depends on where the damage is
        raise ValueError(_damaged(path, error)) from error


def save_safetensors(path: str | Path, payload: Mapping[str, Any]) -> None:
    """Write a model file's payload as safetensors, with all but the tensors as JSON in its header.

    The tensors of payload["state"] keep their names, so that other programs find them; those elsewhere, such as
    latent statistics, are named by their place ("extra.latent_mean"). A payload of a state alone gets no such header.
    """
    tensors: dict[str, Tensor] = dict(payload["state"])
    if wrong := [f"{key} ({type(value).__name__})" for key, value in tensors.items() if not isinstance(value, Tensor)]:
        raise ValueError(f"safetensors holds tensors only, got {', '.join(wrong[:5])}; export a bare state dict")
    plain = {key: _without_tensors(value, key, tensors) for key, value in payload.items() if key != "state"}
    header = {"format": "pt"}  # which kind of tensors, for the loaders of others
    if plain:
        header |= {"model": json.dumps({"format": FORMAT, **plain}), "state_hash": state_hash(tensors)}
    seen: set[int] = set()
    own = {}
    for name, value in tensors.items():
        value = value.detach().cpu().contiguous()
        own[name] = value.clone() if value.untyped_storage().data_ptr() in seen else value  # the format allows no sharing
        seen.add(value.untyped_storage().data_ptr())
    with replacing(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        safetensors.torch.save_file(own, temporary, metadata=header)
        temporary.chmod(mode)  # the library makes files that nobody else may read


def _without_tensors(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """A value as JSON can hold it; its tensors move to `tensors`, and {TENSOR: their name} takes their place."""
    if isinstance(value, Tensor):
        assert name not in tensors, f"two tensors are called {name}"
        tensors[name] = value
        return {TENSOR: name}
    if isinstance(value, Mapping):
        assert all(isinstance(key, str) for key in value), f"{name} has keys that are no text"
        return {key: _without_tensors(item, f"{name}.{key}", tensors) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_tensors(item, f"{name}.{i}", tensors) for i, item in enumerate(value)]
    assert value is None or isinstance(value, (bool, int, float, str)), f"{name} is a {type(value)}, which JSON does not hold"
    return value


def load_safetensors(path: str | Path, map_location: str | torch.device = "cpu") -> dict[str, Any]:
    """Read what save_safetensors() wrote; the tensors alone, by their names, where others wrote the file."""
    path = Path(path)
    try:
        with safetensors.safe_open(path, framework="pt", device=str(map_location)) as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it does not iterate itself)
        if "model" not in header:
            return tensors
        state = dict(tensors)
        payload = _with_tensors(json.loads(header["model"]), state)
    except (safetensors.SafetensorError, json.JSONDecodeError, KeyError, OSError) as error:
        raise ValueError(_damaged(path, error)) from error
    if state_hash(tensors) != header.get("state_hash"):
        raise ValueError(f"{path} is damaged: its tensors are not those that were written; copy it again")
    return payload | {"state": state}


def _with_tensors(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Inverse of _without_tensors; takes from `tensors` what it places."""
    if isinstance(value, dict) and set(value) == {TENSOR}:
        return tensors.pop(value[TENSOR])
    if isinstance(value, dict):
        return {key: _with_tensors(item, tensors) for key, item in value.items()}
    return [_with_tensors(item, tensors) for item in value] if isinstance(value, list) else value


def is_safetensors(path: Path) -> bool:
    """Told by content: the length of a JSON header, and its first letter."""
    with open(path, "rb") as file:
        head = file.read(9)
    return head[8:] == b"{" and int.from_bytes(head[:8], "little") < 10**8  # the most that the format allows


def _is_bare_pickle(path: Path) -> bool:
    """Tell a pickle that torch.save did not write from a text file or noise."""
    with open(path, "rb") as file:
        return file.read(1) == pickle.PROTO


def _first_global(path: Path) -> str | None:
    """The first function or class that a bare pickle asks for, read from its opcodes; nothing is run."""
    texts: list[str] = []
    with contextlib.suppress(ValueError, EOFError), open(path, "rb") as file:  # cut short
        for opcode, value, _ in pickletools.genops(file):
            if opcode.name == "GLOBAL":
                return str(value).replace(" ", ".")
            if opcode.name == "STACK_GLOBAL":
                return ".".join(texts[-2:])
            if isinstance(value, str):
                texts.append(value)
    return None


def _is_script(path: Path) -> bool:
    """Whether a zip file is TorchScript, told as torch does: by its constants."""
    with contextlib.suppress(zipfile.BadZipFile), zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())
    return False


def _check_sums(path: Path) -> None:
    """Compare each part with its checksum: torch writes them, and does not look at them again."""
    with zipfile.ZipFile(path) as archive:
        bad = archive.testzip()
    if bad is not None:
        raise zipfile.BadZipFile(f"wrong checksum of {bad}")


def _damaged(path: Path, error: Exception) -> str:
    text = str(error).split("WeightsUnpickler error:")[-1]  # before it, torch speaks of its own history
    reason = (text.strip().splitlines() or [""])[0][:120]
    return (f"{path} ({path.stat().st_size} bytes) is damaged or no checkpoint: "
            f"{type(error).__name__} {reason}; copy it again, or remove it to use an older one")


def check_config(own: Mapping[str, Any], saved: Mapping[str, Any], what: str) -> None:
    """Refuse to continue weights with the settings of another network, also where all shapes agree."""
    def plain(value: Any) -> str:
        return json.dumps(value, sort_keys=True)  # a tuple is a list

    different = [key for key in {**own, **saved} if plain(own.get(key)) != plain(saved.get(key))]
    if different:
        text = "; ".join(f"{key}: {saved.get(key)} there, {own.get(key)} here" for key in different[:3])
        raise ValueError(f"{what} is of another model: {text}; use the configuration that it was trained with")


def load_strict(net: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Load a state dict whose names and shapes must all agree with the net's.

    Args:
        what: names the source in the error, such as the file it came from.
    """
    own = net.state_dict()
    problems = {
        "missing": [k for k in own if k not in state],
        "unexpected": [k for k in state if k not in own],
        "of another shape": [f"{k} {tuple(state[k].shape)} for {tuple(own[k].shape)}" for k in own
                             if k in state and state[k].shape != own[k].shape],
    }
    if any(problems.values()):
        text = "; ".join(f"{len(names)} {kind}: {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
                         for kind, names in problems.items() if names)
        raise ValueError(f"{what} does not fit {type(net).__name__}: {text}; "
                         "use the configuration that the weights were trained with")
    net.load_state_dict({name: fsdp.placed_like(value, own[name]) for name, value in state.items()})


def file_hash(path: str | Path, kind: str = "sha256") -> str:
    """Return the sha256 (or another sum that hashlib knows) of a file as hex; of a folder, of its files by their names."""
    digest = hashlib.new(kind)
    for part in sorted(Path(path).iterdir()) if Path(path).is_dir() else [path]:
        with open(part, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def state_hash(state: Mapping[str, Tensor]) -> str:
    """Return twelve hex digits that tell two state dicts apart; the order of the names does not matter."""
    digest = hashlib.sha256()
    for name in sorted(state):
        value = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:12]


def step_path(folder: str | Path, step: int) -> Path:
    """Return the file of the training checkpoint after `step` updates."""
    return Path(folder) / f"step-{step:08d}.pt"


def steps(folder: str | Path) -> list[tuple[int, Path]]:
    """Return (step, file) of the training checkpoints in a folder, oldest first."""
    found = ((STEP_FILE.fullmatch(p.name), p) for p in Path(folder).glob("step-*.pt"))
    return sorted((int(match[1]), p) for match, p in found if match)


def latest(folder: str | Path) -> Path | None:
    """Return the newest whole training checkpoint of a folder, or None; a torn one is passed by, and told."""
    for _, path in reversed(steps(folder)):
        if zipfile.is_zipfile(path) or sharded.is_folder(path):  # the directory of a zip file is its end
            return path
        warnings.warn(f"{path} is torn, an older checkpoint is used", stacklevel=2)
    return None


def prune(folder: str | Path, keep: int) -> None:
    """Remove all but the `keep` newest training checkpoints, and what a killed writer left."""
    assert keep >= 1
    for _, path in steps(folder)[:-keep]:
        _remove(path)
    for path in Path(folder).glob("*.tmp"):
        _remove(path)
