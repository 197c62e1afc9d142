"""Runs whose answers the tokenizer cannot say as they are, and whose texts hold special tokens."""

import dataclasses
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from absl import flags
from support import tokenizer_kinds

import jcl
from jcl.backbones.decoder import decoder
from jcl.backbones.decoder_config import DecoderConfig
from jcl.backbones.files import hf
from jcl.backbones.tokenizers import vocabulary_size
from jcl.commands import command_line, evaluate, predict
from jcl.config import Config
from jcl.errors import UserError
from jcl.memory import pseudo
from jcl.methods.seq import Seq
from jcl.training.experiment import assemble

SHAPE = {'width': 32, 'layers': 1, 'heads': 2, 'feed_forward': 48}
CHINESE = [('今天很好', '天气'), ('会下雨吗', '天气'), ('放一首歌', '音_乐'), ('我想听歌', '音_乐')]


def called(command, *arguments: str) -> None:
  given = flags.FlagValues()
  command.define_flags(given, arguments)
  command_line.parse(given, arguments)
  command.run(given)


def wordpiece_model(folder):
  """A small random decoder with the tokenizer of BERT, as a folder."""
  words = [text for pair in CHINESE for text in pair]
  tokenizer, special = tokenizer_kinds.wordpiece([*words, 'Input sentence: The label:'] * 3)
  tokenizer.post_processor = None
  size = vocabulary_size(tokenizer)
  shape = DecoderConfig(
    size, width=32, layers=1, heads=2, kv_heads=2, feed_forward=48, rows=size, max_positions=64
  )
  params = jax.tree.map(np.asarray, decoder(shape).init(jax.random.key(0)))
  hf.save(folder, hf.Loaded(shape, params, tokenizer, special))
  return str(folder)


@pytest.mark.parametrize('answer', ['generate', 'score'])
def test_labels_that_wordpiece_changes_are_learned_by_heart(tmp_path, answer, capsys):
  rows = [{'text': text, 'label': label} for text, label in CHINESE]
  stream = jcl.Stream.from_rows({'zh': rows}, test={'zh': rows}, overlap='keep')
  result = jcl.learn(
    stream, 'seq', model=wordpiece_model(tmp_path / 'model'), workdir=tmp_path / 'run',
    train=jcl.TrainConfig(learning_rate=1e-2, epochs=40, batch_size=4),
    evaluate=jcl.EvaluateConfig(answer=answer), quiet=True,
  )  # fmt: skip
  assert result.results['matrix'][1] == [1.0]
  assert result.results['invalid'][1] == [0.0]
  assert any("'天气' as '天 气'" in line for line in result.results['warnings'])
  texts = [text for text, _ in CHINESE]
  assert result.model.answer(texts) == [label for _, label in CHINESE]
  loaded = jcl.load_model(tmp_path / 'run')
  assert loaded.answer(texts) == [label for _, label in CHINESE]


