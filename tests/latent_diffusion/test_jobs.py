"""What is made of a video and in which order: jobs, and the schemes, schedules and options that are refused."""

import json

import pytest
import torch
from fakes import NearNet, NextNet, fake_model, given, order, video

from latent_diffusion.completion import Completion
from latent_diffusion.condition import CONDITIONS
from latent_diffusion.jobs import finished, fit_settings, frames_around, make_jobs, sees_itself, windowed
from latent_diffusion.schemes import SCHEMES, Window, is_adaptive
from latent_diffusion.settings import Settings

T = 4
BACKWARD = [Window([0], [3]), Window([0, 3], [2]), Window([0, 2], [1])]  # of four clips of which the first is given


# --- schedules -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize("as_file", [True, False])
def test_a_schedule_says_which_clip_is_made_when(tmp_path, as_file):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps([window._asdict() for window in BACKWARD]))
    net = NearNet()
    work = Completion(fake_model(net), Settings(schedule=path if as_file else BACKWARD, steps="1", overlap=0),
                      given(4 * T, *range(T)), [(0, 0)])
    assert order(work) == [3, 2, 1] and work.windows == BACKWARD
    work.run(video(1, 4 * T, (2, 2), 1))
    seen = [context is not None and context.known[0].all(1).tolist() for _, context in net.calls]
    assert seen == [False, [False, False, True], [True, False, True]]


def test_a_schedule_like_a_scheme_makes_the_same_video():
    frames, mask = video(2, 4 * T, (2, 2), 1), given(4 * T, *range(T))
    windows = Completion(fake_model(NextNet()), Settings(), mask, []).windows
    made = [Completion(fake_model(NextNet(noise=0.3)), Settings(**how), mask, [(0, 0), (1, 0)]).run(frames)
            for how in ({}, {"schedule": windows})]
    assert torch.equal(*made)


@pytest.mark.parametrize("net, settings, message", [
    (NearNet(), {"schedule": BACKWARD[:2]}, "no window makes clip 1; every clip"),
    (NearNet(), {"schedule": [([0], [1, 2, 4])]}, "has clip 4, but the clips of the video are 0 to 3"),
    (NearNet(), {"schedule": [([0], [1, 2, 3])], "window": 3}, "more than --window 3"),
    (NearNet(), {"schedule": BACKWARD, "window": 0}, "more than --window 0"),
    (NearNet(), {"schedule": BACKWARD, "stride": 1}, "--stride 1 is for a scheme"),
    (NearNet(), {"schedule": BACKWARD, "stride": 0}, "--stride 0 is for a scheme"),
    (NearNet(), {"schedule": BACKWARD, "scheme": "shift"}, "give one of them"),
    (NearNet(), {"schedule": "nowhere.json"}, "nowhere.json: cannot be read"),
    (NextNet(), {"schedule": BACKWARD}, "this --schedule makes clip 3 without the one before it"),
])
def test_a_schedule_that_does_not_fit_is_refused(net, settings, message):
    settings = {"overlap": 0} | settings
    with pytest.raises(ValueError, match=message):
        Completion(fake_model(net), Settings(**settings), given(4 * T, *range(T)), [])


# --- adaptive schemes ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("scheme, plain", [("adaptive-autoreg", "autoreg"), ("adaptive-hierarchy-2", "hierarchy-2")])
def test_a_model_that_looks_at_neighbours_only_has_no_use_for_content(scheme, plain):
    with pytest.raises(ValueError, match=f"always looks at the neighbours .*; use --scheme {plain}, which makes the same"):
        Completion(fake_model(NearNet()), Settings(scheme=scheme), given(4 * T, 0), [])


# --- what is refused -----------------------------------------------------------------------------------------

def work_on(net, mask, **settings):
    return Completion(fake_model(net), Settings(**{"steps": "1"} | settings), mask, [(0, 0)])


def test_backward_it_is_the_clip_after_which_was_made_before():
    net = NearNet()
    work = work_on(net, given(4 * T, *range(3 * T, 4 * T)), steps="2", init_prev_t=0.5, overlap=0)
    work.run(video(1, 4 * T, (2, 2), 1))
    assert [(job.slot, job.follows) for job in work.jobs] == [(2, False), (1, True), (0, True)]
    assert len(net.calls) == 2 + 1 + 1


