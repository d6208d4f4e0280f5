"""Work in other processes: the same results, errors as they are, a killed process told in one line."""

import os

import pytest

from tools.pool import map_shared


def times(shared, job):
    if job == 13:
        raise OSError(28, "No space left on device", "here")
    return shared * job, os.getpid()


def kill_yourself(shared, job):
    os.kill(os.getpid(), 9)


def test_results_come_from_other_processes():
    results = list(map_shared(times, 3, range(6), 2))
    assert sorted(value for value, _ in results) == [0, 3, 6, 9, 12, 15]
    assert os.getpid() not in {process for _, process in results}


def test_no_processes():
    assert list(map_shared(times, 3, range(3), 0)) == [(0, os.getpid()), (3, os.getpid()), (6, os.getpid())]


def test_an_error_is_raised_here_as_it_was_there():
    with pytest.raises(OSError, match="No space left") as caught:
        list(map_shared(times, 3, [13], 1))
    assert caught.value.filename == "here"


def test_a_killed_process_is_one_line():
    with pytest.raises(ValueError, match=r"a process was killed.*fewer --workers"):
        list(map_shared(kill_yourself, None, range(3), 1))
