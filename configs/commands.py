"""Every experiment of the command line: what it is, the flags that it reads, and the call it makes."""

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from configs.schema import DEFAULTS, FOLDER, SCHEMAS, keys_of, load_config, plain
from tools import dist
from tools.best import PANEL
from tools.boards import check_boards
from tools.log import Run, begun, claim


class Command(NamedTuple):
    help: str
    call: Callable[[argparse.Namespace], None]
    reads: frozenset[str]  # its flags, without the dashes

    def run(self, args: argparse.Namespace) -> None:
        """Do it, unless a flag would be ignored."""
        for name in given(args):
            if name not in self.reads:
                value = getattr(args, name)
                words = value if isinstance(value, list) else [value]
                got = f"--{name}" if value is True else f"--{name} {' '.join(map(str, words))}"
                raise ValueError(f"--exp {args.exp} does not read --{name}, got {got}; leave it out, "
                                 f"it is for --exp {', '.join(readers(name))}")
        self.call(args)


def given(args: argparse.Namespace) -> list[str]:
    """The flags that the line says, without the dashes."""
    return getattr(args, "given", [])


@contextlib.contextmanager
def processes(args: argparse.Namespace | None = None) -> Iterator[None]:
    """Join the processes that torchrun, mpirun or srun started, for the time of an experiment (args: its command line)."""
    if args and args.exp in SCHEMAS and dist.launched():
        dist.start(main_config(args).dist)
    else:
        dist.start()
    try:
        yield
    finally:
        dist.stop()


def main_config(args: argparse.Namespace):
    """The experiment's configuration from its YAML, the flags and the dotted keys."""
    file = (args.pretrain_config if args.exp == "first_stage" else args.diffusion_config) or DEFAULTS[args.exp]
    flags = {"data.name": args.data, "data.path": args.data_path, "data.resolution": args.resolution,
             "data.frames": args.frames, "data.workers": args.workers, "loop.batch_size": args.batch_size,
             "loop.steps": args.steps, "train.seed": said_seed(args)}
    cfg = load_config(SCHEMAS[args.exp], file, flags, args.overrides)
    if not args.scale_lr:
        return cfg
    rate = f"optim.lr={cfg.optim.lr * cfg.loop.batch_size}"
    return load_config(SCHEMAS[args.exp], file, flags, [*args.overrides, rate])


def said_seed(args: argparse.Namespace) -> int | None:
    """The flag's default must not beat the seed of a YAML."""
    return args.seed if "seed" in given(args) else None


def run_folder(args: argparse.Namespace, cfg) -> Path:
    return Path(args.results) / f"{args.exp}_{args.id}_{cfg.data.name}_{cfg.train.seed}"


def open_run(args: argparse.Namespace, cfg, context: dict[str, Any]) -> Run:
    """Claim results/{exp}_{id}_{data}_{seed}, or take it up where the same command left it."""
    folder = run_folder(args, cfg)
    config = plain(cfg) | {"run": context}
    failed = None
    if dist.is_main():
        try:
            check_boards(cfg.log)
            claim(folder, config, may_change(cfg) if begun(folder) else set(config))
        except ValueError as error:
            failed = str(error)
    failed = dist.broadcast_object(failed)
    if failed:
        raise ValueError(failed)
    run = Run(folder, cfg.log, config) if dist.is_main() else Run.null()
    run.log("command: " + " ".join(sys.argv), echo=False)
    return run


# what may change when a run is continued: nothing that decides a weight, except for how long it goes on
VOLATILE = frozenset({"data.path", "data.workers", "loop.steps", "loop.save_every", "loop.keep", "loop.log_every",
                      "loop.validate_every", "loop.sample_every", "loop.plot_every", "loop.patience", "loop.micro_batch",
                      "train.panel_fvd", "train.grad_checkpoint", "dist", "log", "run.resume"})
OF_PANEL = frozenset({"train.panel_clips", "train.sample_steps"})  # they decide which weights are the best where it judges


def may_change(cfg) -> frozenset[str]:
    """The keys that may change when a run of this configuration is continued."""
    return VOLATILE if cfg.best()[0].startswith(PANEL) else VOLATILE | OF_PANEL


def first_stage(args: argparse.Namespace) -> None:
    from autoencoder.train import train_first_stage
    cfg = main_config(args)
    if dry_run(args, cfg):
        return
    context = {"first_stage_folder": tidy(args.first_stage_folder), "init_from": tidy(args.init_from), "resume": args.resume}
    run = open_run(args, cfg, context)
    train_first_stage(cfg, run, **context)
    run.close()


