import json

import pytest
import torch

from autoencoder.model import build_autoencoder
from latent_diffusion import costs
from latent_diffusion.costs import CostConfig, Machine, configure, plan, run_once
from latent_diffusion.denoiser import LatentDenoiser
from latent_diffusion.footprint import FLOAT, Footprint, memory, size_of
from tests.tiny import ROOT, alike
from tools import fsdp

TINY = ["model.channels=32", "model.heads=2", "model.head_dim=16", "model.depth=1", "model.resolution=16", "model.frames=4",
        "unet.width=16", "unet.mult=[1, 2]", "unet.res_blocks=1", "unet.attention=[2, 1]", "unet.heads=2"]
COUNT = Footprint(parameters=10**9, block=10**7, rest=10**8, frozen=0, clips=2, forward_flops=10**12, step_flops=3 * 10**12,
                  activations=6 * 10**9, alone=7 * 10**9)


@pytest.mark.parametrize("network", ["autoencoder", "U-Net"])
def test_what_is_exact_is_what_a_training_holds(network):
    cfg = configure(TINY)
    with alike():
        told = run_once(network, cfg, updates=1)
    part = memory(costs.footprints(cfg)[network])
    assert (FLOAT * told["parameters"], told["moments"], told["averages"]) == (part.weights, part.moments, part.averages)


def test_the_clips_that_fit_fit():
    machine = Machine(gpu_memory=80)
    for row in plan({"net": COUNT}, machine, [1, 8, 64]):
        state, clip = memory(COUNT, row.strategy, row.gpus).state, 3e9
        assert row.state == pytest.approx(state / 1e9)
        assert state + row.clips * clip <= 80e9 < state + (row.clips + 1) * clip
    assert plan({"net": COUNT}, Machine(gpu_memory=10), [1])[0].clips == 0


def test_what_is_sent_takes_the_slowest_way():
    machine = Machine(gpus=8, link=200, network=5)
    assert [machine.bandwidth(n) for n in (2, 8, 9, 512)] == [200e9, 200e9, 40e9, 40e9]
    assert Machine(gpus=8, link=20, network=5).bandwidth(16) == 20e9


def test_more_clips_an_update_leave_more_for_computing():
    row = plan({"net": COUNT}, Machine(tflops=30, link=8), [2])[0]
    assert (row.seconds, row.exchange) == (pytest.approx(0.1), pytest.approx(4 / 8))
    assert row.computing(1) == pytest.approx(0.1 / 0.6) and row.computing(10) == pytest.approx(1 / 1.5)


def test_the_larger_networks_are_ten_times_the_published_ones():
    sizes = []
    for words in ([], costs._words(costs.LARGER)):
        cfg = configure(words)
        with torch.device("meta"):
            nets = build_autoencoder(cfg.model), LatentDenoiser(cfg.unet, cfg.condition, cfg.model.grid, 4, 16)
        sizes.append([sum(p.numel() for p in net.parameters()) for net in nets])
    assert [large / small for small, large in zip(*sizes)] == pytest.approx([10, 10], rel=0.01)


def test_the_command_prints_and_writes_the_plan(tmp_path, capsys):
    assert costs.main([*TINY, "--processes", "1", "8", "--machine", "gpu_memory=16", "--out", str(tmp_path / "plan.json")]) == 0
    printed, written = capsys.readouterr().out, json.loads((tmp_path / "plan.json").read_text())
    assert [(row["network"], row["gpus"], row["strategy"]) for row in written["plan"]] == [
        (name, *case) for name in ("autoencoder", "U-Net") for case in ((1, "ddp"), (8, "ddp"), (8, "fsdp"))]
    assert f"| U-Net | {written['networks']['U-Net']['parameters']:,} |" in printed and written["machine"]["gpu_memory"] == 16


@pytest.mark.parametrize(("words", "told"), [
    (["unet.witdh=8"], "witdh"), (["unet.width=x"], "width"), (["unet.width"], "no setting"), (["unet.width=7"], "even"),
    (["--processes", "0"], "got 0"), (["--machine", "gpu=1"], "gpu"), (["condition.name=window"], "concat")])
