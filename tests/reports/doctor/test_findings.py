"""Findings on a run: each for a run that is ill in that way alone, none for a healthy one."""

import copy

import pytest

from jcl.reports import doctor


def healthy():
  """Returns (results, lines of metrics.jsonl) of a run of three tasks with which all is well."""
  results = {
    'method': 'replay+ewc', 'scenario': 'cil', 'score': 'accuracy', 'finished': True,
    'tasks': ['a', 'b', 'c'],
    'matrix': [[0.1, 0.1, 0.1], [0.95, 0.1, None], [0.9, 0.94, 0.1], [0.88, 0.9, 0.96]],
    'invalid': [[1.0, 1.0, 1.0], [0.0, 0.0, None], [0.0, 0.0, 0.0], [0.05, 0.0, 0.0]],
    'mix': [{'task': 'a', 'new': 900, 'old': 0, 'new_rows': 90, 'old_rows': 0},
            {'task': 'b', 'new': 900, 'old': 200, 'new_rows': 90, 'old_rows': 25},
            {'task': 'c', 'new': 900, 'old': 250, 'new_rows': 90, 'old_rows': 30}],
    'refused_steps': [], 'drift': [{'task': t, 'kl': 0.1, 'perplexity': 8.0} for t in 'abc'],
    'probe': [{'task': t, 'nats': 3.0, 'kl': 0.1 * bool(t)} for t in (None, *'abc')],
    'buffer': [{'after': 'c', 'examples': 90, 'seen': 900, 'tasks': {'a': 25, 'b': 35, 'c': 30}}],
    'pseudo': [{'before': 'b', 'task': 'a', 'asked': 50, 'drawn': 60, 'kept': 50, 'distinct': 45,
                'verbatim': 2, 'valid_label': 48, 'samples': []}],
    'config': {'method': {'ewc': {'lambda_ewc': 1000.0, 'half': False},
                          'replay': {'replay_ratio': 0.3, 'unit': 'rows', 'level': 'dataset'}},
               'train': {'clip_norm': 1.0}},
  }  # fmt: skip
  lines = [
    {'task': task, 'step': step, 'ce': 3.0 / step, 'ewc': 1e-4 * (task > 0),
     'loss': 3.0 / step + 0.1 * (task > 0), 'gradient_norm': 2.0}
    for task in range(3)
    for step in range(1, 17)
  ]  # fmt: skip
  lines += [
    {'task': task, 'step': step, 'gradient_norms': {'ce': 2.0 / step, 'ewc': 0.1}}
    for task in (1, 2)
    for step in (4, 8, 16)
  ]
  return results, lines


def without_norms(lines):
  """Leaves out the measured gradients, as runs without them do."""
  lines[:] = [line for line in lines if 'loss' in line]


def names(results, lines=()):
  """Returns the names of the findings."""
  return [finding.name for finding in doctor.findings(results, lines)]


def test_a_healthy_run_has_no_finding():
  assert names(*healthy()) == []
  assert str(doctor.findings(*healthy())) == 'nothing looks wrong'
  assert names({'method': 'seq', 'tasks': ['a'], 'matrix': [[None]]}) == []  # all else is missing


def forgets(results, lines):
  results['matrix'][3] = [0.1, 0.1, 0.96]


def forgets_a_little(results, lines):
  """A tenth of a point less than a quarter of what its two old tasks gained, 0.85 and 0.84."""
  results['matrix'][3] = [0.95 - 0.2115, 0.94 - 0.21, 0.96]


def forgets_a_quarter(results, lines):
  results['matrix'][3] = [0.95 - 0.2135, 0.94 - 0.21, 0.96]


def joint_forgets(results, lines):
  """A run that has nothing to hold off."""
  forgets(results, lines)
  results['method'] = 'joint'


def never_learned(results, lines):
  results['matrix'][2][1] = results['matrix'][3][1] = 0.12


def known(results, lines):
  results['matrix'][1][1], results['matrix'][2][1] = 0.95, 0.96


