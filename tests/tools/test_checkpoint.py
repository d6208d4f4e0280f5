import os
import pickle

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from tools import checkpoint

PAYLOAD = {"kind": "toy", "step": 7, "state": {"w": torch.arange(2000.0), "b": torch.tensor(True)},
           "nested": [1, 2.5, None, ("a", {"x": torch.zeros(2, dtype=torch.bfloat16)})]}


@pytest.fixture
def file(tmp_path):
    checkpoint.save(tmp_path / "a" / "model.pth", PAYLOAD)
    return tmp_path / "a" / "model.pth"


def one_line_error(call, *words):
    with pytest.raises(ValueError) as error:
        call()
    text = str(error.value)
    assert "\n" not in text and all(str(w) in text for w in words), text
    return text


def test_round_trip(file):
    loaded = checkpoint.load(file)
    assert loaded["format"] == checkpoint.FORMAT and loaded["step"] == 7
    torch.testing.assert_close(loaded["state"], PAYLOAD["state"], rtol=0, atol=0)
    assert loaded["nested"][:3] == [1, 2.5, None] and loaded["nested"][3][0] == "a"
    assert [p.name for p in file.parent.iterdir()] == ["model.pth"]  # no temporary file is left


@pytest.mark.parametrize("keep", [0, 1, 10, 1000, 5000, -1])
def test_truncated(file, keep):
    file.write_bytes(file.read_bytes()[:keep])
    one_line_error(lambda: checkpoint.load(file), file, "damaged")


def test_flipped_bits_in_the_weights_are_found(file):
    data = bytearray(file.read_bytes())
    at = data.find(torch.arange(2000.0).numpy().tobytes()[4000:4100])
    data[at] ^= 1
    file.write_bytes(data)
    one_line_error(lambda: checkpoint.load(file), file, "damaged")


@pytest.mark.parametrize("content", [b"<html>404</html>", b"\x80\x02}q\x00.", b"PK\x03\x04", b"\x00\xff" * 9])
def test_other_files(tmp_path, content):
    (tmp_path / "x.pth").write_bytes(content)
    one_line_error(lambda: checkpoint.load(tmp_path / "x.pth"), "x.pth")


def test_missing_and_folder(tmp_path):
    one_line_error(lambda: checkpoint.load(tmp_path / "no.pth"), tmp_path / "no.pth", "does not exist")
    one_line_error(lambda: checkpoint.load(tmp_path), tmp_path, "is a folder")


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_that_would_run_code_is_refused(tmp_path, legacy):
    trap = str(tmp_path / "ran")
    torch.save({"format": checkpoint.FORMAT, "x": Evil(trap)}, tmp_path / "evil.pth",
               _use_new_zipfile_serialization=not legacy)
    one_line_error(lambda: checkpoint.load(tmp_path / "evil.pth"), "evil.pth", "refused", "posix.mkdir")
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Evil(trap)))
    one_line_error(lambda: checkpoint.load_raw(tmp_path / "bare.pth"), "bare.pth")
    assert not os.path.exists(trap)


@pytest.mark.parametrize("protocol", range(6))
def test_what_a_bare_pickle_asks_for_is_named_and_not_run(tmp_path, protocol):
    (tmp_path / "bare.pth").write_bytes(pickle.dumps({"a": "text", "b": Evil(str(tmp_path / "ran"))}, protocol))
    text = one_line_error(lambda: checkpoint.load_raw(tmp_path / "bare.pth"), "bare.pth")
    assert "refused: it holds posix.mkdir" in text or protocol < 2  # before protocol 2, nothing tells a pickle from text
    assert not (tmp_path / "ran").exists()


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_torchscript_is_refused_as_code(tmp_path):
    torch.jit.script(nn.Linear(1, 1)).save(tmp_path / "net.pt")
    one_line_error(lambda: checkpoint.load_raw(tmp_path / "net.pt"), "net.pt", "refused", "TorchScript")


# --- safetensors ---------------------------------------------------------------------------------------------

SHARED = torch.arange(6.0)
MODEL = {"kind": "toy", "step": 7, "config": {"sizes": [1, 2], "rate": 0.1, "none": None, "deep": {"flag": True}},
         "state": {"a": SHARED, "a.half": SHARED[:3], "turned": torch.arange(6).view(2, 3).T, "one": torch.tensor(2.5),
                   "b": torch.ones(2, dtype=torch.bfloat16)},
         "extra": {"mean": torch.full((3,), 0.5), "inner": {"state": {"a": torch.zeros(1)}, "list": [torch.ones(1), 2]}}}


@pytest.fixture
def tensors(tmp_path):
    checkpoint.save_safetensors(tmp_path / "b" / "model.safetensors", MODEL)
    return tmp_path / "b" / "model.safetensors"


def test_safetensors_bring_back_the_same_model(tensors):
    loaded = checkpoint.load(tensors)
    assert loaded.pop("format") == checkpoint.FORMAT and loaded.keys() == MODEL.keys()
    assert (loaded["kind"], loaded["step"], loaded["config"]) == (MODEL["kind"], MODEL["step"], MODEL["config"])
    torch.testing.assert_close([loaded["state"], loaded["extra"]], [MODEL["state"], MODEL["extra"]], rtol=0, atol=0)
    assert {name: value.dtype for name, value in loaded["state"].items()} == {k: v.dtype for k, v in MODEL["state"].items()}
    assert [p.name for p in tensors.parent.iterdir()] == ["model.safetensors"]
    checkpoint.save(tensors.with_name("plain.pth"), MODEL)
    assert tensors.stat().st_mode == tensors.with_name("plain.pth").stat().st_mode


