"""Makes the golden adapters: python tests/goldens/make_lora_goldens.py

Needs torch and peft. Each lora_<case>.npz beside it holds a random PEFT adapter of the tiny model
decoder_<case>.npz: its tensors by their own names, its adapter_config.json, and the logits of the
adapted model for rows padded on the right.
"""

import json
import pathlib
import sys
import tempfile

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))

from goldens import make_decoder_goldens as decoders

CASES = {
  'gpt2': {'target_modules': ['c_attn', 'c_proj', 'c_fc'], 'r': 3, 'lora_alpha': 5},
  'neox': {'target_modules': 'all-linear', 'r': 4, 'lora_alpha': 8, 'rank_pattern': {'dense': 2}},
  'llama': {
    'target_modules': r'.*\.(q_proj|v_proj|gate_proj)', 'r': 4, 'lora_alpha': 6, 'use_rslora': True,
  },
  'qwen3': {
    'target_modules': ['q_proj', 'o_proj', 'down_proj'], 'r': 3, 'lora_alpha': 6,
    'use_rslora': True, 'rank_pattern': {'down_proj': 2, 'layers.1.self_attn.o_proj': 1},
    'alpha_pattern': {'q_proj': 2, r'0\.self_attn\.o_proj': 4},
  },
}  # fmt: skip


def adapted(case: str):
  """The tiny model of a case with a random adapter, as peft holds it."""
  import peft
  import torch

  config = peft.LoraConfig(task_type='CAUSAL_LM', **CASES[case])
  net = peft.get_peft_model(decoders.model(case), config).eval()
  draw = np.random.default_rng(sorted(CASES).index(case))
  with torch.no_grad():
    for name, x in sorted(net.named_parameters()):
      if 'lora_' in name:
        x.copy_(torch.tensor(0.1 * draw.standard_normal(tuple(x.shape))))
  return net


def golden(case: str) -> dict[str, np.ndarray]:
  """Returns the contents of the file of a case."""
  import safetensors.numpy

  net = adapted(case)
  right = np.arange(decoders.TOKENS) < np.array(decoders.ROWS)[:, None]
  with tempfile.TemporaryDirectory() as folder:
    net.save_pretrained(folder)
    weights = safetensors.numpy.load_file(f'{folder}/adapter_model.safetensors')
    fields = json.loads(pathlib.Path(folder, 'adapter_config.json').read_text())
  fields['base_model_name_or_path'] = None  # the folder it was in
  return {
    **{f'weight:{name}': x for name, x in weights.items()},
    'config': np.array(json.dumps(fields)),
    'right': decoders.logits(net, decoders.tokens(), right),
  }


def main() -> None:
  """Writes every file beside this one."""
  for case in CASES:
    np.savez_compressed(pathlib.Path(__file__).parent / f'lora_{case}.npz', **golden(case))


if __name__ == '__main__':
  main()
