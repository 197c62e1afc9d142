"""SEQ: each task in turn, nothing against forgetting. The lower bound."""

import dataclasses

from jcl import methods


@dataclasses.dataclass
class Seq(methods.Settings):
  """Plain fine-tuning has no settings of its own."""


def seq(backbone, settings: Seq) -> methods.Method:
  """Cross-entropy on each task in turn."""
  return methods.Method()