def test_a_mistake_is_one_line(words, told, capsys):
    assert costs.main([*TINY, *words]) == 2
    out, err = capsys.readouterr()
    assert told in err and err.startswith("error: ") and err.count("\n") == 1 and not out


def test_the_grid_changes_one_key_at_a_time():
    for name, (base, changes) in costs.GRID.items():
        cases = [keys for network, keys in costs.grid() if network == name]
        assert len(cases) == 1 + len(changes) and all(
            sum(case[key] != base[key] for key in base) == (i > 0) for i, case in enumerate(cases))
    assert isinstance(configure([]), CostConfig)


# --- the page ------------------------------------------------------------------------------------------------

def tables():
    """The tables of docs/scaling.md by their heads, each a list of rows by column."""
    found = []
    for block in (ROOT / "docs" / "scaling.md").read_text().split("\n\n"):
        lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.splitlines() if line.startswith("|")]
        if lines:
            found.append([dict(zip(lines[0], line, strict=True)) for line in lines[2:]])
    return found


def number(text):
    return float(text.replace(",", "").rstrip("%"))


def sizes(words):
    """Exact sizes of both networks, and of their blocks; what is run is taken from the page."""
    cfg = configure(words)
    with torch.device("meta"):
        nets = {"autoencoder": build_autoencoder(cfg.model),
                "U-Net": LatentDenoiser(cfg.unet, cfg.condition, cfg.model.grid, cfg.model.latent_channels, cfg.model.frames)}
    return {name: (size_of(net), [size_of(block) for block in fsdp.blocks(net)]) for name, net in nets.items()}


@pytest.mark.parametrize("larger", [False, True])
def test_the_page_of_the_plan_is_what_the_command_prints(larger):
    counted, published, ten_times, *_ = tables()
    counts, found = {}, sizes(costs._words(costs.LARGER) if larger else [])
    for name, (parameters, blocks) in found.items():
        row = next(row for row in counted if row["network"] == name + (", larger" if larger else ""))
        assert number(row["parameters"]) == parameters
        for column, bytes_each in (("weights", 4), ("gradients", 4), ("AdamW", 8), ("averages", 4)):
            assert number(row[column]) == pytest.approx(bytes_each * parameters / 1e9, rel=5e-3)
        frozen = found["autoencoder"][0] if name == "U-Net" else 0
        assert number(row["frozen"]) == pytest.approx(4 * frozen / 1e9, rel=5e-3)
        counts[name] = Footprint(parameters, max(blocks), parameters - sum(blocks), frozen, 1,
                                 0, int(number(row["GFLOP an update of a clip"]) * 1e9),
                                 int(number(row["activations a clip"]) * 1e9), 0)
    rows = plan(counts, Machine(), [1, 8, 64, 512])
    shown = ten_times if larger else published
    assert len(rows) == len(shown)
    for row, line in zip(rows, shown, strict=True):
        assert (row.network, str(row.gpus), row.strategy) == (line["network"], line["GPUs"], line["strategy"])
        for column, value in (("GB a GPU without clips", row.state), ("GB sent an update", row.traffic),
                              ("ms to send", 1000 * row.exchange), ("ms to compute a clip", 1000 * row.seconds)):
            assert number(line[column]) == pytest.approx(value, rel=5e-3), (column, line)
        fit = 0 if line["clips a GPU that fit"] == "none" else number(line["clips a GPU that fit"])
        assert fit == pytest.approx(row.clips, rel=0.01)  # the page's activations are rounded
        for clips in costs.SHOWN_CLIPS:
            assert number(line[f"computing share, {clips} a GPU"]) == pytest.approx(100 * row.computing(clips), abs=0.6)


def test_the_page_of_measurements_counts_as_the_code_does():
    measured = tables()[3]
    for (network, keys), line in zip(costs.grid(), measured, strict=True):
        assert (line["network"], line["clips"], line["frames"]) == (network, str(keys["clips"]), str(keys["model.frames"]))
        assert number(line["measured / counted"]) == pytest.approx(
            number(line["measured MB"]) / number(line["counted MB"]), rel=0.01)
    network, keys = costs.grid()[0]  # one of them: counting takes seconds
    assert number(measured[0]["counted MB"]) == pytest.approx(
        costs.predicted(network, configure(costs._words(keys))) / 1e6, rel=0.05)