def gradients(lines, ewc):
  """Sets the norm of the penalty's gradient wherever it is measured."""
  for line in lines:
    if 'gradient_norms' in line:
      line['gradient_norms'] = {**line['gradient_norms'], 'ewc': ewc}


def not_felt(results, lines):
  forgets(results, lines)
  gradients(lines, 1e-4)


def not_felt_late(results, lines):
  """Where nothing is left to learn the penalty has the larger gradient; that does not count."""
  forgets(results, lines)
  for line in lines:
    if 'gradient_norms' in line:
      line['gradient_norms'] = {'ce': 1e-3, 'ewc': 2e-3} if line['step'] > 4 else {
        'ce': 3.0, 'ewc': 1e-3}  # fmt: skip


def not_felt_and_needless(results, lines):
  gradients(lines, 1e-4)


def small_in_the_loss_alone(results, lines):
  forgets(results, lines)
  for line in lines:
    if 'loss' in line:
      line['ewc'] *= 1e-4


def not_felt_by_loss(results, lines):
  small_in_the_loss_alone(results, lines)
  without_norms(lines)


def drowns(results, lines):
  gradients(lines, 100.0)


def balances(results, lines):
  """Half of the gradient, and nothing is learned."""
  never_learned(results, lines)
  gradients(lines, 0.3)


def balances_and_learns(results, lines):
  gradients(lines, 0.3)


def large_in_the_loss_alone(results, lines):
  for line in lines:
    if line['task'] and 'loss' in line:
      line['ewc'], line['loss'] = 0.1, 100 + line['ce']


def drowns_by_loss(results, lines):
  large_in_the_loss_alone(results, lines)
  without_norms(lines)


def halved(results, lines):
  """0.95 of the loss, were it not halved."""
  without_norms(lines)
  results['config']['method']['ewc']['half'] = True
  for line in lines:
    if line['task']:
      line['ewc'], line['loss'] = 0.095, 100.0


def clipped_and_learned(results, lines):
  """AdamW's steps do not depend on the size of the gradient: a task that is learned is not ill."""
  for line in lines:
    line['gradient_norm'] = 135.0


def clipped(results, lines):
  fallen(results, lines)
  clipped_and_learned(results, lines)


def clipped_on_few_points(results, lines):
  """The median of the first and the last of a short task says nothing."""
  clipped(results, lines)
  lines[:] = [line for line in lines if line['step'] in (1, 16)]


def diverges(results, lines):
  """Everything that follows is left out: not learned, clipped, invalid, drifted, a leap."""
  never_learned(results, lines)
  invalid(results, lines)
  drifted(results, lines)
  for line in lines[16:32]:
    line['ce'] = 3.0 if line['step'] == 1 else 1414.0
    line['gradient_norm'] = 500.0


def diverges_on_two_points(results, lines):
  diverges(results, lines)
  lines[:] = [line for line in lines if line['step'] in (1, 11)]


def ends_above_its_start_and_below_that_of_the_run(results, lines):
  """A task that is known begins low; where it ends is not worse than an untrained model."""
  for line in lines[16:32]:
    line['ce'] = 0.5 if line['step'] < 4 else 2.9


def leaps(results, lines):
  """Thrown off in its first steps, and never back: its first quarter is no better than its last."""
  for line in lines[16:32]:
    line['ce'] = 3.0 if line['step'] == 1 else 9.0 if line['step'] == 3 else 3.2


def leaps_and_comes_down(results, lines):
  lines[18]['ce'] = 9.0


def near_zero(results, lines):
  """Three times its start is nothing where both are next to nothing."""
  for line in lines[16:32]:
    line['ce'] = 0.001 * line['step']


def falls_still(results, lines):
  results['matrix'][2][1] = results['matrix'][3][1] = 0.4
  for line in lines[16:32]:
    line['ce'] = 6.0 - 0.3 * line['step']


def falls_still_and_learned(results, lines):
  for line in lines[16:32]:
    line['ce'] = 6.0 - 0.3 * line['step']


