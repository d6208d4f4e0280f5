"""Windows from a JSON file, such as an optimised schedule (FDM, app. D): who observes whom, checked as a scheme's are.

The file is what the command `plan` prints: [{"observed": [0, 1], "target": [2, 3]}, ...], in the order of making.
"""

import json
from collections.abc import Collection
from pathlib import Path

from latent_diffusion.schemes import Window

FORM = '[{"observed": [0, 1], "target": [2, 3]}, ...]'


def read_schedule(path: str | Path, total: int, known: Collection[int], *, window: int | None = None,
                  unit: str = "frame") -> list[Window]:
    """Windows of a file for a video of `total` frames.

    Args:
        window: how many frames one holds at most; None does not ask.
        unit: what is counted, for messages.

    Raises:
        ValueError: no such file, not of this form, or windows that are not a plan of this video: every unknown
            frame made once, from frames finished before.
    """
    try:
        loaded = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"--schedule {path}: cannot be read ({error.strerror}); give a JSON file {FORM}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"--schedule {path}: is no JSON ({error}); write {FORM}") from None
    if not isinstance(loaded, list):
        raise ValueError(f"--schedule {path}: holds a JSON {_kind(loaded)}; write a list {FORM}")
    try:
        read = [_window(number, item) for number, item in enumerate(loaded)]
        check_windows(read, total, known, window=window, unit=unit)
    except ValueError as error:
        raise ValueError(f"--schedule {path}: {error}") from None
    return read


def check_windows(windows: list[Window], total: int, known: Collection[int], *, window: int | None = None,
                  unit: str = "frame") -> None:
    """Refuse what is no plan of a video of `total` frames: see `read_schedule`."""
    done = set(known)
    for number, (observed, target) in enumerate(windows):
        said = f"window {number}"
        outside = [frame for frame in observed + target if not 0 <= frame < total]
        if outside:
            raise ValueError(f"{said} has {unit} {outside[0]}, but the {unit}s of the video are 0 to {total - 1}; change it, "
                             "or --frames")
        if not target:
            raise ValueError(f"{said} makes no {unit}; name at least one as target, or leave the window out")
        for frames, word in ((observed, "observes"), (target, "makes")):
            twice = [frame for frame in frames if frames.count(frame) > 1]
            if twice:
                raise ValueError(f"{said} {word} {unit} {twice[0]} twice; name it once")
        again = [frame for frame in target if frame in done]
        if again:
            state = "given (--known)" if again[0] in known else "made by an earlier window"
            raise ValueError(f"{said} makes {unit} {again[0]}, which is {state}; every {unit} is made once")
        early = [frame for frame in observed if frame not in done]
        if early:
            raise ValueError(f"{said} observes {unit} {early[0]}, which is not finished then; observe given {unit}s "
                             "(--known) and those that earlier windows make")
        if window is not None and len(observed) + len(target) > window:
            raise ValueError(f"{said} holds {len(observed)} observed and {len(target)} made {unit}s, more than "
                             f"--window {window}; observe fewer")
        done.update(target)
    missing = [frame for frame in range(total) if frame not in done]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ValueError(f"no window makes {unit} {missing[0]}{more}; every {unit} that is not given (--known) is made once")


def _window(number: int, item: object) -> Window:
    if not isinstance(item, dict) or set(item) != {"observed", "target"}:
        got = f"the keys {', '.join(sorted(item)) or 'none'}" if isinstance(item, dict) else f"a {_kind(item)}"
        raise ValueError(f"window {number} has {got}; write {FORM}")
    for key, frames in item.items():
        if not isinstance(frames, list) or not all(type(frame) is int for frame in frames):  # True is an int as well
            raise ValueError(f'window {number} has "{key}": {json.dumps(frames)[:60]}; write a list of frame numbers')
    return Window(sorted(item["observed"]), sorted(item["target"]))


def _kind(value: object) -> str:
    return {dict: "object", list: "list", str: "text", bool: "truth value", type(None): "null"}.get(type(value), "number")
