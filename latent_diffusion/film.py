"""The frames of a batch of videos while they are made: those that somebody may still look at, and no others."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor


class Film:
    """Finished frames by their number.

    Args:
        given: uint8 b k h w c, the known frames alone, in their order.
        known: bool t, k of them True.
    """

    def __init__(self, given: Tensor, known: Tensor):
        numbers = known.nonzero().flatten().tolist()
        assert len(numbers) == given.shape[1], f"{given.shape[1]} frames given for {len(numbers)} known ones"
        self.frames: dict[int, Tensor] = {number: given[:, i] for i, number in enumerate(numbers)}  # b h w c each
        self.blank = given.new_zeros(len(given), *given.shape[2:])

    def __len__(self) -> int:
        """How many videos there are."""
        return len(self.blank)

    def stretch(self, numbers: Iterable[int]) -> Tensor:
        """These frames, uint8 b t h w c; blank where there is none."""
        return torch.stack([self.frames.get(number, self.blank) for number in numbers], 1)

    def put(self, numbers: Sequence[int], made: Tensor) -> None:
        """Add frames, uint8 b t h w c."""
        for number, frame in zip(numbers, made.unbind(1), strict=True):
            self.frames[number] = frame.clone()  # not a view, which would keep its neighbours

    def drop(self, dead: Callable[[int], bool]) -> None:
        """Forget the frames that nobody looks at any more."""
        self.frames = {number: frame for number, frame in self.frames.items() if not dead(number)}
