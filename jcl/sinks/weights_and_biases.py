"""Weights & Biases, by its package wandb: online, or offline with WANDB_MODE=offline."""

import os
import tempfile
from collections.abc import Mapping

from jcl.errors import UserError
from jcl.sinks import metrics
from jcl.sinks.sink import Settings, Tracker, package
from jcl.types import Json

WITHOUT_LOGIN = ('offline', 'dryrun', 'disabled')  # modes


class WandB(Tracker):
  """Writes to a run of Weights & Biases.

  Args:
    project: that the run belongs to.
    **init: more arguments of `wandb.init`, such as `entity`, `group`, `tags` or `mode`.
  """

  name = 'wandb'

  def open(self, run: Json, settings: Settings, note: Json) -> None:
    """Begins a run, or goes on with it.

    Raises:
      UserError: wandb is not installed, or nobody is logged in.
    """
    wandb = package('wandb', self.name)
    mode = self._init.get('mode') or os.environ.get('WANDB_MODE') or 'online'
    if mode not in WITHOUT_LOGIN and not wandb.api.api_key:
      raise UserError('wandb: nobody is logged in; call wandb login, or set WANDB_MODE=offline')
    given = {
      'project': self._project, 'id': run['id'], 'name': run['name'], 'resume': 'allow',
      'dir': run['workdir'] or tempfile.mkdtemp(prefix='jcl-wandb-'),
      'config': self._config(run, settings),
      # It would else put itself between the run and its terminal, and read its output.
      'settings': wandb.Settings(console='off', silent=True, init_timeout=60),
    }  # fmt: skip
    self._run = wandb.init(**{**given, **self._init})
    for group in sorted({name.partition('/')[0] for name in metrics.UNITS}):
      inside = group in ('train', 'speed', 'dev')
      self._run.define_metric(f'{group}/*', step_metric='run_step' if inside else 'tasks')

  def write(self, values: Mapping[str, float], axis: str, at: int) -> None:
    """Logs the values beside their place on the axis."""
    self._run.log({**values, axis: at})

  def picture(self, name: str, png: bytes, at: int) -> None:
    """Logs a picture."""
    import wandb

    with tempfile.NamedTemporaryFile(suffix='.png') as file:
      file.write(png)
      file.flush()
      self._run.log({name: wandb.Image(file.name), 'tasks': at})

  def close(self, finished: bool) -> None:
    """Ends the run; one that is not finished counts as failed until it goes on."""
    self._run.finish(exit_code=0 if finished else 1)
