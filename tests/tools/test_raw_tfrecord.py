"""TFRecords against other people's writers, and what damage to any byte does."""

import numpy as np
import pytest
from records import example, write_records
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import crc32c as slow_crc32c

from tools.raw_tfrecord import crc32c, parse_example, peek, read_record, spans


@pytest.mark.parametrize("data, checksum", [  # RFC 3720, appendix B.4, and the check value of the CRC catalogues
    (bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43), (bytes(range(32)), 0x46DD794E),
    (bytes(range(31, -1, -1)), 0x113FDB5C), (b"123456789", 0xE3069283), (b"", 0)])
def test_published_checksums(data, checksum):
    assert crc32c(data) == checksum


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 1023, 1024, 1025, 2048, 2049, 5000])
def test_checksum_of_any_length_is_that_of_the_byte_by_byte_one(length):
    data = np.random.default_rng(length).bytes(length)
    assert crc32c(data) == slow_crc32c(data)


def test_records_come_back(tmp_path):
    records = [b"", b"a", np.random.default_rng(0).bytes(3000)]
    path = write_records(tmp_path / "a.tfrecords", records)
    assert [read_record(path, span) for span in spans(path)] == records


FEATURES = {"name": b"push", "names": [b"a", b"", b"c" * 300], "pos": np.float32([0.5, -2, 1e9]),
            "count": np.int64([0, 300, -1, 2 ** 62, -2 ** 63]), "none": np.float32([])}


def test_an_example_comes_back():
    parsed = parse_example(example(FEATURES), "a")
    assert parsed.keys() == FEATURES.keys() and parsed["name"] == [b"push"] and parsed["names"] == FEATURES["names"]
    for name in ("pos", "count"):
        np.testing.assert_array_equal(parsed[name], FEATURES[name])
        assert parsed[name].dtype == FEATURES[name].dtype
    assert len(parsed["none"]) == 0


def test_unpacked_numbers_are_read():
    # protocol buffers allow numbers of a list one by one: field 1 as a varint (key 8) or four bytes (key 13)
    integers = b"\x1a\x05" + b"\x08\x05" + b"\x08\xac\x02"
    floats = b"\x12\x0a" + b"\x0d" + np.float32(1.5).tobytes() + b"\x0d" + np.float32(-2).tobytes()
    for feature, wanted in ((integers, [5, 300]), (floats, [1.5, -2])):
        entry = b"\x0a\x01x\x12" + bytes([len(feature)]) + feature
        features = b"\x0a" + bytes([len(entry)]) + entry
        parsed = parse_example(b"\x0a" + bytes([len(features)]) + features, "a")
        assert parsed["x"].tolist() == wanted


def test_names_are_known_without_the_values(tmp_path):
    path = write_records(tmp_path / "a", [example({"x": b"1"}), example(FEATURES)])
    assert peek(path, list(spans(path))[1]) == set(FEATURES)


def test_any_changed_byte_is_noticed(tmp_path):
    path = write_records(tmp_path / "a", [example({"x": b"123"}), b"next"])
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1:])
        with pytest.raises(ValueError, match=r"(record 0|record 1) is damaged or cut short|wrong checksum"):
            [read_record(path, span) for span in spans(path)]


def test_a_file_that_is_cut_short_gives_the_records_before(tmp_path):
    path = write_records(tmp_path / "a", [b"one", b"two"])
    whole = path.read_bytes()
    for size in range(len(whole) // 2 + 1, len(whole)):
        path.write_bytes(whole[:size])
        rest = spans(path)
        assert read_record(path, next(rest)) == b"one"
        with pytest.raises(ValueError, match=rf"record 1 is damaged or cut short \({size} bytes\)"):
            next(rest)


@pytest.mark.parametrize("data", [b"\x0a", b"\x0a\x05ab", b"hello", b"\xff" * 12])
def test_what_is_no_example_is_refused(data):
    with pytest.raises(ValueError, match="no Example"):
        parse_example(data, "a")