@pytest.mark.parametrize("net, known, settings, message", [
    (NextNet(), range(T), {"one_frame": True, "stride": 1}, "got --stride 1; leave that out"),
    (NextNet(), range(T), {"one_frame": True, "window": 3}, "got --window 3"),
    (NextNet(), range(T), {"one_frame": True, "scheme": "shift"}, "got --scheme shift"),
    (NearNet(), range(T), {"one_frame": True, "overlap": 1}, "got --overlap 1"),
    (NearNet(), range(T), {"one_frame": True, "schedule": [Window([], [0])]}, "got --schedule"),
    (NearNet(), [0, 5], {"one_frame": True}, r"must be the first of the video, got \[0, 5\]"),
    (NextNet(), range(3), {"one_frame": True}, "must be the first 4 or more of the video, got 0-2"),
    (NextNet(sees=()), [], {"one_frame": True}, "does not look|without a condition"),
    (NearNet(), range(T, 2 * T), {"init_prev_t": 0.5, "overlap": 0}, "clip 0 is made after clip 2, which is not beside it"),
    (NearNet(), [], {"init_prev_t": 0.5, "schedule": [([], [0]), ([0], [2]), ([0, 2], [1])], "overlap": 0}, "clip 2 .* clip 0"),
    (NextNet(), range(T), {"init_prev_t": 0.9, "steps": "2"}, "leaves all 2 steps"),
    (NextNet(), range(T), {"init_prev_t": 0.0}, "between 0 and 1, got 0.0"),
    (NextNet(), range(T), {"init_prev_t": 1.0}, "between 0 and 1, got 1.0"),
    (NextNet(), range(T), {"window": 0}, "window=0"), (NextNet(), range(T), {"stride": 0}, "stride=0"),
])
def test_what_makes_no_sense_is_refused(net, known, settings, message):
    with pytest.raises(ValueError, match=message):
        work_on(net, given(3 * T, *known), **{"steps": "4"} | settings)


@pytest.mark.parametrize("net, known, frames, settings, message", [
    (NextNet(), [0, 1, 2], 8, {}, "must be the first 4, 8"),
    (NextNet(), [4, 5, 6, 7], 8, {}, "must be the first 4, 8"),
    (NextNet(), [0, 1, 2, 3, 9], 12, {}, "must be the first 4, 8"),
    (NextNet(), range(8), 8, {}, "all 8 frames are known"),
    (NextNet(), range(4), 8, {"overlap": 1}, "--overlap 1"),
    (NextNet(), range(4), 16, {"scheme": "hierarchy-2", "window": 3}, "use autoreg"),
    (NextNet(), [], 8, {"window": 1}, "use window=2 or more"),
    (NextNet(), range(4), 8, {"scheme": "autoregressive"}, "autoreg"),
    (NextNet(), range(4), 8, {"window": 1, "stride": 2}, "stride"),
    (NextNet(sees=()), range(4), 8, {}, "can only generate"),
    (NextNet(sees=()), [], 5, {}, "without a condition"),
    (NextNet(sees=("past", "future")), range(4), 8, {}, "look at nothing"),
])
def test_what_cannot_be_made_is_refused_before_anything_is(net, known, frames, settings, message):
    mask = torch.zeros(frames, dtype=torch.bool)
    mask[list(known)] = True
    with pytest.raises(ValueError, match=message):
        Completion(fake_model(net), Settings(**settings), mask, [(0, 0)])


@pytest.mark.parametrize("net, settings, message", [
    (NextNet(sees=()), {"guidance": 1.0}, "nothing to guide by; give a weaker model"),
    (NextNet(sees=()), {"history_guidance": 1.0}, "nothing to guide by"),
    (NextNet(), {"history_guidance": 1.0}, "guidance.fraction=1, or a model with condition.mask=true"),
])
def test_what_a_model_cannot_be_guided_by_is_refused(net, settings, message):
    with pytest.raises(ValueError, match=message):
        Completion(fake_model(net), Settings(**settings), given(T), [])


# --- jobs by themselves --------------------------------------------------------------------------------------

def condition(net):
    return fake_model(net).net.condition


def window_condition(**options):
    codec = fake_model(NextNet()).codec
    return CONDITIONS.bind({"name": "window", **options})(codec.shape, codec.channels, codec.frames)


PLANS = [{}, {"overlap": 2}, {"scheme": "hierarchy-2", "window": 3}, {"scheme": "full", "window": 40}]
MASKS = [given(4 * T), given(19, *range(T)), given(19, 3, 9, 10, 18), given(2), given(21, 20)]


@pytest.mark.parametrize("settings", PLANS)
@pytest.mark.parametrize("mask", MASKS)
def test_every_frame_is_made_once_from_those_that_are_finished(settings, mask):
    work = make_jobs(condition(NearNet()), T, mask, Settings(**settings))
    times = work.known.int()
    for job in work.jobs:
        start = work.grid.starts[job.slot]
        around = [f for f in range(start - T, start + 2 * T) if 0 <= f < work.grid.frames]  # past, self and future
        assert job.seen == sum(int(times[f]) for f in around)
        new = [f for f in work.grid.span(job.slot) if not times[f]]
        assert job.keep == len(new) > 0 and not job.follows
        times[new] += 1
    assert (times == 1).all()


