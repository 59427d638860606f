"""TensorBoard: an event file in the run folder."""

from __future__ import annotations

import io
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, types_pb2  # type: ignore[import-untyped]
from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]
from torch import Tensor

from ..._yaml import to_yaml
from ...pictures import to_pillow
from . import Outcome

__all__ = ["EventFile", "open_tracker"]


def open_tracker(folder: Path, step: int, config: Mapping[str, Any]) -> EventFile:
    return EventFile(folder, step, config)


class EventFile:
    """Written in this thread: torch's SummaryWriter reports a full disk from another one. Each process has a file of
    its own; what one that was killed wrote of steps after its last checkpoint is void."""

    def __init__(self, folder: Path, step: int, config: Mapping[str, Any]):
        name = f"events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._file = open(folder / name, "xb")
        self._records = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")
        if step:
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._write(step=step + 1, session_log=start)
        text = tensor_pb2.TensorProto(dtype=types_pb2.DT_STRING, string_val=[f"```\n{to_yaml(config)}```".encode()])
        plugin = summary_pb2.SummaryMetadata.PluginData(plugin_name="text")
        self._summary(step, tag="config", metadata=summary_pb2.SummaryMetadata(plugin_data=plugin), tensor=text)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        entries = [summary_pb2.Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._write(step=step, summary=summary_pb2.Summary(value=entries))

    def image(self, step: int, name: str, grid: Tensor) -> None:
        png = io.BytesIO()
        to_pillow(grid).save(png, format="PNG")
        channels, height, width = grid.shape
        image = summary_pb2.Summary.Image(
            height=height, width=width, colorspace=channels, encoded_image_string=png.getvalue()
        )
        self._summary(step, tag=name, image=image)

    def end(self, outcome: Outcome) -> None:
        self._file.close()

    def _summary(self, step: int, **content: Any) -> None:
        self._write(step=step, summary=summary_pb2.Summary(value=[summary_pb2.Summary.Value(**content)]))

    def _write(self, **content: Any) -> None:
        self._records.write(event_pb2.Event(wall_time=time.time(), **content).SerializeToString())
        self._records.flush()
