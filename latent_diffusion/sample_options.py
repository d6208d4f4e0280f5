"""What the command `sample` reads beside its flags: dotted settings of the sampling, and of the data."""

import math
from pathlib import Path
from typing import Any

import yaml

from tools.clips import DataConfig
from tools.registry import nearest

OPTIONS = {  # setting: (option of VideoDiffusion.complete, kind)
    "guidance.low": ("interval", float), "guidance.high": ("interval", float),
    "guidance.history": ("history_guidance", float), "guidance.fraction": ("history_fraction", float),
    "guidance.sigma": ("history_sigma", float), "rollout.history_noise": ("history_noise", float),
    "noise.temperature": ("temperature", float), "noise.shared": ("shared_noise", float),
    "rollout.one_frame": ("one_frame", bool), "rollout.init_prev_t": ("init_prev_t", float), "rollout.carry": ("carry", bool)}


def split_overrides(overrides: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Options of VideoDiffusion.complete, and what is left for the data (data.*)."""
    given, data = {}, []
    for item in overrides:
        key, _, text = item.partition("=")
        if key.startswith("data.") and text:
            data.append(item)
            continue
        if key not in OPTIONS or not text:
            raise ValueError(f'--exp sample takes flags, data.* settings and {", ".join(OPTIONS)}, got "{item}"'
                             f"{nearest(key, OPTIONS) if key not in OPTIONS else ', which lacks a value'}")
        given[key] = _value(key, text)
    low, high = given.pop("guidance.low", None), given.pop("guidance.high", None)
    options = {OPTIONS[key][0]: value for key, value in given.items()}
    if low is not None or high is not None:
        options["interval"] = (0.0 if low is None else low, None if high == math.inf else high)
    return options, data


def _value(key: str, text: str) -> float | bool:
    kind, value = OPTIONS[key][1], _yaml(key, text)
    if kind is bool and not isinstance(value, bool):
        raise ValueError(f"{key} must be true or false, got {text}")
    if kind is float and (isinstance(value, bool) or not isinstance(value, (int, float))):
        raise ValueError(f"{key} must be a number, got {text}")
    return kind(value)


def _yaml(key: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise ValueError(f"{key} has the value {text}, which is no YAML; write a number, a word or [a, b]") from None


def data_config(data: str | None, data_path: str | None, input: str | None,
                overrides: list[str]) -> tuple[DataConfig, bool]:
    """The data settings of the line, and whether they name a resolution; what is no key of data: goes to the source."""
    given: dict[str, Any] = {}
    for item in overrides:
        key, _, text = item.partition("=")
        given[key.removeprefix("data.").removeprefix("options.")] = _yaml(key, text)
    keys = ("path", "split", "fold", "resolution", "channels", "stride", "resize", "on_error")
    fields = {key: given.pop(key) for key in keys if key in given}
    source = ("VIDEOS", input, "all") if input else (data, data_path or "", "test")
    named = dict(zip(("name", "path", "split"), source))
    return DataConfig(**(named | fields), options=given), "resolution" in fields


def schedule_name(schedule: str | Path) -> str:
    """Of a schedule's results."""
    return f"schedule-{Path(schedule).stem}"
