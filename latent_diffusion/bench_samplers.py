"""How near each sampler comes to the end of the probability-flow ODE, by its number of network evaluations.

    python main.py --exp bench --only samplers --out samplers.json --model RUN --data VIDEOS --data_path DIR
    python -m latent_diffusion.bench_samplers --help    # the same with a choice of samplers, spacings and evaluations

On a Gaussian mixture, whose score is known in closed form, and on a trained model. What is compared starts from the same
noise and sees the same; the reference is Heun's method in very many steps, whose own error is estimated by halving them.
"""

import argparse
import json
import math
import sys
from bisect import bisect_right
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from latent_diffusion.config import DiffusionTrainConfig
from latent_diffusion.denoiser import make_denoise
from latent_diffusion.example import ExampleMaker
from latent_diffusion.guidance import clamp_x0
from latent_diffusion.pipeline import VideoDiffusion
from latent_diffusion.process import Denoised
from latent_diffusion.samplers import SAMPLERS, Denoiser, evaluations, heun
from latent_diffusion.schedule import Level, ScheduleConfig, sampling_levels
from latent_diffusion.truth import open_truth
from tools import dist
from tools.files import replacing
from tools.log import write_text
from tools.rng import batch_randn, generator, randn
from tools.sources import SOURCES

BUDGETS = (5, 10, 20, 50, 200)  # network evaluations
SPACINGS = ("uniform", "logsnr", "logit")
ON_MODEL = {"budgets": (5, 10, 20), "spacings": ("uniform", "logit")}  # where an evaluation takes long
BASELINE = ("ddim", "uniform", 200)
AT = 20                         # evaluations at which samplers are compared with the baseline
TITLES = {"mixture": "Gaussian mixture", "model": "trained model"}


class Problem(NamedTuple):
    """What is sampled."""
    denoise: Denoiser
    schedule: ScheduleConfig
    noise: Tensor              # b ...: the start of each sample, of unit variance
    reference: Sequence[Level]  # along which Heun's method finds the end


class Mixture:
    """The ideal denoiser of a mixture of spherical Gaussians.

    Args:
        means: k d. stds, weights: k; the weights add up to 1.
    """

    def __init__(self, means: Tensor, stds: Tensor, weights: Tensor):
        self.means, self.stds, self.weights = means, stds, weights

    @classmethod
    def drawn(cls, parts: int = 8, dim: int = 16, seed: int = 0) -> "Mixture":
        """Unit normal means, deviations between 0.05 and 0.4, weights that differ by up to three times."""
        means, stds, weights = (randn(shape, seed, "mixture", name).double()
                                for name, shape in (("means", (parts, dim)), ("stds", (parts,)), ("weights", (parts,))))
        share = 0.5 + torch.special.ndtr(weights)
        return cls(means, 0.05 * 8 ** torch.special.ndtr(stds), share / share.sum())

    def __call__(self, x: Tensor, level: Level) -> Denoised:
        power = (level.alpha * self.stds) ** 2 + level.sigma**2         # k
        offset = x[:, None] - level.alpha * self.means                  # b k d
        fit = self.weights.log() - (x.shape[1] * power.log() + offset.square().sum(-1) / power) / 2
        share = fit.softmax(1)[..., None]
        x0 = self.means + (level.alpha * self.stds**2 / power)[:, None] * offset
        return Denoised((share * x0).sum(1), (share * (level.sigma / power)[:, None] * offset).sum(1))


def mixture_problem(starts: int, seed: int, steps: int = 1000) -> Problem:
    """Eight Gaussians in 16 dimensions, on the cosine schedule, followed until no noise is left."""
    schedule, mixture = ScheduleConfig("cosine"), Mixture.drawn()
    noise = batch_randn((mixture.means.shape[1],), range(starts), seed, "bench", "mixture").double()
    return Problem(mixture, schedule, noise, sampling_levels(schedule, steps))


