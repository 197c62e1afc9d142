"""The page of a run: whole, well formed, with the numbers of the files; texts stay texts."""

import itertools
import json
import re

import pytest
from support import reported
from support.reported import Parts

from jcl.errors import UserError
from jcl.reports import report
from jcl.reports.page import document

SECTIONS = ('findings', 'scores', 'forgetting', 'flips', 'classes', 'training', 'pseudo', 'own',
            'buffer', 'cost', 'run')  # fmt: skip
FIGURES = (
  'Average over time', 'Every task over time', 'From just learned', 'Classes with wrong answers',
  'Loss and its terms', 'Share of each term in the loss', 'Share of each term in the gradients',
  'Norm of the gradient', 'Tokens that trained',
  'Drawn samples', 'Examples in the buffer', 'Seconds by kind', 'Mean score so far against',
)  # fmt: skip
EVIL = '<script>alert(1)</script>"\'>'
SEVERAL = [reported.run(), reported.run(seed=1), reported.run('seq'), reported.run('joint', seed=1)]


@pytest.fixture(scope='module')
def page():
  return document.document([reported.run()], [reported.log()])


@pytest.fixture(scope='module')
def parts(page):
  return Parts(page)


def cells(found, caption, *columns):
  """{first cell of a row: cells of some columns}."""
  header, *rows = found.table(caption)
  places = [header.index(column) for column in columns]
  return {row[0]: [row[i] for i in places] for row in rows}


def test_a_page_has_every_section_and_every_figure(page, parts):
  assert [a['id'] for a, _ in parts.all('section')] == list(SECTIONS)
  captions = [words for _, words in parts.all('figcaption')]
  for title in FIGURES:
    assert any(words.startswith(title) for words in captions), title
  pictures = parts.all('svg')
  assert len(pictures) == len(FIGURES) - 1 + 3  # a small one for each of three tasks
  for attributes, words in pictures:
    assert attributes['role'] == 'img'
    assert attributes['aria-label'].strip()
    assert words.strip(), 'the words of a picture are text'


def test_a_page_needs_no_other_file_and_little_script(page, parts):
  assert '://' not in page
  assert not re.search(r'\b(src|srcset)=|@import|url\(', page)
  scripts = parts.all('script')
  assert len(scripts) == 1
  assert len(scripts[0][1].strip().splitlines()) <= 100
  assert 'innerHTML' not in page


@pytest.mark.parametrize('runs', [SEVERAL[:1], SEVERAL], ids=['one', 'several'])
def test_a_page_is_well_formed_and_can_be_walked_through(runs):
  found = Parts(document.document(runs, [reported.log() for _ in runs]))
  ids = [a['id'] for _, a, _ in found.elements if a.get('id')]
  assert len(set(ids)) == len(ids)
  links = [a['href'] for a, _ in found.all('a')]
  assert links
  assert {link.removeprefix('#') for link in links} <= set(ids)
  for attributes, _ in found.all('section'):
    assert attributes['aria-labelledby'] in ids
  levels = [int(name[1]) for name, _, _ in found.elements if re.fullmatch('h[1-6]', name)]
  assert levels.count(1) == 1
  assert all(b <= a + 1 for a, b in itertools.pairwise(levels))
  for attributes, _ in found.all('div', **{'class': 'wide'}):  # the keyboard scrolls them
    assert attributes['tabindex'] == '0'
    assert attributes['aria-label']


