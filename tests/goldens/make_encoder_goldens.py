"""Makes the golden values of the encoder families: python tests/goldens/make_encoder_goldens.py

Needs torch. Each encoder_<case>.npz beside it holds a random tiny model by its own tensor names,
its config.json, and the final hidden states of transformers in float32 for two rows of tokens
padded on the right.
"""

import pathlib
import sys
import tempfile

import numpy as np

ROWS, TOKENS, VOCABULARY = (9, 5), 9, 40
_LIKE_BERT = {
  'vocab_size': VOCABULARY,
  'hidden_size': 16,
  'intermediate_size': 24,
  'num_hidden_layers': 2,
  'num_attention_heads': 4,
  'max_position_embeddings': 12,
}
# A bare model with its pooler, one with a head for masked words, and a bare one without a pooler.
CASES = {
  'bert': ('Bert', 'AutoModel', _LIKE_BERT),
  'roberta': (
    'Roberta',
    'AutoModelForMaskedLM',
    {**_LIKE_BERT, 'type_vocab_size': 1, 'layer_norm_eps': 1e-5, 'hidden_act': 'gelu_new'},
  ),
  'distilbert': (
    'DistilBert',
    'AutoModel',
    {
      'vocab_size': VOCABULARY, 'dim': 16, 'hidden_dim': 24, 'n_layers': 2, 'n_heads': 2,
      'max_position_embeddings': 12,
    },
  ),
}  # fmt: skip
_NEW = {
  'xlm-roberta': ('XLMRoberta', 'AutoModel', {**_LIKE_BERT, 'type_vocab_size': 1}),
  'mpnet': ('MPNet', 'AutoModelForMaskedLM', _LIKE_BERT),
  # Four layers, so that each kind stands before the other, and windows shorter than a row.
  'modernbert': (
    'ModernBert',
    'AutoModelForMaskedLM',
    {
      **_LIKE_BERT, 'num_hidden_layers': 4, 'local_attention': 4, 'global_attn_every_n_layers': 2,
      'pad_token_id': 0, 'attention_bias': True, 'tie_word_embeddings': False,
      'bos_token_id': 1, 'eos_token_id': 2, 'cls_token_id': 1, 'sep_token_id': 2,
    },
  ),
}  # fmt: skip
SEEDS = {case: i for cases in (sorted(CASES), sorted(_NEW)) for i, case in enumerate(cases)}
CASES |= _NEW


def model(case: str):
  """A tiny model of transformers with random weights, biases and norms."""
  import torch
  import transformers

  name, kind, fields = CASES[case]
  config = getattr(transformers, f'{name}Config')(**fields)
  net = getattr(transformers, kind).from_config(config).eval()
  draw = np.random.default_rng(SEEDS[case])
  with torch.no_grad():
    for name, x in sorted(net.named_parameters()):
      is_norm = name.lower().replace('_', '').endswith('norm.weight')
      x.copy_(torch.tensor(0.3 * draw.standard_normal(tuple(x.shape)) + is_norm))
  return net


def tokens() -> np.ndarray:
  """[2, T] int64, the first ROWS[i] of each real, and no padding id of any family among those."""
  tokens_BT = np.random.default_rng(7).integers(2, VOCABULARY, (len(ROWS), TOKENS))
  return np.where(np.arange(TOKENS) < np.array(ROWS)[:, None], tokens_BT, 0)


def states(net, padding: int) -> np.ndarray:
  """[B, T, D] float32 final hidden states, rows filled up with the family's padding id."""
  import torch

  real_BT = np.arange(TOKENS) < np.array(ROWS)[:, None]
  with torch.no_grad():
    out = net.base_model(
      input_ids=torch.tensor(np.where(real_BT, tokens(), padding)),
      attention_mask=torch.tensor(real_BT.astype(np.int64)),
    )
  return out.last_hidden_state.numpy()


def golden(case: str) -> dict[str, np.ndarray]:
  """Returns the contents of the file of a case."""
  import safetensors.numpy

  net = model(case)
  with tempfile.TemporaryDirectory() as folder:
    net.save_pretrained(folder)
    weights = safetensors.numpy.load_file(f'{folder}/model.safetensors')
  return {
    **{f'weight:{name}': x for name, x in weights.items()},
    'config': np.array(net.config.to_json_string(use_diff=False)),
    'states': states(net, net.config.pad_token_id),
  }


def main() -> None:
  """Writes the files of the cases that are named, or every file, beside this one."""
  for case in sys.argv[1:] or CASES:
    np.savez_compressed(pathlib.Path(__file__).parent / f'encoder_{case}.npz', **golden(case))


if __name__ == '__main__':
  main()