def model_problem(model: VideoDiffusion, starts: int, seed: int, data: str, data_path: str, steps: int = 100) -> Problem:
    """Clips after real ones (or out of nothing, if the model sees no past).

    A network has no end of the ODE: its estimate of an almost clean latent differs from that, so that x drifts the farther
    the lower the noise that is followed. The end is its estimate at the last level of "logit" spacing, on a cosine schedule
    the last of 200 uniform steps: the definition that favours DDIM at 200 most.
    """
    own = model.model
    condition, codec = own.net.condition, own.codec
    if condition.observes:
        raise ValueError("bench samplers takes a model that makes one clip at a time, got one of condition.name=window; give "
                         "another --model")
    sees = "past" in condition.sees
    truth = open_truth("predict", torch.ones(condition.stretch, dtype=torch.bool), model, data=data, data_path=data_path,
                       input=None, resize=True, starts=None, num_videos=starts, seed=seed, overrides=[])
    frames = torch.stack([torch.from_numpy(truth.read(i)) for i in range(len(truth.windows))]).to(codec.device)
    begin = condition.target * codec.frames
    mask = {"name": "fixed", "known": f"{begin - codec.frames}-{begin - 1}"} if sees else {"name": "none"}
    index = torch.arange(len(frames))
    example = ExampleMaker(codec, condition, mask, DiffusionTrainConfig(seed=seed)).make(frames, index, "bench")
    denoise = make_denoise(own.net, own.process.parametrisation, example.context if sees else None)
    if codec.limits is not None:
        denoise = clamp_x0(denoise, *codec.limits)
    noise = batch_randn(example.latent.shape[1:], index, seed, "bench", "model").to(codec.device)
    return Problem(denoise, own.schedule, noise, sampling_levels(own.schedule, steps, "logit"))


def compare(problem: Problem, *, budgets: Sequence[int] = BUDGETS, spacings: Sequence[str] = SPACINGS,
            samplers: Sequence[str] | None = None, seed: int = 0) -> dict[str, Any]:
    """Measure samplers against the reference.

    Args:
        budgets: network evaluations; each sampler takes as many steps as they allow.
        samplers: default: all.

    Returns:
        "reference": its "steps", and its "error", the median distance between it and itself with half the steps; "baseline":
        DDIM in 200 uniform steps; "rows": of each sampler, spacing and budget. Each row has "evaluations", "steps", "median"
        (over starts, of the root mean square over a start's values) and "rms" distance to the reference, and "energy", the
        energy distance between the two sets. "best": the row with the lowest median of AT evaluations or fewer, and "ratio",
        the baseline's median to its.
    """
    names = list(SAMPLERS) if samplers is None else list(samplers)
    work = [(name, spacing, steps) for name in names for spacing in spacings
            for steps in sorted({steps_within(name, budget) for budget in budgets} - {0})]
    work = [BASELINE, *(item for item in work if item != BASELINE)]
    calls = sum(evaluations(name, steps) for name, _, steps in work) + 3 * (len(problem.reference) - 1)
    with torch.no_grad(), tqdm(total=calls, desc="samplers", unit="evaluation", delay=1) as bar:
        counted = _counted(problem, bar)
        end = heun(counted.denoise, _start(counted, counted.reference), counted.reference, torch.zeros_like)
        coarse = [*counted.reference[:-2:2], *counted.reference[-2:]]
        error = _distance(heun(counted.denoise, _start(counted, coarse), coarse, torch.zeros_like), end)["median"]
        rows = [{"sampler": name, "spacing": spacing, **_run(counted, name, spacing, steps, end, seed)}
                for name, spacing, steps in work]
    best = min((row for row in rows if row["evaluations"] <= AT), key=lambda row: row["median"], default=None)
    return {"reference": {"steps": len(counted.reference) - 1, "error": error}, "baseline": rows[0], "rows": rows, "best": best,
            "ratio": rows[0]["median"] / best["median"] if best else None}


