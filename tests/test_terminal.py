"What the command shows while it works: in a terminal of 80 columns, in one of unknown width, and in a log file; and what it says when asked wrongly"
import io, itertools, os, re, select, subprocess, sys
from dataclasses import replace
from pathlib import Path
import pytest
import torch
from torch import nn
from tqdm import std
from cifar_cam import __version__, cli
from cifar_cam.data import get_dls, load_images
from cifar_cam.recipes import RECIPES, get_recipe
from cifar_cam.train import Learner, ProgressCB

LINE = r'[12]/2  loss \d+\.\d\d  train \d+ %  valid \d+ %  \d+:\d\d'

def fit(batches=10):
    "Train a small network for two epochs, and tell as the command does"
    recipe = replace(get_recipe('quick'), epochs=2, bs=50, sizes=(), augment={})
    Learner(nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 10)), get_dls(load_images('sample', 'train')[:56*batches], recipe.bs), recipe, [ProgressCB()], 'no').fit()

@pytest.mark.parametrize('columns', (80, 0))
def test_in_a_terminal_there_is_a_line_an_epoch_and_a_bar_that_can_be_seen(columns, monkeypatch):
    fcntl, termios = pytest.importorskip('fcntl'), pytest.importorskip('termios')
    monkeypatch.delenv('TQDM_DISABLE', raising=False)
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, bytes([24, 0, columns, 0, 0, 0, 0, 0]))
    with open(theirs, 'w') as terminal:
        monkeypatch.setattr(sys, 'stderr', terminal)
        fit()
        terminal.flush()
        said = b''
        while select.select([ours], [], [], .2)[0]: said += os.read(ours, 10_000)
    os.close(ours)
    shown = re.split(r'[\r\n]+', said.decode())
    assert len([s for s in shown if re.fullmatch(LINE, s)])==2, shown
    bars = [m[1] for s in shown if (m := re.match(r'training: +\d+%\|(.*)\|', s))]
    assert bars and min(map(len, bars))>=20
    assert max(map(len, shown))<80

def test_in_a_log_file_there_are_the_lines_and_nothing_else(monkeypatch):
    monkeypatch.delenv('TQDM_DISABLE', raising=False)
    monkeypatch.setattr(sys, 'stderr', log := io.StringIO())
    fit()
    first, second = log.getvalue().splitlines()
    assert re.fullmatch(LINE, first) and re.fullmatch(LINE, second) and '\r' not in log.getvalue()

def test_in_a_log_file_long_work_says_a_line_a_minute(monkeypatch):
    from cifar_cam.core import progress_bar
    monkeypatch.delenv('TQDM_DISABLE', raising=False)
    now = itertools.count(0, 25)                                                             # each look at the clock is 25 s later
    monkeypatch.setattr(sys, 'stderr', log := io.StringIO())
    assert sum(progress_bar(range(5), desc='short'))==10 and log.getvalue()==''
    monkeypatch.setattr(std, 'time', lambda: float(next(now)))
    assert sum(progress_bar(range(9), desc='long'))==36
    lines = log.getvalue().splitlines()
    assert 2<=len(lines)<=5 and all(re.match(r'long: +\d+%.*<\d\d:\d\d', l) for l in lines) and '\r' not in log.getvalue()

def test_seconds_are_not_those_of_a_clock_that_is_set_back(monkeypatch):
    now = iter(range(10**9, 0, -1000))
    monkeypatch.setattr('time.time', lambda: float(next(now)))
    recipe = replace(get_recipe('quick'), epochs=1, bs=50, sizes=(), augment={})
    (row,) = Learner(nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 10)), get_dls(load_images('sample', 'train')[:112], 50), recipe, [], 'no').fit()
    assert 0<=row['seconds']<600

def test_results_say_in_a_few_lines_what_they_hold():
    from cifar_cam.faithfulness import compare_methods
    from cifar_cam.gradcam import explain
    net, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)), torch.rand(2, 3, 32, 32)
    maps, scores = repr(explain(net, x, layers=['1', '2'])), repr(compare_methods(net, x, [3, 4], ['1'], ['gradcam'], progress=False))
    assert all(said.count('\n')<8 and '2 images' in said and 'gradcam' in said and 'tensor' not in said for said in (maps, scores))
    assert '2 x 30 x 30' in maps and '2 x 28 x 28' in maps

