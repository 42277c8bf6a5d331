"Runs whose data, recipe or files have changed or gone, and processes that do not come: refused by name, never taken silently, never waited for without end"
import io, json, os, shutil, signal, time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from cifar_cam import atlas, cli, report, runs
from cifar_cam.data import get_dl, get_dls, load_images
from cifar_cam.model import load_model, read_weights, resnet18, save_weights
from cifar_cam.recipes import get_recipe
from cifar_cam.parallel import check_alike
from cifar_cam.resume import PatienceCB
from cifar_cam.train import Callback, Learner

class Stop(Callback):
    "Ends a run after its first epoch was saved"
    order = 99
    def after_epoch(self, learn): raise KeyboardInterrupt

RECIPE = replace(get_recipe('quick'), name='tiny', epochs=3, bs=50, lr=.01, sizes=(), schedule='constant', schedule_args={}, optimizer_args={}, augment=dict(HorizontalFlip={}), model_args=dict(norm='batch'))
ODD = ('$\\frac{$', 'naïve <b>')                                                  # what matplotlib reads as a formula, and what HTML reads as a tag

@pytest.fixture(scope='module')
def data(tmp_path_factory):
    "A folder of 60 small images of each of two classes, whose names are odd"
    d = tmp_path_factory.mktemp('data')
    os.environ['XDG_CACHE_HOME'] = str(d/'cache')
    for split in ('train', 'test'):
        ims = load_images('sample', split)[:120]
        for i,im in enumerate(ims.images):
            (p := d/'mine'/split/ODD[i%2]/f'{i:03}.png').parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(im).save(os.fsencode(p))
    yield d/'mine'
    del os.environ['XDG_CACHE_HOME']

@pytest.fixture(scope='module', autouse=True)
def small():
    "A network that learns nothing in no time"
    was, threads = runs.resnet18, torch.get_num_threads()
    def tiny(n, weights=None, norm='batch'):
        torch.manual_seed(0)
        return nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, n))
    runs.resnet18 = tiny
    torch.set_num_threads(1)
    runs.pflop, real = lambda *a: 0, runs.pflop
    runs.save_weights, save = lambda model, path, **meta: torch.save((model.state_dict(), meta), path), runs.save_weights
    yield
    runs.resnet18, runs.pflop, runs.save_weights = was, real, save
    torch.set_num_threads(threads)

@pytest.fixture(scope='module')
def begun(data, tmp_path_factory):
    "A run that has one of three epochs behind it"
    run = tmp_path_factory.mktemp('begun')
    with pytest.raises(KeyboardInterrupt): runs.train_run(run, RECIPE, data, cbs=[Stop()])
    return run

@pytest.fixture
def run(begun, tmp_path): return Path(shutil.copytree(begun, tmp_path/'run'))

def edit(run, **fields): (run/'recipe.json').write_text(json.dumps(json.loads((run/'recipe.json').read_text()) | fields))

def ends(run): return torch.load(io.BytesIO((run/'model.safetensors').read_bytes()))[0]

def test_a_run_goes_on_and_its_files_hold_any_class_name(run, data):
    runs.train_run(run)
    assert [r['epoch'] for r in json.loads((run/'history.json').read_text())]==[1, 2, 3]
    assert set(json.loads((run/'recipe.json').read_text())['fingerprint']['classes'])==set(ODD)
    save_weights(resnet18(2), run/'w.safetensors', classes=ODD)
    assert tuple(read_weights(run/'w.safetensors')[1]['classes'])==ODD

@pytest.mark.parametrize('change', ('removed', 'altered', 'added', 'renamed'))
def test_data_that_changed_is_refused_by_name(run, data, tmp_path, change):
    other = Path(shutil.copytree(data, tmp_path/'other'))
    edit(run, data=str(other))
    first, second = sorted((other/'train'/ODD[0]).iterdir())[:2]
    if change=='removed': first.unlink()
    if change=='altered': shutil.copy(second, first)
    if change=='added': shutil.copy(second, second.with_name('more.png'))
    if change=='renamed': (other/'train'/ODD[0]).rename(other/'train'/'cat'); (other/'test'/ODD[0]).rename(other/'test'/'cat')
    want = dict(removed='images was 120, is 119', altered='pixels was', added='images was 120, is 121', renamed='classes was')[change]
    before = (run/'checkpoint.pt').read_bytes()
    with pytest.raises(ValueError, match='has changed since') as said: runs.train_run(run)
    assert want in str(said.value) and (run/'checkpoint.pt').read_bytes()==before and not (run/'model.safetensors').exists()

def test_data_that_only_moved_is_the_same(run, data, tmp_path):
    edit(run, data=str(shutil.copytree(data, tmp_path/'other')))
    runs.train_run(run)