@cache
def steps_within(name: str, budget: int) -> int:
    """The most steps of a sampler that so many evaluations allow; 0 = not one."""
    return bisect_right(range(1, budget + 1), budget, key=partial(evaluations, name))


def measure(*, model: str | None = None, data: str = "VIDEOS", data_path: str | None = None, starts: int = 200,
            windows: int = 6, budgets: Sequence[int] | None = None, spacings: Sequence[str] | None = None,
            samplers: Sequence[str] | None = None, seed: int = 0) -> dict[str, Any]:
    """What `compare` says of the mixture ("mixture") and, where a model is given, of it ("model").

    Args:
        model: run folder or model file; data, data_path: the dataset of what it sees.
        starts: samples of the mixture. windows: samples of the model.
        budgets, spacings: default BUDGETS and SPACINGS, for the model the fewer of ON_MODEL.
    """
    if min(budgets or BUDGETS) < 1 or min(starts, windows) < 2:
        raise ValueError("bench samplers needs 1 evaluation, 2 starts and 2 windows at least, got "
                         f"{min(budgets or BUDGETS)}, {starts} and {windows}")
    said = {"budgets": budgets, "spacings": spacings}
    said = {key: value for key, value in said.items() if value is not None} | {"samplers": samplers, "seed": seed}
    result = {"mixture": compare(mixture_problem(starts, seed), **said)}
    if model is not None:
        problem = model_problem(VideoDiffusion.load(model), windows, seed, data, data_path or "")
        result["model"] = compare(problem, **ON_MODEL | said)
    return result


def energy_distance(a: Tensor, b: Tensor) -> float:
    """2 E|a - b| - E|a - a'| - E|b - b'| of two sets (n d each; Szekely & Rizzo 2013) over all pairs, so that a set is at 0 of
    itself."""
    return float(2 * torch.cdist(a, b).mean() - torch.cdist(a, a).mean() - torch.cdist(b, b).mean())


def table(result: dict[str, Any]) -> str:
    """The result as text."""
    lines = []
    for name, part in result.items():
        budgets = sorted({row["evaluations"] for row in part["rows"]})
        lines += [f"{name}: median distance to the end of the ODE (reference: within {part['reference']['error']:.1e})",
                  "  ".join([f"{'evaluations':22}", *(f"{budget:>8}" for budget in budgets)])]
        for (sampler, spacing), points in _curves(part["rows"]).items():
            found = dict(points)
            lines.append("  ".join([f"{sampler + ', ' + spacing:22}",
                                    *(f"{found[b]:8.4f}" if b in found else " " * 8 for b in budgets)]))
        if part["best"]:
            best = part["best"]
            lines.append(f"best of {AT} evaluations: {best['sampler']}, {best['spacing']}, {best['median']:.4f}; "
                         f"{BASELINE[0]} at {BASELINE[2]}: {part['baseline']['median']:.4f} ({part['ratio']:.2f} times)\n")
    return "\n".join(lines)


