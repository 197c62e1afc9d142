"""Trackio: experiment tracking on the own machine or in a Space of Hugging Face."""

import contextlib
import io
from collections.abc import Mapping

from jcl.sinks.sink import Settings, Tracker, package
from jcl.types import Json


class Trackio(Tracker):
  """Writes to a run of trackio, which `trackio show` shows.

  Args:
    project: that the run belongs to.
    **init: more arguments of `trackio.init`, such as `space_id`.
  """

  name = 'trackio'

  def open(self, run: Json, settings: Settings, note: Json) -> None:
    """Begins a run, or goes on with it.

    Raises:
      UserError: trackio is not installed.
    """
    trackio = package('trackio', self.name)
    given = {
      'project': self._project, 'name': f'{run["name"]}-{run["id"]}',
      'config': self._config(run, settings), 'resume': 'allow', 'embed': False,
    }  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):  # a page of instructions
      self._run = trackio.init(**{**given, **self._init})

  def write(self, values: Mapping[str, float], axis: str, at: int) -> None:
    """Logs the values at their step or number of tasks."""
    self._run.log({**values, axis: at}, step=at)

  def picture(self, name: str, png: bytes, at: int) -> None:
    """Logs a picture."""
    import PIL.Image
    import trackio

    with PIL.Image.open(io.BytesIO(png)) as picture:
      self._run.log({name: trackio.Image(picture.copy())}, step=at)

  def close(self, finished: bool) -> None:
    """Ends the run."""
    import trackio

    with contextlib.redirect_stdout(io.StringIO()):
      trackio.finish()  # which leaves nothing for it to do at the end of the process