def said(capsys, *args):
    "Exit code, stdout and stderr of the command"
    capsys.readouterr()
    code = cli.main(list(map(str, args)))
    return code, *capsys.readouterr()

def test_help_names_the_choices_and_no_types(capsys):
    from cifar_cam.gradcam import METHODS
    for name in cli.COMMANDS:
        code, text, _ = said(capsys, name, '--help')
        assert code==0 and not re.search(r'\((str|int|bool|float)\)', text)
        if name in ('run', 'train'): assert all(r in text for r in RECIPES)
        if name=='explain':
            listed = re.search(r'how: (.*?) \(default', ' '.join(text.split()))[1]
            assert set(re.split(', | or ', listed))==set(METHODS)

def test_version(capsys): assert said(capsys, '--version')==(0, f'cifar-cam {__version__}\n', '')

def test_a_reader_that_leaves_is_no_error():
    ours, theirs = os.pipe()
    os.close(ours)
    r = subprocess.run([sys.executable, '-m', 'cifar_cam.cli', '--help'], stdout=theirs, stderr=subprocess.PIPE, text=True)
    os.close(theirs)
    assert r.stderr==''

def test_memory_that_runs_out_is_one_line(capsys, monkeypatch):
    def none(*args): raise MemoryError
    monkeypatch.setattr('cifar_cam.report.write_report', none)
    assert said(capsys, 'report', 'somewhere')==(1, '', 'cifar-cam: out of memory\n')

def test_a_result_is_not_lost_for_a_sign_that_the_terminal_lacks(monkeypatch):
    metrics = dict(accuracy=.9, plus_minus=.02, loss=.5, images=1000, source='x', temperature=1., calibration_error=[.1, .08, .12])
    monkeypatch.setattr('cifar_cam.runs.measure', lambda *args: (None, None, metrics))
    monkeypatch.setattr(sys, 'stdout', out := io.TextIOWrapper(io.BytesIO(), encoding='ascii'))
    assert cli.main(['evaluate'])==0
    assert b'accuracy 90.00%' in out.buffer.getvalue()

def test_a_film_is_opened_alone_and_only_where_there_is_one(capsys, tmp_path):
    assert said(capsys, 'explore', '--run', tmp_path, '--html', tmp_path/'x.html')==(2, '', 'cifar-cam: choose one of --html and --run\n')
    code, _, text = said(capsys, 'explore', '--run', tmp_path, '--no-browser')
    assert (code, 'nothing was watched in' in text, list(tmp_path.iterdir()))==(2, True, [])

def test_options_beside_resume_are_refused_by_name(capsys, tmp_path):
    code, _, text = said(capsys, 'train', '--resume', tmp_path, '--data', 'sample', '--seed', 3, '--dry-run')
    assert code==2 and '--data, --seed, --dry-run: for a new run' in text
    assert said(capsys, 'train', '--resume', '')[::2]==(2, 'cifar-cam: --resume needs the folder of a run\n')

def test_names_may_have_spaces_and_capitals(capsys, tmp_path):
    from PIL import Image
    Image.fromarray(load_images('sample', 'test').images[4]).save(tmp_path/'frog.png')
    code, text, err = said(capsys, 'explain', tmp_path/'frog.png', '--classes', 'FROG, cat', '--layers', 'layer3, layer4', '--out', tmp_path/'out.png')
    assert code==0 and (tmp_path/'out.png').is_file(), err
    before = (tmp_path/'frog.png').read_bytes()
    code, _, err = said(capsys, 'explain', tmp_path/'frog.png', '--out', tmp_path/'frog.png')
    assert (code, 'is the picture itself' in err, (tmp_path/'frog.png').read_bytes()==before)==(2, True, True)

def test_what_fails_before_it_begins_leaves_no_folder(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path/'fake.png').write_text('no weights')
    (tmp_path/'mine').mkdir()
    for args in (('run', '--weights', 'fake.png'), ('train', '--weights', 'fake.png', '--out', 'a/b'), ('train', '--data', 'nowhere'), ('run', '--weights', 'fake.png', '--out', 'mine'), ('faithfulness', '--weights', 'fake.png')):
        assert said(capsys, *args)[0]==2
        assert sorted(p.name for p in tmp_path.iterdir())==['fake.png', 'mine'], args
