"""The tools of a run, which every hook of a method is given."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import jax
import numpy as np

from jcl.backbones import Backbone
from jcl.batching.batch import Batch, Heads, Row
from jcl.batching.text_formats import Text
from jcl.streams.stream import Example, Reference, Stream, Task, TaskPlan
from jcl.types import Params

Input = TypeVar('Input')
Result = TypeVar('Result')


class Tools(Protocol):
  """Tools of a hook: facts of a run, random keys, and long work over many examples.

  All work but `learn` is in deterministic mode, without dropout. Its results do not
  depend on the number of devices, up to rounding.

  `map_targets`, `fold_targets`, `mean_targets`, `mean_examples`, `sample`, `learn` and `fold` work
  in chunks. A run that is killed in a chunk repeats that chunk at most: the hook is called again
  from its start with its first arguments, and finished chunks are answered from the snapshot. A
  hook therefore

  - is a function of its arguments: it reads no clock, no global variable and no hidden generator;
  - asks for the same work in the same order: it does not iterate over a set;
  - returns a new memory (`memory | {...}`) and changes nothing in place.

  A function that is given to `map_targets`, `mean_targets`, `mean_examples` or `learn` compiles
  once for as long as it is the same object, so it is made where the method is built, not in a hook.
  """

  @property
  def backbone(self) -> Backbone:
    """The model that learns."""

  @property
  def text(self) -> Text:
    """The tokenizer, and the text format in which examples become rows."""

  @property
  def stream(self) -> Stream:
    """All tasks of the run."""

  @property
  def seed(self) -> int:
    """The seed of the run, `train.seed`; every random draw is a function of it."""

  @property
  def batch_size(self) -> int:
    """Rows in a chunk of work, on all devices together (`evaluate.batch_size`, rounded up)."""

  @property
  def task_index(self) -> int:
    """Index of the task that the hook is called for; 0 in `init`."""

  @property
  def task_id_given(self) -> bool:
    """Whether the model is given the task id at test time."""

  @property
  def heads(self) -> Heads | None:
    """Classes that may be answered in the task under way; None for a model without a head."""

  def key(self, purpose: str, *numbers: int) -> jax.Array:
    """Returns a random key that is a function of (seed, purpose, numbers).

    Args:
      purpose: a word of the method's own, so that its draws are not those of another part.
      *numbers: such as the index of the task.
    """

  def report(self, **lines: Any) -> None:
    """Adds an entry to each list of `results.json` that is named, when the hook has returned.

    Args:
      **lines: `report(buffer={'after': task.name})` adds to the list `buffer`; values are plain
        data that JSON can hold. Entries of `warnings` are also shown to the user.
    """

  def example(self, one: Example | Reference) -> Example:
    """Returns the example that a reference stands for; an example returns as it is."""

  def rows(
    self, examples: Sequence[Example | Reference], replay: bool = False
  ) -> Sequence[tuple[Row, ...]]:
    """Returns the rows of each example in the method's text format, in the order given.

    The rows of an example are made each time they are asked for: not all of them are in memory at
    once. Their lengths alone are known without them, by `text.outlines`.

    Args:
      examples: examples or references.
      replay: whether the rows are marked as replay rows.
    """

  def trained(self, plan: TaskPlan, task: Task) -> list[Example]:
    """Returns the new examples of a plan in the order in which they are first trained on.

    There are fewer of them than in the plan if `train.steps` ends the task before every example
    had its turn.

    Args:
      plan: the plan of `task`.
      task: the task that the plan trains.
    """

  def steps_per_epoch(self, examples: int) -> int:
    """Returns the steps of one epoch over `examples` new examples; old ones add no step here."""

  def fold(
    self, name: str, body: Callable[[Any, Any], Any], carry: Any, chunks: Sequence[Any]
  ) -> Any:
    """Returns carry = body(carry, chunk) over all chunks; a kill costs one chunk at most.

    Args:
      name: shown by the progress bar.
      body: (carry, chunk) -> carry, a function of its arguments; it may fill NumPy arrays of the
        carry in place.
      carry: a pytree of arrays in their final shapes; None: `body` makes it from the first chunk.
      chunks: pieces of the work, in order.
    """

  def map_targets(
    self, fn: Callable[[Input, Batch], jax.Array], params: Input, rows: Sequence[Row],
    name: str = '',
  ) -> list[np.ndarray]:  # fmt: skip
    """Returns fn(params, batch) at the targets of many rows: an array [m, …] a row.

    Args:
      fn: (params, batch) -> [M, …], such as `backbone.hidden`.
      params: its first argument.
      rows: rows of any lengths; each is computed in the smallest length bucket that holds it.
      name: of the work; empty: the name of `fn`.

    Returns:
      One array a row, in the order of `rows`; m is the number of targets of that row.
    """

  def fold_targets(
    self, fn: Callable[[Input, Batch], jax.Array], params: Input, rows: Sequence[Row],
    body: Callable[[Any, Sequence[int], list[np.ndarray]], Any], carry: Any, name: str = '',
  ) -> Any:  # fmt: skip
    """Returns carry = body(carry, members, values) over all rows, some rows at a time.

    In contrast to `map_targets` the values of all rows are never held at once, and the shape in
    which a row is computed depends on its length alone, not on `evaluate.batch_size` or the number
    of devices.

    Args:
      fn: (params, batch) -> [M, …].
      params: its first argument.
      rows: rows of any lengths.
      body: (carry, members, values) -> carry: `members` are indices of rows, `values` their arrays
        [m, …]. It may fill NumPy arrays of the carry in place, where they can be written.
      carry: a pytree of arrays in their final shapes.
      name: of the work; empty: the name of `fn`.
    """

  def mean_targets(
    self, fn: Callable[[Input, Batch], dict[str, jax.Array]], params: Input,
    examples: Sequence[Example],
  ) -> tuple[dict[str, float], int]:  # fmt: skip
    """Returns means over all targets of many blocks of raw text, and the number of targets.

    Args:
      fn: (params, batch) -> {name: [M]}.
      params: its first argument.
      examples: blocks of raw text, which have one row each.
    """

  def placed(self, params: Params) -> Params:
    """Returns parameters on the devices, sharded as the run's own are.

    Args:
      params: arrays, or leaves that are still in their files.
    """

  def mean_examples(
    self, fn: Callable[[Input, Batch], Result], params: Input,
    examples: Sequence[Example | Reference], together: int = 1,
  ) -> Result:  # fmt: skip
    """Returns the mean over examples of fn(params, batch of the rows of one example).

    Args:
      fn: (params, batch) -> a pytree, such as a squared gradient.
      params: its first argument.
      examples: in any order.
      together: examples that `fn` sees in one batch, drawn by the seed; the value then counts for
        each of them.
    """

  def learn(
    self, params: Params, plan: TaskPlan, loss_fn: Callable[..., Any], epochs: int,
    name: str = 'learn',
  ) -> Params:  # fmt: skip
    """Returns parameters that have learned the examples of a plan apart from the run.

    They take the steps that a task of this plan would take, with the run's settings of training and
    a fresh optimiser, in the order of the current task; dropout is on. A kill costs 16 steps.

    Args:
      params: where the training starts.
      plan: examples, mix and weights of terms.
      loss_fn: as `Method.loss_fn`; its `teacher_params` are empty. The same function object for all
        tasks, so that it compiles once.
      epochs: passes over the new examples.
      name: of the work.
    """

  def sample(
    self, params: Params, prompts: Sequence[Sequence[int]], key: jax.Array, first: int = 0,
    k: int = 1, temperature: float = 1.0, max_new: int = 32, name: str = 'sample',
  ) -> np.ndarray:  # fmt: skip
    """Continues prompts by top-k sampling.

    Args:
      params: parameters of the backbone.
      prompts: R lists of token ids.
      key: prompt i draws from fold_in(key, first + i), whatever its chunk or device.
      first: number of the first prompt.
      k: number of candidates a token; 1 is greedy decoding.
      temperature: of the softmax over the candidates.
      max_new: tokens drawn at most, end-of-sequence included.
      name: of the work.

    Returns:
      [R, max_new] int32, the padding token after the first end-of-sequence.
    """
