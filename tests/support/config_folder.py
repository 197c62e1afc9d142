"""A model folder that holds nothing but a config.json."""

import json
import pathlib

from jcl.config import Config
from jcl.preflight import cost
from jcl.preflight import page as sections

SMALL = {
  'model_type': 'llama', 'vocab_size': 96, 'hidden_size': 32, 'num_hidden_layers': 3,
  'num_attention_heads': 4, 'num_key_value_heads': 2, 'intermediate_size': 48,
  'max_position_embeddings': 4096, 'tie_word_embeddings': True,
}  # fmt: skip


def folder(path: pathlib.Path, values: dict, **more) -> str:
  """A model folder that holds nothing but a config.json."""
  path.mkdir(exist_ok=True)
  (path / 'config.json').write_text(json.dumps({**values, **more}))
  return str(path)


def values(made: Config, tokens: int = 16, **more) -> dict:
  """The page of one device as JSON has it."""
  return json.loads(sections.as_json(cost.page(made, 1, tokens, **more)))
