"""TFRecord files of Examples, written by others' code: protocol buffers' encoder and tensorboard's record writer."""

import functools

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from tensorboard.summary.writer.record_writer import RecordWriter

_TYPES = descriptor_pb2.FieldDescriptorProto
_LISTS = {"BytesList": _TYPES.TYPE_BYTES, "FloatList": _TYPES.TYPE_FLOAT, "Int64List": _TYPES.TYPE_INT64}


@functools.cache
def _example_class():
    file = descriptor_pb2.FileDescriptorProto(name="records.proto", package="records", syntax="proto3")

    def message(name, *fields):
        added = file.message_type.add(name=name)
        for number, (field, kind, repeated) in enumerate(fields, 1):
            made = added.field.add(name=field, number=number,
                                   label=_TYPES.LABEL_REPEATED if repeated else _TYPES.LABEL_OPTIONAL)
            if isinstance(kind, str):
                made.type, made.type_name = _TYPES.TYPE_MESSAGE, f".records.{kind}"
            else:
                made.type = kind

    for name, kind in _LISTS.items():
        message(name, ("value", kind, True))
    message("Feature", ("bytes_list", "BytesList", False), ("float_list", "FloatList", False),
            ("int64_list", "Int64List", False))
    message("Entry", ("key", _TYPES.TYPE_STRING, False), ("value", "Feature", False))  # a map is so on the wire
    message("Features", ("feature", "Entry", True))
    message("Example", ("features", "Features", False))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("records.Example"))


def example(features):
    """Encode name -> bytes, list of bytes, float array or int array."""
    message = _example_class()()
    for name, value in features.items():
        entry = message.features.feature.add(key=name)
        if isinstance(value, (bytes, list)):
            entry.value.bytes_list.value.extend([value] if isinstance(value, bytes) else value)
        elif np.issubdtype(value.dtype, np.floating):
            entry.value.float_list.value.extend(value.tolist())
        else:
            entry.value.int64_list.value.extend(value.tolist())
    return message.SerializeToString()


def write_records(path, records):
    """Write bytes as a TFRecord file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        writer = RecordWriter(file)
        for record in records:
            writer.write(record)
    return path


def trajectory(seed, frames=20):
    """A record of BAIR's with frames uint8 t h w 3 of two cameras: (bytes, aux1, main)."""
    aux1, main = np.random.default_rng(seed).integers(0, 256, (2, frames, 64, 64, 3), dtype=np.uint8)
    features = {}
    for t in range(frames):
        features |= {f"{t}/image_aux1/encoded": aux1[t].tobytes(), f"{t}/image_main/encoded": main[t].tobytes(),
                     f"{t}/action": np.float32([t, 0.5, -1, 0]), f"{t}/endeffector_pos": np.float32([0, 1, t])}
    return example(features), aux1, main
