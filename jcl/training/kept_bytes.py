"""The bytes that a method carries from task to task."""

from collections.abc import Mapping

import jax
import numpy as np

from jcl.streams.stream import Stream

NUMBER = 8  # bytes of a number that is in no array


def bytes_kept(memory: object, stream: Stream) -> int:
  """Returns the bytes of a method's memory: arrays, texts, and 8 for each plain number.

  A buffer keeps references to examples of the stream; it counts with the text of these examples,
  which must stay at hand for it.

  Args:
    memory: of the method, or a part of it.
    stream: of the run.
  """
  if isinstance(memory, np.ndarray | np.generic | jax.Array):
    return memory.nbytes
  if isinstance(memory, str):
    return len(memory.encode('utf-8', 'surrogatepass'))
  if isinstance(memory, int | float):
    return NUMBER
  if isinstance(memory, Mapping):
    inner = sum(bytes_kept(value, stream) for value in memory.values())
    return inner + _texts_of_buffer(memory.get('buffer'), stream)
  if isinstance(memory, list | tuple):
    return sum(bytes_kept(value, stream) for value in memory)
  return 0


def _texts_of_buffer(buffer: object, stream: Stream) -> int:
  """Returns the bytes of the texts that a buffer refers to; 0 for what is no buffer."""
  found = buffer.get('examples') if isinstance(buffer, Mapping) else None
  total = 0
  for reference in found or ():
    one = stream.example(reference)
    total += sum(len(t.encode('utf-8', 'surrogatepass')) for t in (one.text, one.answer))
  return total