def test_other_programs_find_the_weights_by_their_names(tensors):
    theirs = safetensors.torch.load_file(tensors)
    assert theirs.keys() >= MODEL["state"].keys() and torch.equal(theirs["extra.mean"], MODEL["extra"]["mean"])


def test_safetensors_are_told_by_content(tensors, tmp_path):
    assert checkpoint.load(tensors.rename(tmp_path / "x.pth"))["step"] == 7
    checkpoint.save(tmp_path / "plain.pth", MODEL)
    assert checkpoint.is_safetensors(tmp_path / "x.pth") and not checkpoint.is_safetensors(tmp_path / "plain.pth")


def test_safetensors_of_others_are_a_bare_state(tmp_path):
    safetensors.torch.save_file({"w": torch.arange(3.0)}, tmp_path / "x.safetensors", metadata={"format": "pt"})
    torch.testing.assert_close(checkpoint.load_raw(tmp_path / "x.safetensors"), {"w": torch.arange(3.0)})
    one_line_error(lambda: checkpoint.load(tmp_path / "x.safetensors"), "no checkpoint of this project")


@pytest.mark.parametrize("keep", [100, -1])
def test_truncated_safetensors(tensors, keep):
    tensors.write_bytes(tensors.read_bytes()[:keep])
    one_line_error(lambda: checkpoint.load(tensors), tensors, "damaged")


def test_flipped_bits_in_safetensors_are_found(tensors):
    data = bytearray(tensors.read_bytes())
    data[-1] ^= 1
    tensors.write_bytes(data)
    one_line_error(lambda: checkpoint.load(tensors), tensors, "damaged")


def test_safetensors_hold_tensors_only(tmp_path):
    one_line_error(lambda: checkpoint.save_safetensors(tmp_path / "x", {"state": {"w": SHARED, "lr": 0.1}}), "lr (float)")
    with pytest.raises(AssertionError, match=r"extra\.bad"):
        checkpoint.save_safetensors(tmp_path / "x", {"state": {}, "extra": {"bad": b"bytes"}})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("payload, words", [
    ({"w": torch.zeros(1)}, ['no "format"']),
    ({"format": "triplane-video/0"}, ['"triplane-video/0"', checkpoint.FORMAT]),
    ([1, 2], ['no "format"']),
])
def test_unknown_formats(tmp_path, payload, words):
    torch.save(payload, tmp_path / "x.pth")
    one_line_error(lambda: checkpoint.load(tmp_path / "x.pth"), "x.pth", *words)
    assert checkpoint.load_raw(tmp_path / "x.pth") == payload  # a foreign file may be read as it is


@pytest.mark.parametrize("value", [np.float64(1.0), np.zeros(3), {1, 2}, object(), nn.Linear(1, 1)])
def test_what_could_not_be_read_again_is_not_written(tmp_path, value):
    with pytest.raises(AssertionError, match=r"x.pth\['deep'\]\[1\]"):
        checkpoint.save(tmp_path / "x.pth", {"deep": [0, value]})
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_old_file_and_leaves_no_rest(file, monkeypatch):
    before = file.read_bytes()

    def full_disk(payload, out):
        out.write(b"half")
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError):
        checkpoint.save(file, PAYLOAD)
    assert file.read_bytes() == before and len(list(file.parent.iterdir())) == 1


def test_load_strict_names_the_first_five(tmp_path):
    net = nn.Sequential(*[nn.Linear(2, 2) for _ in range(4)])
    state = net.state_dict()
    wrong = {"0.weight": torch.zeros(3, 2), "0.bias": state["0.bias"], "module.x": torch.zeros(1)}
    one_line_error(lambda: checkpoint.load_strict(net, wrong, "file.pth"), "file.pth does not fit Sequential",
                   "6 missing: 1.weight, 1.bias, 2.weight, 2.bias, 3.weight, ...", "1 unexpected: module.x",
                   "1 of another shape: 0.weight (3, 2) for (2, 2)")
    good = {k: torch.full_like(v, 3.0) for k, v in state.items()}
    checkpoint.load_strict(net, good, "file.pth")
    assert all((p == 3).all() for p in net.parameters())


def test_hashes(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert checkpoint.file_hash(tmp_path / "x") == \
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
    state = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor(1)}
    same = checkpoint.state_hash(state)
    assert checkpoint.state_hash({"b": state["b"], "a": state["a"].T.contiguous().T}) == same
    others = [{**state, "b": torch.tensor(2)}, {**state, "b": torch.tensor(1.0)}, {"a": state["a"]},
              {**state, "a": state["a"].reshape(3, 2)}, {"a": state["a"], "c": state["b"]}]
    assert len({checkpoint.state_hash(s) for s in others} | {same}) == 6


def test_latest_passes_by_torn_and_foreign_files(tmp_path):
    assert checkpoint.latest(tmp_path) is None and checkpoint.latest(tmp_path / "none") is None
    for step in (9, 10, 100_000_000):
        checkpoint.save(checkpoint.step_path(tmp_path, step), {"step": step})
    for name in ("step-00000011.pt.tmp", "step-12.pt", "step-00000013.pth", "xstep-00000014.pt"):
        (tmp_path / name).write_bytes(b"")
    assert checkpoint.latest(tmp_path).name == "step-100000000.pt"
    torn = checkpoint.step_path(tmp_path, 100_000_000)
    torn.write_bytes(torn.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="torn"):
        assert checkpoint.latest(tmp_path).name == "step-00000010.pt"


def test_prune_keeps_the_newest_and_clears_what_a_kill_left(tmp_path):
    for step in (1, 2, 3, 20):
        checkpoint.save(checkpoint.step_path(tmp_path, step), {})
    (tmp_path / "step-00000021.pt.tmp").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    checkpoint.prune(tmp_path, keep=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["notes.txt", "step-00000003.pt", "step-00000020.pt"]