@pytest.mark.parametrize("net, known, slots", [(NextNet(), T, T + 3), (NearNet(), 2, 9), (NextNet(), 2 * T, 9)])
def test_one_frame_of_a_clip_is_kept(net, known, slots):
    work = make_jobs(condition(net), T, given(known + slots, *range(known)), Settings(one_frame=True))
    assert [(work.grid.starts[job.slot], job.keep) for job in work.jobs] == [(known + i, 1) for i in range(slots)]
    assert work.grid.frames == known + slots - 1 + T  # the last clip reaches beyond the end


def test_one_frame_at_a_time_begins_with_a_whole_clip():
    work = make_jobs(condition(NextNet()), T, given(T + 3), Settings(one_frame=True))
    assert [(work.grid.starts[job.slot], job.keep, job.seen) for job in work.jobs] == \
        [(0, T, 0), (T, 1, T), (T + 1, 1, T), (T + 2, 1, T)]


def test_a_frame_is_held_until_the_last_job_that_may_look_at_it():
    # Clips 1, 2, 3 are made in turn; each looks a clip back and a clip ahead.
    work = make_jobs(condition(NearNet()), T, given(4 * T, *range(T)), Settings(overlap=0))
    assert work.last.reshape(4, T).tolist() == [[0] * T, [1] * T, [2] * T, [2] * T]
    far = make_jobs(condition(NearNet()), T, given(40 * T, *range(T)), Settings(overlap=0))
    assert far.last[-1] == len(far.jobs) - 1 and far.last[0] == 0


def test_what_content_decides_is_held_to_the_end():
    seeing = condition(NearNet())
    seeing.observes = True
    mask = given(7 * T, *range(4 * T))
    for scheme, held in (("adaptive-autoreg", {3}), ("autoreg", {-1, 0, 1, 2})):
        work = make_jobs(seeing, T, mask, Settings(scheme=scheme, window=3, overlap=0))
        assert set(work.last.tolist()) == held, scheme


def test_frames_around_a_clip_lie_where_the_condition_looks():
    assert frames_around(condition(NextNet()), 8, T).tolist() == [[4, 5, 6, 7]]
    assert frames_around(condition(NearNet()), 2, T).tolist() == [[-2, -1, 0, 1], [2, 3, 4, 5], [6, 7, 8, 9]]


def test_what_lies_outside_of_the_video_is_not_finished():
    done = torch.tensor([True, False, True])
    assert finished(torch.tensor([[-1, 0, 1], [2, 3, 99]]), done).tolist() == [[False, True, False], [True, False, False]]


# --- windows -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("scheme", [name for name in SCHEMES if not is_adaptive(name)])
@pytest.mark.parametrize("mask", MASKS)
def test_clips_of_a_window_are_made_together_once(scheme, mask):
    form = window_condition(slots=40 if scheme == "full" else 4)
    work = make_jobs(form, T, mask, fit_settings(form, Settings(scheme=scheme)))
    done = work.known.clone()
    for job in work.jobs:
        targets, shown = ([f for slot in slots for f in work.grid.span(slot)] for slots in (job.slots, job.observed))
        assert all(not done[list(work.grid.span(slot))].all() for slot in job.slots)
        assert not set(job.slots) & set(job.observed) and len(job.slots) + len(job.observed) <= form.slots
        assert done[shown].all() and job.seen == int(done[targets].sum()) + len(shown)  # what clips share is seen in each
        done[targets] = True
    assert done.all()


def test_only_a_condition_of_windows_is_windowed():
    assert [(windowed(form), sees_itself(form)) for form in (window_condition(), condition(NearNet()), condition(NextNet()))] \
        == [(True, True), (False, True), (False, False)]


@pytest.mark.parametrize("given_sizes, wanted", [({}, (6, 3)), ({"window": 4}, (4, 2)), ({"window": 1}, (1, 1)),
                                                 ({"stride": 5}, (6, 5)), ({"schedule": BACKWARD}, (6, None))])
def test_a_model_has_the_windows_of_its_training(given_sizes, wanted):
    fitted = fit_settings(window_condition(slots=6), Settings(**given_sizes))
    assert (fitted.window, fitted.stride) == wanted
    plain = Settings(**given_sizes)
    assert fit_settings(condition(NearNet()), plain) is plain


@pytest.mark.parametrize("settings, message", [
    ({"window": 7}, "windows of up to 6 clips, got --window 7"), ({"one_frame": True}, r"rollout\.one_frame .* leave it out"),
    ({"init_prev_t": 0.5}, "init_prev_t .* one clip at a time"), ({"window": 0}, "window=0"), ({"stride": 0}, "stride=0"),
])
def test_what_windows_cannot_do_is_refused(settings, message):
    form = window_condition(slots=6)
    with pytest.raises(ValueError, match=message):
        make_jobs(form, T, given(4 * T), fit_settings(form, Settings(**settings)))
