"""The benchmark of samplers measures distances to a truth that is known."""

import json
import math

import numpy as np
import pytest
import torch
from fakes import video
from sampling import make_model

from latent_diffusion.bench_samplers import (
    Mixture,
    Problem,
    compare,
    energy_distance,
    main,
    measure,
    mixture_problem,
    model_problem,
    plot,
    steps_within,
    table,
)
from latent_diffusion.pipeline import VideoDiffusion
from latent_diffusion.samplers import SAMPLERS, evaluations
from latent_diffusion.schedule import LOGIT_END, ScheduleConfig, level_at, sampling_levels
from tools.rng import randn

COSINE = ScheduleConfig("cosine")


def gaussian(std):
    """A mixture of one: its ODE ends at mean + std z."""
    return Mixture(torch.full((1, 4), 0.5).double(), torch.tensor([std]).double(), torch.ones(1).double())


def problem(std=0.3, steps=400):
    noise = randn((20, 4), 0, "noise").double()
    return Problem(gaussian(std), COSINE, noise, sampling_levels(COSINE, steps))


@pytest.mark.parametrize("t", [0.05, 0.5, 0.95])
def test_the_mixtures_estimate_is_the_gradient_of_its_density(t):
    mixture, level = Mixture.drawn(parts=3, dim=2), level_at(COSINE, t)
    x = (0.5 * randn((6, 2), 1, "x").double()).requires_grad_()
    spread = ((level.alpha * mixture.stds) ** 2 + level.sigma**2).sqrt()
    parts = torch.distributions.Normal(level.alpha * mixture.means, spread[:, None])
    density = (mixture.weights.log() + parts.log_prob(x[:, None]).sum(-1)).logsumexp(1)
    score, = torch.autograd.grad(density.sum(), x)
    said = mixture(x, level)
    torch.testing.assert_close(said.eps, -level.sigma * score)
    torch.testing.assert_close(level.alpha * said.x0 + level.sigma * said.eps, x)


def test_a_drawn_mixture_has_several_uneven_parts():
    mixture = Mixture.drawn(parts=8, dim=16)
    assert mixture.means.shape == (8, 16) and float(mixture.weights.sum()) == pytest.approx(1)
    assert 0.05 < mixture.stds.min() < mixture.stds.max() < 0.4
    assert not torch.equal(mixture.means, Mixture.drawn(seed=1).means)


def test_distances_are_to_the_end_of_the_ode():
    # DDIM in n equal angles scales a unit Gaussian's deviation from its mean by cos(pi / 2n)^n; the ODE keeps it.
    found = compare(problem(std=1.0), budgets=[7], spacings=["uniform"], samplers=["ddim"])
    row = next(row for row in found["rows"] if row["steps"] == 7)
    off = (1 - math.cos(math.pi / 14) ** 7) * problem().noise.norm(dim=1) / 2  # root mean square over four values
    assert row["rms"] == pytest.approx(float(off.square().mean().sqrt()), rel=1e-3)
    assert row["median"] == pytest.approx(float(off.median()), rel=1e-3)
    assert found["reference"]["error"] < 1e-4


def test_the_baseline_is_ddim_in_two_hundred_uniform_steps():
    found = compare(problem(), budgets=[5, 20], spacings=["uniform", "logit"], samplers=["ddim", "heun"])
    base = found["baseline"]
    assert (base["sampler"], base["spacing"], base["steps"]) == ("ddim", "uniform", 200) and base is found["rows"][0]
    assert len(found["rows"]) == 1 + 2 * 2 * 2
    within = [row for row in found["rows"] if row["evaluations"] <= 20]
    assert found["best"]["median"] == min(row["median"] for row in within)
    assert found["ratio"] == base["median"] / found["best"]["median"]


def test_random_samplers_reach_no_end_but_the_set():
    found = compare(problem(), budgets=[50], spacings=["uniform"], samplers=["ddpm"])
    row = found["rows"][-1]
    assert row["median"] > 0.2 and row["energy"] < 0.1


