"""SEQ: each task in turn, nothing against forgetting. The lower bound."""

import dataclasses
from typing import Any

from jcl.methods.method import Method, Settings


@dataclasses.dataclass
class Seq(Settings):
  """Plain fine-tuning has no settings of its own."""

  def build(self, backbone: Any, teacher: Any = None) -> Method:
    """Builds `seq`."""
    return seq(backbone, self)


def seq(backbone, settings: Seq) -> Method:
  """Cross-entropy on each task in turn."""
  return Method()