def test_the_numbers_of_the_page_are_those_of_the_files(parts):
  one = reported.run()
  matrix = parts.table('Accuracy matrix')
  for row, shown in zip(one['matrix'], matrix[1:], strict=True):
    assert shown[1:4] == ['·' if x is None else f'{100 * x:.1f}' for x in row]
  assert [row[4] for row in matrix[1:]] == ['·', '90.0', '70.0', '56.7']
  tiles = {a.get('title'): words for a, words in parts.all('div') if a.get('title')}
  assert 'A_T56.7' in tiles.values()
  assert 'forgetting50.0' in tiles.values()
  assert 'negative flips1 of 40' in tiles.values()
  changes = cells(parts, 'Each task before', 'before training', 'just learned', 'newest', 'change')
  assert changes['bank'] == ['0.0', '90.0', '30.0', '−60.0']
  assert changes['travel'] == ['10.0', '80.0', '40.0', '−40.0']
  assert cells(parts, 'Pseudo samples', 'drawn', 'kept', 'verbatim %')['travel'] == [
    '16', '10', '10.0'
  ]  # fmt: skip
  assert cells(parts, 'Trained tokens', 'new', 'old', 'old %')['music'] == [
    '3,000',
    '1,000',
    '25.0',
  ]
  assert cells(parts, 'Examples in the buffer', 'examples', 'seen', 'bank')['bank'] == [
    '6', '30', '6'
  ]  # fmt: skip
  classes = cells(parts, 'Newest answers by class', 'right', 'right %', 'most often taken for')
  assert classes['card lost'] == ['1', '20.0', 'book flight 3']
  costs = cells(parts, 'Cost in numbers', 'how much')
  assert costs['tokens, train'] == ['12,345']
  assert costs['bytes kept from task to task'] == ['2.5 MB']
  assert costs['seconds of all work'] == ['18.8']
  facts = cells(parts, 'The run', 'value')
  assert facts['machine: jax'] == ['0.10.0']
  assert facts['machine: devices'] == ['1 of 8']
  assert facts['SHA-256 of the parameters'] == ['ab12']
  settings = cells(parts, 'Settings', 'value')
  assert settings['method.gamma'] == ['0.2']
  steps = cells(parts, 'First and last logged values', 'steps', 'qa', 'gen')
  assert steps['bank'] == ['12', '2 → 0.1667', '4 → 0.3333']
  assert cells(parts, 'Weight of each term', 'gen', 'ewc')['bank'] == ['0.25', '100']


def test_an_example_that_flipped_stands_there_with_both_answers(parts):
  (row,) = parts.table('Examples that flipped')[1:]
  assert row == ['bank', 'where is my card', 'card lost', 'book flight',
                 'mails.csv:12, id mail-9, split test, number 7']  # fmt: skip


def test_what_was_rejected_and_what_looks_wrong_is_said(page, parts):
  rejected = parts.table('Samples that were rejected')[1]
  assert rejected[2:] == ['what is __ans__ __ans__', 'not well formed']
  (found,) = [words for a, words in parts.all('ul') if a.get('class') == 'findings']
  assert 'steps not applied' in found
  assert 'To do: lower train.learning_rate' in found
  assert 'rows lose the end of their input' in page
  kept = [[0.0] * 3, [0.9, 0.1, None], [0.9, 0.8, 0.2], [0.8, 0.8, 1.0]]
  healthy = reported.run(matrix=kept, refused_steps=[], invalid=None, warnings=[], pseudo=[],
                         sizes=[100] * 3)  # fmt: skip
  assert 'Nothing looks wrong' in document.document([healthy], [reported.log()])


def test_a_warning_that_a_finding_says_again_is_left_out():
  said = ['before travel: 2 of 60 drawn samples well formed, so 2 of 9 rows replayed', 'cut rows']
  ill = reported.run(warnings=said, refused_steps=[])
  assert said[0] in document.document([ill])
  ill['pseudo'][0] |= {'drawn': 60, 'kept': 2, 'distinct': 2, 'valid_label': 2}
  ill['pseudo'] = ill['pseudo'][:1]
  page = document.document([ill])
  assert 'pseudo samples rejected' in page
  assert said[0] not in page
  assert said[1] in page