def fallen(results, lines):
  """Badly learned, and nothing left to fall: more steps are no help."""
  results['matrix'][2][1] = results['matrix'][3][1] = 0.4


def rises(results, lines):
  for line in lines[16:32]:
    line['ce'] = 1 + 0.1 * line['step']


def flat(results, lines):
  never_learned(results, lines)
  for line in lines[16:32]:
    line['ce'] = 3.0


def flat_and_learned(results, lines):
  for line in lines[16:32]:
    line['ce'] = 3.0


def little_replay(results, lines):
  for line in results['mix'][1:]:
    line['old'] = 5


def fewer_rows(results, lines):
  for line in results['mix'][1:]:
    line['old_rows'] = 9


def fewer_rows_of_tokens(results, lines):
  fewer_rows(results, lines)
  results['config']['method']['replay']['unit'] = 'tokens'


def fewer_rows_in_half_batches(results, lines):
  fewer_rows(results, lines)
  results['config']['method']['replay']['level'] = 'batch'


def uncounted_rows(results, lines):
  for line in results['mix']:
    del line['new_rows'], line['old_rows']


def lost_task(results, lines):
  results['buffer'][0]['tasks'] = {'b': 4, 'c': 5}


def young(results, lines):
  results['buffer'][0]['tasks'] = {'a': 1, 'b': 9, 'c': 80}


def old(results, lines):
  results['buffer'][0]['tasks'] = {'a': 80, 'b': 9, 'c': 1}


def old_by_chance(results, lines):
  results['buffer'][0]['tasks'] = {'a': 8, 'b': 1, 'c': 1}


def rejected(results, lines):
  results['pseudo'][0] |= {'drawn': 150}


def alike(results, lines):
  results['pseudo'][0] |= {'distinct': 5}


def copied(results, lines):
  results['pseudo'][0] |= {'verbatim': 20}


def mislabelled(results, lines):
  results['pseudo'][0] |= {'valid_label': 30}


def unwritten(results, lines):
  results['pseudo'][0] |= {'by_task': {'a': 5, 'b': 43}}


def hardly_unwritten(results, lines):
  results['pseudo'][0] |= {'by_task': {'a': 6, 'b': 42}}


def unwritten_and_forgotten(results, lines):
  unwritten(results, lines)
  forgets(results, lines)


def free_answers(results, lines):
  results['pseudo'][0] |= {'valid_label': None}


def invalid(results, lines):
  results['invalid'][3] = [0.5, 0.2, 0.0]


def drifted(results, lines):
  results['drift'][2] |= {'perplexity': 17.0}


def drifted_on_the_probe(results, lines):
  results['probe'][3] |= {'nats': 3.8}


def far_on_the_probe(results, lines):
  results['probe'][3] |= {'kl': 1.2}


def refused(results, lines):
  results['refused_steps'] = [{'task': 'b', 'count': 2}]


def refused_and_flat(results, lines):
  """A lower rate for one and a higher one for the other would be a riddle."""
  refused(results, lines)
  flat(results, lines)


def rejected_and_alike(results, lines):
  """Likewise a lower temperature and a higher one."""
  rejected(results, lines)
  alike(results, lines)


def penalty_alone(results, lines):
  forgets(results, lines)
  results['method'] = 'ewc'
  results['buffer'], results['pseudo'] = [], []
  for line in results['mix']:
    line['old'] = 0


def penalty_alone_and_not_felt(results, lines):
  """A larger weight would not help: replay does."""
  penalty_alone(results, lines)
  gradients(lines, 1e-4)


def penalty_alone_and_not_felt_where_the_task_is_told(results, lines):
  penalty_alone_and_not_felt(results, lines)
  results['scenario'] = 'til'


def lower_bound(results, lines):
  penalty_alone(results, lines)
  results['method'], results['config'] = 'seq', {'train': {'clip_norm': 1.0}}
  for line in lines:
    line.pop('ewc', None)
  lines[:] = [line for line in lines if 'loss' in line]


