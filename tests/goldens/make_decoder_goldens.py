"""Makes the golden values of the decoder families: python tests/goldens/make_decoder_goldens.py

Needs torch. Each decoder_<case>.npz beside it holds a random tiny model by its own tensor names,
its config.json, two rows of tokens, and the logits of transformers in float64: `right` for rows
padded on the right, `left` for the same rows padded on the left.
"""

import contextlib
import pathlib
import sys
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
# Windows shorter than a row, and rows longer than the original context. Their kinds of layers are
# four, so that each kind stands before the other.
_FOUR = {**_LIKE_LLAMA, 'num_hidden_layers': 4, 'sliding_window': 3, 'head_dim': 8}
_ROPE = {'rope_theta': 1000.0, 'factor': 4.0, 'original_max_position_embeddings': 6}
_LONG = {
  'rope_type': 'longrope', 'short_factor': [1.0, 1.5], 'long_factor': [1.25, 4.0],
  'rope_theta': 1000.0, 'original_max_position_embeddings': 6,
}  # fmt: skip
NEW_CASES = {
  'mistral_window': ('Mistral', {**_LIKE_LLAMA, 'sliding_window': 3}),
  'qwen2_window': (
    'Qwen2',
    {**_LIKE_LLAMA, 'use_sliding_window': True, 'max_window_layers': 1, 'sliding_window': 3},
  ),
  'gemma': ('Gemma', {**_LIKE_LLAMA, 'head_dim': 8}),
  'gemma2': (
    'Gemma2',
    {
      **_FOUR, 'query_pre_attn_scalar': 12, 'attn_logit_softcapping': 2.0,
      'final_logit_softcapping': 3.0,
    },
  ),
  'gemma3': (
    'Gemma3Text',
    {
      **_FOUR, 'query_pre_attn_scalar': 12, 'sliding_window_pattern': 2,
      'rope_parameters': {
        'full_attention': {'rope_type': 'linear', 'factor': 4.0, 'rope_theta': 1000.0},
        'sliding_attention': {'rope_type': 'default', 'rope_theta': 100.0},
      },
    },
  ),
  'phi3': ('Phi3', {**_LIKE_LLAMA, 'pad_token_id': 0, 'sliding_window': 4}),
  'phi3_long': (
    'Phi3',
    {
      **_LIKE_LLAMA, 'pad_token_id': 0, 'num_attention_heads': 2, 'num_key_value_heads': 1,
      'original_max_position_embeddings': 6,
      'rope_parameters': {**_LONG, 'partial_rotary_factor': 0.5},
    },
  ),
  'olmo2': ('Olmo2', {**_LIKE_LLAMA, 'pad_token_id': 0}),
  'smollm3': (
    'SmolLM3',
    {
      **_FOUR, 'pad_token_id': 0, 'no_rope_layer_interval': 2, 'use_sliding_window': True,
      'rope_parameters': {'rope_type': 'yarn', **_ROPE}, 'head_dim': 4,
    },
  ),
  'granite': (
    'Granite',
    {
      **_LIKE_LLAMA, 'embedding_multiplier': 3.0, 'attention_multiplier': 0.4,
      'residual_multiplier': 0.7, 'logits_scaling': 1.3, 'attention_bias': True,
    },
  ),
  'starcoder2': ('Starcoder2', {**_LIKE_LLAMA, 'sliding_window': 3}),
  'yarn': (
    'Llama', {**_LIKE_LLAMA, 'head_dim': 8, 'rope_parameters': {'rope_type': 'yarn', **_ROPE}}
  ),
  'dynamic': (
    'Llama',
    {
      **_LIKE_LLAMA, 'head_dim': 8, 'max_position_embeddings': 6,
      'rope_parameters': {'rope_type': 'dynamic', 'factor': 2.0, 'rope_theta': 1000.0},
    },
  ),
}  # fmt: skip
SEEDS = {case: i for cases in (sorted(CASES), sorted(NEW_CASES)) for i, case in enumerate(cases)}
CASES |= NEW_CASES
# Frequencies depend on a row's length, for which transformers takes that of the longest row.
BY_LENGTH = ('phi3_long', 'dynamic')


