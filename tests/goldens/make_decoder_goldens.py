"""Makes the golden values of the decoder families: python tests/goldens/make_decoder_goldens.py

Needs torch. Each decoder_<case>.npz beside it holds a random tiny model by its own tensor names,
its config.json, two rows of tokens, and the logits of transformers in float32: `right` for rows
padded on the right, `left` for the same rows padded on the left.
"""

import pathlib
import tempfile

import numpy as np

ROWS, TOKENS, VOCABULARY = (9, 5), 9, 40
LLAMA3_ROPE = {
  'rope_type': 'llama3',
  'rope_theta': 50000.0,
  'factor': 8.0,
  'low_freq_factor': 1.0,
  'high_freq_factor': 4.0,
  'original_max_position_embeddings': 16,
}
_LIKE_LLAMA = {
  'vocab_size': VOCABULARY,
  'hidden_size': 16,
  'intermediate_size': 24,
  'num_hidden_layers': 2,
  'num_attention_heads': 4,
  'num_key_value_heads': 2,
  'max_position_embeddings': 64,
  'bos_token_id': 2,
  'eos_token_id': 3,
}
_LIKE_NEOX = {
  **{k: v for k, v in _LIKE_LLAMA.items() if k != 'num_key_value_heads'},
  'attention_dropout': 0.0,
  'hidden_dropout': 0.0,
}
CASES = {
  'gpt2': (
    'GPT2',
    {
      'vocab_size': VOCABULARY, 'n_embd': 16, 'n_layer': 2, 'n_head': 4, 'n_positions': 32,
      'bos_token_id': 2, 'eos_token_id': 3,
    },
  ),
  'neox': ('GPTNeoX', {**_LIKE_NEOX, 'rotary_pct': 0.5}),
  'neox_serial': (
    'GPTNeoX',
    {
      **_LIKE_NEOX, 'use_parallel_residual': False, 'tie_word_embeddings': True,
      'num_attention_heads': 2,
    },
  ),
  'llama': ('Llama', _LIKE_LLAMA),
  'llama3': (
    'Llama',
    {
      **_LIKE_LLAMA, 'rope_parameters': LLAMA3_ROPE, 'tie_word_embeddings': True, 'head_dim': 8,
      'attention_bias': True, 'mlp_bias': True,
    },
  ),
  'qwen2': ('Qwen2', {**_LIKE_LLAMA, 'tie_word_embeddings': True}),
  'qwen3': ('Qwen3', {**_LIKE_LLAMA, 'head_dim': 8}),
  'mistral': ('Mistral', {**_LIKE_LLAMA, 'sliding_window': None, 'head_dim': 4}),
}  # fmt: skip


def model(case: str):
  """A tiny model of transformers with random weights, biases and norms."""
  import torch
  import transformers

  name, fields = CASES[case]
  config = getattr(transformers, f'{name}Config')(**fields)
  net = transformers.AutoModelForCausalLM.from_config(config).eval()
  draw = np.random.default_rng(sorted(CASES).index(case))
  with torch.no_grad():
    for name, x in sorted(net.named_parameters()):
      values = 0.3 * draw.standard_normal(tuple(x.shape)) + (name.endswith('norm.weight'))
      x.copy_(torch.tensor(values))
  return net


def tokens() -> np.ndarray:
  """[2, T] int64, the first ROWS[i] of each real."""
  return np.random.default_rng(7).integers(0, VOCABULARY, (len(ROWS), TOKENS))


def left_padded(tokens_BT: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
  """The rows moved to the right end, and which positions are real."""
  moved = np.stack([np.roll(row, TOKENS - n) for row, n in zip(tokens_BT, ROWS, strict=True)])
  return moved, np.arange(TOKENS) >= TOKENS - np.array(ROWS)[:, None]


def logits(net, tokens_BT: np.ndarray, real_BT: np.ndarray) -> np.ndarray:
  """[B, T, V] float32; positions count real tokens."""
  import torch

  position = np.maximum(np.cumsum(real_BT, -1) - 1, 0)
  with torch.no_grad():
    out = net(
      input_ids=torch.tensor(tokens_BT),
      attention_mask=torch.tensor(real_BT.astype(np.int64)),
      position_ids=torch.tensor(position),
    )
  return out.logits.numpy()


def golden(case: str) -> dict[str, np.ndarray]:
  """Returns the contents of the file of a case."""
  import safetensors.numpy

  net = model(case)
  rows, right = tokens(), np.arange(TOKENS) < np.array(ROWS)[:, None]
  with tempfile.TemporaryDirectory() as folder:
    net.save_pretrained(folder)
    weights = safetensors.numpy.load_file(f'{folder}/model.safetensors')
  return {
    **{f'weight:{name}': x for name, x in weights.items()},
    'config': np.array(net.config.to_json_string(use_diff=False)),
    'right': logits(net, rows, right),
    'left': logits(net, *left_padded(rows)),
  }


def main() -> None:
  """Writes every file beside this one."""
  for case in CASES:
    np.savez_compressed(pathlib.Path(__file__).parent / f'decoder_{case}.npz', **golden(case))


if __name__ == '__main__':
  main()
