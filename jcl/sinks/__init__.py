"""Sinks: callbacks that write the metrics of a run where people look at them.

`named` makes the sinks of a flag; a sink of another package inherits `Sink` and is found by
`package.module:name` or by an entry point of the group `jcl.sinks`.
"""

from collections.abc import Sequence

from jcl import plugins
from jcl.errors import UserError
from jcl.sinks.sink import Sink

__all__ = ['BUILT_IN', 'Sink', 'named']

BUILT_IN = {
  'tensorboard': 'jcl.sinks.tensorboard:TensorBoard',
  'wandb': 'jcl.sinks.weights_and_biases:WandB',
  'trackio': 'jcl.sinks.trackio:Trackio',
}


def named(names: Sequence[str]) -> list[Sink]:
  """Returns a new sink for each name.

  Args:
    names: keys of `BUILT_IN`, entry points, or `package.module:name`.

  Raises:
    UserError: nothing has the name, or it is no sink.
  """
  sinks = []
  for name in names:
    made = plugins.find('--sinks', name, BUILT_IN, 'jcl.sinks')
    if not (isinstance(made, type) and issubclass(made, Sink)):
      raise UserError(f'--sinks: {name} is no sink; give a class that inherits jcl.Sink')
    sinks.append(made())
  return sinks
