"""The shape of a decoder, as data."""

import dataclasses
from typing import Literal, Self

from jcl.backbones.model_config import ModelConfig, RandomFeatures, with_settings
from jcl.config import BackboneConfig
from jcl.errors import UserError, count_of

RopeKind = Literal['linear', 'llama3', 'yarn', 'dynamic', 'longrope']


@dataclasses.dataclass(frozen=True)
class RopeScaling:
  """How rotary frequencies are scaled for texts longer than those of pretraining.

  Attributes:
    kind: `linear` divides every frequency by `factor`. `llama3` divides those of wavelengths above
      original / low, keeps those of wavelengths below original / high, and blends between. `yarn`
      blends likewise, by the dimensions whose frequencies turn `low` to `high` times in the
      original context. `dynamic` raises theta with the length of a row beyond `original`.
      `longrope` divides each frequency by its entry of `short`, of `long` in rows beyond
      `original`.
    factor: length of the new context over that of the original one.
    low, high: as in `kind`.
    original: tokens of the context in pretraining.
    magnitude: factor of the rotated queries and of the rotated keys.
    truncate: whether yarn's dimensions are rounded to whole ones.
    short, long: one divisor a frequency.
  """

  kind: RopeKind
  factor: float
  low: float = 1.0
  high: float = 4.0
  original: int = 8192
  magnitude: float = 1.0
  truncate: bool = True
  short: tuple[float, ...] = ()
  long: tuple[float, ...] = ()

  @property
  def by_length(self) -> bool:
    """Whether the frequencies depend on the length of a row."""
    return self.kind in ('dynamic', 'longrope')


