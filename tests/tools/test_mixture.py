"""Several datasets as one."""

import numpy as np
from media import names
from numbered import Counted

from tools.mixture import Mixture, parts_of


def mixture():
    first, second = Counted([5, 6]), Counted([7, 8, 9])
    second.notes.append("one is absent")
    return Mixture([("a", first), ("b", second)], [1, 0.25], [(), (2,)])


def test_each_video_is_that_of_its_dataset():
    mixed = mixture()
    assert [mixed.num_frames(i) for i in range(len(mixed))] == [5, 6, 7, 8, 9]
    assert names(mixed) == ["a_video0", "a_video1", "b_video0", "b_video1", "b_video2"]
    assert np.array_equal(mixed.read(3, 1, 8, 3), Counted([7, 8, 9]).read(1, 1, 8, 3))


def test_parts_tell_where_they_begin_and_what_is_theirs():
    assert [(p.first, p.count, float(p.weight), p.strides) for p in mixture().parts] == [(0, 2, 1, ()), (2, 3, 0.25, (2,))]
    (only,) = parts_of(Counted([5, 6]))
    assert (only.first, only.count, only.strides) == (0, 2, ())


def test_notes_tell_the_shares_and_what_the_datasets_tell():
    assert mixture().notes == ["a: 2 videos, 80.0% of the samples", "b: 3 videos, 20.0% of the samples", "b: one is absent"]