@pytest.mark.parametrize('name', ['one', 'several'])
def test_texts_of_runs_stay_texts(name):
  one = reported.run(EVIL, stream=EVIL, tasks=[EVIL, 'b', 'c'], warnings=[EVIL])
  one['config']['stream'] = {'path': EVIL, EVIL: 1}
  one['negative_flips']['examples'] = [EVIL, {**dict.fromkeys(('task', 'text', 'answer'), EVIL)}]
  one['pseudo'][0].update(
    task=EVIL, before=EVIL, samples=[[EVIL, EVIL], EVIL], rejected=[[EVIL, EVIL]]
  )
  one['by_class'][0].update({'class': EVIL, 'task': EVIL, 'wrong': [[EVIL, 3]]})
  one['resumes'] = [{EVIL: EVIL}]
  one['machine'] = {EVIL: EVIL}
  one['buffer'] = [
    {'after': EVIL, 'examples': 1, 'seen': 1, 'tasks': {EVIL: 1}, 'classes': {EVIL: 1}}
  ]
  one['weights'] = [{'task': EVIL, 'terms': {EVIL: 1.0, 'b': 1.0}}]
  one['mix'][0]['task'] = EVIL
  lines = [
    {'task': 0, 'step': s, 'loss': 1.0, EVIL: 2.0, 'b': 1.0, 'dev': {EVIL: 0.5}} for s in (1, 2)
  ]
  runs = [one] if name == 'one' else [one, {**one, 'method': 'seq'}]
  page = document.document(runs, [lines] * len(runs))
  Parts(page)
  assert page.count('<script') == 1
  assert 'alert(1)<' not in page
  assert '&lt;script&gt;alert(1)&lt;/script&gt;' in page


def test_hard_texts_are_cut_and_keep_their_direction():
  hard = {
    'arabic': 'أين بطاقتي', 'emoji': '👩‍👩‍👧‍👦' * 5000, 'long': 'x' * 10_000,
    'control': 'a\x1b[2J\u202eb\n<b>',
  }  # fmt: skip
  one = reported.run(tasks=[hard['arabic'], hard['emoji'], hard['long']])
  one['negative_flips']['examples'] = [
    {'text': t, 'answer': t, 'answered': t} for t in hard.values()
  ]
  page = document.document([one], [reported.log()])
  Parts(page)
  assert '\x1b' not in page
  assert '\u202e' not in page
  assert r'a\x1b[2J\u202eb\n&lt;b&gt;' in page
  assert f'<bdi dir="auto">{hard["arabic"]}</bdi>' in page
  assert 'x' * 500 not in page
  assert '10,000 letters' in page
  assert len(page) < 120_000
  assert not re.search('👧‍(?!👦)', page), 'an emoji is cut in two'


@pytest.mark.parametrize('rows', [0, 1, 2])
def test_a_run_under_way_shows_what_there_is_and_says_so(rows):
  matrix = reported.MATRIX[: rows + 1]
  one = reported.run(matrix=matrix, finished=False, negative_flips=None, by_class=[], mix=[],
                     pseudo=[], buffer=[], resumes=[], refused_steps=[], weights=[])  # fmt: skip
  page = document.document([one], [reported.log()[:5]])
  found = Parts(page)
  assert f'Not finished: {rows} of 3 tasks are learned' in page
  assert len(found.table('Accuracy matrix')) == 5
  assert 'Not finished' not in document.document([reported.run()])


def test_a_run_under_way_says_once_how_far_it_is_and_shows_its_newest_scores():
  run = reported.run(matrix=reported.MATRIX[:3], finished=False)
  page = Parts(document.document([run], [reported.log()]))
  assert [words for _, words in page.all('p') if 'of 3 tasks' in words] == [
    'Not finished: 2 of 3 tasks are learned; this page shows what there is.'
  ]
  shown = [words for a, words in page.all('text') if a.get('class') == 'strong']
  assert ('bank', '60.0') in itertools.pairwise(shown)


def test_a_run_without_steps_has_no_log_to_miss():
  matrix = [[0.0] * 3, [0.9, 0.1, None], [0.9, 0.9, 0.1], [0.9] * 3]
  run = reported.run('closed_form', matrix=matrix)
  run |= {'mix': [], 'pseudo': [], 'refused_steps': [], 'invalid': None, 'sizes': [100] * 3}
  page = document.document([run])
  assert 'Nothing looks wrong.' in page
  assert 'Nothing looks wrong in results.json' in document.document(
    [run | {'mix': reported.run()['mix']}]
  )


