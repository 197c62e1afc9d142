"""Samples and answers of torch loops, by transformers' `generate`."""

import copy
import time
from collections.abc import Callable
from typing import Any

import torch

from jcl.benchmarks.torch_model import wait
from jcl.benchmarks.work import Prompts
from jcl.errors import count_of


class Writer:
  """Continues prompts, left-padded, with a key-value cache.

  Args:
    eos, pad: ids.
    dtype: of the computation.
    say: takes a line about what was chosen.
    rows: prompts that are continued together, whatever is asked for; 0: as it is asked for.
    default_rows: the same where nothing is asked for.
    by_length: whether prompts of like length go together.
    compiled: whether a static cache, with which transformers compiles the step of a token, is tried
      for each number of rows and kept where it is faster.
  """

  def __init__(
    self, eos: int, pad: int, dtype: str, say: Callable[[str], None], rows: int = 0,
    default_rows: int = 1, by_length: bool = False, compiled: bool = False,
  ):  # fmt: skip
    self._ids = {'eos_token_id': eos, 'pad_token_id': pad}
    self._dtype, self._say, self._rows, self._default_rows = dtype, say, rows, default_rows
    self._by_length, self._compiled = by_length, compiled
    self._static: dict[int, bool] = {}

  def __call__(self, model: torch.nn.Module, prompts: Prompts) -> list[list[int]]:
    """Returns the new tokens of each prompt, up to its end-of-sequence.

    Args:
      model: that writes.
      prompts: to be continued.
    """
    rows = self._rows or prompts.rows or self._default_rows
    if self._compiled and rows not in self._static:
      self._static[rows] = self._static_helps(model, prompts, rows)
    return self._written(model, prompts, rows, self._static.get(rows, False))

  def _static_helps(self, model: torch.nn.Module, prompts: Prompts, rows: int) -> bool:
    """Returns whether the static cache is faster; a first call of each is not timed."""
    seconds = {}
    for static in (False, True):
      try:
        for _ in range(2):
          start = time.perf_counter()
          self._written(model, prompts, rows, static)
          wait()
          seconds[static] = time.perf_counter() - start
      except Exception as error:  # whatever a compiler raises
        if not static:
          raise
        seconds[static] = float('inf')
        self._say(f'a static cache failed: {" ".join(str(error).split())[:160]}')
    chosen = 'a static cache, compiled,' if seconds[True] < seconds[False] else 'a growing cache'
    self._say(f'{count_of(rows, "row")}: {chosen} is faster and is timed')
    return seconds[True] < seconds[False]

  def _written(
    self, model: torch.nn.Module, prompts: Prompts, rows: int, static: bool
  ) -> list[list[int]]:
    """Returns the new tokens of each prompt, `rows` prompts at a time."""
    order = list(range(len(prompts.ids)))
    if self._by_length:
      order.sort(key=lambda i: len(prompts.ids[i]))
    if self._dtype == 'bfloat16':
      model = copy.deepcopy(model).to(torch.bfloat16)
    how: dict[str, Any] = {'do_sample': False}
    if prompts.k > 1:
      how = {'do_sample': True, 'top_k': prompts.k, 'temperature': 1.0, 'top_p': 1.0}
    if static:
      how['cache_implementation'] = 'static'
    found: list[list[int]] = [[]] * len(prompts.ids)
    for first in range(0, len(order), rows):
      chunk = order[first : first + rows]
      ids, mask = _left_padded([prompts.ids[i] for i in chunk], self._ids['pad_token_id'])
      with torch.inference_mode():
        out = model.generate(
          ids.to(model.device), attention_mask=mask.to(model.device),
          max_new_tokens=prompts.longest, **self._ids, **how,
        )  # fmt: skip
      for place, i in enumerate(chunk):
        found[i] = self._up_to_end(out[place, ids.shape[1] :].tolist())
    return found

  def _up_to_end(self, new: list[int]) -> list[int]:
    """Returns tokens up to the first end-of-sequence, which is included."""
    eos = self._ids['eos_token_id']
    return new[: new.index(eos) + 1] if eos in new else new


def _left_padded(prompts: list, pad: int) -> tuple[torch.Tensor, torch.Tensor]:
  """Returns ids and mask of prompts, each [B, P]."""
  width = max(map(len, prompts))
  ids = torch.full((len(prompts), width), pad)
  mask = torch.zeros((len(prompts), width), dtype=torch.long)
  for place, prompt in enumerate(prompts):
    ids[place, width - len(prompt) :] = torch.tensor(prompt)
    mask[place, width - len(prompt) :] = 1
  return ids, mask