def lower_bound_that_forgets_nothing(results, lines):
  lower_bound(results, lines)
  results['matrix'] = copy.deepcopy(healthy()[0]['matrix'])


def lower_bound_that_learns_nothing(results, lines):
  lower_bound(results, lines)
  results['matrix'][2][1] = 0.12


def tell(results, scores, classes=(24, 24, 24, 24)):
  """Sets what tasks score just learned, with the test rows of each class; all is then lost."""
  results['sizes'] = [sum(classes)] * 3
  results['matrix'] = [[0.0] * 3, [scores[0], 0.0, None], [0.0, scores[1], 0.0],
                       [0.0, 0.0, scores[2]]]  # fmt: skip
  results['by_class'] = [
    {'task': task, 'class': f'{task}{c}', 'examples': n, 'right': 0, 'wrong': []}
    for task in 'abc' for c, n in enumerate(classes)
  ]  # fmt: skip


def guesses(results, lines):
  """The form of the answers is learned, 16.7 to 25 % of four classes, and no class."""
  lower_bound(results, lines)
  tell(results, [16 / 96, 23 / 96, 24 / 96])


def guesses_and_replays(results, lines):
  tell(results, [16 / 96, 23 / 96, 24 / 96])


def joint_guesses(results, lines):
  """A run of joint, evaluated after all tasks; only the last is learned."""
  tell(results, [0.9, 0.9, 0.9])
  results['method'] = 'joint'
  results['matrix'] = [[0.0] * 3, [None] * 3, [None] * 3, [0.25, 0.26, 0.9]]


def guesses_above_chance_by_noise(results, lines):
  """32 of 96 where chance gives 24: so many or more come of guessing in 4.2 % of cases."""
  lower_bound(results, lines)
  tell(results, [0.9, 0.9, 32 / 96])


def better_than_guesses(results, lines):
  """34 of 96, 1.4 %."""
  lower_bound(results, lines)
  tell(results, [0.9, 0.9, 34 / 96])


def guesses_the_frequent_class(results, lines):
  """70 % is less than its most frequent class alone gives, 75 %."""
  lower_bound(results, lines)
  tell(results, [0.9, 0.9, 70 / 96], classes=(72, 8, 8, 8))


def frequent_class_and_learned(results, lines):
  """A class of 90 % leaves nothing to tell a guess from what is learned."""
  lower_bound(results, lines)
  tell(results, [0.9, 0.9, 0.9], classes=(900, 100))


def one_class_each(results, lines):
  """Chance among the own classes of a task of one class is no measure."""
  lower_bound(results, lines)
  tell(results, [0.9, 0.9, 0.5], classes=(96,))


def guesses_by_another_metric(results, lines):
  guesses(results, lines)
  results['task_metrics'] = ['macro_f1'] * 3


def guesses_in_some_free_answers(results, lines):
  """Rows that have no class are no guess among classes."""
  guesses(results, lines)
  results['sizes'] = [97] * 3


def rate_throws_off(lines):
  """Sets a loss that falls as the form is learned, then stays up."""
  for line in lines:
    if 'loss' in line:
      line['ce'] = 10.0 if line['step'] < 3 else 1.0 + 0.1 * (line['step'] % 2)


def guesses_at_a_high_rate(results, lines):
  guesses(results, lines)
  results['config']['train']['learning_rate'] = 0.1
  rate_throws_off(lines)


def guesses_at_the_default_rate(results, lines):
  guesses(results, lines)
  results['config']['train']['learning_rate'] = 1e-3
  results['config']['backbone'] = {'path': ''}
  rate_throws_off(lines)


def guesses_at_a_high_rate_and_still_falls(results, lines):
  guesses(results, lines)
  results['config']['train']['learning_rate'] = 0.1


def learns_at_a_high_rate(results, lines):
  lower_bound(results, lines)
  tell(results, [0.5, 0.5, 0.5])
  results['config']['train']['learning_rate'] = 0.1
  rate_throws_off(lines)


