"""TensorBoard: event files, by the package tensorboardX; neither TensorFlow nor torch is needed."""

import pathlib
import time
from collections.abc import Mapping
from typing import Any

from jcl.errors import UserError
from jcl.sinks.sink import Settings, Sink, package
from jcl.storage import paths
from jcl.types import Json


class TensorBoard(Sink):
  """Writes event files that TensorBoard shows: `tensorboard --logdir=FOLDER`.

  Args:
    folder: of the event files; None: `sinks/tensorboard` of the run's workdir.
  """

  name = 'tensorboard'

  def __init__(self, folder: str | pathlib.Path | None = None):
    super().__init__()
    self._folder = None if folder is None else paths.local(folder, 'TensorBoard: folder')
    self._writer: Any = None
    self._path = pathlib.Path()

  def open(self, run: Json, settings: Settings, note: Json) -> None:
    """Opens a new event file; what a killed run wrote after its last note is cut off.

    Raises:
      UserError: tensorboardX is not installed, or there is no folder to write to.
    """
    package('tensorboardX', self.name)
    from tensorboardX.event_file_writer import EventsWriter

    folder = self._folder
    if folder is None:
      if run['workdir'] is None:
        raise UserError('TensorBoard: the run has no workdir; give TensorBoard(folder)')
      folder = pathlib.Path(run['workdir']) / 'sinks' / self.name
    folder.mkdir(parents=True, exist_ok=True)
    if note and (folder / note['file']).is_file():
      with open(folder / note['file'], 'r+b') as file:
        file.truncate(note['length'])
    before = len([*folder.glob('events.out.tfevents.*')])
    # The name has the second only: a run that goes on at once must not write over the file.
    self._writer = EventsWriter(str(folder / 'events'), f'.{before:04}')
    self._path = pathlib.Path(self._writer._file_name)
    if not note:
      self._begin(run, settings)

  def _begin(self, run: Json, settings: Settings) -> None:
    """Writes the settings: as hyperparameters, and as a table."""
    from tensorboardX import summary

    facts = {k: run[k] for k in ('method', 'stream', 'scenario', 'seed')}
    every = {**facts, **settings}
    experiment, start, _ = summary.hparams(every, {'metrics/average_accuracy': 0})
    for part in (experiment, start):
      self._add(part, 0)
    rows = [f'| {name} | {str(value).replace("|", "&#124;")} |' for name, value in every.items()]
    self._add(summary.text('settings', '\n'.join(['| setting | value |', '|---|---|', *rows])), 0)

  def _add(self, part: Any, at: int) -> None:
    from tensorboardX.proto.event_pb2 import Event

    self._writer.write_event(Event(wall_time=time.time(), step=at, summary=part))

  def write(self, values: Mapping[str, float], axis: str, at: int) -> None:
    """Writes each value at its step or number of tasks; its unit is its description."""
    from tensorboardX import summary

    for name, value in values.items():
      unit = self.unit(name)
      words = f'{unit}; by tasks learned' if axis == 'tasks' else unit
      self._add(summary.scalar(name, value, display_name=name, summary_description=words), at)

  def picture(self, name: str, png: bytes, at: int) -> None:
    """Writes a picture as it is."""
    from tensorboardX.proto.summary_pb2 import Summary

    width, height = (int.from_bytes(png[k : k + 4]) for k in (16, 20))  # of the PNG's header
    image = Summary.Image(height=height, width=width, colorspace=4, encoded_image_string=png)
    self._add(Summary(value=[Summary.Value(tag=name, image=image)]), at)

  def flush(self) -> Json:
    """Hands all events to the system; returns the file and its length."""
    self._writer.flush()
    return {'file': self._path.name, 'length': self._path.stat().st_size}

  def close(self, finished: bool) -> None:
    """Closes the file."""
    self._writer.close()
