"""The command bench: which parts, what it writes, and that nothing measured is lost."""

import json

import pytest
from fakes import diffusion_config, first_config

from autoencoder.config import FirstStageConfig
from configs.schema import FOLDER, load_config
from latent_diffusion import bench
from latent_diffusion.bench import chosen, table
from latent_diffusion.bench_parts import PARTS, Settings
from latent_diffusion.config import DiffusionStageConfig
from main import main
from tests.sampling import refused
from tools.memory import peak_bytes

SETTINGS = Settings(first_config(), diffusion_config())
NUMBERS = {"seconds": 2.0, "gflop": 3.0, "utilisation": 0.5, "matmul_gflops": 3.0, "peak_mb": 10.0}


def test_parts_come_in_their_order_whatever_the_line_says():
    assert chosen("unet, encode") == ["encode", "unet"]
    assert chosen(None) == list(PARTS)


def test_an_unknown_part_is_told_with_the_nearest(capsys):
    assert 'did you mean "encode"?' in refused(capsys, "bench", "--only", "encod,unet")


def test_a_part_is_measured_in_a_process_of_its_own():
    held = bytearray(peak_bytes() + (1 << 30))  # more than a small process ever needs
    result = bench.alone("encode", SETTINGS)
    del held
    assert 0 < result["peak_mb"] * 1e6 < peak_bytes()
    assert result["seconds"] > 0 and 0 < result["utilisation"] < 1


def test_what_was_measured_is_kept_when_a_later_part_fails(tmp_path, monkeypatch):
    def alone(name, settings):
        if name == "unet":
            raise ValueError("no memory")
        return NUMBERS
    monkeypatch.setattr(bench, "alone", alone)
    out = tmp_path / "bench.json"
    with pytest.raises(ValueError, match="no memory"):
        bench.bench(SETTINGS, only="encode,unet", out=str(out))
    written = json.loads(out.read_text())
    assert written["results"] == {"encode": NUMBERS} and written["matmul_gflops"] == 3


def test_the_last_line_is_the_json_that_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "alone", lambda name, settings: NUMBERS)
    out = tmp_path / "bench.json"
    assert main(["--exp", "bench", "--only", "unet", "--out", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert json.loads(lines[-1]) == json.loads(out.read_text())
    assert lines[0].split() == ["part", "seconds", "gflop", "utilisation", "peak_mb"]
    assert lines[1].split() == ["unet", "2.000", "3.0", "0.50", "10"]


POINT = {"sampler": "deis", "spacing": "logit", "evaluations": 20, "steps": 20, "median": 0.25, "rms": 0.5, "energy": 0.0}
FOUND = {"mixture": {"reference": {"steps": 9, "error": 0.0}, "best": POINT, "ratio": 2.0,
                     "baseline": {**POINT, "sampler": "ddim", "spacing": "uniform", "evaluations": 200, "median": 0.5},
                     "rows": [{**POINT, "sampler": "ddim", "spacing": "uniform", "evaluations": 200, "median": 0.5}, POINT]}}


def test_samplers_are_a_table_and_curves_beside_the_file(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "alone", lambda name, settings: FOUND)
    assert main(["--exp", "bench", "--only", "samplers", "--out", str(tmp_path / "speed.json")]) == 0
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((tmp_path / "speed.json").read_text())["results"]["samplers"] == FOUND
    assert "best of 20 evaluations: deis, logit, 0.2500; ddim at 200: 0.5000 (2.00 times)" in capsys.readouterr().out


def test_no_curves_are_drawn_where_there_is_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "alone", lambda name, settings: FOUND)
    monkeypatch.chdir(tmp_path)
    bench.bench(SETTINGS, only="samplers")
    assert not list(tmp_path.iterdir())


def test_a_model_that_no_part_reads_is_refused(capsys):
    assert "--model is read by the part samplers alone, got --only unet" in refused(
        capsys, "bench", "--only", "unet", "--model", "run")


def test_the_table_names_other_numbers_by_their_path():
    assert table({"data": {"kinds": {"mp4": {"ratio": 2.0}}}}) == "data.kinds.mp4.ratio = 2"


def test_keys_go_to_the_stage_that_has_them(monkeypatch):
    seen = []
    monkeypatch.setattr(bench, "bench", lambda settings, **options: seen.append(settings))
    assert main(["--exp", "bench", "model.depth=3", "unet.width=64", "data.resolution=64"]) == 0
    (settings,) = seen
    assert settings.first.model.depth == 3 and settings.second.unet.width == 64
    assert settings.first.model.resolution == 64


@pytest.mark.parametrize("words, long", [
    ([], ("tiny", 64)), (["unet.width=32"], ("tiny", 64)),
    (["--pretrain_config", "configs/autoencoder/small.yaml", "--diffusion_config", "configs/latent-diffusion/small.yaml"],
     ("small", 64))])
def test_long_videos_are_of_the_yamls_said_or_of_tiny_ones(monkeypatch, words, long):
    seen = []
    monkeypatch.setattr(bench, "bench", lambda settings, **options: seen.append(settings))
    monkeypatch.chdir(FOLDER.parent)
    assert main(["--exp", "bench", *words]) == 0
    (first, second), (name, size) = seen[0].long, long
    assert first.model.channels == load_config(FirstStageConfig, FOLDER / "autoencoder" / f"{name}.yaml", {}).model.channels
    assert first.model.resolution == size
    assert second.unet.width == (32 if words == ["unet.width=32"] else load_config(
        DiffusionStageConfig, FOLDER / "latent-diffusion" / f"{name}.yaml", {}).unet.width)


def test_a_key_of_neither_stage_is_refused(capsys):
    assert "unet.widt" in refused(capsys, "bench", "unet.widt=3")
    assert "at least 1, got 0" in refused(capsys, "bench", "--only", "unet", "--batch_size", "0")