def few_rows(results, lines):
  """7 of 12 rows of two classes are a guess, though no task alone is."""
  lower_bound(results, lines)
  tell(results, [0.75, 0.5, 0.5], classes=(2, 2))


def few_rows_learned(results, lines):
  lower_bound(results, lines)
  tell(results, [1.0, 1.0, 0.75], classes=(2, 2))


def few_rows_and_a_warning(results, lines):
  forgets(results, lines)
  results['sizes'] = [4, 4, 4]


def rows_enough(results, lines):
  results['sizes'] = [16, 16, 16]


def few_tokens(results, lines):
  """Sizes of raw text count tokens."""
  results |= {'score': 'log_perplexity', 'matrix': [[5.0] * 3, [2.0, 5.0, None], [2.0, 2.0, 5.0],
              [2.0, 2.0, 2.0]], 'sizes': [4, 4, 4]}  # fmt: skip


UNWRITTEN = ['tasks not written']
FORGETS = ['forgets all the same']
FELT, DROWNS = ['penalty not felt'], ['penalty drowns the loss']
DRIFT = ['drift from the base model']
ILL = {
  forgets: FORGETS, forgets_a_little: [], forgets_a_quarter: FORGETS, joint_forgets: [],
  never_learned: ['not learned'], known: ['known before'],
  not_felt: FELT, not_felt_late: FELT, not_felt_and_needless: [], small_in_the_loss_alone: FORGETS,
  not_felt_by_loss: FELT, drowns: DROWNS, large_in_the_loss_alone: [], drowns_by_loss: DROWNS,
  balances: DROWNS, balances_and_learns: [],
  halved: [], clipped: ['clipped'], clipped_and_learned: [], clipped_on_few_points: [],
  diverges: ['diverged'], diverges_on_two_points: ['diverged'],
  ends_above_its_start_and_below_that_of_the_run: ['loss rises'], rises: ['loss rises'],
  leaps: ['loss rises'],
  leaps_and_comes_down: [], near_zero: [], flat: ['loss does not fall'],
  flat_and_learned: [], falls_still: ['loss still falls'], falls_still_and_learned: [], fallen: [],
  little_replay: ['little replay'], fewer_rows: ['less replay than asked'],
  fewer_rows_of_tokens: [], fewer_rows_in_half_batches: [], uncounted_rows: [],
  lost_task: ['tasks not in the buffer'], young: ['a young buffer'], old: ['an old buffer'],
  old_by_chance: [], rejected: ['pseudo samples rejected'], alike: ['pseudo samples alike'],
  copied: ['pseudo samples copied'], mislabelled: ['pseudo samples without a label'],
  unwritten: UNWRITTEN, hardly_unwritten: [], unwritten_and_forgotten: UNWRITTEN,
  free_answers: [], invalid: ['invalid answers'], drifted: DRIFT, drifted_on_the_probe: DRIFT,
  far_on_the_probe: DRIFT, refused: ['steps not applied'], penalty_alone: ['a penalty alone'],
  penalty_alone_and_not_felt: ['a penalty alone'],
  penalty_alone_and_not_felt_where_the_task_is_told: FELT, lower_bound: ['forgets as expected'],
  lower_bound_that_forgets_nothing: [], lower_bound_that_learns_nothing: ['not learned'],
  refused_and_flat: ['steps not applied'], rejected_and_alike: ['pseudo samples rejected'],
  guesses: ['not learned'], guesses_and_replays: ['not learned'],
  joint_guesses: ['not learned'],
  guesses_above_chance_by_noise: ['not learned'], better_than_guesses: ['forgets as expected'],
  guesses_the_frequent_class: ['not learned'], one_class_each: ['forgets as expected'],
  frequent_class_and_learned: ['forgets as expected'],
  guesses_by_another_metric: ['forgets as expected'],
  guesses_in_some_free_answers: ['forgets as expected'],
  guesses_at_a_high_rate: ['loss stays up'], guesses_at_the_default_rate: ['not learned'],
  guesses_at_a_high_rate_and_still_falls: ['not learned'],
  learns_at_a_high_rate: ['forgets as expected'],
  few_rows: ['few test rows', 'not learned'],
  few_rows_learned: ['few test rows', 'forgets as expected'],
  few_rows_and_a_warning: ['few test rows', *FORGETS], rows_enough: [], few_tokens: [],
}  # fmt: skip