@pytest.mark.parametrize(
  'one',
  [
    reported.text_run(),
    {'method': 'seq', 'tasks': ['a'], 'matrix': [[0.1], [1.0]]},
    reported.run(matrix=[[0.1, 0.2, 0.3], [None] * 3, [None] * 3, [0.5, 0.6, 0.7]]),
    {**reported.run(matrix=[[0.5] * 70] * 71), 'tasks': [f't{i}' for i in range(70)], 'sizes': None,
     'answer_scores': {}, 'invalid': None, 'task_metrics': None},
  ],
  ids=['raw text', 'an old file', 'the end alone', '70 tasks'],
)  # fmt: skip
def test_unusual_runs_have_a_page(one):
  found = Parts(document.document([one], [reported.log()]))
  assert found.table('Accuracy matrix' if one.get('score') != 'log_perplexity' else 'Score matrix')
  Parts(document.document([one]))
  Parts(document.document([one, {**one, 'method': 'other'}]))


def test_raw_text_is_better_where_it_is_smaller():
  found = Parts(document.document([reported.text_run()], [reported.log()]))
  changes = cells(
    found, 'Each task before', 'just learned', 'best before the end', 'newest', 'change'
  )
  assert changes['bank'] == ['1.250', '1.250', '1.600', '−0.350']


@pytest.mark.parametrize('runs', [SEVERAL[:1], SEVERAL], ids=['one', 'several'])
def test_negative_numbers_have_one_sign(runs):
  """Losses, differences and metrics below 0, in texts, tables, pictures and their labels."""
  negative = [
    {k: -v if k in ('loss', 'ewc') else v for k, v in line.items()} for line in reported.log()
  ]
  found = Parts(document.document(runs, [negative for _ in runs]))
  said = [words for name, _, words in found.elements if name in ('td', 'th', 'text', 'dd', 'p')]
  said += [a['aria-label'] for a, _ in found.all('svg')]
  signed = [words for words in said if re.search(r'(?<![\w.])[-−][\d.]', words)]
  assert len(signed) > 10
  assert [words for words in signed if re.search(r'(?<![\w.])-[\d.]', words)] == []


def test_commands_name_the_folder_of_the_run_and_where_they_run():
  run = reported.run()
  for place, words in (
    ('', 'WORKDIR stands for the folder of the run'),
    ('runs/a', 'Run the commands where this run was started'),
    ('/data/runs/a', 'name the folder in which the run was made'),
  ):
    page = document.document([run], [reported.log()], [place])
    assert f'--workdir={place or "WORKDIR"} ' in page
    assert words in page
    assert ('WORKDIR' in page) == (not place)
  several = document.document(SEVERAL, [], [f'runs/{i}' for i in range(len(SEVERAL))])
  assert 'WORKDIR' not in several


def test_a_report_shows_itself_in_a_notebook_and_keeps_its_style_to_itself(tmp_path):
  shown = report.Report(reported.run(), logs=[reported.log()])
  shown.save(tmp_path / 'saved.html')
  report.html_report([reported.run()], tmp_path / 'written.html', [reported.log()])
  page = (tmp_path / 'saved.html').read_text('utf-8')
  assert page == (tmp_path / 'written.html').read_text('utf-8') == shown.html()
  inner = shown._repr_html_()
  assert inner in page
  assert '<body' not in inner
  assert '<script' not in inner
  css = re.sub(r'/\*.*?\*/', '', Parts(inner).all('style')[0][1], flags=re.DOTALL)
  rules = re.findall(r'([^{}@]+)\{[^{}]*\}', re.sub(r'@media[^{]*\{', '', css))
  assert len(rules) > 60
  for rule in rules:
    assert all(s.strip().startswith('.jcl') for s in rule.split(',')), rule
  assert str(shown) == repr(shown) == report.matrix_table(reported.run())


def test_a_report_on_several_runs_compares_them_first():
  shown = report.Report(*SEVERAL)
  tables = map(report.matrix_table, SEVERAL)
  assert str(shown) == '\n\n'.join([report.comparison_table(SEVERAL), *tables])
  page = shown.html()
  assert page.index('id="compared"') < page.index('id="runs"') < page.index('id="run-1-scores"')
  assert page.count('class="run"') == 4
  with pytest.raises(UserError, match='there are no runs'):
    report.Report()


def test_a_page_is_the_same_every_time():
  one, same = (json.loads(json.dumps(reported.run())) for _ in range(2))
  assert document.document([one], [reported.log()]) == document.document([same], [reported.log()])
