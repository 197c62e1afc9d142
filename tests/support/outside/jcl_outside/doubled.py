"""`anchor` with an oracle that is another objective's."""

import dataclasses
from typing import ClassVar

from jcl_outside.anchor import Anchor


@dataclasses.dataclass
class Doubled(Anchor):
  """The settings of `anchor`."""

  oracle: ClassVar = 'jcl_outside.oracle:doubled'