@pytest.mark.parametrize('fields', (dict(lr=.02), dict(seed=1), dict(augment={}), dict(bs=40), dict(l2=.1), dict(epochs=10, schedule='OneCycleLR')), ids=lambda f: next(iter(f)))
def test_a_recipe_that_changed_is_refused_by_name(run, fields):
    name = next(iter(fields))
    edit(run, **fields)
    with pytest.raises(ValueError, match=name) as said: runs.train_run(run)
    assert str(fields[name]) in str(said.value) and not (run/'model.safetensors').exists()

def test_more_epochs_are_those_of_a_run_that_was_to_have_them(run, data, tmp_path):
    class StopLate(Callback):
        order = 99
        def after_epoch(self, learn):
            if learn.epoch==4: raise KeyboardInterrupt
    edit(run, epochs=5)
    with pytest.raises(KeyboardInterrupt): runs.train_run(run, cbs=[StopLate()])
    edit(run, epochs=3)
    with pytest.raises(ValueError, match='was 5, is 3, and 4 have begun'): runs.train_run(run)
    edit(run, epochs=5)
    runs.train_run(run)
    (whole := tmp_path/'whole').mkdir()
    runs.train_run(whole, replace(RECIPE, epochs=5), data)
    assert all(v.equal(ends(whole)[k]) for k,v in ends(run).items()) and len(json.loads((run/'history.json').read_text()))==5

def test_a_finished_run_keeps_no_checkpoint_and_one_that_is_gone_is_said(run):
    torch.set_num_threads(2)
    try:
        with pytest.warns(UserWarning, match='saved with 1 threads, going on with 2'): runs.train_run(run)
    finally: torch.set_num_threads(1)
    assert not list(run.glob('checkpoint.pt*'))
    done = (run/'model.safetensors').read_bytes()
    assert (runs.train_run(run), (run/'model.safetensors').read_bytes())==(run/'model.safetensors', done)     # nothing is left to do
    edit(run, epochs=4)
    with pytest.raises(FileNotFoundError, match='has no checkpoint any more'): runs.train_run(run)
    for name in ('history.json', 'model.safetensors'): (run/name).unlink()
    with pytest.warns(UserWarning, match='begins anew'): runs.train_run(run)

@pytest.mark.parametrize('text', ('[]', '{}', 'null', '"demo"', '{"name": "x"', *(json.dumps(dict(name='x', about='', epochs=1, data='sample') | d) for d in (dict(data=None), dict(lr=None), dict(lr=[1]), dict(sizes=[1]), dict(augment=[]), dict(epochs='3'), dict(weights=3), dict(fingerprint=[])))))
def test_a_damaged_recipe_is_one_line(run, text, capsys):
    (run/'recipe.json').write_text(text)
    assert cli.main(['train', '--resume', str(run)])==2
    assert len([l for l in capsys.readouterr().err.splitlines() if 'note:' not in l])==1

@pytest.fixture(scope='module')
def measured(data, tmp_path_factory):
    "A run that was measured, as `evaluate_run` leaves it, with its copy of the data"
    run, other = tmp_path_factory.mktemp('measured'), Path(shutil.copytree(data, tmp_path_factory.mktemp('other')/'mine'))
    ims = load_images(other, 'test')
    net = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 2))
    net.__dict__ |= dict(fc=net[2], meta=dict(classes=ims.classes))
    real = runs.load_model
    runs.load_model = lambda weights: net
    try: runs.evaluate_run(run, str(other))
    finally: runs.load_model = real
    return run, other

def test_what_was_measured_is_read_with_its_own_images_only(measured, tmp_path):
    run, other = measured
    m, ims, ev = runs.read_run(run)
    assert ev.accuracy==m['accuracy'] and set(m['class_accuracy'])==set(ODD) and ims.classes==tuple(sorted(ODD))
    def damaged(name, data, match):
        (d := tmp_path/f'{name}-{len(list(tmp_path.iterdir()))}').mkdir()
        for p in run.iterdir(): shutil.copy(p, d)
        (d/name).write_bytes(data)
        with pytest.raises(ValueError, match=match): runs.read_run(d)
    for text in (b'{}', b'[]', b'null', b'{"data": null}', json.dumps(m | dict(accuracy=None)).encode(), b'\xff'): damaged('metrics.json', text, 'metrics.json is damaged')
    for data in (b'', b'PK'): damaged('predictions.npz', data, 'predictions.npz is damaged')
    np.savez(tmp_path/'none.npz', logits=np.zeros((0, 2)), labels=np.zeros(0, int))
    damaged('predictions.npz', (tmp_path/'none.npz').read_bytes(), 'no answers to these 120 images')
    first, second = sorted((other/'test'/ODD[0]).iterdir())[:2]
    shutil.copy(second, first)
    with pytest.raises(ValueError, match='has changed since: pixels was'): runs.read_run(run)
    (run/'model.safetensors').touch()
    with pytest.raises(ValueError, match='has changed since: pixels was'): report.write_report(run)

