"""A model of jcl as one of lm-eval: its own parts here, and beside lm-eval's `hf` where that is."""

import importlib.util
import json

import numpy as np
import pytest
from absl import flags
from support.model_folder import STORIES, needs_stories

import jcl
from jcl.commands import command_line, evaluate, harness
from jcl.errors import UserError

CHOICES = [
  {'question': 'Once upon a', 'choices': [' time', ' dog there was', ' red'], 'answer': 0},
  {'question': 'The little girl was very', 'choices': [' happy', ' the', ' sad and'], 'answer': 0},
  {'question': 'Tom had a big', 'choices': [' and', ' dog', ' ball to play with'], 'answer': 1},
]
TEXT = 'Once upon a time there was a little dog. He liked to play with his ball. ' * 40
PROMPTS = ('Once upon a time', 'Lily and Tom went to the park. They')
HOW = {'until': ['.', '\n'], 'max_gen_toks': 16, 'do_sample': False}
TASKS = {
  'jcl_choice': """
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: answer
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
  'jcl_rolling': """
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: word_perplexity}, {metric: byte_perplexity}]
""",
  'jcl_writes': """
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[0]}}"
generation_kwargs: {until: [".", " "], max_gen_toks: 8, do_sample: false}
metric_list: [{metric: exact_match}]
""",
}
needs_both = pytest.mark.skipif(
  importlib.util.find_spec('lm_eval') is None or importlib.util.find_spec('torch') is None,
  reason='lm-eval or torch is not installed (pip install lm-eval[hf])',
)


@pytest.fixture(scope='module')
def scorer():
  return harness.Scorer(jcl.load_model(STORIES))


@needs_stories
def test_likelihoods_are_those_of_the_logits(scorer):
  ids = scorer.encode(PROMPTS[1])
  assert ids[0] == scorer.prefix
  assert scorer.encode(PROMPTS[1], special=False) == ids[1:]
  pairs = [(ids[:4], ids[4:7]), (ids[:2], ids[2:9]), ([scorer.prefix], ids[1:3])]
  found = scorer.likelihoods(pairs)
  for (context, wanted), (total, greedy) in zip(pairs, found, strict=True):
    tokens = np.array([*context, *wanted], np.int32)
    rows = [harness.Row(tokens[:-1], np.arange(len(tokens) - 1), tokens[1:], 0, -1)]
    (z_MV,) = scorer.tools.map_targets(scorer.tools.backbone.logits, scorer._params, rows)
    scorer.tools.folds.forget()
    z_MV = z_MV[-len(wanted) :].astype(np.float64)
    log_p = z_MV - np.log(np.exp(z_MV - z_MV.max(1, keepdims=True)).sum(1, keepdims=True))
    log_p -= z_MV.max(1, keepdims=True)
    assert total == pytest.approx(log_p[np.arange(len(wanted)), wanted].sum(), rel=1e-4)
    assert greedy == (z_MV.argmax(1) == wanted).all()


@needs_stories
def test_continuations_end_at_a_stop_sequence(scorer):
  whole, cut = (
    scorer.continued([(PROMPTS[0], {'max_gen_toks': 16, 'until': until})])[0]
    for until in (None, [' a'])
  )
  assert ' a' in whole
  assert cut == whole.split(' a')[0]


@pytest.mark.parametrize(
  ('how', 'found'),
  [
    ({}, (256, 1, 1.0)),
    ({'max_gen_toks': 4, 'do_sample': False, 'temperature': 0.7}, (4, 1, 1.0)),
    ({'do_sample': True, 'temperature': 0.7, 'top_k': 5}, (256, 5, 0.7)),
    ({'temperature': 0.5, 'top_p': 1.0}, (256, 90, 0.5)),
  ],
)
def test_ways_to_generate(how, found):
  assert harness.sampling(how, 90) == found


@pytest.mark.parametrize('how', [{'top_p': 0.9}, {'num_beams': 4}, {'penalty': 1}])
def test_a_way_to_generate_that_there_is_not_is_refused(how):
  with pytest.raises(UserError, match=f'--harness: a task asks for {next(iter(how))}'):
    harness.sampling(how, 90)


def test_figures_stand_beside_their_errors():
  results = {'t': {'alias': 't', 'acc,none': 0.5, 'acc_stderr,none': 0.1, 'f1,x': 1, 'name': 't',
                   'f1_stderr,x': 'N/A', 'sample_len': 3}}  # fmt: skip
  assert harness.figures(results) == [
    ('t', 'acc,none', 0.5, 0.1), ('t', 'f1,x', 1.0, None)
  ]  # fmt: skip


def test_without_lm_eval_it_is_one_line(monkeypatch, tmp_path):
  monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
  given = flags.FlagValues()
  evaluate.define_flags(given, [])
  command_line.parse(given, [f'--workdir={tmp_path}', '--harness=arc_easy'])
  with pytest.raises(UserError, match=r"--harness: lm-eval is not installed; pip install 'jcl"):
    evaluate.run(given)


@pytest.fixture(scope='module')
def exported(tmp_path_factory):
  """The folder of an exported model, and one with task files."""
  root = tmp_path_factory.mktemp('harness')
  jcl.load_model(STORIES).save(root / 'exported')
  (root / 'choice.jsonl').write_text('\n'.join(map(json.dumps, CHOICES)))
  (root / 'text.jsonl').write_text(json.dumps({'text': TEXT}))
  (root / 'tasks').mkdir()
  for name, body in TASKS.items():
    data = 'text' if name == 'jcl_rolling' else 'choice'
    head = f'task: {name}\ndataset_path: json\ntest_split: test\n'
    head += f'dataset_kwargs: {{data_files: {{test: {root}/{data}.jsonl}}}}\n'
    (root / 'tasks' / f'{name}.yaml').write_text(head + body)
  return root / 'exported', root / 'tasks'


@pytest.mark.slow
@needs_both
@needs_stories
@pytest.mark.filterwarnings('ignore')
def test_it_is_the_hf_model_of_lm_eval_on_an_exported_folder(exported):
  """Request by request, and the figures of local tasks of each of the three kinds."""
  from lm_eval import evaluator
  from lm_eval.api.instance import Instance
  from lm_eval.models.huggingface import HFLM
  from lm_eval.tasks import TaskManager

  folder, tasks = exported
  model = jcl.load_model(folder)
  # Its cache of logits mixes up two requests whose tokens but the last are the same.
  theirs = HFLM(str(folder), device='cpu', logits_cache=False)
  ours = harness.language_model(model)
  ask = lambda kind, given: [Instance(kind, {}, x, i) for i, x in enumerate(given)]
  pairs = [(c['question'], choice) for c in CHOICES for choice in c['choices']]
  pairs += [('', 'Once upon a time'), (TEXT, ' The end.'), ('He said ', 'yes')]
  found, wanted = (m.loglikelihood(ask('loglikelihood', pairs)) for m in (ours, theirs))
  assert [greedy for _, greedy in found] == [greedy for _, greedy in wanted]
  np.testing.assert_allclose([x for x, _ in found], [x for x, _ in wanted], rtol=1e-4, atol=1e-4)
  texts = [(TEXT,), (PROMPTS[1],)]
  found, wanted = (
    m.loglikelihood_rolling(ask('loglikelihood_rolling', texts)) for m in (ours, theirs)
  )
  np.testing.assert_allclose(found, wanted, rtol=1e-4)
  prompts = [(prompt, HOW) for prompt in PROMPTS]
  found, wanted = (m.generate_until(ask('generate_until', prompts)) for m in (ours, theirs))
  assert found == wanted
  mine = harness.evaluated(model, list(TASKS), str(tasks))
  results = evaluator.simple_evaluate(
    model=theirs, tasks=list(TASKS), task_manager=TaskManager(include_path=str(tasks)),
    log_samples=False, bootstrap_iters=0,
  )['results']  # fmt: skip
  others = {(f.task, f.metric): f.value for f in harness.figures(results)}
  assert {(f.task, f.metric) for f in mine} == set(others)
  for figure in mine:
    assert figure.value == pytest.approx(others[figure.task, figure.metric], rel=1e-4)


@pytest.mark.slow
@needs_both
@needs_stories
@pytest.mark.filterwarnings('ignore')
def test_the_command_prints_a_line_a_figure(exported, capsys):
  folder, tasks = exported
  given = flags.FlagValues()
  evaluate.define_flags(given, [])
  names = f'--harness={",".join(TASKS)}'
  command_line.parse(given, [f'--workdir={folder}', names, f'--harness_include={tasks}'])
  evaluate.run(given)
  lines = capsys.readouterr().out.splitlines()
  assert {line.split(':')[0] for line in lines if line.startswith('jcl_')} == set(TASKS)
  with pytest.raises(UserError, match="--harness: lm-eval has no task 'nonsense'"):
    harness.evaluated(jcl.load_model(folder), ['nonsense'])
