"""What an offline run of Weights & Biases wrote down."""

from __future__ import annotations


def records(file):
    """The protocol buffers of a .wandb file, which has no public reader: a LevelDB log, in blocks of 32 KiB."""
    from wandb.proto import wandb_internal_pb2

    data, at, parts = file.read_bytes(), 7, []  # after W&B's own header
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts.append(data[at + 7 : at + 7 + length])
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(b"".join(parts))
            parts = []
            yield record
