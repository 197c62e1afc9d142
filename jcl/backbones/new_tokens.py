"""Rows of the embedding for tokens that the tokenizer was given."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np

from jcl.backbones.backbone import Params
from jcl.backbones.decoder_config import DecoderConfig
from jcl.backbones.model_config import Config

NOISE = 0.01  # of the table's standard deviation: tells tokens apart that start as the same copy


def grown(config: DecoderConfig, count: int, multiple: int = 1) -> DecoderConfig:
  """The config with `count` tokens more; padding rows of the embedding are used first.

  Args:
    config: whose `vocabulary` is V.
    count: new tokens, which get the ids V … V+count-1.
    multiple: the rows are a multiple of it; those beyond the tokens are padding.
  """
  kept = max(config.kept_rows, config.vocabulary + count)
  rows = -(-max(kept, config.rows) // multiple) * multiple
  return dataclasses.replace(
    config, vocabulary=config.vocabulary + count, rows=rows, added_rows=rows - kept
  )


def grow(
  config: Config,
  params: Params,
  count: int,
  like_ids: Sequence[int],
  seed: int,
  init: Literal['copy', 'mean'] = 'copy',
  multiple: int = 1,
) -> tuple[Config, Params]:
  """Gives `count` new tokens rows of the embedding and, untied, of the output projection.

  They get the ids V … V+count-1; padding rows that are there already are used first. A copy lets a
  pretrained model emit the new tokens after a few dozen steps, the mean of all rows does not.

  Args:
    config: whose `vocabulary` is V.
    params: whose other leaves, and first V rows, stay as they are.
    count: new tokens.
    like_ids: [count] the ids whose rows the new ones start as; read by `copy` alone.
    seed: of the noise.
    init: `copy`, or the `mean` of all real rows.
    multiple: rows of the grown tables are a multiple of it; those beyond the tokens are padding.

  Returns:
    The config and params, with float32 numpy tables.

  Raises:
    ValueError: `like_ids` has not one real id a token.
  """
  old = config.vocabulary
  if init == 'copy' and (len(like_ids) != count or not all(0 <= i < old for i in like_ids)):
    raise ValueError(f'{count} ids below {old} are wanted, one a new token, not {list(like_ids)}')
  new, params = grown(config, count, multiple), dict(params)
  for number, name in enumerate(('embed', 'unembed')):
    if name not in params:
      continue
    table_RD = np.asarray(params[name]['embedding'], np.float32)
    real_VD = table_RD[:old]
    start = real_VD[list(like_ids)] if init == 'copy' else real_VD.mean(0, keepdims=True)
    draw = np.random.default_rng((seed, number, old)).standard_normal((count, config.width))
    grown_RD = np.zeros((new.rows, config.width), np.float32)
    grown_RD[: len(table_RD)] = table_RD
    grown_RD[old : old + count] = start + NOISE * real_VD.std() * draw
    params[name] = {'embedding': grown_RD}
  return new, params
