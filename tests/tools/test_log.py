import io
import re
import subprocess
import sys

import pytest

from tools.log import Run, claim, read_metrics

CONFIG = {"exp": "first_stage", "seed": 42, "optim": {"lr": 1e-4, "betas": (0.9, 0.99), "clip_norm": None},
          "loop": {"steps": 10}, "data": {"options": {}}}


def changed(**sections):
    return {**CONFIG, **sections}


def test_claim_new_then_continue(tmp_path):
    assert claim(tmp_path / "a/run", CONFIG) == "new"
    assert claim(tmp_path / "a/run", CONFIG) == "continue"


def test_an_empty_folder_or_one_from_a_kill_in_the_first_moment_is_new(tmp_path):
    (tmp_path / "config.yaml.tmp").write_text("exp: fir")
    assert claim(tmp_path, CONFIG) == "new"


def test_claim_refuses_other_settings_and_names_them(tmp_path):
    claim(tmp_path / "run", CONFIG)
    before = (tmp_path / "run/config.yaml").read_text()
    other = changed(seed=1, optim={**CONFIG["optim"], "lr": 1e-3, "eps": 1e-8}, loop={"steps": 20})
    with pytest.raises(ValueError) as error:
        claim(tmp_path / "run", other)
    text = str(error.value)
    assert "\n" not in text and str(tmp_path / "run") in text and "another --id" in text
    assert "seed 42 -> 1, optim.lr 0.0001 -> 0.001, loop.steps 10 -> 20 and 1 more" in text
    assert (tmp_path / "run/config.yaml").read_text() == before


def test_volatile_keys_may_change_and_are_recorded(tmp_path):
    claim(tmp_path / "run", CONFIG)
    assert claim(tmp_path / "run", changed(loop={"steps": 20}), {"loop.steps"}) == "continue"
    assert claim(tmp_path / "run", changed(loop={"steps": 20})) == "continue"
    assert claim(tmp_path / "run", changed(loop={"steps": 5, "keep": 3}), {"loop"}) == "continue"  # a section
    with pytest.raises(ValueError, match="loop"):
        claim(tmp_path / "run", changed(loop={"steps": 6, "keep": 3}), {"loo"})


def test_a_new_setting_that_is_null_changes_nothing(tmp_path):
    claim(tmp_path / "run", CONFIG)
    assert claim(tmp_path / "run", changed(loop={"steps": 10, "best": None})) == "continue"
    with pytest.raises(ValueError, match=r"loop\.best None -> psnr"):
        claim(tmp_path / "run", changed(loop={"steps": 10, "best": "psnr"}))


def test_claim_refuses_what_is_no_run(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/cat.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"is no run .*another --id"):
        claim(tmp_path / "photos", CONFIG)
    with pytest.raises(ValueError, match="is a file"):
        claim(tmp_path / "photos/cat.png", CONFIG)
    assert [p.name for p in (tmp_path / "photos").iterdir()] == ["cat.png"]


def test_a_broken_config_is_told(tmp_path):
    claim(tmp_path / "run", CONFIG)
    (tmp_path / "run/config.yaml").write_text("a: [1, {")
    with pytest.raises(ValueError, match=r"config.yaml cannot be read") as error:
        claim(tmp_path / "run", CONFIG)
    assert "\n" not in str(error.value)


@pytest.fixture
def run(tmp_path):
    handle = Run(tmp_path / "run")
    yield handle
    handle.close()


def test_cut_forgets_what_comes_after_and_a_torn_line(tmp_path):
    first = Run(tmp_path / "run")
    for step in (5, 10, 15):
        first.metrics(step, {"train/loss": 1 / step, "train/lr": float(step)})
    first.close()
    with open(tmp_path / "run/metrics.jsonl", "a") as file:
        file.write('{"step": 20, "name": "tra')
    second = Run(tmp_path / "run")
    second.cut(10)
    second.metrics(15, {"train/loss": 7.0})
    second.close()
    lines = read_metrics(tmp_path / "run/metrics.jsonl")
    assert [(r["step"], r["name"], r["value"]) for r in lines] == [
        (5, "train/loss", 0.2), (5, "train/lr", 5.0), (10, "train/loss", 0.1), (10, "train/lr", 10.0),
        (15, "train/loss", 7.0)]

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    board = EventAccumulator(str(tmp_path / "run")).Reload()
    assert {e.step: e.value for e in board.Scalars("train/loss")} == pytest.approx({5: 0.2, 10: 0.1, 15: 7.0})
    assert [e.step for e in board.Scalars("train/lr")] == [5, 10]


def test_a_broken_line_in_the_middle_is_an_error(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1\n{"step": 2, "name": "a", "value": 1}\n')
    with pytest.raises(ValueError, match=r"metrics.jsonl line 1 is no JSON"):
        read_metrics(tmp_path / "metrics.jsonl")
    assert read_metrics(tmp_path / "none.jsonl") == []


def test_log_goes_to_the_file_and_to_stdout(run, capsys):
    run.log("hello")
    run.log("quiet", echo=False)
    assert capsys.readouterr().out == "hello\n"
    lines = (run.folder / "log.txt").read_text().splitlines()
    assert [line.split("  ")[1] for line in lines] == ["hello", "quiet"]


def test_the_bar_is_silent_without_a_terminal(run, capsys):
    with run.progress(10, 3) as bar:
        bar.update()
        assert not run.bar_shown
        run.postfix("loss 1")
    assert capsys.readouterr() == ("", "")


def test_the_bar_shows_the_time_left_on_a_terminal(run, monkeypatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    with run.progress(10, 3) as bar:
        assert run.bar_shown
        bar.update()
        run.log("a line")  # does not cut through the bar
        run.postfix("loss 0.5")
        assert "4/10" in sys.stderr.getvalue() and "loss 0.5" in sys.stderr.getvalue()
        assert re.search(r"\[\d\d:\d\d<\d\d:\d\d", sys.stderr.getvalue())  # spent < left
    assert capsys.readouterr().out == "a line\n"


def test_null_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = Run.null()
    run.log("x")
    run.metrics(1, {"a": 1.0})
    run.cut(0)
    run.flush()
    with run.progress(3) as bar:
        bar.update()
    run.close()
    assert list(tmp_path.iterdir()) == [] and capsys.readouterr() == ("", "")


OTHER = """
import sys
from tools.log import Run
run = Run(sys.argv[1])
print("has it", flush=True)
sys.stdin.read()
"""


def test_two_processes_cannot_write_one_run(tmp_path):
    pytest.importorskip("fcntl")
    other = subprocess.Popen([sys.executable, "-c", OTHER, str(tmp_path / "run")], text=True,
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline() == "has it\n"
        with pytest.raises(ValueError, match="another process is training in"):
            Run(tmp_path / "run")
    finally:
        other.kill()
        other.communicate()
    Run(tmp_path / "run").close()  # the lock ended with the process
