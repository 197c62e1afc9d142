"""The shape of an encoder, as data."""

import dataclasses
from typing import ClassVar, Literal

from jcl.backbones.model_config import ModelConfig
from jcl.errors import UserError, count_of


@dataclasses.dataclass(frozen=True)
class EncoderConfig(ModelConfig):
  """The shape of an encoder. The defaults are BERT's.

  Raises:
    UserError: fields contradict each other.
  """

  norm: ClassVar[str] = 'layer'
  rope_scaling: ClassVar[None] = None
  unrotated: ClassVar[tuple[bool, ...]] = ()

  norms: Literal['pre', 'post'] = 'post'  # before a part of a layer, or after its sum
  first_norm: bool = True  # the first layer has a norm before its attention; `pre` alone
  positions: Literal['learned', 'rotary'] = 'learned'
  relative: int = 0  # rows of the table of relative positions, a bias of scores; 0: no such table
  attention_bias: bool = True  # biases of q, k, v and o
  mlp_bias: bool = True
  gated: bool = False  # down(act(gate(x)) * up(x)), otherwise down(act(up(x)))
  family: str = 'bert'
  max_positions: int = 512  # tokens a row may have
  first_position: int = 0  # row of the table of positions that the first token reads; RoBERTa: 2
  types: int = 2  # rows of the table of token types, of which only row 0 is read; 0: no such table
  norm_epsilon: float = 1e-12
  activation: str = 'gelu'  # a name in layers.ACTIVATIONS
  pooling: Literal['last', 'first', 'mean'] = 'first'

  def __post_init__(self):
    super().__post_init__()
    if self.width % self.heads:
      raise UserError(f'a width of {self.width} is no multiple of {count_of(self.heads, "head")}')
    if self.positions == 'rotary' and self.rotated % 2:
      raise UserError(
        f'rotary positions need an even number of dimensions a head, not {self.rotated}'
      )
    if self.relative and self.attention == 'cudnn':
      raise UserError("backbone.attention 'cudnn' takes no relative positions; use 'xla'")
    if self.max_positions < 1:
      raise UserError(
        f'a table of {count_of(self.position_rows, "position")}, of which '
        f'{self.first_position} are kept for padding, has none left for tokens'
      )

  @property
  def position_rows(self) -> int:
    """Number of rows of the table of positions."""
    return self.first_position + self.max_positions

  @property
  def rotated(self) -> int:
    """Number of each head's dimensions that are rotated: all of them."""
    return self.width // self.heads
