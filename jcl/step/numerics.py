"""The arithmetic that jcl computes with, whatever jax is set to around it.

A program that imports jcl may have set `jax_enable_x64`, strict promotion of types or of ranks, or
another generator of random numbers for its own work. jcl's numbers are float32 (bfloat16 where a
setting says so) and its draws those of Threefry, so that a run has the same results everywhere;
optax cannot be traced under strict promotion of types. A guard of transfers is for programs whose
data stay on the device; jcl's rows are made on the host. What helps to find faults
(`jax_debug_nans`, `jax_check_tracer_leaks`) and the precision of products stay as they are.
"""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar, cast

Arguments = ParamSpec('Arguments')
Returned = TypeVar('Returned')


@contextlib.contextmanager
def own_arithmetic() -> Iterator[None]:
  """Computes with jcl's own settings inside; they hold for this thread alone."""
  import jax  # here, since `import jcl` loads nothing heavy

  with (
    jax.enable_x64(False),
    jax.numpy_dtype_promotion('standard'),
    jax.numpy_rank_promotion('allow'),
    jax.default_prng_impl('threefry2x32'),
    jax.threefry_partitionable(True),
    jax.transfer_guard('allow'),
  ):
    yield


def computing(fn: Callable[Arguments, Returned]) -> Callable[Arguments, Returned]:
  """Returns the function computing under `own_arithmetic`; a generator between its yields too."""
  if not inspect.isgeneratorfunction(fn):

    @functools.wraps(fn)
    def called(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Returned:
      with own_arithmetic():
        return fn(*args, **kwargs)

    return called

  @functools.wraps(fn)
  def items(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Iterator[object]:
    with own_arithmetic():
      made = cast(Iterator[object], fn(*args, **kwargs))
    end = object()
    while True:
      with own_arithmetic():
        item = next(made, end)
      if item is end:
        return
      yield item

  return cast(Callable[Arguments, Returned], items)
