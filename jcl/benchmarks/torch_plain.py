"""The objective of LAMOL-KD as its published code computes it, written for batches of rows.

Every row is padded to the longest of the whole stream. Question-answering rows and generation rows
go through the model one after the other, and so does the teacher for the rows of the past, at
every step. Logits are computed at all positions of the padded rows, and the losses ignore those
that are no targets.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from jcl.benchmarks.torch_model import padded

if TYPE_CHECKING:
  from jcl.batching.batch import Row

IGNORED = -100


class Plain:
  """The objective of the plain loop.

  Args:
    longest: tokens to which every row is padded.
    weights: {term: weight} of `gen`, `kd_qa` and `kd_gen`; what is not named counts 1.
    temperature: of the distillation.
    outputs: V, tokens that may be predicted.
    place: the device.
  """

  caches_teacher = False

  def __init__(
    self, longest: int, weights: Mapping[str, float], temperature: float, outputs: int,
    place: torch.device,
  ):  # fmt: skip
    self._longest, self._temperature = longest, temperature
    self._weights, self._outputs, self._place = weights, outputs, place

  def teach(self, teacher: torch.nn.Module, rows: 'Sequence[Row]') -> None:
    """Does nothing: the teacher runs in every step."""

  def compile(self, model: torch.nn.Module) -> None:
    """Does nothing: the published code is eager."""

  def uncompile(self) -> None:
    """Does nothing."""

  def _padded(self, rows: 'Sequence[Row]') -> tuple[torch.Tensor, torch.Tensor]:
    """Returns ids [B, T] and labels [B, T], the token after each target and else `IGNORED`."""
    width = max(self._longest, *(len(row.tokens) for row in rows))
    labels = torch.full((len(rows), width), IGNORED)
    for place, row in enumerate(rows):
      labels[place, torch.as_tensor(row.targets).long()] = torch.as_tensor(row.wanted).long()
    return padded(rows, width).to(self._place), labels.to(self._place)

  def _logits(self, model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """Returns the logits at all positions, [B, T, V]. Padding is on the right, behind causality."""
    return model(input_ids=ids, use_cache=False).logits[..., : self._outputs].float()

  def loss(
    self, model: torch.nn.Module, teacher: torch.nn.Module | None, rows: 'Sequence[Row]'
  ) -> torch.Tensor:
    """Returns CE(QA) + λ·CE(GEN) on new rows + the weighted distillation on old rows.

    Args:
      model: the student.
      teacher: the model before the task; None: there are no old rows.
      rows: of the step.
    """
    total = torch.zeros((), device=self._place)
    for generative, new, old in ((False, 'qa', 'kd_qa'), (True, 'gen', 'kd_gen')):
      kind = [row for row in rows if row.generative == generative]
      if not kind:
        continue
      ids, labels = self._padded(kind)
      logits = self._logits(model, ids)
      replay = torch.tensor([row.replay for row in kind], device=self._place)
      if not bool(replay.all()):
        nats = functional.cross_entropy(
          logits[~replay].flatten(0, 1), labels[~replay].flatten(), ignore_index=IGNORED
        )
        total = total + self._weights.get(new, 1.0) * nats
      if teacher is not None and bool(replay.any()):
        with torch.no_grad():
          wanted = self._logits(teacher, ids[replay])
        mean = self._divergence(logits[replay], wanted, labels[replay] != IGNORED)
        total = total + self._weights.get(old, 1.0) * mean
    return total

  def _divergence(
    self, logits: torch.Tensor, wanted: torch.Tensor, mask: torch.Tensor
  ) -> torch.Tensor:
    """Returns T²·KL(teacher ‖ student), the mean over the targets in `mask`."""
    temperature = self._temperature
    each = functional.kl_div(
      functional.log_softmax(logits / temperature, -1),
      functional.log_softmax(wanted / temperature, -1),
      reduction='none', log_target=True,
    ).sum(-1)  # fmt: skip
    return temperature**2 * (each * mask).sum() / mask.sum()

  def nats(self, model: torch.nn.Module, rows: 'Sequence[Row]') -> torch.Tensor:
    """Returns the mean cross-entropy of all targets of some rows."""
    ids, labels = self._padded(rows)
    logits = self._logits(model, ids)
    return functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED)
