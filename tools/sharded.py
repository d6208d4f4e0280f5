"""Tensors of many processes in one folder: each writes its shards, and any number of processes reads them.

torch.distributed.checkpoint does the work. Its index is a pickle, which is read here without running code.
"""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata

from tools import fsdp

INDEX = ".metadata"
CLASSES = {  # all that an index is made of, beside dtypes
    "torch.distributed.checkpoint.metadata": {"Metadata", "MetadataIndex", "StorageMeta", "TensorStorageMetadata",
                                              "BytesStorageMetadata", "ChunkStorageMetadata", "TensorProperties",
                                              "_MEM_FORMAT_ENCODING"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "torch": {"Size"},
    "pathlib": {"PosixPath", "PurePosixPath"},
}


class _Index(pickle.Unpickler):
    """Knows the classes of an index and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if name not in CLASSES.get(module, ()):
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which could run code")
        return super().find_class(module, name)


class _Reader(dcp.FileSystemReader):
    """A reader that does not unpickle whatever the index says."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        index = read_index(Path(self.path))
        index.storage_meta = index.storage_meta or StorageMeta()
        index.storage_meta.load_id = self.load_id
        return index


def read_index(folder: Path) -> Metadata:
    """What lies where in a folder.

    Raises:
        ValueError: it is missing or damaged, or would run code.
    """
    file = folder / INDEX
    try:
        index = _Index(io.BytesIO(file.read_bytes())).load()
        assert isinstance(index, Metadata), f"it is a {type(index).__name__}"
    except Exception as error:  # what a damaged pickle raises depends on where the damage is
        raise ValueError(f"{file} is refused, it is damaged or no index of a sharded checkpoint: {error}; "
                         "copy the folder again, or remove it to use an older one") from error
    return index


def is_folder(path: str | Path) -> bool:
    """Tell a folder that write() has finished: the index comes last."""
    return (Path(path) / INDEX).is_file()


def write(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors, some of which are shards; all processes call this. What is whole is written once."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch's remark on a single process
        dcp.save(dict(tensors), storage_writer=dcp.FileSystemWriter(folder, single_file_per_rank=True, sync_files=True))


def read(folder: Path, targets: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read all tensors of a folder, however many processes wrote it.

    Args:
        targets: tensors that are filled, and returned, where name and shape fit, in their own layout; all others come
            whole, on the CPU. If shards are among them, all processes call this.
    """
    sizes = {name: item for name, item in read_index(folder).state_dict_metadata.items()
             if isinstance(item, TensorStorageMetadata)}
    found = {name: targets[name].detach() if name in targets and targets[name].shape == item.size
             else torch.empty(item.size, dtype=item.properties.dtype) for name, item in sizes.items()}
    together = any(fsdp.is_sharded(value) for value in found.values())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            dcp.load(found, storage_reader=_Reader(folder), no_dist=not together)
    except (dcp.CheckpointException, RuntimeError, OSError, EOFError, pickle.UnpicklingError) as error:
        reason = (str(error).strip().splitlines() or [""])[-1][:160]
        raise ValueError(f"{folder} is damaged: {type(error).__name__} {reason}; "
                         "copy it again, or remove it to use an older one") from error
    return found
