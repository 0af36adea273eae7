"""The console command: every tool under one name, told in the words that its user has typed."""

import re
import sys
from pathlib import Path

import pytest

from mmseg_acl import commands, shipped
from mmseg_acl.arguments import ToolParser
from mmseg_acl.commands import as_typed, main, overview, tools
from mmseg_acl.engine import load_config

ROOT = Path(__file__).parents[1]
PYTHON_TOOLS = [name for name, file in tools().items() if file.suffix == '.py']


@pytest.fixture(autouse=True)
def arguments(monkeypatch):
    """The command replaces the arguments of the process."""
    monkeypatch.setattr(sys, 'argv', ['mmseg-acl'])


def test_every_tool_is_listed_with_a_line():
    files = {file.name for file in (ROOT / 'tools').iterdir() if file.suffix in ('.py', '.sh')}
    assert {file.name for file in tools().values()} == files - set(commands.DEVELOPMENT)
    assert files >= set(commands.DEVELOPMENT)
    lines = overview(tools()).splitlines()
    for name, file in tools().items():
        (line,) = [line for line in lines if line.split()[:1] == [name]]
        said = line.removeprefix(f'  {name}').strip()
        assert said and said in file.read_text(encoding='utf-8') and said[-1] in '.,:', line


@pytest.mark.parametrize('words', [[], ['-h'], ['--help']])
def test_help_is_printed_and_ends_well(words, capsys):
    main(words)
    assert capsys.readouterr().out.startswith('usage: mmseg-acl COMMAND')


@pytest.mark.parametrize('name', PYTHON_TOOLS)
def test_help_of_a_tool_names_the_command(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([name, '--help'])
    text = ' '.join(capsys.readouterr().out.split())
    assert ended.value.code == 0
    assert text.startswith(f'usage: mmseg-acl {name} ')
    # Named in passing: files that a user has, and folders of results.
    assert 'python tools/' not in text and not re.search(r'\btools/\w+\.py', text), text


@pytest.mark.parametrize(
    ('word', 'said'),
    [
        ('trian', 'did you mean train'),
        ('check_label', 'did you mean check-labels'),
        ('zzz', 'there are audit-data, benchmark-speed'),
        ('../train', "no command '../train'"),
    ],
)
def test_an_unknown_command_names_the_near_ones(word, said, capsys):
    with pytest.raises(SystemExit) as ended:
        main([word])
    assert ended.value.code == 2 and said in capsys.readouterr().err


def test_a_wrong_argument_is_said_as_by_the_script(capsys):
    with pytest.raises(SystemExit) as ended:
        main(['train'])
    assert ended.value.code == 2
    assert 'mmseg-acl train: error: give a config, or your own data with --labelled' in capsys.readouterr().err


def test_hints_are_in_the_words_that_were_typed(monkeypatch):
    text = 'python tools/check_labels.py configs/demo/aclnet.py; tools/test.py reads my/configs/a.py, tools/none.py'
    assert as_typed(text) == (
        'mmseg-acl check-labels mmseg_acl::demo/aclnet.py; mmseg-acl test reads my/configs/a.py, tools/none.py'
    )
    assert as_typed('python\n  tools/dist_train.sh') == 'mmseg-acl\n  dist-train'
    monkeypatch.setattr(sys, 'argv', [str(ROOT / 'tools' / 'train.py')])
    assert as_typed(text) == text
    monkeypatch.setattr(commands, 'INSTALLED', True)  # without a checkout there are no scripts to type
    assert as_typed(text).startswith('mmseg-acl check-labels mmseg_acl::demo')


def test_sub_commands_of_a_tool_are_told_so_too(monkeypatch):
    parser = ToolParser(prog='x').add_subparsers().add_parser('part', description='see tools/test.py')
    assert 'see mmseg-acl test' in parser.format_help()


def test_a_shell_script_is_run_with_this_interpreter(monkeypatch):
    called = []
    monkeypatch.setenv('PYTHON', 'mine')  # so that it is put back
    monkeypatch.delenv('PYTHON')
    monkeypatch.setattr(commands.os, 'execvp', lambda *arguments: called.append(arguments))
    main(['dist-train', 'a.py', '2'])
    script = str(shipped.TOOLS / 'dist_train.sh')
    assert called == [('bash', ['bash', script, 'a.py', '2'])] and commands.os.environ['PYTHON'] == sys.executable


@pytest.mark.parametrize('base', ['mmseg_acl::aclnet/mbv2_kvasir_eighth.py', None])
def test_a_shipped_config_is_read_by_name(base, tmp_path):
    path = ROOT / 'configs' / 'aclnet' / 'mbv2_kvasir_eighth.py'
    if base is None:
        name = str(tmp_path / 'aclnet' / 'mbv2_kvasir_eighth.py')
        Path(name).parent.mkdir()
        Path(name).write_text("_base_ = 'mmseg_acl::aclnet/mbv2_kvasir_eighth.py'\nmodel = dict(beta=(0.4, 0.7))\n")
    else:
        name = base
    found, expected = load_config(name), load_config(str(path))
    if base is None:
        assert tuple(found.model.pop('beta')) == (0.4, 0.7)
        expected.model.pop('beta')
    assert found.to_dict() == expected.to_dict()  # without scopes that our registries do not have


def test_a_config_of_mmseg_is_found_by_the_package_that_is_imported(tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text("_base_ = ['mmseg::_base_/models/fcn_unet_s5-d16.py', 'mmseg_acl::_base_/schedules/1200i.py']\n")
    config = load_config(str(path))
    assert config.model.backbone.type == 'UNet' and config.train_cfg.max_iters == 1200


@pytest.mark.parametrize(
    ('name', 'said'),
    [
        ('mmseg_acl::aclnet/r50_kvasir_quater.py', 'near it are mmseg_acl::aclnet/r50_kvasir_quarter.py'),
        ('mmseg_acl::zzz', 'see what lies in '),
    ],
)
def test_a_name_that_no_shipped_config_has_is_refused(name, said, tmp_path):
    path = tmp_path / 'mine.py'
    path.write_text(f'_base_ = {name!r}\n')
    with pytest.raises(FileNotFoundError, match=said):
        load_config(name)
    with pytest.raises(ValueError, match=said):
        load_config(str(path))
