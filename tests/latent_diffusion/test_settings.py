"""The options of a completion: what they come to, and what is refused before anything is made."""

import pytest
from fakes import NextNet, fake_model

from latent_diffusion.modelfile import PVDM_SCHEDULE
from latent_diffusion.pipeline import VideoDiffusion
from latent_diffusion.schedule import Level, ScheduleConfig, sampling_levels
from latent_diffusion.settings import Settings, check_options


@pytest.mark.parametrize("settings, message", [
    ({"interval": (0.0, 1.0)}, "no effect without guidance"),
    ({"guidance": float("nan")}, r"guidance \(--guidance\) is a weight, got nan"),
    ({"history_guidance": float("inf")}, r"guidance\.history\) is a weight, got inf"),
    ({"guidance": 1.0, "interval": (2.0, 1.0)}, "low < high .* 2.0 and 1.0"),
    ({"guidance": 1.0, "interval": (-1.0, 1.0)}, "0 <= low"), ({"guidance": 1.0, "interval": (float("nan"), 1.0)}, "low"),
    ({"history_guidance": 1.0, "history_fraction": 0.0}, "above 0 and up to 1, got 0.0"),
    ({"history_fraction": 1.5}, "got 1.5"), ({"temperature": -1.0}, "must not be negative, got -1.0"),
    ({"shared_noise": 1.5}, "got 1.5"), ({"guide": fake_model(NextNet())}, "add --guidance W"),
])
def test_nonsense_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Settings(**settings)


def test_an_option_that_there_is_not_is_named():
    with pytest.raises(TypeError, match=r'no option "stepz".* "steps"'):
        VideoDiffusion(fake_model(NextNet())).generate(1, stepz=3)


@pytest.mark.parametrize("steps, wanted", [("50", ("50", "50")), ("400/20", ("400", "20")), ("ddim5", ("ddim5", "ddim5"))])
def test_steps_are_of_the_first_clip_and_of_each_other(steps, wanted):
    assert Settings(steps=steps).step_counts() == wanted


@pytest.mark.parametrize("steps", ["", "/5", "5/", "1/2/3", "/"])
def test_what_is_no_number_of_steps_is_refused(steps):
    with pytest.raises(ValueError, match="is no number of steps; use 50, or 400/20"):
        Settings(steps=steps).step_counts()


@pytest.mark.parametrize("steps, share, left", [(10, 0.3, 3), (10, 0.99, None), (10, 0.94, 9), (10, 0.01, 1), (1, 0.5, None)])
def test_a_share_of_the_steps_is_left_at_the_clean_end(steps, share, left):
    levels = sampling_levels(ScheduleConfig(name="cosine"), steps)
    settings = Settings(init_prev_t=share)
    if left is None:
        with pytest.raises(ValueError, match=f"leaves all {steps} steps"):
            settings.last_steps(levels)
        return
    assert settings.last_steps(levels) == levels[-left - 1:]
    assert isinstance(settings.last_steps(levels)[0], Level) and len(levels) == steps + 1


@pytest.mark.parametrize("sampler, spacing, wanted", [
    ("ddim", None, "uniform"), ("deis", None, "logit"), ("dpmpp_2m", None, "logit"),
    ({"name": "deis", "order": 2}, None, "logit"), ("deis", "uniform", "uniform"), ("ddim", "karras", "karras")])
def test_levels_lie_as_suits_the_sampler_unless_said(sampler, spacing, wanted):
    cfg = ScheduleConfig(name="cosine")
    assert Settings(sampler=sampler, spacing=spacing).levels(cfg, "9") == sampling_levels(cfg, 9, wanted)


def test_steps_that_name_their_levels_are_taken_at_their_word():
    cfg = ScheduleConfig(name="linear")
    assert Settings(sampler="deis").levels(cfg, "ddim50") == sampling_levels(cfg, "ddim50")


@pytest.mark.parametrize("schedule, said, wanted", [
    (ScheduleConfig("cosine"), {}, ("deis", "20")), (ScheduleConfig("flow"), {}, ("deis", "20")),
    (ScheduleConfig("linear"), {}, ("ddim", "50")), (PVDM_SCHEDULE, {}, ("ddim", "50")),
    (ScheduleConfig("cosine"), {"steps": "400/20"}, ("deis", "400/20")), (PVDM_SCHEDULE, {"steps": "7"}, ("ddim", "7"))])
def test_what_is_not_said_suits_the_schedule(schedule, said, wanted):
    suited = Settings(**said).suited(schedule)
    assert (suited.sampler, suited.steps) == ({"name": wanted[0]}, wanted[1])


@pytest.mark.parametrize("sampler, steps", [("dpmpp_2m", "50"), ({"name": "ddim", "eta": 1.0}, "50"),
                                            ({"name": "deis", "order": 2}, "20")])
def test_a_sampler_that_is_said_stays_whatever_the_schedule(sampler, steps):
    for schedule in ("cosine", "linear"):
        suited = Settings(sampler=sampler).suited(ScheduleConfig(schedule))
        assert (suited.sampler, suited.steps) == (sampler, steps)


def test_sizes_that_are_not_given_are_those_of_a_clip_after_another():
    assert Settings().sizes == {"window": 2, "stride": 1}
    assert Settings(window=0, stride=0).sizes == {"window": 0, "stride": 0}  # zero is a value, which the scheme refuses


@pytest.mark.parametrize("other", [{"window": 0}, {"stride": 0}, {"overlap": 0}, {"scheme": "shift"}, {"schedule": "s.json"}])
def test_one_frame_at_a_time_takes_no_other_cut(other):
    name, value = next(iter(other.items()))
    with pytest.raises(ValueError, match=f"got --{name} {value}; leave that out"):
        Settings(one_frame=True, **other)


@pytest.mark.parametrize("other, message", [({"stride": 0}, "--stride 0 is for a scheme"),
                                            ({"scheme": "shift"}, "two ways to cut")])
def test_a_schedule_takes_no_other_cut(other, message):
    with pytest.raises(ValueError, match=message):
        Settings(schedule="s.json", **other)
    assert Settings(schedule="s.json", window=3, overlap=1).schedule == "s.json"


def test_every_option_is_known_by_its_name():
    check_options({name: None for name in Settings.__dataclass_fields__})
    with pytest.raises(TypeError, match=r'no option "windwo".* "window"'):
        check_options({"steps": 3, "windwo": 2})