def ddpm(args: argparse.Namespace) -> None:
    from autoencoder.codec import load_autoencoder
    from autoencoder.train import check_model
    from latent_diffusion.train import fit_data, train_diffusion
    cfg = main_config(args)
    sizes = {"data.resolution": args.resolution, "data.frames": args.frames}
    pretrain = load_config(SCHEMAS["first_stage"], args.pretrain_config, sizes) if args.pretrain_config else None
    if dry_run(args, cfg):
        return
    if not args.first_model:
        raise ValueError("--exp ddpm needs the autoencoder: --first_model RUN or FILE (train one with --exp first_stage)")
    codec = load_autoencoder(args.first_model, args.weights)
    said = {key for key, value in sizes.items() if value is not None} | {item.split("=")[0] for item in args.overrides}
    fits = {"data.resolution": (cfg.data.size, codec.size), "data.frames": (cfg.data.frames, codec.frames),
            "data.channels": (cfg.data.channels, codec.config.in_channels)}
    for key, (given, has) in fits.items():
        if key in said and given != has:
            raise ValueError(f"{key}={given} does not fit the autoencoder given, which takes {has}; leave it out")
    if pretrain:
        released = {"released": True} if codec.config.options.get("released") else {}  # a habit that no YAML states
        asked = replace(pretrain.model, options={**pretrain.model.options, **released})
        check_model(asked, codec.config, f"--first_model {args.first_model} (--pretrain_config {args.pretrain_config})")
    cfg = fit_data(cfg, codec)
    latents = cached_latents(args, cfg, codec)
    context = {"first_model": codec.weights_hash, "init_from": tidy(args.init_from), "resume": args.resume}
    run = open_run(args, cfg, context | ({"latents": latents.id} if latents else {}))
    train_diffusion(cfg, run, codec, init_from=args.init_from, resume=args.resume, latents=latents)
    run.close()


def cached_latents(args: argparse.Namespace, cfg, codec):
    """The latents that a run of the second stage trains from, if there are some; a run that was begun stays with its own."""
    from latent_diffusion.latent_cache import LatentCache, find_latents, identity_of
    found = failed = None
    if dist.is_main():
        folder = run_folder(args, cfg)
        before = (OmegaConf.load(folder / "config.yaml").get("run", {}).get("latents"),) if begun(folder) else None
        try:
            found = find_latents(args.latents, args.first_model, lambda: identity_of(cfg, codec), before)
        except ValueError as error:
            failed = str(error)
    found, failed = dist.broadcast_object((found, failed))
    if failed:
        raise ValueError(failed)
    return LatentCache(found) if found else None


def encode(args: argparse.Namespace) -> None:
    from autoencoder.codec import load_autoencoder
    from latent_diffusion.encode import EncodeConfig
    from latent_diffusion.encode import encode as write_latents
    from latent_diffusion.train import fit_data
    flags = {"data.name": args.data, "data.path": args.data_path, "data.workers": args.workers, "train.seed": said_seed(args)}
    cfg = load_config(SCHEMAS["ddpm"], args.diffusion_config or DEFAULTS["ddpm"], flags, args.overrides)
    how = EncodeConfig(args.stride, args.windows_per_video, args.draws, args.dtype,
                       4 if args.batch_size is None else args.batch_size)
    if dry_run(args, cfg, encode=vars(how)):
        return
    if not args.first_model:
        raise ValueError("--exp encode needs the autoencoder: --first_model RUN or FILE (train one with --exp first_stage)")
    codec = load_autoencoder(args.first_model, args.weights)
    write_latents(fit_data(cfg, codec), codec, how, model=args.first_model, out=args.out)


def tidy(path: str | None) -> str | None:
    """The same text for RUN and RUN/."""
    return str(Path(path)) if path else None


def demo(args: argparse.Namespace) -> None:
    from latent_diffusion.demo import demo as run_demo
    if args.overrides:
        raise ValueError(f"--exp demo has no settings to change, got {args.overrides[0]}; use --exp first_stage and ddpm")
    if dist.world() > 1:
        raise ValueError(f"--exp demo runs in one process, got {dist.world()}; start it without torchrun")
    flags = {"train.seed": said_seed(args)}
    first = load_config(SCHEMAS["first_stage"], FOLDER / "demo" / "autoencoder.yaml", flags)
    second = load_config(SCHEMAS["ddpm"], FOLDER / "demo" / "diffusion.yaml", flags)
    if args.dry_run:
        print(OmegaConf.to_yaml(OmegaConf.create({"first_stage": plain(first), "ddpm": plain(second)})), end="")
        return
    folder = Path(args.results) / "demo"
    for name, cfg in (("first_stage", first), ("ddpm", second)):
        try:
            claim(folder / name, plain(cfg), VOLATILE)
        except ValueError as error:
            raise ValueError(f"{str(error).split(';')[0]}; remove {folder}, or give another --results DIR") from None
    run_demo(first, second, folder)