def plot(result: dict[str, Any], out: str | Path) -> None:
    """Draw each sampler with the spacing that suits it best at AT evaluations, and the baseline's curve."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure  # not pyplot: no display, no global state

    figure = Figure(figsize=(5.2 * len(result), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, (title, part) in zip(figure.subplots(1, len(result), squeeze=False)[0], result.items(), strict=True):
        curves = _curves(part["rows"])
        for i, name in enumerate(SAMPLERS):
            own = {key: points for key, points in curves.items() if key[0] == name}
            if own:
                spacing, points = min(own.items(), key=lambda item: min((v for n, v in item[1] if n <= AT), default=math.inf))
                axis.plot(*zip(*points), marker="o", markersize=3, linewidth=1.3, color=f"C{i}", label=", ".join(spacing))
        base = curves[BASELINE[:2]]
        axis.plot(*zip(*base), color="black", linestyle=":", label=", ".join(BASELINE[:2]))
        axis.axhline(part["baseline"]["median"], color="black", linewidth=0.6)
        axis.annotate(f"{BASELINE[0]} at {BASELINE[2]}", (5, part["baseline"]["median"]), fontsize=7, va="bottom")
        axis.set(xscale="log", yscale="log", xlabel="network evaluations", ylabel="median distance to the end of the ODE",
                 title=TITLES.get(title, title))
        axis.set_xticks(sorted({n for points in curves.values() for n, _ in points if n in BUDGETS}) or [AT])
        axis.get_xaxis().set_major_formatter("{x:.0f}")
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.legend(fontsize=7)
    with replacing(out) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _curves(rows: Sequence[dict[str, Any]]) -> dict[tuple[str, str], list[tuple[int, float]]]:
    curves: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for row in sorted(rows, key=lambda row: row["evaluations"]):
        curves.setdefault((row["sampler"], row["spacing"]), []).append((row["evaluations"], row["median"]))
    return curves


def _counted(problem: Problem, bar: tqdm) -> Problem:
    def denoise(x: Tensor, level: Level) -> Denoised:
        bar.update()
        return problem.denoise(x, level)
    return problem._replace(denoise=denoise)


def _start(problem: Problem, levels: Sequence[Level]) -> Tensor:
    return levels[0].sigma * problem.noise


def _run(problem: Problem, name: str, spacing: str, steps: int, end: Tensor, seed: int) -> dict[str, Any]:
    levels, source = sampling_levels(problem.schedule, steps, spacing), generator(seed, "bench", name, steps)

    def draw(x: Tensor) -> Tensor:
        return torch.randn(x.shape, generator=source).to(x)

    made = SAMPLERS.get(name)(problem.denoise, _start(problem, levels), levels, draw)
    return {"evaluations": evaluations(name, steps), "steps": steps, **_distance(made, end)}


def _distance(made: Tensor, end: Tensor) -> dict[str, float]:
    made, end = (x.flatten(1).double().cpu() / math.sqrt(x[0].numel()) for x in (made, end))
    off = (made - end).norm(dim=1)
    return {"median": float(off.median()), "rms": float(off.square().mean().sqrt()), "energy": energy_distance(made, end)}


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m latent_diffusion.bench_samplers", description=__doc__.split("\n")[0])
    parser.add_argument("--model", help="run folder or model file, to be measured beside the mixture")
    parser.add_argument("--data", default="VIDEOS", choices=list(SOURCES), help="dataset of the frames that the model sees")
    parser.add_argument("--data_path", metavar="DIR", help="its folder")
    parser.add_argument("--starts", type=int, default=200, help="samples of the mixture (default 200)")
    parser.add_argument("--windows", type=int, default=6, help="samples of the model (default 6)")
    parser.add_argument("--evaluations", type=_numbers, metavar="N,N", help="default 5,10,20,50,200; of the model 5,10,20")
    parser.add_argument("--spacings", type=lambda text: text.split(","), metavar="NAME,NAME",
                        help="default " + ",".join(SPACINGS) + "; of the model " + ",".join(ON_MODEL["spacings"]))
    parser.add_argument("--samplers", type=lambda text: text.split(","), metavar="NAME,NAME", help="default: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", metavar="JSON", help="where the numbers go")
    parser.add_argument("--plot", metavar="PNG", help="where the curves go")
    args = parser.parse_args(words)
    try:
        dist.start()
        result = measure(model=args.model, data=args.data, data_path=args.data_path, starts=args.starts, windows=args.windows,
                         budgets=args.evaluations, spacings=args.spacings, samplers=args.samplers, seed=args.seed)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.out:
        write_text(Path(args.out), json.dumps(result, indent=1) + "\n")
    if args.plot:
        plot(result, args.plot)
    print(table(result))
    return 0


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


if __name__ == "__main__":
    sys.exit(main())