@pytest.mark.slow
def test_answers_with_line_breaks_are_learned_by_heart(tmp_path, capsys):
  """A word tokenizer makes a space of the line break; what is printed stands on one line."""
  rows = [
    {'text': 'how to boil an egg', 'answer': 'boil water\nadd the egg'},
    {'text': 'how to make tea \x1b[31m', 'answer': 'boil water\nadd the leaves'},
  ] * 4
  (tmp_path / 'rows.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  wrong = [{**rows[0], 'answer': 'never\x1b[2J'}]
  (tmp_path / 'dev.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in wrong))
  task = {'name': 'cook', 'train': 'rows.jsonl', 'test': 'rows.jsonl', 'dev': 'dev.jsonl'}
  manifest = {'text': 'text', 'answer': 'answer', 'tasks': [task]}
  (tmp_path / 'manifest.json').write_text(json.dumps(manifest))
  result = jcl.learn(
    jcl.load_stream('files', tmp_path / 'manifest.json', overlap='keep'), 'seq', scenario='iil',
    model=jcl.BackboneConfig(**SHAPE), workdir=tmp_path / 'run', quiet=True,
    train=jcl.TrainConfig(learning_rate=1e-2, epochs=40, batch_size=8),
  )  # fmt: skip
  assert result.results['matrix'][1] == [1.0]
  lines = ' '.join(result.results['warnings'])
  assert "'boil water\\nadd the egg' as 'boil water add the egg'" in lines
  called(evaluate, f'--workdir={tmp_path / "run"}', '--split=dev', '--wrong=2')
  said = capsys.readouterr().out
  assert '\x1b' not in said
  assert r"'never\x1b[2J'" in said
  called(predict, f'--model={tmp_path / "run"}', f'--text={rows[1]["text"]}')
  said = capsys.readouterr().out
  assert said.startswith(r'how to make tea \x1b[31m  →  boil water')
  assert said.count('\n') == 1


SPECIAL = [
  {'text': 'the sky at noon', 'label': 'blue'},
  {'text': 'a <eos> clear sea', 'label': 'blue'},
  {'text': 'fresh grass', 'label': 'green'},
  {'text': 'old __ans__ moss', 'label': 'green'},
]


def assembled(rows, policy, text_format='plain', tokenizer='word', **stream):
  method = Seq() if text_format == 'plain' else jcl.methods.settings('lamol')
  config = Config(method=method)
  config.backbone.tokenizer = tokenizer
  test = [{**row, 'id': f'test {row.get("id")}'} for row in rows]
  made = jcl.Stream.from_rows({'t': rows}, test={'t': test}, overlap='keep', **stream)
  config.stream = dataclasses.replace(made.settings, special_tokens_in_text=policy, overlap='keep')
  return assemble(config, stream=made)


@pytest.mark.parametrize('tokenizer', ['word', 'bpe'])
def test_rows_with_special_tokens_are_refused_read_or_left_out(tokenizer):
  with pytest.raises(UserError) as refused:
    assembled([{**row, 'id': f'r{i}'} for i, row in enumerate(SPECIAL)], 'refuse', id='id',
              tokenizer=tokenizer)  # fmt: skip
  assert 'r1 (t/train[1])' in str(refused.value)
  assert '<eos>' in str(refused.value)
  with pytest.raises(UserError, match=r't/train\[3\].*__ans__'):
    assembled([SPECIAL[0], *SPECIAL[2:3], SPECIAL[2], SPECIAL[3]], 'refuse', 'lamol', tokenizer)
  for text_format, dropped in (('plain', 1), ('lamol', 2)):
    parts = assembled(SPECIAL, 'text', text_format, tokenizer)
    assert len(parts.stream.examples) == 8
    kept = assembled(SPECIAL, 'drop', text_format, tokenizer)
    assert kept.text.dropped == 2 * dropped
    assert [e.number for e in kept.stream.examples] == list(range(8 - 2 * dropped))
    assert not any('<eos>' in e.text for e in kept.stream.examples)
  with pytest.raises(UserError, match="class 'blue'"):
    assembled(SPECIAL[1:], 'drop', tokenizer=tokenizer)


def test_a_label_with_a_special_token_is_read_as_text():
  rows = [{'text': 'the sky', 'label': 'a <eos> b'}, {'text': 'the sea', 'label': 'c'}]
  parts = assembled(rows, 'text', tokenizer='bpe')
  row = parts.text.rows(parts.stream.tasks[0].train[0])[0]
  assert row.wanted.tolist().count(parts.text.eos) == 1
  assert parts.text.written('a <eos> b') == 'a <eos> b'


def test_pseudo_samples_are_judged_by_what_the_tokenizer_gives_back():
  """Their labels, the share that is valid and the inputs that are training data word for word."""
  rows = {'zh': [{'text': text, 'label': label} for text, label in CHINESE]}
  stream = jcl.Stream.from_rows(rows, test=rows, overlap='keep')
  words = [s for pair in CHINESE for s in pair]
  text = tokenizer_kinds.text('wordpiece', words, 'lamol')
  sample = lambda example, cut: {'task': 0, 'tokens': [*text.prompt(example)[len(text.start):],
                                                       *text.wanted(example)[cut:]]}  # fmt: skip
  (task,) = stream.tasks
  samples = [sample(example, 0) for example in task.train] + [sample(task.train[0], 1)]
  tools = SimpleNamespace(text=text, stream=stream)
  counts = pseudo._counts(samples, [task], [task], tools)
  assert counts['kept'] == 5
  assert counts['valid_label'] == 4
  assert counts['verbatim'] == 5
  assert [answer for _, answer in counts['samples'][:4]] == [label for _, label in CHINESE]
