"""Run folders and evaluations as the commands leave them, for the tests of what reads them."""

import json

import yaml


def put_run(folder, records=((1, "train/loss", 0.5), (2, "validate/psnr", 20.0)), **settings):
    """A run folder as training leaves it, less the weights."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(settings or {"unet": {"width": 8}, "loop": {"steps": 2}}))
    lines = [json.dumps({"step": step, "name": name, "value": value}) for step, name, value in records]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def put_result(path, protocol=None, **means):
    """A JSON of evaluate: metric=(mean, ci95)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    metrics = {name: {"mean": mean, "ci95": half, "n": 4, "per_frame": [mean, mean]} for name, (mean, half) in means.items()}
    path.write_text(json.dumps({"metrics": metrics, "protocol": protocol or {}}))
    return path
