"""A town in which the place of a frame is visible, in FDM's layout: colours that change with x and y."""

import numpy as np


def drive(seed, length=40):
    """Places of a car that drives along a street of the town: t 2, metres."""
    rng = np.random.default_rng(seed)
    coords = np.tile(rng.uniform(20, 60, 2), (length, 1))
    coords[:, rng.integers(2)] += np.arange(length) * 0.6  # 6 m/s at 10 frames a second
    return coords


def look(coords, size=16):
    """Frames at places, uint8 t size size 3, of ten metres around."""
    steps = np.linspace(-5, 5, size)
    x = coords[:, 0, None, None] + steps[None, :, None]
    y = coords[:, 1, None, None] + steps[None, None, :]
    waves = [np.sin(x / 25), np.sin(y / 25), np.sin((x + y) / 40)]
    return np.stack([128 + 100 * np.broadcast_to(w, (len(coords), size, size)) for w in waves], axis=-1).astype(np.uint8)


def put_town(folder, drives=6, length=40):
    """Write video_NUMBER.npy, coords_NUMBER.npy and the lists of the sides, of which the last two drives are the test."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(drives):
        np.save(folder / f"video_{number}.npy", look(drive(number, length)))
        np.save(folder / f"coords_{number}.npy", drive(number, length))
    for side, numbers in (("train", range(drives - 2)), ("test", range(drives - 2, drives))):
        (folder / f"video_{side}.csv").write_text(",path\n" + "".join(f"{n},x/video_{n}.pt\n" for n in numbers))
    return folder