@pytest.mark.parametrize('fall_ill', ILL, ids=lambda fn: fn.__name__)
def test_an_ill_run_has_its_finding_and_no_other(fall_ill):
  results, lines = copy.deepcopy(healthy())
  fall_ill(results, lines)
  assert names(results, lines) == ILL[fall_ill]


def test_a_finding_says_figure_meaning_advice_and_command():
  """Norms of cross-entropy and penalty: 2/4 + 2/8 + 2/16 and 3e-4 in each task."""
  results, lines = healthy()
  not_felt(results, lines)
  every = doctor.findings(results, lines, workdir='runs/the ewc')
  (found,) = every
  assert str(every) == repr(every) == f'penalty not felt: {found}\n  {found.command}'
  assert str(found) == (
    'the ewc penalty is 0.0343 % of the gradient: it holds nothing back, and an old task loses '
    '84.5 points; raise lambda_ewc, now 1000, to about 1e+06'  # 1000 · (1 - share) / share = 2.9e6
  )
  assert found.command == (
    "jcl sweep --workdir='runs/the ewc' --setting=method.ewc.lambda_ewc --values=100000,1e+06,1e+07"
  )
  without_norms(lines)
  not_felt_by_loss(results, lines)
  (found,) = doctor.findings(results, lines)
  assert str(found) == (
    'the ewc penalty is 0.00294 % of the loss: it holds nothing back, and an old task loses '
    '84.5 points; raise lambda_ewc, now 1000, by powers of ten'
  )
  assert '--workdir=WORKDIR' in found.command
  assert found.command.endswith('--values=10000,100000,1e+06')


def test_a_method_that_loses_what_was_learned_is_found_by_what_it_keeps_of_the_past():
  results, lines = healthy()
  forgets(results, lines)
  (found,) = doctor.findings(results, lines)
  assert str(found) == (
    'replay+ewc loses 100 % of what the old tasks had gained, 84.5 points a task: plain '
    'fine-tuning (seq) loses about as much, so the method has next to no effect here; raise '
    'replay_ratio, now 0.3, to 0.9'
  )
  results['matrix'][3] = [0.55, 0.5, 0.96]
  assert 'in part only' in doctor.findings(results, lines)[0].meaning  # 0.84/1.69
  for line in results['mix']:
    line['old'] = 0
  (found,) = doctor.findings(results, lines)
  assert found.command == 'jcl train --config=WORKDIR:replay --workdir=WORKDIR-replay'


def test_a_generator_gets_tokens_of_tasks_then_more_samples_then_a_larger_weight():
  results, lines = healthy()
  forgets(results, lines)
  results['method'], results['config'] = 'lamol', {'method': {'gamma': 0.2, 'task_tokens': False}}
  settings = results['config']['method'] | {'lambda_gen': 0.25}
  results['config']['method'] = settings
  advice = lambda: doctor.findings(results, lines)[0].advice.partition(',')[0]
  assert advice() == 'set task_tokens=true'
  settings['task_tokens'] = True
  assert doctor.findings(results, lines)[0].advice == 'raise gamma, now 0.2, to 0.5'
  settings['gamma'] = 1.0
  assert advice() == 'raise lambda_gen'


