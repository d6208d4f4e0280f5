"""The recipes as the tests look at them: their settings, their networks, and the commands that their README tells."""

from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import torch

from autoencoder.config import FirstStageConfig
from autoencoder.model import build_autoencoder
from configs.schema import FOLDER, load_config
from latent_diffusion.completion import check_content
from latent_diffusion.condition import OFFSETS
from latent_diffusion.config import DiffusionStageConfig
from latent_diffusion.denoiser import LatentDenoiser
from latent_diffusion.jobs import fit_settings, make_jobs
from latent_diffusion.masks import MASKS
from latent_diffusion.settings import Settings
from latent_diffusion.task import known_frames
from main import Parser
from tests.test_commands import readme_commands
from tools.rng import rand

RECIPES = FOLDER / "recipes"
README = RECIPES / "README.md"
SCHEMAS = {"autoencoder": FirstStageConfig, "diffusion": DiffusionStageConfig}
FILES = sorted(RECIPES.rglob("*.yaml"))
COMMANDS = readme_commands(README)
SYSTEMS = {"mcvd", "ramvid", "fdm", "pvdm", "vidm"}
TEXT = README.read_text(encoding="utf-8")


class Told(NamedTuple):
    """A command of the README: its words, and what the parser makes of them."""
    words: list[str]
    args: object


TOLD = [Told(words, Parser().parse(words)) for words in COMMANDS]


def of(exp):
    return [told for told in TOLD if told.args.exp == exp]


def run_folder(told):
    return f"results/{told.args.exp}_{told.args.id}_{told.args.data}_42"


def name_of(file):
    return str(Path(file).resolve().relative_to(RECIPES.resolve()).with_suffix(""))


@cache
def config(name, *overrides, frames=None):
    """The settings of a recipe such as mcvd/kth_diffusion."""
    return load_config(SCHEMAS[name.split("_")[-1]], RECIPES / f"{name}.yaml", {"data.frames": frames}, overrides)


def trained_on():
    """Diffusion recipe -> the autoencoder's recipe that the README trains it on."""
    return {name_of(t.args.diffusion_config): name_of(t.args.pretrain_config) for t in of("ddpm")}


def trainer(model):
    """The command that trains the model of this run folder."""
    return next(t for t in of("ddpm") if run_folder(t) == model)


def recipe(model):
    """The settings of the model of this run folder."""
    return config(name_of(trainer(model).args.diffusion_config))


@cache
def trained(diffusion):
    """Both networks of a recipe, without memory for their weights."""
    return networks(config(trained_on()[diffusion]), config(diffusion))


def loaded(model):
    """What `sample` would load of a run folder, as far as its checks look at it."""
    told = trainer(model)
    return SimpleNamespace(net=trained(name_of(told.args.diffusion_config))[1], schedule=recipe(model).schedule, file=model,
                           codec=SimpleNamespace(weights_hash=told.args.first_model))


def jobs_of(args):
    """What a command makes, in its order."""
    model, content = loaded(args.model), loaded(args.content) if args.content else None
    given = {key: getattr(args, key) for key in ("scheme", "window", "stride", "overlap", "steps")}
    settings = fit_settings(model.net.condition, Settings(**given, content=content))
    known = known_frames(args.task, model.net.frames, args.frames, args.known)
    jobs = make_jobs(model.net.condition, model.net.frames, known, settings).jobs
    check_content(model, settings, jobs)
    return jobs


def networks(autoencoder, diffusion):
    """Both networks of a pair, without memory for their weights."""
    with torch.device("meta"):
        first = build_autoencoder(autoencoder.model)
        second = LatentDenoiser(diffusion.unet, diffusion.condition, first.shape, autoencoder.model.latent_channels,
                                autoencoder.model.frames)
    return first, second


def millions(net):
    return sum(p.numel() for p in net.parameters()) / 1e6


def drawn(cfg, draws=200):
    """Which frames training gives around and in a clip: the sets of known frames of its windows."""
    frames = cfg.data.frames * len(span_of(cfg))
    sampler, found = MASKS.bind(cfg.mask), set()
    for number in range(draws):
        uniform = iter(rand((4 * frames + 64,), 0, "mask", number).tolist())
        found.add(frozenset(sampler(frames, lambda uniform=uniform: next(uniform)).nonzero().flatten().tolist()))
    return found


def span_of(cfg):
    """Clips of a training window, counted from the target."""
    offsets = [0, *(OFFSETS[place] for place in cfg.condition["sees"])]
    return range(min(offsets), max(offsets) + 1)


def table(title):
    """Rows of the README's table whose header begins so."""
    rows = TEXT[TEXT.index(f"| {title}"):].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
