"""Settings classes: wrong names are refused in one line, and `help` explains every field."""

import copy
import dataclasses
import inspect
import pickle
import pydoc

import numpy as np
import pytest

import jcl
from jcl import methods
from jcl.config import Group, check_values, explanations, number
from jcl.errors import UserError
from jcl.methods import chosen

GROUPS = [f.type for f in dataclasses.fields(jcl.Config) if dataclasses.is_dataclass(f.type)]
CLASSES = [jcl.Config, *GROUPS, *map(methods.settings_class, methods.BUILT_IN)]


@pytest.mark.parametrize(
  ('make', 'says'),
  [
    (lambda: jcl.TrainConfig(learningrate=1), 'TrainConfig .*learningrate.*mean learning_rate[?]'),
    (lambda: jcl.Config(trian=1), "Config has no setting 'trian'; did you mean train[?] it has"),
    (lambda: jcl.StreamConfig(nmae='x'), 'did you mean name'),
    (lambda: methods.settings_class('ewc')(lamda_ewc=1), 'Ewc .*did you mean lambda_ewc'),
    (lambda: methods.settings_class('seq')(epochs=1), "Seq has no setting 'epochs'; it has none"),
    (lambda: dataclasses.replace(jcl.TrainConfig(), epoch=1), 'did you mean epochs'),
    (lambda: setattr(jcl.TrainConfig(), 'epoch', 1), 'did you mean epochs'),
    (lambda: setattr(methods.settings('replay+ewc'), 'repaly', 1), 'did you mean replay'),
    (lambda: setattr(methods.settings('ewc'), 'lamda_ewc', 1), 'did you mean lambda_ewc'),
  ],
)
def test_a_name_that_does_not_exist_is_refused_with_the_nearest(make, says):
  with pytest.raises(UserError, match=says) as raised:
    make()
  assert '\n' not in str(raised.value)


@pytest.mark.parametrize('kind', CLASSES)
def test_settings_are_copied_stored_and_replaced_as_dataclasses_are(kind):
  one = kind()
  assert pickle.loads(pickle.dumps(one)) == copy.copy(one) == copy.deepcopy(one) == one
  assert dataclasses.replace(one) == one
  assert list(inspect.signature(kind).parameters) == [f.name for f in dataclasses.fields(kind)]


def test_a_class_may_have_an_init_and_private_attributes_of_its_own():
  made = chosen.GivenMethod(record=methods.Method())
  assert made.build(None) == methods.Method()


@pytest.mark.parametrize('kind', CLASSES)
def test_every_field_is_explained_where_help_shows_it(kind):
  shown = pydoc.plain(pydoc.render_doc(kind))
  for field, text in explanations(kind):
    assert len(text) > 4, f'{kind.__name__}.{field.name} has no comment'
    assert f'{field.name}: ' in shown
    words = text.replace('|', ' ').split()[:4]
    assert ' '.join(words) in ' '.join(shown.replace('|', ' ').split())
  assert 'fmt:' not in inspect.getdoc(kind)


def test_help_has_the_comment_the_default_the_bounds_and_what_reads_a_field():
  said = inspect.getdoc(jcl.TrainConfig)
  assert said.startswith('How each task is trained.\n\nAttributes:\n')
  assert (
    '  decay_fraction: float = 0.2\n'
    "      Last share of the schedule's steps, in which the rate falls to 0; `wsd` only.\n"
    "      (at least 0; at most 1; read with schedule 'wsd')\n"
  ) in said
  assert max(map(len, said.splitlines())) <= 100
  inherited = inspect.getdoc(methods.settings_class('lamol_kd'))
  assert 'gamma: float' in inherited, 'a setting of LAMOL'


@dataclasses.dataclass
class Own(Group):
  pull: float = number(  # weight of
    0.1, least=0
  )  # the distance
  # fmt: off
  bare: int = 1


def test_a_class_of_another_package_is_explained_by_its_own_comments():
  assert [(f.name, text) for f, text in explanations(Own)] == [
    ('pull', 'weight of the distance'), ('bare', '')
  ]  # fmt: skip
  assert inspect.getdoc(Own).startswith('Own\n\nAttributes:\n  pull: float = 0.1\n')
  space = {'dataclasses': dataclasses, 'Group': Group}
  exec('@dataclasses.dataclass\nclass Typed(Group):\n  pull: float = 0.1', space)
  assert inspect.getdoc(space['Typed']) == 'Typed\n\nAttributes:\n  pull: float = 0.1'


def test_numbers_of_numpy_and_paths_become_plain_values(tmp_path):
  train = jcl.TrainConfig(epochs=np.int64(3), learning_rate=np.float32(0.5), dft=np.bool_(True))
  train.clip_norm = np.float64(2)
  kept = [train.epochs, train.learning_rate, train.dft, train.clip_norm]
  assert [*map(type, kept)] == [int, float, bool, float]
  assert kept == [3, 0.5, True, 2.0]
  assert jcl.BackboneConfig(path=tmp_path).path == str(tmp_path)
  check_values(train)
  rows = [{'text': f'a {i}', 'label': 'b'} for i in range(8)]
  given = dict(test_fraction=np.float32(0.25), seed=np.int64(1))
  assert jcl.Stream.from_rows({'t': rows}, **given)[0].sizes == '6/0/2'


def test_methods_are_listed_with_a_line_on_each():
  found = jcl.methods.names()
  assert list(found)[: len(methods.BUILT_IN)] == list(methods.BUILT_IN)
  lines = repr(found).splitlines()
  assert len(lines) == len(found)
  for name, line in zip(found, lines, strict=True):
    assert line.split()[0] == name
    assert len(line.split()) > 4, f'{name} has no line'
  assert any(line.startswith('ewc ') and 'Elastic weight' in line for line in lines)


def test_a_wrong_name_of_the_front_door_has_the_nearest():
  with pytest.raises(AttributeError, match='jcl has no lern; did you mean learn'):
    jcl.lern  # noqa: B018
