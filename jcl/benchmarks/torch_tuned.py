"""The objective of LAMOL-KD as a careful torch user computes it.

The rows of a step are padded to the longest among them and go through the model once. Logits are
computed at the targets alone. The teacher does not change within a task, so its states at the
targets of the old rows are taken once, before the first step, and only projected in it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from jcl.benchmarks.torch_model import padded

if TYPE_CHECKING:
  from jcl.batching.batch import Row

TOGETHER = 64  # rows of which the teacher's states are taken at once


class Tuned:
  """The objective of the tuned loop.

  Args:
    weights: {term: weight} of `gen`, `kd_qa` and `kd_gen`; what is not named counts 1.
    temperature: of the distillation.
    outputs: V, tokens that may be predicted.
    place: the device.
  """

  caches_teacher = True

  def __init__(
    self, weights: Mapping[str, float], temperature: float, outputs: int, place: torch.device
  ):
    self._weights, self._temperature = weights, temperature
    self._outputs, self._place = outputs, place
    self._states: dict[int, torch.Tensor] = {}  # row number -> [m, D]
    self._body: Callable[..., torch.Tensor] = _body
    self._terms: Callable[..., torch.Tensor] = _terms

  def compile(self, model: torch.nn.Module) -> None:
    """Compiles the model's body and the terms of the loss for batches of any size."""
    self._body = torch.compile(_body, dynamic=True)
    self._terms = torch.compile(_terms, dynamic=True)

  def uncompile(self) -> None:
    """Goes back to eager."""
    self._body, self._terms = _body, _terms

  def teach(self, teacher: torch.nn.Module, rows: 'Sequence[Row]') -> None:
    """Takes the teacher's states at the targets of rows, rows of like length together.

    Args:
      teacher: the model before the task.
      rows: of the past.
    """
    self._states = {}
    rows = sorted(rows, key=lambda row: len(row.tokens))
    for first in range(0, len(rows), TOGETHER):
      chunk = rows[first : first + TOGETHER]
      states = self._hidden(teacher, chunk, _body).split([len(row.targets) for row in chunk])
      self._states |= {row.number: part for row, part in zip(chunk, states, strict=True)}

  def _hidden(
    self, model: torch.nn.Module, rows: 'Sequence[Row]', body: Callable[..., torch.Tensor]
  ) -> torch.Tensor:
    """Returns the states at the targets of all rows, [M, D], from one forward pass."""
    width = max(len(row.tokens) for row in rows)
    places = [torch.as_tensor(row.targets).long() + i * width for i, row in enumerate(rows)]
    ids = padded(rows, width).to(self._place)
    return body(model, ids, torch.cat(places).to(self._place))

  def loss(
    self, model: torch.nn.Module, teacher: torch.nn.Module | None, rows: 'Sequence[Row]'
  ) -> torch.Tensor:
    """Returns CE(QA) + λ·CE(GEN) on new rows + the weighted distillation on old rows.

    Args:
      model: the student.
      teacher: the model before the task, which projects its states; None: there are no old rows.
      rows: of the step.
    """
    new = [row for row in rows if not row.replay]
    old = [row for row in rows if row.replay] if teacher is not None else []
    wanted = torch.cat([torch.as_tensor(row.wanted).long() for row in new + old]).to(self._place)
    weight = torch.tensor(self._weight_of_each(new, old), device=self._place)
    hidden = self._hidden(model, new + old, self._body)
    border = sum(len(row.targets) for row in new)
    states = head = None
    if old and teacher is not None:
      states = torch.cat([self._states[row.number] for row in old])
      head = teacher.get_output_embeddings()
    return self._terms(
      model.get_output_embeddings(), head, hidden, states, wanted, weight, border, self._outputs,
      self._temperature,
    )  # fmt: skip

  def _weight_of_each(self, new: 'Sequence[Row]', old: 'Sequence[Row]') -> list[float]:
    """Returns the weight of every target: that of its term / the number of the term's targets."""
    terms = [{False: 'qa', True: 'gen'}[row.generative] for row in new]
    terms += [{False: 'kd_qa', True: 'kd_gen'}[row.generative] for row in old]
    counts = dict.fromkeys(terms, 0)
    sizes = [len(row.targets) for row in (*new, *old)]
    for term, size in zip(terms, sizes, strict=True):
      counts[term] += size
    return [
      self._weights.get(term, 1.0) / counts[term]
      for term, size in zip(terms, sizes, strict=True)
      for _ in range(size)
    ]

  def nats(self, model: torch.nn.Module, rows: 'Sequence[Row]') -> torch.Tensor:
    """Returns the mean cross-entropy of all targets of some rows."""
    hidden = self._hidden(model, rows, self._body)
    wanted = torch.cat([torch.as_tensor(row.wanted).long() for row in rows]).to(self._place)
    logits = model.get_output_embeddings()(hidden)[..., : self._outputs].float()
    return functional.cross_entropy(logits, wanted)


def _body(model: torch.nn.Module, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
  """Returns final states at flat target positions, [M, D]; padding is behind causality."""
  hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
  return hidden.flatten(0, 1)[targets]


def _terms(
  head: torch.nn.Module, teacher_head: torch.nn.Module | None, hidden: torch.Tensor,
  states: torch.Tensor | None, wanted: torch.Tensor, weight: torch.Tensor, border: int,
  outputs: int, temperature: float,
) -> torch.Tensor:  # fmt: skip
  """Returns the weighted sum of all terms: cross-entropy before `border`, distillation behind.

  Args:
    head, teacher_head: vocabulary projections.
    hidden: [M, D] of the student.
    states: [M − border, D] of the teacher; None: there are no old rows.
    wanted: [M] tokens.
    weight: [M].
    border: targets of new rows.
    outputs: V.
    temperature: of the distillation.
  """
  logits = head(hidden)[..., :outputs].float()
  nats = functional.cross_entropy(logits[:border], wanted[:border], reduction='none')
  total = (nats * weight[:border]).sum()
  if states is None or teacher_head is None:
    return total
  with torch.no_grad():
    goal = functional.log_softmax(teacher_head(states)[..., :outputs].float() / temperature, -1)
  ours = functional.log_softmax(logits[border:] / temperature, -1)
  each = functional.kl_div(ours, goal, reduction='none', log_target=True).sum(-1)
  return total + temperature**2 * (each * weight[border:]).sum()
