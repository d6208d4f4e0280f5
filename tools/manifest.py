"""The windows of a test as a file, so that two models are shown the very same frames."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.files import write_text
from tools.sources import VideoSource
from tools.windows import span

VERSION = 1


def dataset_hash(source: VideoSource) -> str:
    """Identify a dataset by the names of its videos, in their order; nothing is opened."""
    digest = hashlib.blake2b(digest_size=16)
    for i in range(len(source)):
        digest.update(source.name(i).encode() + b"\0")
    return digest.hexdigest()


@dataclass(frozen=True)
class Place:
    """One window: a video by its name, the length it had, and where in it the window begins."""
    video: str
    frames_in_video: int
    start: int


@dataclass(frozen=True)
class Manifest:
    """Chosen windows of a dataset, apart from the disk that it lies on."""
    frames: int                # of a window
    stride: int                # of neighbouring frames of a window in the video
    windows: tuple[Place, ...]
    dataset: str               # hash of it
    videos: int                # that the dataset holds

    @classmethod
    def of(cls, source: VideoSource, chosen: Sequence[tuple[int, int]], frames: int, *, stride: int = 1) -> Manifest:
        """Describe windows (video, start) of a source."""
        places = [Place(source.name(video), source.num_frames(video), start) for video, start in chosen]
        return cls(frames, stride, tuple(places), dataset_hash(source), len(source))

    def write(self, path: str | Path) -> None:
        """Write it as JSON, a line for a window."""
        head = {"version": VERSION, "dataset_hash": self.dataset, "videos_in_dataset": self.videos, "frames": self.frames,
                "stride": self.stride}
        rows = ",\n".join(" " + json.dumps(vars(place)) for place in self.windows)
        write_text(path, f'{json.dumps(head)[:-1]},\n"windows": [\n{rows}\n]}}\n')

    @classmethod
    def read(cls, path: str | Path) -> Manifest:
        """Read what `write` wrote.

        Raises:
            ValueError: the file is none.
        """
        try:
            held = json.loads(Path(path).read_text(encoding="utf-8"))
            if held["version"] != VERSION:
                raise ValueError(f"{path} is of version {held['version']}, this program reads version {VERSION}; "
                                 "make it again with --exp sample")
            places = [Place(str(row["video"]), int(row["frames_in_video"]), int(row["start"])) for row in held["windows"]]
            return cls(int(held["frames"]), int(held["stride"]), tuple(places), str(held["dataset_hash"]),
                       int(held["videos_in_dataset"]))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is no list of windows ({type(error).__name__}: {error}); give the windows.json that "
                             "--exp sample writes beside sample.json") from None

    def find(self, source: VideoSource, frames: int | None = None) -> list[tuple[int, int]]:
        """Find its windows in a source: (video, start). Another dataset that holds them all is told in the notes.

        Args:
            frames: of a window, where it is another number than the manifest's.

        Raises:
            ValueError: a video is not there, or has another length, or is too short for so many frames.
        """
        number = {source.name(i): i for i in range(len(source))} if self.windows else {}
        need, found = span(frames or self.frames, self.stride), []
        for place in self.windows:
            if place.video not in number:
                raise ValueError(f"the windows are of a dataset with the video {place.video}, which this one of {len(source)} "
                                 "videos lacks; give the --data, --data_path and data.split that they were made with")
            video = number[place.video]
            length = source.num_frames(video)
            if length != place.frames_in_video:
                raise ValueError(f"video {place.video} has {length} frames, the one that the windows were made with had "
                                 f"{place.frames_in_video}: it is another video; give the same dataset")
            if place.start < 0 or place.start + need > length:
                raise ValueError(f"video {place.video} has {length} frames, but a window from frame {place.start} on needs "
                                 f"{place.start + need}; ask for fewer --frames, or make other windows")
            found.append((video, place.start))
        if dataset_hash(source) != self.dataset:
            source.notes.append(f"the windows were made with another selection of {self.videos} videos (this one has "
                                f"{len(source)}); all of their videos are there")
        return found
