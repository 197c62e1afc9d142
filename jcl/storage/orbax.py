"""Orbax as snapshots use it: by one process, for arrays on the host; and why a write failed."""

import functools
import logging
import os
import pathlib
import re
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any

import jax
import numpy as np

SMALL = 2**20  # bytes of arrays, on the average, that are written together


def load_orbax() -> ModuleType:
  """Returns Orbax; importing it takes 2 s, which a refused run need not wait for.

  Orbax's threads print every failed write several times, with tracebacks. `Snapshots` reports a
  failed write in one line, so those prints are suppressed.
  """
  import orbax.checkpoint

  logging.getLogger('absl').addFilter(_is_not_thread_failure)
  if getattr(sys.unraisablehook, 'func', None) is not _unless_late:
    sys.unraisablehook = functools.partial(_unless_late, sys.unraisablehook)
  return orbax.checkpoint


def save_arrays(
  folder: pathlib.Path, arrays: Mapping[str, np.ndarray], compressed: bool = True
) -> None:
  """Writes arrays to a new folder, which has its name when it is complete.

  Args:
    folder: of this process alone.
    arrays: that nobody writes to meanwhile.
    compressed: by ZSTD, which takes longer than writing and makes weights 8 % smaller.
  """
  orbax = load_orbax()
  with _checkpointer(compressed) as checkpointer:
    checkpointer.save(folder.absolute(), args=orbax.args.PyTreeSave(dict(arrays)))


def load_arrays(folder: pathlib.Path, like: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns the arrays that `save_arrays` has written.

  Args:
    folder: that holds them.
    like: {name: array of the same shape and type} of all of them.
  """
  orbax = load_orbax()
  to_host = {name: orbax.RestoreArgs(restore_type=np.ndarray) for name in like}
  with _checkpointer() as checkpointer:
    how = orbax.args.PyTreeRestore(dict(like), restore_args=to_host)
    return checkpointer.restore(folder.absolute(), args=how)


def _checkpointer(compressed: bool = True) -> Any:
  """Returns what writes and reads arrays on the host for this process, whatever others do."""
  orbax, own = load_orbax(), jax.process_index()
  alone = orbax.options.MultiprocessingOptions(
    primary_host=own, active_processes={own}, barrier_sync_key_prefix=f'jcl{own}'
  )
  kinds = orbax.type_handlers
  registry = kinds.create_type_handler_registry(
    (np.ndarray, _numpy_handler()), (jax.Array, kinds.ArrayHandler(array_metadata_store=None))
  )
  handler = orbax.PyTreeCheckpointHandler(
    use_zarr3=True, use_compression=compressed, multiprocessing_options=alone,
    type_handler_registry=registry,
  )  # fmt: skip
  return orbax.Checkpointer(handler, multiprocessing_options=alone)


@functools.cache
def _numpy_handler() -> Any:
  """Returns Orbax's handler of NumPy arrays, which here writes in every process.

  That of Orbax writes in the first process alone, since it expects the same arrays in all of them.
  """
  import tensorstore
  from orbax.checkpoint._src.serialization import ocdbt_utils, tensorstore_utils, type_handlers

  class Handler(type_handlers.NumpyHandler):
    async def _background_serialize(self, values: Any, infos: Any, args: Any = None) -> None:
      # One commit, where that holds little in memory: each one writes an index of all arrays anew.
      together = sum(value.nbytes for value in values) < SMALL * len(values)
      commit = tensorstore.Transaction() if together else None
      for value, info, arg in zip(values, infos, args, strict=True):
        await info.await_path_creation()
        spec = tensorstore_utils.build_array_write_spec(
          info=info, arg=arg, global_shape=value.shape, local_shape=value.shape, dtype=value.dtype,
          use_ocdbt=info.is_ocdbt_checkpoint, metadata_key=self._metadata_key,
          process_index=ocdbt_utils.get_process_index_for_subdir(
            use_ocdbt=info.is_ocdbt_checkpoint, override_ocdbt_process_id=None
          ),
        )  # fmt: skip
        store = await tensorstore.open(
          tensorstore.Spec(spec.json),
          create=True,
          open=True,
          context=info.ts_context,
          transaction=commit,
        )
        await store.write(value, can_reference_source_data_indefinitely=True)
      if commit is not None:
        await commit.commit_async()

  return Handler(deepcopy_host_arrays=False)


def _is_not_thread_failure(record: logging.LogRecord) -> bool:
  """Whether a log record is anything but Orbax's report of a thread that raised."""
  return '_SignalingThread.run() raised' not in record.getMessage()


def _unless_late(hook: Callable[[Any], object], error: Any) -> None:
  """Calls the hook for an unraisable error, unless it is that of a write nobody waits for.

  When the first of several writes fails, the others end after their event loop is closed.

  Args:
    hook: the hook that was there before.
    error: as `sys.unraisablehook` takes it.
  """
  trace = error.exc_traceback
  if trace is None or trace.tb_frame.f_code.co_name != 'call_soon_threadsafe':
    hook(error)


def system_number(error: BaseException) -> int | None:
  """Returns the `errno` of an error, also where only its text holds it; None: it has none."""
  number = getattr(error, 'errno', None)
  if not isinstance(number, int):
    found = re.search(r"(?:Errno |os_error_code=')(\d+)", str(error))
    number = int(found[1]) if found else None
  return number


def failure_reason(error: BaseException) -> str:
  """Returns why a write failed, in the system's words if the error holds a system's number."""
  number = system_number(error)
  return os.strerror(number) if number else ' '.join(f'{type(error).__name__}: {error}'.split())