def model(case: str):
  """A tiny model of transformers with random weights, biases and norms."""
  import torch
  import transformers

  name, fields = CASES[case]
  config = getattr(transformers, f'{name}Config')(**fields)
  net = transformers.AutoModelForCausalLM.from_config(config, attn_implementation='eager').eval()
  draw = np.random.default_rng(SEEDS[case])
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
  moved = np.stack([np.roll(row, TOKENS - n, 0) for row, n in zip(tokens_BT, ROWS, strict=True)])
  return moved, np.arange(TOKENS) >= TOKENS - np.array(ROWS)[:, None]


@contextlib.contextmanager
def in_float64():
  """Makes every `float`, `to` and `softmax` of transformers that names float32 take float64."""
  import torch

  single, double = torch.float32, torch.float64
  tensor, functional = torch.Tensor, torch.nn.functional
  old = tensor.float, tensor.to, functional.softmax
  wide = lambda x: double if x is single else x

  def to(self, *args, **kwargs):
    return old[1](self, *map(wide, args), **{k: wide(x) for k, x in kwargs.items()})

  def softmax(x, dim, dtype=None):
    return old[2](x, dim=dim, dtype=wide(dtype))

  tensor.float, tensor.to, functional.softmax = tensor.double, to, softmax
  try:
    yield
  finally:
    tensor.float, tensor.to, functional.softmax = old


def logits(net, tokens_BT: np.ndarray, real_BT: np.ndarray) -> np.ndarray:
  """[B, T, V] float64; positions count real tokens."""
  import torch

  position = np.maximum(np.cumsum(real_BT, -1) - 1, 0)
  with torch.no_grad(), in_float64():
    out = net.double()(
      input_ids=torch.tensor(tokens_BT),
      attention_mask=torch.tensor(real_BT.astype(np.int64)),
      position_ids=torch.tensor(position),
    )
  assert out.logits.dtype == torch.float64
  return out.logits.numpy()


def one_by_one(net, tokens_BT: np.ndarray) -> np.ndarray:
  """[B, T, V] float64 of right-padded rows, each computed alone; what stands in padding is 0."""
  out = np.zeros((*tokens_BT.shape, VOCABULARY))
  for i, n in enumerate(ROWS):
    out[i, :n] = logits(net, tokens_BT[i : i + 1, :n], np.ones((1, n), bool))[0]
  return out


def right_padded_logits(net, case: str) -> np.ndarray:
  """[B, T, V] float64 of the rows padded on the right."""
  if case in BY_LENGTH:
    return one_by_one(net, tokens())
  return logits(net, tokens(), np.arange(TOKENS) < np.array(ROWS)[:, None])


def golden(case: str) -> dict[str, np.ndarray]:
  """Returns the contents of the file of a case."""
  import safetensors.numpy

  net = model(case)
  rows = tokens()
  with tempfile.TemporaryDirectory() as folder:
    net.save_pretrained(folder)
    weights = safetensors.numpy.load_file(f'{folder}/model.safetensors')
  right = right_padded_logits(net, case)
  alone = case in BY_LENGTH
  return {
    **{f'weight:{name}': x for name, x in weights.items()},
    'config': np.array(net.config.to_json_string(use_diff=False)),
    'right': right,
    'left': left_padded(right)[0] if alone else logits(net, *left_padded(rows)),
  }


def main() -> None:
  """Writes the files of the cases that are named, or every file, beside this one."""
  for case in sys.argv[1:] or CASES:
    np.savez_compressed(pathlib.Path(__file__).parent / f'decoder_{case}.npz', **golden(case))


if __name__ == '__main__':
  main()