def test_energy_distance_of_two_points():
    # 2 |a - b| - 0 - 0 for single points; sets of two, three apart, against themselves: 0.
    a, b = torch.zeros(1, 3), torch.tensor([[0.0, 3.0, 4.0]])
    assert energy_distance(a, b) == pytest.approx(10)
    both = torch.cat([a, b])
    assert energy_distance(both, both) == pytest.approx(0, abs=1e-6)
    assert energy_distance(both, a) == pytest.approx(2 * 2.5 - 2.5)


@pytest.mark.parametrize("name", list(SAMPLERS))
@pytest.mark.parametrize("budget", [1, 4, 5, 20])
def test_a_sampler_takes_all_steps_that_a_budget_allows(name, budget):
    steps = steps_within(name, budget)
    assert steps == 0 or evaluations(name, steps) <= budget
    assert evaluations(name, steps + 1) > budget


def test_at_twenty_the_best_of_the_mixture_is_nearer_than_ddim_at_two_hundred():
    found = compare(mixture_problem(30, 0, steps=600), budgets=[20], spacings=["uniform", "logit"],
                    samplers=["ddim", "dpmpp_2m", "deis"])
    assert found["ratio"] > 1 and found["reference"]["error"] < found["best"]["median"] / 10


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    (folder / "test").mkdir()
    for i in range(2):
        np.save(folder / "test" / f"v{i}.npy", video(1, 20, seed=i)[0].numpy())
    return make_model(tmp_path_factory.mktemp("run"), "condition.sees=[past,self]", "condition.mask=true"), folder


def test_a_model_sees_real_frames_and_is_followed_to_the_last_level_of_logit(run):
    model = VideoDiffusion.load(run[0], weights="raw")
    found = model_problem(model, 2, 0, "VIDEOS", str(run[1]), steps=10)
    last = found.reference[-2]
    assert last.sigma / last.alpha == pytest.approx(LOGIT_END) and len(found.reference) == 11
    level = found.reference[5]
    shown, x = found.denoise(found.noise, level).x0, found.noise
    blind = VideoDiffusion.load(run[0], weights="raw").model
    with torch.no_grad():
        nothing = blind.net(x, torch.full((2,), level.t))
    assert not torch.allclose(shown, (level.alpha * x - level.sigma * nothing), atol=1e-4)


def test_the_command_writes_numbers_and_curves(run, tmp_path, capsys):
    words = ["--model", run[0], "--data_path", run[1], "--starts", 4, "--windows", 2, "--evaluations", "3,20", "--samplers",
             "ddim,deis", "--spacings", "uniform", "--out", tmp_path / "a.json", "--plot", tmp_path / "a.png"]
    assert main([str(word) for word in words]) == 0
    found = json.loads((tmp_path / "a.json").read_text())
    assert set(found) == {"mixture", "model"} and (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    for part in found.values():
        assert [(row["sampler"], row["evaluations"]) for row in part["rows"]] == [
            ("ddim", 200), ("ddim", 3), ("ddim", 20), ("deis", 3), ("deis", 20)]
        assert all(math.isfinite(row["median"]) for row in part["rows"])
    assert "best of 20 evaluations: " in capsys.readouterr().out


def test_what_cannot_be_measured_is_told_in_a_line(capsys):
    with pytest.raises(ValueError, match="2 starts and 2 windows at least, got 20, 1 and 6"):
        measure(starts=1, budgets=[20])
    assert main(["--starts", "2", "--evaluations", "5", "--spacings", "even"]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: spacing must be one of uniform")


def test_a_table_has_a_row_for_each_curve(tmp_path):
    found = {"toy": compare(problem(steps=20), budgets=[5, 20], spacings=["uniform"], samplers=["ddim", "heun"])}
    lines = table(found).splitlines()
    assert [line.split(",")[0] for line in lines[2:4]] == ["ddim", "heun"] and len(lines[2].split()) == 2 + 3
    plot(found, tmp_path / "toy.png")
    assert (tmp_path / "toy.png").stat().st_size > 1000
