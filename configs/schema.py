"""From YAML, flags and dotted keys to one validated, frozen configuration of an experiment."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, ListConfig, OmegaConf, read_write
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from autoencoder.config import FirstStageConfig
from latent_diffusion.config import DiffusionStageConfig
from tools.registry import nearest

FOLDER = Path(__file__).parent
SCHEMAS = {"first_stage": FirstStageConfig, "ddpm": DiffusionStageConfig}
DEFAULTS = {"first_stage": FOLDER / "autoencoder" / "base.yaml", "ddpm": FOLDER / "latent-diffusion" / "base.yaml"}
Config = TypeVar("Config")


def load_config(schema: type[Config], file: str | Path | None, flags: Mapping[str, Any] = {},
                overrides: Sequence[str] = ()) -> Config:
    """Merge, from weak to strong: defaults, the YAML file, command-line flags, `section.key=value` overrides.

    Args:
        schema: the experiment's dataclass.
        file: YAML, or None where an experiment has none; its key `extends` names another file, relative to it, that it
            builds on.
        flags: dotted key -> value; None means that the flag was not given.
        overrides: "optim.lr=1e-4" and the like.

    Raises:
        ValueError: an unknown key (with the nearest valid name), a value of the wrong type, or settings that
            contradict each other.
    """
    layers = [*_read(Path(file))] if file else []
    for key, value in flags.items():
        if value is not None:
            layers.append((OmegaConf.create(_nest(key, value)), "the command line"))
    layers.append((_parse(overrides), "the command line"))
    merged = OmegaConf.structured(schema)
    for layer, origin in layers:
        _check_keys(schema, layer, origin)
        try:
            _forget_options(schema, merged, layer)
            merged = OmegaConf.merge(merged, layer)
        except OmegaConfBaseException as error:
            raise ValueError(f"{origin}: {_first_line(error)}") from None
    try:
        return OmegaConf.to_object(schema.settle(merged))
    except OmegaConfBaseException as error:
        raise ValueError(f"{file or 'the settings'}: {_first_line(error)}") from None


def plain(config: Any) -> dict[str, Any]:
    """Return a configuration as nested dictionaries and lists, as it is written to config.yaml and checkpoints."""
    return OmegaConf.to_container(OmegaConf.create(asdict(config)))


def keys_of(schema: type, prefix: str = "") -> list[str]:
    """Return every dotted key of a schema; a free mapping (a plug-in's options) ends in `.*`."""
    keys = []
    for f in fields(schema):
        name = prefix + f.name
        if is_dataclass(f.type):
            keys += keys_of(f.type, name + ".")
        else:
            keys.append(name + (".*" if str(f.type).startswith("dict") else ""))
    return keys


def _read(file: Path, seen: tuple[Path, ...] = ()) -> list[tuple[DictConfig, str]]:
    if not file.is_file():
        present = ", ".join(sorted(str(p.relative_to(FOLDER)) for p in FOLDER.glob("*/*.yaml")))
        raise ValueError(f"no configuration file {file}; the project's own, under configs/: {present}")
    if file.resolve() in seen:
        raise ValueError(f"{file} extends itself; take the key `extends` out of one of the files")
    try:
        layer = OmegaConf.load(file)
    except (YAMLError, UnicodeDecodeError, OSError) as error:
        raise ValueError(f"{file} is not readable YAML: {_first_line(error)}") from None
    if isinstance(layer, ListConfig):
        raise ValueError(f"{file} holds a list; a configuration is a mapping of sections such as model:, data:, optim:")
    layer.pop("run", None)  # a run folder's config.yaml also says what the run was started from
    base = layer.pop("extends", None)
    below = _read(file.parent / base, (*seen, file.resolve())) if base else []
    return [*below, (layer, str(file))]


def _parse(overrides: Sequence[str]) -> DictConfig:
    layer = OmegaConf.create({})
    for item in overrides:
        if not item.partition("=")[0] or "=" not in item:
            raise ValueError(f'"{item}" is no setting; write section.key=value, e.g. optim.lr=1e-4')
        try:
            layer.merge_with_dotlist([item])
        except (YAMLError, OmegaConfBaseException) as error:
            raise ValueError(f'"{item}" cannot be read ({_first_line(error)}); write section.key=value') from None
    return layer


def _forget_options(schema: type, merged: DictConfig, layer: DictConfig) -> None:
    """A plug-in that a stronger layer names does not inherit the options of the one that it replaces."""
    for key in (k.removesuffix(".*") for k in keys_of(schema) if k.endswith(".*")):
        name = OmegaConf.select(layer, f"{key}.name")
        if name is not None and name != OmegaConf.select(merged, f"{key}.name"):
            with read_write(merged):  # frozen, since its dataclass is
                OmegaConf.update(merged, key, {}, merge=False)


def _check_keys(schema: type, layer: DictConfig, origin: str) -> None:
    valid = keys_of(schema)
    free = [key[:-1] for key in valid if key.endswith(".*")]
    sections = {".".join(key.split(".")[:n]) for key in valid for n in range(1, key.count(".") + 1)}
    for key in _leaves(layer):
        if key in valid or key in sections or any(key.startswith(f) or key == f[:-1] for f in free):
            continue
        raise ValueError(f'{origin}: unknown key "{key}"{nearest(key, [v.removesuffix(".*") for v in valid])}; '
                         f"sections: {', '.join(sorted({v.split('.')[0] for v in valid}))}")


def _leaves(layer: DictConfig, prefix: str = "") -> list[str]:
    keys = []
    for name in layer:
        value = layer._get_node(name)
        inner = isinstance(value, DictConfig) and not value._is_none() and len(value) > 0
        keys += _leaves(value, f"{prefix}{name}.") if inner else [f"{prefix}{name}"]
    return keys


def _nest(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    key = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("full_key:")), "")
    return (f"{key}: " if key else "") + (lines[0] if lines else type(error).__name__)