@dataclasses.dataclass(frozen=True)
class DecoderConfig(ModelConfig):
  """The shape of a decoder. The defaults are Llama's.

  Raises:
    UserError: fields contradict each other.
  """

  kv_heads: int = 0  # 0: as many as heads
  head_dim: int = 0  # 0: width // heads
  family: str = 'llama'
  max_positions: int = 2048  # tokens a row may have: rows of learned positions, else of pretraining
  norm: Literal['rms', 'layer'] = 'rms'
  norms: Literal['pre', 'post', 'both'] = 'pre'  # before a part of a layer, or of what it adds
  positions: Literal['rotary', 'learned'] = 'rotary'
  rope_fraction: float = 1.0  # of each head's dimensions that are rotated
  rope_scaling: RopeScaling | None = None
  unrotated: tuple[bool, ...] = ()  # layers without rotary positions; empty: none
  activation: str = 'silu'  # a name in layers.ACTIVATIONS
  gated: bool = True  # down(act(gate(x)) * up(x)), otherwise down(act(up(x)))
  parallel: bool = False  # attention and feed-forward read the same input
  qkv_bias: bool = False  # biases of q, k and v
  o_bias: bool = False
  mlp_bias: bool = False
  qk_norm: bool = False  # norms of queries and keys
  qk_norm_over: Literal['head', 'all'] = 'head'  # one head, or all of them together
  query_scale: float = 0.0  # factor of the scores of attention; 0: head_dim^-½
  attention_cap: float = 0.0  # scores become cap · tanh(score / cap); 0: they stay
  logit_cap: float = 0.0  # the same for logits of the vocabulary
  logit_divisor: float = 1.0  # of logits of the vocabulary
  embedding_scale: float = 1.0  # factor of the embeddings of tokens
  residual_scale: float = 1.0  # factor of what attention and feed-forward add
  tied: bool = True  # the embedding is the output projection too
  block_every: int = 0  # layers of this shape for each block that a run adds; 0: it adds none

  def __post_init__(self):
    super().__post_init__()
    self.fill('kv_heads', self.heads)
    self.fill('head_dim', self.width // self.heads)
    if self.head_dim < 1:
      raise UserError(f'a width of {self.width} is too small for {count_of(self.heads, "head")}')
    if not 0 < self.rope_fraction <= 1:
      raise UserError(
        f'{self.rope_fraction} of each head is rotated (partial_rotary_factor); it must be above '
        '0, at most 1'
      )
    if self.heads % self.kv_heads:
      raise UserError(
        f'{count_of(self.heads, "head")} of queries: no multiple of {self.kv_heads} of keys and '
        'values (num_attention_heads, num_key_value_heads)'
      )
    if self.positions == 'rotary':
      self._check_rotary()
    self.check_pattern('unrotated')
    if self.attention_cap and self.attention == 'cudnn':
      raise UserError("backbone.attention 'cudnn' cannot cap the scores of attention; use 'xla'")
    if self.pooling == 'first':
      raise UserError("pooling 'first' reads nothing of a text in a decoder; use 'last' or 'mean'")
    if self.pooling == 'mean' and not self.classes:
      raise UserError("pooling 'mean' needs classes: the next token is predicted from one state")

  def _check_rotary(self) -> None:
    """Checks the rotated dimensions and what scales their frequencies."""
    scaling, pairs = self.rope_scaling, self.rotated // 2
    if self.rotated % 2 or not pairs:
      raise UserError(
        f'rotary positions need an even number of dimensions (head_dim), not {self.rotated}'
      )
    if scaling is None:
      return
    if scaling.kind == 'dynamic' and pairs < 2:
      raise UserError('dynamic rotary scaling needs 4 rotated dimensions or more, not 2')
    if scaling.kind == 'longrope':
      for name in ('short', 'long'):
        if (count := len(getattr(scaling, name))) != pairs:
          raise UserError(
            f'{name}_factor has {count_of(count, "number")}; {self.rotated} rotated dimensions '
            f'need {pairs}'
          )

  @property
  def rotated(self) -> int:
    """Number of each head's dimensions that are rotated."""
    return int(self.head_dim * self.rope_fraction)

  def with_depth(self, layers: int) -> Self:
    """Returns the config with another number of layers; added blocks are of the kind before them.

    Raises:
      ValueError: layers differ in kind, and `block_every` does not say where blocks were added.
    """
    if layers == self.layers:
      return self
    windowed, unrotated = (self._grown(p, layers) for p in (self.windowed, self.unrotated))
    return dataclasses.replace(
      self, layers=layers, block_every=0, windowed=windowed, unrotated=unrotated
    )

  def _grown(self, pattern: tuple[bool, ...], layers: int) -> tuple[bool, ...]:
    """Returns a pattern of layers after blocks were added at the end of each group."""
    if layers < self.layers or not pattern:
      return pattern[:layers]
    size = self.block_every or self.layers
    groups = [pattern[i : i + size] for i in range(0, self.layers, size)]
    added, rest = divmod(layers - self.layers, len(groups))
    if rest or not self.block_every:
      raise ValueError(f'{layers} layers of a model with {self.layers}: which were added?')
    return tuple(x for group in groups for x in (*group, *group[-1:] * added))


def from_scratch(
  settings: BackboneConfig, vocabulary: int, classes: int = 0,
  random_features: RandomFeatures | None = None, mixed: bool = False,
) -> DecoderConfig:  # fmt: skip
  """Returns the shape of the small Llama-like decoder that the settings describe.

  Args:
    settings: of the run.
    vocabulary: V, token ids of the tokenizer.
    classes: C of a head; 0: no head.
    random_features: what a linear head reads in place of the state; None: the state.
    mixed: the head reads a weighted sum of the states after all blocks.

  Raises:
    UserError: the width is no multiple of the number of heads.
  """
  if settings.width % settings.heads:
    raise UserError(
      f'backbone.width {settings.width} is no multiple of backbone.heads {settings.heads}'
    )
  rows = -(-vocabulary // settings.vocabulary_multiple) * settings.vocabulary_multiple
  return with_settings(
    DecoderConfig(
      vocabulary=vocabulary,
      rows=rows,
      added_rows=rows - vocabulary,
      width=settings.width,
      layers=settings.layers,
      heads=settings.heads,
      feed_forward=settings.feed_forward,
    ),
    settings,
    classes,
    random_features,
    mixed,
  )