@pytest.mark.parametrize(('rate', 'verb'), [(1e-5, 'raise'), (9e-3, 'raise'), (0.1, 'lower')])
def test_a_loss_that_is_flat_at_a_rate_far_above_the_default_is_told_to_lower_it(rate, verb):
  results, lines = healthy()
  flat(results, lines)
  results['config']['train']['learning_rate'] = rate
  results['config']['backbone'] = {'path': ''}
  (found,) = doctor.findings(results, lines)
  assert found.advice.startswith(f'{verb} train.learning_rate, now {rate:g} (default 0.001), to ')
  assert ('too high' in found.meaning) == (verb == 'lower')


def test_no_advice_points_to_another_finding():
  for fall_ill in ILL:
    results, lines = copy.deepcopy(healthy())
    fall_ill(results, lines)
    for found in doctor.findings(results, lines):
      assert not {'finding', 'findings', 'below', 'above'} & set(found.advice.split()), found


def test_a_weight_that_drowns_the_rest_is_lowered():
  results, lines = healthy()
  drowns(results, lines)
  (found,) = doctor.findings(results, lines)
  assert found.advice == 'lower lambda_ewc, now 1000, to about 1e+00'  # 0.875 of 300.875
  assert found.command.endswith('--values=0.1,1,10')


def test_the_term_that_is_clipped_is_named_where_gradients_were_measured():
  results, lines = healthy()
  clipped(results, lines)
  assert doctor.findings(results, lines)[0].advice == 'raise train.clip_norm, now 1, to 1000'
  gradients(lines, 2.0)
  (found,) = doctor.findings(results, lines)
  assert found.advice == 'ewc is 87.3 % of the gradient: lower lambda_ewc, now 1000'
  assert found.command.endswith('--setting=method.ewc.lambda_ewc --values=10,100')


def test_a_rate_is_compared_with_its_default():
  results, lines = healthy()
  diverges(results, lines)
  results['config']['train']['learning_rate'] = 10.0
  results['config']['backbone'] = {'path': ''}
  (found,) = doctor.findings(results, lines, 'run')
  assert found.figure == (
    'the cross-entropy of new rows ends at 1.41e+03 nats in b, and the first step of the run had 3'
  )
  assert found.advice == 'lower train.learning_rate, now 10 (default 0.001), to 0.001'
  assert found.command == 'jcl sweep --workdir=./run --setting=train.learning_rate --values=0.001'
  results['config']['train']['learning_rate'] = 1e-4
  results['config']['backbone'] = {'path': 'a model'}
  (found,) = doctor.findings(results, lines, 'run')
  assert found.command.endswith('--values=1e-05')
  results['config']['train'] |= {'learning_rate': None, 'adapter_learning_rate': 3e-4}
  (found,) = doctor.findings(results, lines, 'run')
  assert found.command.endswith('--setting=train.adapter_learning_rate --values=3e-05,0.0001')


def test_a_task_whose_loss_falls_is_not_trained_longer():
  """Its answers are at fault."""
  results, lines = healthy()
  never_learned(results, lines)
  assert doctor.findings(results, lines)[0].command == 'jcl evaluate --workdir=WORKDIR --wrong=5'
  for line in lines[16:32]:
    line['ce'] = 3.0 - 0.05 * line['step']
  (found,) = doctor.findings(results, lines)
  assert found.advice == 'train longer: train.epochs=15, now 5'


def test_a_guess_is_told_by_its_rows_and_what_guessing_gives():
  results, lines = healthy()
  guesses(results, lines)
  (found,) = doctor.findings(results, lines)
  assert found.figure == (
    '3 of 3 tasks (a, b, c) are answered no better than by guessing when they are learned: 16.7 % '
    'of the 96 test rows of a, where its most frequent class alone gives 25 %'
  )
  assert found.advice == 'train longer: train.epochs=15, now 5'
  assert found.command == (
    'jcl train --config=WORKDIR --workdir=WORKDIR-longer --config.train.epochs=15'
  )