def bench(args: argparse.Namespace) -> None:
    """Measure parts of a pipeline: the published one, or that of other YAMLs and keys."""
    from latent_diffusion.bench import bench as run_bench
    from latent_diffusion.bench import chosen
    from latent_diffusion.bench_parts import Settings
    files = {"first_stage": args.pretrain_config, "ddpm": args.diffusion_config}
    flags = {"data.name": args.data or ("VIDEOS" if args.data_path else "SHAPES"), "data.path": args.data_path}
    chosen(args.only)
    if unknown := [item for item in args.overrides if not any(concerns(schema, item) for schema in SCHEMAS.values())]:
        load_config(SCHEMAS["first_stage"], None, {}, unknown)  # fails, with the nearest name
    first, second = (load_config(SCHEMAS[exp], file or DEFAULTS[exp], flags,
                                 [item for item in args.overrides if concerns(SCHEMAS[exp], item)])
                     for exp, file in files.items())
    if args.dry_run:
        if dist.is_main():
            print(OmegaConf.to_yaml(OmegaConf.create({"first_stage": plain(first), "ddpm": plain(second)})), end="")
        return
    if dist.world() > 1:
        raise ValueError(f"--exp bench runs in one process, got {dist.world()}; start it without torchrun")
    if args.batch_size is not None and args.batch_size < 1:
        raise ValueError(f"--batch_size must be at least 1, got {args.batch_size}; bench takes 1 where it is left out")
    small = {"data.resolution": 64} if not any(files.values()) else {}
    long = [load_config(SCHEMAS[exp], file or DEFAULTS[exp].with_name("tiny.yaml"), flags | small,
                        [item for item in args.overrides if concerns(SCHEMAS[exp], item)]) for exp, file in files.items()]
    run_bench(Settings(first, second, args.data_path, long=tuple(long), model=args.model,
                       clips=1 if args.batch_size is None else args.batch_size), only=args.only, out=args.out)


def evaluate(args: argparse.Namespace) -> None:
    """Compare videos; --dry-run shows the protocol as the line changes it."""
    from latent_diffusion.evaluate import plan, run
    chosen = {name: getattr(args, name) for name in EVALUATION.split()} | {"given": given(args)}
    if not args.dry_run:
        return run(**chosen)
    settled = plan(**chosen)
    if dist.is_main():
        flags = {key: value for key, value in chosen.items() if key not in ("given", "protocol")}
        print(OmegaConf.to_yaml(OmegaConf.create({"exp": args.exp, **flags, "protocol": settled})), end="")
    return None


def concerns(schema: type, item: str) -> bool:
    """Whether a schema has the key of an override; where two stages are configured at once, each takes its own."""
    key = item.partition("=")[0]
    return any(key == known.removesuffix(".*") or known.startswith(key + ".") or
               (known.endswith(".*") and key.startswith(known[:-1])) for known in keys_of(schema))


CARLA = {  # what each of its uses reads
    "trains": "id seed resume init_from data data_path resolution workers batch_size steps",
    "maps videos with --model": "model weights input data data_path out batch_size resize",
    "compares --real with --fake": "real fake out known_frames"}


def carla(args: argparse.Namespace) -> None:
    """Train, or map videos to coordinates, or compare coordinates: told by the flags."""
    from evals.carla import compare, map_videos
    from evals.carla_config import CarlaConfig, CompareConfig, MapConfig
    from evals.carla_train import train_carla
    use = list(CARLA)[2 if args.real or args.fake else 1 if args.model or args.input or args.out else 0]
    for name in given(args):
        if name not in (*CARLA[use].split(), "results"):
            raise ValueError(f"--exp carla {use} here, which does not read --{name}; leave it out")
    data = {"data.name": args.data, "data.path": args.data_path}
    if args.real or args.fake:
        cfg = load_config(CompareConfig, None, {}, args.overrides)
        return dry_run(args, cfg) or compare(real=args.real, fake=args.fake, speed=cfg.speed, out=args.out,
                                             known_frames=args.known_frames)
    if use != "trains":
        cfg = load_config(MapConfig, None, data, args.overrides)
        return dry_run(args, cfg) or map_videos(
            model=args.model, input=args.input, data=cfg.data if args.data else None, out=args.out, batch_size=args.batch_size,
            weights=args.weights if "weights" in given(args) else None, resize=args.resize)
    cfg = load_config(CarlaConfig, None, data | {"data.resolution": args.resolution, "data.workers": args.workers,
                                                 "loop.batch_size": args.batch_size, "loop.steps": args.steps,
                                                 "train.seed": said_seed(args)}, args.overrides)
    if dry_run(args, cfg):
        return None
    if dist.world() > 1:
        raise ValueError(f"--exp carla trains in one process, got {dist.world()}; start it without torchrun")
    context = {"init_from": tidy(args.init_from), "resume": args.resume}
    run = open_run(args, cfg, context)
    train_carla(cfg, run, **context)
    run.close()
    return None


