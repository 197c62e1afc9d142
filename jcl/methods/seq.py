"""Sequential fine-tuning: cross-entropy on each task in turn, the lower bound of a comparison.

L = CE(new)
"""

import dataclasses

from jcl.backbones import Backbone
from jcl.memory.teacher import ExternalTeacher
from jcl.methods.method import Method, Settings


@dataclasses.dataclass
class Seq(Settings):
  """Sequential fine-tuning has no settings of its own."""

  def build(self, backbone: Backbone, teacher: ExternalTeacher | None = None) -> Method:
    """Builds `seq`."""
    return seq(backbone, self)


def seq(backbone: Backbone, settings: Seq) -> Method:
  """Returns the method: every hook does nothing, and the loss is plain cross-entropy."""
  return Method()
