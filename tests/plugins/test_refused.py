"""Names and classes of methods that are refused, each in one line that says what would be right."""

import pytest
from support import runs, tiny
from support.plugins import installed, on_path

from jcl import methods
from jcl.errors import UserError
from jcl.training import experiment

NAMES = {
  'a:b:c': "method: 'a:b:c' is not of the form package.module:name",
  ':x': "method: ':x' is not of the form package.module:name",
  'x:': "method: 'x:' is not of the form package.module:name",
  'pkg.mod:': "method: 'pkg.mod:' is not of the form package.module:name",
  'my package.mod:Class': "'my package.mod:Class' is not of the form package.module:name",
  'pkg..mod:Class': "'pkg..mod:Class' is not of the form package.module:name",
  '../mod:Class': "'../mod:Class' is not of the form package.module:name",
  ' ewc': "method: nothing is called ' ewc'; did you mean ewc? there are seq, ",
  '': "method: nothing is called ''; there are seq, ",
  'no_such_package:Anchor': "there is no module 'no_such_package'; install its package, or put its",
  'jcl_outside.nothing:Anchor': "there is no module 'jcl_outside.nothing'",
  'jcl_outside.anchor:Ankor': "jcl_outside.anchor:Ankor: jcl_outside.anchor has no 'Ankor'",
  'jcl_outside.broken:Anchor': 'importing it raises OSError: no licence for this machine',
  'jcl_outside.ends:Anchor': 'importing it raises SystemExit: no licence',
  'jcl_outside.unmet:Anchor': "importing it fails: No module named 'jcl_outside_requirement'",
  'jcl_outside.wrong:NoSettings': 'is a class, not a settings class; name a subclass of jcl.meth',
  'jcl_outside.wrong:function': 'is a function, not a settings class; name a subclass of jcl.meth',
  'jcl_outside.wrong:Unbuilt': 'Unbuilt builds no method; give it build(backbone, teacher=None)',
  'jcl_outside.wrong:NoDataclass': 'is no dataclass; put @dataclasses.dataclass above the class',
  'jcl_outside.wrong:NoDefault': 'NoDefault has no default for strength; give it one',
  'jcl_outside.wrong:Taken': 'Taken has a setting workdir, which is an argument of jcl.learn; ren',
  'jcl_outside.wrong:Newer': 'jcl_outside.wrong:Newer needs jcl 99.1 or newer, this is jcl ',
  'jcl_outside.wrong:Versionless': "needs jcl 'newest'; give a version such as '0.3'",
  'jcl_outside.wrong:Nowhere': "Nowhere.scenarios is empty; name one, such as ('cil',)",
  'jcl_outside.wrong:Wishful': "Wishful.needs is ('luck',); it must be a tuple of task_id, head",
}


@pytest.fixture(autouse=True)
def path(monkeypatch):
  on_path(monkeypatch)


@pytest.mark.parametrize('form', ['{}', 'l2+{}'])
@pytest.mark.parametrize('name', NAMES)
def test_a_name_that_stands_for_no_method_is_refused(name, form):
  with pytest.raises(UserError) as refused:
    methods.settings(form.format(name))
  assert NAMES[name] in str(refused.value)
  assert str(refused.value).startswith('method: ')
  assert '\n' not in str(refused.value)


def test_a_build_that_returns_no_method_is_refused():
  name = 'jcl_outside.wrong:BuildsNothing'
  with pytest.raises(UserError, match=rf'{name}.build gives a BuildsNothing; it must give a Meth'):
    methods.make(tiny.recurrent(tiny.CONFIG.vocabulary), methods.settings(name))


@pytest.mark.parametrize(
  ('form', 'field'), [('{}', 'strength'), ('{}+l2', 'anchor.strength')]
)  # fmt: skip
def test_a_value_out_of_bounds_is_refused_by_the_name_of_its_field(form, field):
  made = runs.config(form.format('jcl_outside.anchor:Anchor'))
  methods.parts(made.method)['anchor'].strength = -1.0
  with pytest.raises(UserError, match=rf'^method\.{field} is -1\.0; it must be at least 0$'):
    experiment.check(made)


def test_the_name_of_a_built_in_method_is_not_taken_over(tmp_path, monkeypatch):
  installed(monkeypatch, tmp_path, 'one', ewc='jcl_outside.anchor:Anchor')
  with pytest.raises(UserError) as refused:
    methods.settings('ewc')
  assert str(refused.value) == (
    "method: 'ewc' is the name of jcl.methods.ewc:Ewc and of jcl_outside.anchor:Anchor; give one "
    'of these instead'
  )
  assert methods.settings('jcl.methods.ewc:Ewc') == methods.settings_class('jcl.methods.ewc:Ewc')()


def test_a_name_of_two_packages_is_refused(tmp_path, monkeypatch):
  installed(monkeypatch, tmp_path, 'one', anchor='jcl_outside.anchor:Anchor')
  assert methods.settings('anchor') == methods.settings('jcl_outside.anchor:Anchor')
  installed(monkeypatch, tmp_path, 'two', anchor='jcl_outside.wrong:Newer')
  with pytest.raises(UserError) as refused:
    methods.settings('anchor')
  assert "method: 'anchor' is the name of " in str(refused.value)
  for place in ('jcl_outside.anchor:Anchor', 'jcl_outside.wrong:Newer'):
    assert place in str(refused.value)


def test_an_unknown_name_is_refused_with_the_names_of_other_packages(tmp_path, monkeypatch):
  installed(monkeypatch, tmp_path, 'one', anchor='jcl_outside.anchor:Anchor')
  with pytest.raises(
    UserError,
    match=r"nothing is called 'ancor'; did you mean anchor[?] there are seq, .*, anchor, and",
  ):
    methods.settings('ancor')


def test_an_entry_point_to_a_module_that_is_gone_is_refused(tmp_path, monkeypatch):
  installed(monkeypatch, tmp_path, 'one', anchor='jcl_outside.gone:Anchor')
  with pytest.raises(UserError, match=r"there is no module 'jcl_outside\.gone'"):
    methods.settings('anchor')


def test_a_method_twice_under_two_names_is_refused(tmp_path, monkeypatch):
  installed(monkeypatch, tmp_path, 'one', anchor='jcl_outside.anchor:Anchor')
  with pytest.raises(UserError, match='names a method twice'):
    methods.settings('anchor+jcl_outside.anchor:Anchor')


def test_a_method_of_heads_is_refused_without_one():
  made = runs.config('jcl_outside.wrong:HeadOnly', backbone={'head': ''})
  with pytest.raises(
    UserError, match=r"backbone\.head is '', but jcl_outside\.wrong:HeadOnly need"
  ):
    experiment.check(made)
  made.backbone.head = 'linear'
  experiment.check(made)