def dry_run(args: argparse.Namespace, cfg, **more: Any) -> bool:
    """Print the settings if that is all that is asked for."""
    if args.dry_run and dist.is_main():
        print(OmegaConf.to_yaml(OmegaConf.create(plain(cfg) | more)), end="")
    return args.dry_run


def from_flags(help: str, module: str, function: str, names: str) -> Command:
    """An experiment without a YAML: flags, by name, are the arguments of one function."""
    def run(args: argparse.Namespace) -> None:
        if args.overrides and "overrides" not in names.split():
            raise ValueError(f"--exp {args.exp} has no settings of its own, got {args.overrides[0]}; use its flags")
        chosen = {name: getattr(args, name) for name in names.split()}
        if args.dry_run:
            if dist.is_main():
                print(OmegaConf.to_yaml(OmegaConf.create({"exp": args.exp, **chosen})), end="")
            return
        if args.exp in ("plan", "info", "download") and not dist.is_main():
            return  # they only print
        import importlib
        getattr(importlib.import_module(module), function)(**chosen)
    return command(help, run, names)


def command(help: str, call: Callable[[argparse.Namespace], None], names: str) -> Command:
    """--results is for every experiment, so that a script may set it for all; overrides are no flag."""
    return Command(help, call, frozenset({"results", *names.split()} - {"overrides"}))


def readers(name: str) -> list[str]:
    """The experiments that read a flag."""
    return [exp for exp, command in COMMANDS.items() if name in command.reads]


TRAINING = "id seed resume init_from data data_path resolution frames workers batch_size steps scale_lr pretrain_config "
SAMPLING = ("model first_model weights task num_videos samples_per_video frames known data data_path resolution scheme window "
            "stride schedule overlap sampler steps eta guidance guide content starts windows batch_size seed out results "
            "no_border overrides ")
EVALUATION = SAMPLING + "real fake metrics protocol known_frames i3d selfcheck "

COMMANDS: dict[str, Command] = {
    "first_stage": command("train the autoencoder (base_gan.yaml and --first_stage_folder: adversarially)", first_stage,
                           TRAINING + "first_stage_folder"),
    "encode": command("latents of a dataset, from which ddpm trains without the encoder: --first_model MODEL", encode,
                      "diffusion_config first_model weights data data_path workers batch_size seed stride windows_per_video "
                      "draws dtype out"),
    "ddpm": command("train the latent diffusion: --first_model MODEL", ddpm,
                    TRAINING + "diffusion_config first_model weights latents"),
    "reconstruct": from_flags("run videos through the autoencoder: --first_model M --input PATH --out DIR",
                              "autoencoder.reconstruct", "reconstruct",
                              "first_model weights input out resize batch_size baseline data data_path"),
    "sample": from_flags("make videos: --model RUN --task predict --data NAME, or --baseline repeat_last --known 0-7",
                         "latent_diffusion.sample", "sample", SAMPLING + "input resize baseline npz"),
    "plan": from_flags("print the windows of a scheme as JSON: --scheme NAME --frames T --known SPEC --window W --stride S",
                       "latent_diffusion.plan", "print_plan",
                       "scheme frames known window stride schedule input just_visualise out"),
    "evaluate": command("metrics of videos: --real DIR --fake DIR, or --model RUN --data NAME", evaluate, EVALUATION),
    "carla": command("where on CARLA's map frames were taken: trains on --data CARLA; maps with --model M --input DIR; WD "
                     "and PO of --real DIR --fake DIR", carla, " ".join(CARLA.values())),
    "bench": command("speed and memory of each part, beside a matrix product of the same machine: --only unet,encode",
                     bench, "only out model data data_path batch_size pretrain_config diffusion_config"),
    "demo": command("the whole pipeline on generated videos, in minutes on a CPU; writes a page to look at", demo, "seed"),
    "download": from_flags("fetch published weights or a dataset: --name NAME (list shows all), --out DIR",
                           "tools.download", "download", "name out"),
    "report": from_flags("one HTML page from runs, sample folders and evaluations: --runs A B ...", "evals.report", "report",
                         "runs out num_videos results"),
    "export": from_flags("gif, mp4, grids, npz, safetensors from what exists: --input PATH --format FORMAT --out PATH",
                         "latent_diffusion.export", "export", "input format out real num_videos fps weights"),
    "info": from_flags("what a model file is: --model MODEL", "latent_diffusion.info", "info", "model weights"),
}