def test_a_rate_that_throws_off_is_lowered():
  results, lines = healthy()
  guesses_at_a_high_rate(results, lines)
  (found,) = doctor.findings(results, lines)
  assert found.advice == 'lower train.learning_rate, now 0.1 (default 0.001), to 0.001'
  assert found.figure == (
    '3 of 3 tasks (a, b, c) are answered no better than by guessing when they are learned: 16.7 % '
    'of the 96 test rows of a, where its most frequent class alone gives 25 %; their '
    'cross-entropy of new rows falls at first and stays up, at as much as 1.05 nats'
  )


def test_a_guess_whose_training_rows_are_known_is_looked_at():
  """More steps are no help where nothing is left of the loss."""
  results, lines = healthy()
  guesses(results, lines)
  for line in lines:
    line['ce'] = 3.0 if line['step'] < 4 else 0.01
  (found,) = doctor.findings(results, lines)
  assert found.command == 'jcl evaluate --workdir=WORKDIR --wrong=5'


def test_few_test_rows_are_told_in_points_and_judged_together():
  results, lines = healthy()
  few_rows(results, lines)
  assert doctor.findings(results, lines)[0].command.startswith('jcl evaluate ')
  results['config']['stream'] = {'max_test_per_task': 4}
  few, guess = doctor.findings(results, lines)
  assert (few.kind, guess.kind) == ('information', 'warning')
  assert few.figure == '3 of 3 tasks (a, b, c) have fewer than 16 test rows: one of 4 is 25 points'
  assert few.command == (
    'jcl train --config=WORKDIR --workdir=WORKDIR-more-rows --config.stream.max_test_per_task=0'
  )
  assert '58.3 % of the 12 test rows of a, b, c' in guess.figure


def test_a_buffer_gets_a_size_or_another_policy():
  results, lines = healthy()
  lost_task(results, lines)
  settings = results['config']['method']['replay']
  settings |= {'buffer_size': 9, 'policy': 'reservoir'}
  assert doctor.findings(results)[0].advice == 'raise buffer_size, now 9, to 180'  # 900 seen
  settings['policy'] = 'fifo'
  assert doctor.findings(results)[0].command == (
    'jcl train --config=WORKDIR --workdir=WORKDIR-reservoir --config.method.replay.policy=reservoir'
  )


def test_no_command_reads_rows_of_a_program_again():
  results, lines = healthy()
  not_felt(results, lines)
  results['config']['stream'] = {'name': 'rows'}
  (found,) = doctor.findings(results, lines)
  assert found.command == ''


def test_replay_is_told_in_tokens_and_in_rows():
  results, lines = healthy()
  little_replay(results, lines)
  (found,) = doctor.findings(results, lines)
  assert found.figure.startswith('0.552 % of the tokens (23.4 % of the rows) that train a later')
  fewer_rows(*(copied := healthy()))
  (found,) = doctor.findings(*copied)
  assert found.figure == (
    'later tasks train on 0.1 old rows for each new one, and replay_ratio is 0.3'
  )


def test_nats_are_better_when_they_are_fewer():
  results = {'method': 'seq', 'scenario': 'cpt', 'score': 'log_perplexity', 'tasks': ['a', 'b'],
             'matrix': [[5.0, 5.0], [3.0, 4.9], [3.05, 4.88]]}  # fmt: skip
  assert names(results) == ['not learned']
  results['matrix'][2][1] = 3.5
  assert names(results) == []


def test_lines_of_other_kinds_and_of_no_task_are_left_out():
  results, lines = healthy()
  results['buffer'] += [3, {'after': 9, 'tasks': []}]
  results['pseudo'][0] |= {'verbatim': 'x', 'valid_label': 'y'}
  lines[1] |= {'gradient_norm': 10**400}
  lines[0] |= {'gradient_norm': 'x', 'ewc': None, 'ce': float('nan')}
  odd = [{'task': 7, 'loss': 1.0}, {'task': None, 'loss': 1.0}, {'task': 0, 'dev': {'a': 1.0}}, {}]
  odd += [{'task': 1, 'gradient_norms': x} for x in ({'ewc': None}, 3)]
  assert names(results, [*odd, *lines]) == []
