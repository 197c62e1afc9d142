"""Shapes and types of arguments, checked by chex while a function is traced: free at run time."""

from collections.abc import Sequence

import chex
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike

from jcl.batching.batch import Batch
from jcl.errors import count_of

Size = int | None


def check_array(
  name: str,
  x: ArrayLike | None,
  shape: Sequence[Size],
  kind: DTypeLike | None = None,
  optional: bool = False,
) -> None:
  """Refuses an array of another shape or type.

  Args:
    name: of the argument, which the message ends with.
    x: the array, or its tracer.
    shape: size of each dimension; None: any size.
    kind: `jnp.floating`, `jnp.integer`, `jnp.bool_`, or a dtype; None: any type.
    optional: x may be None.

  Raises:
    AssertionError: shape or type differ.
  """
  if x is None and optional:
    return
  chex.assert_shape(x, tuple(shape), custom_message=f'argument {name}')
  if kind is not None:
    chex.assert_type(x, kind, custom_message=f'argument {name}')


def check_divisible(name: str, size: int, parts: int) -> None:
  """Refuses an array whose leading axis of `size` does not divide into equal parts.

  Raises:
    AssertionError: naming the argument, its size and the parts.
  """
  words = f'the leading axis of argument {name} must divide into {count_of(parts, "equal part")}'
  chex.assert_is_divisible(size, parts, custom_message=words)


def check_batch(batch: Batch, blocks: int = 1) -> None:
  """Refuses a batch whose arrays do not fit together; see `Batch` for their shapes.

  Args:
    batch: of all devices, or one device's part.
    blocks: parts into which rows and targets divide evenly.

  Raises:
    AssertionError: naming the field.
  """
  chex.assert_rank(batch.tokens, 2, custom_message='argument batch.tokens')
  chex.assert_rank(batch.target_token, 1, custom_message='argument batch.target_token')
  chex.assert_rank(batch.length, 1, custom_message='argument batch.length')
  lines, targets = batch.tokens.shape, batch.target_token.shape[0]
  rows = lines[0] if batch.segment is None else batch.length.shape[0]
  for name, size in (('tokens', lines[0]), ('length', rows), ('target_token', targets)):
    check_divisible(f'batch.{name}', size, blocks)
  check_array('batch.tokens', batch.tokens, lines, jnp.integer)
  for name in ('segment', 'position'):
    check_array(f'batch.{name}', getattr(batch, name), lines, jnp.integer, optional=True)
  if (batch.segment is None) != (batch.position is None):
    raise AssertionError('argument batch.segment and argument batch.position must both be given')
  check_array('batch.key', batch.key, (rows, 2), jnp.uint32)
  for name, size, kind in (
    ('length', rows, jnp.integer), ('task', rows, jnp.integer),
    ('replay', rows, jnp.bool_), ('generative', rows, jnp.bool_),
    ('target_row', targets, jnp.integer),
    ('target_position', targets, jnp.integer), ('target_token', targets, jnp.integer),
    ('target_weight', targets, jnp.floating),
  ):  # fmt: skip
    check_array(f'batch.{name}', getattr(batch, name), (size,), kind)
  for name in ('allowed', 'known'):
    check_array(f'batch.{name}', getattr(batch, name), (targets, None), jnp.bool_, optional=True)
  for name, values in batch.fields.items():
    check_array(f'batch.fields[{name!r}]', values, (targets, *[None] * (values.ndim - 1)))
  delta, shape = batch.embedding_delta, (*lines, None)
  check_array('batch.embedding_delta', delta, shape, jnp.floating, optional=True)