def test_weights_that_are_no_numbers_give_no_accuracy(tmp_path, capsys):
    model = load_model()
    model.conv1.weight.data[0] = float('nan')
    save_weights(model, tmp_path/'nan.safetensors')
    assert cli.main(['evaluate', '--weights', str(tmp_path/'nan.safetensors'), '--out', str(tmp_path/'m.json')])==2
    out, err = capsys.readouterr()
    assert out=='' and 'not finite' in err and not (tmp_path/'m.json').exists()
    assert cli.main(['run', '--weights', str(tmp_path/'nan.safetensors'), '--out', str(tmp_path/'run')])==2
    assert not (tmp_path/'run').exists()

def test_weights_of_other_classes_are_refused_by_name(tmp_path, capsys):
    for kw,want in ((dict(num_classes=10, classes=[f'c{i}' for i in range(10)]), 'c0, c1'), (dict(num_classes=7), '7 outputs')):
        n = kw.pop('num_classes')
        save_weights(resnet18(n), tmp_path/'w.safetensors', **kw)
        assert cli.main(['evaluate', '--weights', str(tmp_path/'w.safetensors')])==2
        assert want in capsys.readouterr().err

def test_two_runs_at_once_have_two_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert len({runs.new_run('x') for _ in range(3)})==3

def test_steps_by_width_are_counted_without_counting():
    rng = np.random.default_rng(0)
    for steps in (1, 7, 36, 1000):
        for k in range(4):
            r = SimpleNamespace(sizes=tuple((float(s), int(w)) for s,w in zip(rng.uniform(-.1, 1.2, k).round(2), rng.permutation([8, 16, 24, 32]))))
            widths = [runs.width_at(r, s/steps) for s in range(steps)]
            assert dict(runs.steps_by_width(r, steps))=={w: widths.count(w) for w in set(widths)}
    assert sum(runs.steps_by_width(get_recipe('quick'), 10**15).values())==10**15

@pytest.fixture
def maps(): return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)), get_dl(load_images('sample', 'test')[:40], 10)

@pytest.mark.parametrize('rank', (0, 1))
def test_a_process_that_does_not_come_is_not_waited_for(maps, tmp_path, monkeypatch, rank):
    monkeypatch.setattr(atlas, 'PATIENCE', .5)
    for k,v in dict(RANK=rank, WORLD_SIZE=2).items(): monkeypatch.setenv(k, str(v))
    with pytest.raises(RuntimeError, match='nothing has come from the other processes'): atlas.explain_dataset(*maps, tmp_path/'maps', layers='0', progress=False)
    for k in ('RANK', 'WORLD_SIZE'): monkeypatch.delenv(k)
    assert len(atlas.load_maps(atlas.explain_dataset(*maps, tmp_path/'maps', layers='0', progress=False)).logits)==40       # another call does the rest

def test_room_on_the_disk_is_taken_before_the_work(maps, tmp_path, monkeypatch):
    net, dl = maps
    class CutOff:
        dataset = dl.dataset
        def __iter__(self):
            for i,b in enumerate(dl):
                if i==1: raise KeyboardInterrupt
                yield b
    with pytest.raises(KeyboardInterrupt): atlas.explain_dataset(net, CutOff(), tmp_path/'maps', layers='0', progress=False)
    for p in (tmp_path/'maps').glob('*.npy'): assert p.stat().st_blocks*512>=p.stat().st_size, p.name
    def full(*args): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(atlas, '_zeros', full)
    with pytest.raises(OSError, match='cannot hold the maps of 40 images'): atlas.explain_dataset(net, dl, tmp_path/'full', layers='0', progress=False)
    assert [p.name for p in (tmp_path/'full').iterdir()]==['plan.json']

def test_processes_that_train_other_things_are_refused(monkeypatch):
    learn = SimpleNamespace(recipe=RECIPE, data=dict(pixels='a'), dls=SimpleNamespace(train=SimpleNamespace(dataset=range(9))), epoch=0, step=0)
    for other,want in ((dict(seed=7), 'seed was 42, is 7'), ({'data: pixels': 'b'}, "data: pixels was 'a', is 'b'"), (dict(step=3), 'step was 0, is 3')):
        monkeypatch.setattr('accelerate.utils.gather_object', lambda mine: [*mine, mine[0] | other])
        with pytest.raises(RuntimeError, match='process 1 does not train what process 0 does') as said: check_alike(learn)
        assert want in str(said.value)

def test_a_batch_that_does_not_come_ends_the_run():
    class Hangs(Callback):
        def after_batch(self, learn): time.sleep(20*(learn.step==2))
    tiny = nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(48, 10))
    with pytest.raises(RuntimeError, match='no batch has come for 0.5 seconds'):
        Learner(tiny, get_dls(load_images('sample', 'train')[:300], 50), RECIPE, [PatienceCB(.5), Hangs()], 'no').fit()
    assert signal.getitimer(signal.ITIMER_REAL)==(0, 0)
