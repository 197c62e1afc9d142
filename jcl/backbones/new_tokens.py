"""Rows of the embedding for tokens that were added to the tokenizer."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import chex
import numpy as np

from jcl.backbones.backbone import Params
from jcl.backbones.model_config import Config
from jcl.storage.stored import Stored

NOISE = 0.01  # of the table's standard deviation: tokens that start as the same copy are not equal
# Likewise of generation tokens of tasks: in the few steps of a task a model does not learn to tell
# copies of one row apart, and writes the last tasks' samples whichever token it is given. With the
# whole deviation the first samples are hardly language.
APART = 0.3


def with_new_tokens(config: Config, count: int, multiple: int = 1) -> Config:
  """Returns the config with `count` more tokens; padding rows of the embedding are used first.

  Args:
    config: with V tokens.
    count: new tokens, whose ids are V … V+count-1.
    multiple: the number of rows becomes a multiple of it; rows beyond the tokens are padding.
  """
  kept = max(config.kept_rows, config.vocabulary + count)
  rows = -(-max(kept, config.rows) // multiple) * multiple
  return dataclasses.replace(
    config, vocabulary=config.vocabulary + count, rows=rows, added_rows=rows - kept
  )


def add_token_rows(
  config: Config,
  params: Params,
  count: int,
  like_ids: Sequence[int],
  seed: int,
  init: Literal['copy', 'mean'] = 'copy',
  multiple: int = 1,
  noise: Sequence[float] = (),
) -> tuple[Config, dict]:
  """Gives new tokens rows of the embedding and, untied, of the output projection.

  Their ids are V … V+count-1; padding rows that are there already are used first. With copies a
  pretrained model emits the new tokens after a few dozen steps, with the mean of all rows it does
  not.

  Args:
    config: with V tokens.
    params: its parameters; other leaves and the first V rows stay as they are.
    count: new tokens.
    like_ids: [count] ids whose rows the new ones start as; read with `copy` alone.
    seed: of the noise.
    init: `copy`, or the `mean` of the rows of all V tokens.
    multiple: the number of rows becomes a multiple of it; rows beyond the tokens are padding.
    noise: [count] standard deviations of the noise of each token, in units of that of the table;
      empty: `NOISE` of all.

  Returns:
    The config, and the parameters with float32 numpy tables; of a table that is still in its file
    the rows of tokens stay there.

  Raises:
    ValueError: `like_ids` does not have one id below V for each token.
    AssertionError: a table has not the rows and width of the config.
  """
  from jcl.backbones.files.stored import grown, read_whole  # files/ imports models, not the reverse

  old = config.vocabulary
  if init == 'copy' and (len(like_ids) != count or not all(0 <= i < old for i in like_ids)):
    raise ValueError(f'{count} ids below {old} are wanted, one a new token, not {list(like_ids)}')
  new, params = with_new_tokens(config, count, multiple), dict(params)
  for number, name in enumerate(('embed', 'unembed')):
    if name not in params:
      continue
    stored = params[name]['embedding']
    table_RD = read_whole(stored)
    shape = (config.rows, config.width)
    chex.assert_shape(table_RD, shape, custom_message=f'params[{name!r}]: [config.rows, D]')
    real_VD = table_RD[:old]
    start = real_VD[list(like_ids)] if init == 'copy' else real_VD.mean(0, keepdims=True)
    draw = np.random.default_rng((seed, number, old)).standard_normal((count, config.width))
    grown_RD = np.zeros((new.rows, config.width), np.float32)
    grown_RD[: len(table_RD)] = table_RD
    each = np.array(noise or [NOISE] * count)
    grown_RD[old : old + count] = start + each[:, None] * real_VD.std() * draw
    in_file = isinstance(stored, Stored)
    params[name] = {'embedding': grown(stored, old, grown_RD[old:].copy()) if in_file else grown_RD}
  return new, params
