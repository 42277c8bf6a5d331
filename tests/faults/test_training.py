"What a run survives: killed, interrupted, damaged, disk full, two at once"
import fcntl, hashlib, io, json, multiprocessing, os, random, re, select, signal, struct, subprocess, sys, tarfile, termios, time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
import pytest
import torch
import warm                                                                    # says what a process is forked with
from torch import nn
from cifar_cam.data import get_dls, load_images
from cifar_cam.sources import ASSETS
from cifar_cam.recipes import get_recipe, save_recipe
from cifar_cam.resume import CheckpointCB, load_checkpoint, save_checkpoint
from cifar_cam.train import Callback, Learner

resource = pytest.importorskip('resource', reason='Unix only')

KILLS = 20

def learner(cbs=(), epochs=4, workers=0):
    "A small network with batch norm and dropout on real, augmented images"
    recipe = replace(get_recipe('quick'), epochs=epochs, bs=50, sizes=())
    torch.manual_seed(0)
    m = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(.3), nn.Flatten(), nn.Linear(512, 10))
    return Learner(m, get_dls(load_images('sample', 'train')[:1000], recipe.bs, recipe.augment, num_workers=workers), recipe, list(cbs), 'no')

def train(folder, state, workers):
    "Train, from the checkpoint if there is one, saving after every batch; in a process that may be killed"
    multiprocessing.set_start_method('fork', force=True)
    torch.set_num_threads(1)
    learn = learner([CheckpointCB(folder, minutes=0)], workers=workers)
    try: load_checkpoint(folder/'checkpoint.pt', learn)
    except FileNotFoundError: pass
    state.set()
    learn.fit()

def same(a, b):
    "Whether two learners ended alike, to the bit, but for the seconds"
    def rows(l): return [{k: v for k,v in r.items() if k!='seconds'} for r in l.history]
    def tensors(d): return [t for v in d.values() for t in (tensors(v) if isinstance(v, dict) else [v])]
    return rows(a)==rows(b) and all(x.equal(y) if isinstance(x, torch.Tensor) else x==y for x,y in zip(tensors(a.model.state_dict())+tensors(a.opt.state_dict()['state'])+[a.sched.state_dict()['last_epoch']], tensors(b.model.state_dict())+tensors(b.opt.state_dict()['state'])+[b.sched.state_dict()['last_epoch']]))

@pytest.fixture(scope='module')
def unbroken():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    learn = learner()
    learn.fit()
    torch.set_num_threads(threads)
    return learn

def read(folder):
    "The learner at the end of a run"
    return load_checkpoint(folder/'checkpoint.pt', learner())

def test_killed_at_random_moments_it_ends_with_the_same_bits(unbroken, tmp_path, tried):
    mp, dice, kills, runs = multiprocessing.get_context('forkserver'), random.Random(0), 0, 0
    while kills<KILLS:
        runs += 1
        folder = tmp_path/f'run{runs}'
        folder.mkdir()
        while True:
            started = mp.Event()
            p = mp.Process(target=train, args=(folder, started, 2*(runs%4==1)))             # every fourth run with two workers
            p.start()
            assert started.wait(60)
            p.join(dice.uniform(.02, .5))
            if p.exitcode is not None: break
            p.kill()
            p.join()
            kills += 1
        assert p.exitcode==0
        assert same(read(folder), unbroken)
    tried('SIGKILL at a random moment of training', kills, 'nothing (the same bits)', f'{runs} runs')

def test_a_damaged_film_stops_no_run(tmp_path, tried):
    from cifar_cam.watch import WatchCB
    learn, watch = learner(), WatchCB(tmp_path, images=4)
    learn.epoch = 1
    for damage in (b'', b'no film', b'PK\x03\x04 no film'):
        watch.path.write_bytes(damage)
        with pytest.warns(UserWarning, match='watched.npz is damaged: .*; what was watched before epoch 2 is lost') as said: watch.before_fit(learn)
        assert watch.frames==[]
    tried('the film of a run is damaged', 3, 'the film so far', said[0].message)

def test_workers_change_nothing(unbroken, tried):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try: (learn := learner(workers=2)).fit()
    finally: torch.set_num_threads(threads)
    assert same(learn, unbroken)

def on_terminal(cmd, columns=80, **kw):
    "Start a process whose stderr is a terminal"
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack('HHHH', 24, columns, 0, 0))
    p = subprocess.Popen(list(map(str, cmd)), stderr=theirs, stdout=subprocess.PIPE, text=True, **kw)
    os.close(theirs)
    p.terminal = ours
    return p

def command(*args, cwd, **kw): return on_terminal([Path(sys.executable).with_name('cifar-cam'), *args], cwd=cwd, **kw)

def read_terminal(p, timeout=60):
    "The next that a process says; nothing when it has ended"
    assert select.select([p.terminal], [], [], timeout)[0], 'nothing was said'
    try: return os.read(p.terminal, 10_000).decode(errors='replace')           # a character of the bar may be cut in two
    except OSError: return ''                                                  # how Linux says that nobody writes any more

def rest(p, timeout=60):
    "All that a process still says, to its end"
    said, until = '', time.monotonic()+timeout
    while new := read_terminal(p, max(0, until-time.monotonic())): said += new
    p.wait(max(1, until-time.monotonic()))
    os.close(p.terminal)
    return said

def wait_for_steps(p):
    "Read what a process says until its bar has moved twice"
    said, seen = '', set()
    while len(seen)<3:
        new = read_terminal(p)
        assert new, said
        said += new
        seen |= set(re.findall(r'training:[^\r\n]*?(\d+)/\d+ \[', said))

QUICK = '--recipe', 'quick', '--data', 'sample'

def test_the_command_is_interrupted_locked_and_killed(tmp_path, tried):
    run, goes_on = tmp_path/'run', ('train', '--resume', 'run')
    def steps(): return [torch.load(io.BytesIO((run/name).read_bytes()[32:]), weights_only=True)['step'] for name in ('checkpoint.pt', 'checkpoint.pt.before')]
    p = command('train', *QUICK, '--epochs', 2, '--out', 'run', '--workers', 2, cwd=tmp_path, start_new_session=True)
    wait_for_steps(p)
    second = command(*goes_on, cwd=tmp_path)
    said = rest(second)
    assert (second.returncode, 'is being trained by another process' in said)==(1, True)
    tried('two processes train one run', said=said)
    os.killpg(p.pid, signal.SIGINT)                                            # as a terminal does: to its workers, too
    said = rest(p)
    assert (p.returncode, 'saved, to be resumed from run' in said, 'Traceback' in said)==(130, True, False), said
    tried('Ctrl-C', said=said.splitlines()[-1])
    before = hashlib.sha256((run/'checkpoint.pt').read_bytes()).digest()
    p = command(*goes_on, cwd=tmp_path)
    wait_for_steps(p)
    p.kill()
    rest(p)
    assert hashlib.sha256((run/'checkpoint.pt').read_bytes()).digest()==before
    tried('SIGKILL of the command; the lock it leaves is in nobody’s way')
    p = command(*goes_on, cwd=tmp_path)
    wait_for_steps(p)
    p.send_signal(signal.SIGINT)
    said = rest(p)
    assert p.returncode==130, said
    new, old = steps()
    assert new>old>0

def children(pid): return [int(c) for t in Path(f'/proc/{pid}/task').iterdir() for c in (t/'children').read_text().split()]

@pytest.mark.skipif(not Path('/proc').is_dir(), reason='looks for the workers in /proc')
def test_a_stopped_worker_does_not_outlive_two_interrupts(tmp_path, tried):
    p = command('train', *QUICK, '--epochs', 2, '--out', 'run', '--workers', 1, cwd=tmp_path)
    wait_for_steps(p)
    (worker,) = children(p.pid)
    os.kill(worker, signal.SIGSTOP)
    try:
        while select.select([p.terminal], [], [], 3)[0]: read_terminal(p)      # until there are no batches left
        p.send_signal(signal.SIGINT)
        time.sleep(1.5)
        p.send_signal(signal.SIGINT)
        said = rest(p, 30)
        assert (p.returncode, 'Traceback' in said, Path(f'/proc/{worker}').exists())==(130, False, False), said
    finally:
        for pid in (worker, p.pid):
            if Path(f'/proc/{pid}').exists(): os.kill(pid, signal.SIGKILL)
    tried('a worker is stopped, and Ctrl-C pressed twice', 1, 'the time since the last save', said.splitlines()[-1])

@pytest.fixture
def saved(tmp_path):
    "A folder with two checkpoints, of steps 3 and 4, and the newer one as it was"
    learn = learner(epochs=1)
    class Save(CheckpointCB):
        def after_batch(self, learn):
            if learn.step in (3, 4): self.save(learn)
            if learn.step==4: raise KeyboardInterrupt
    learn.cbs.append(Save(tmp_path))
    with pytest.raises(KeyboardInterrupt): learn.fit()
    return tmp_path/'checkpoint.pt', (tmp_path/'checkpoint.pt').read_bytes()

def step(path): return load_checkpoint(path, learner(epochs=1)).step

def test_a_damaged_checkpoint_gives_way_to_the_one_before(saved, tried):
    path, good = saved
    dice = random.Random(1)
    def damaged(fault, versions):
        for data in versions:
            path.write_bytes(data)
            with pytest.warns(UserWarning, match='going on from the one before it') as said: assert step(path)==3
        tried(fault, len(versions), 'one save', said[0].message)
    damaged('checkpoint truncated', [good[:dice.randrange(len(good))] for _ in range(20)])
    damaged('checkpoint with a flipped bit', [good[:k] + bytes([good[k]^1<<dice.randrange(8)]) + good[k+1:] for k in (dice.randrange(len(good)) for _ in range(20))])
    damaged('checkpoint empty', [b''])
    damaged('checkpoint of zeros', [bytes(len(good))])
    path.unlink()
    with pytest.warns(UserWarning, match='is gone'): assert step(path)==3
    tried('killed between two renames: the newest file missing', 1, 'one save')
    path.write_bytes(good)
    Path(f'{path}.new.part').write_bytes(good[:100])
    assert step(path)==4
    tried('killed while writing: a part left behind')
    for p in (path, Path(f'{path}.before')): p.write_bytes(b'?')
    with pytest.raises(ValueError, match='no checkpoint can be read'): step(path)
    tried('both checkpoints damaged', 1, 'the run', 'no checkpoint can be read: ...')

def test_a_full_disk_leaves_the_last_checkpoint(saved, tried):
    path, good = saved
    learn = load_checkpoint(path, learner(epochs=1))
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    was = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    for size in (0, 1000, len(good)//2):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, old[1]))
        try:
            with pytest.raises(OSError, match='cannot be written') as said: save_checkpoint(path, learn)
        finally: resource.setrlimit(resource.RLIMIT_FSIZE, old)
        assert path.read_bytes()==good and sorted(p.name for p in path.parent.iterdir())==['checkpoint.pt', 'checkpoint.pt.before']
    signal.signal(signal.SIGXFSZ, was)
    tried('no room for a checkpoint', 3, said=said.value)

@contextmanager
def nobody():
    "Without the rights of the superuser, to whom no folder is read-only"
    if root := os.geteuid()==0: os.seteuid(65534)
    try: yield
    finally:
        if root: os.seteuid(0)

def test_a_read_only_folder_is_left_as_it_was(saved, tried):
    from cifar_cam.runs import new_run, train_run
    good, learn = saved[1], load_checkpoint(saved[0], learner(epochs=1))
    with TemporaryDirectory() as d:
        folder, path = Path(d), Path(d)/'checkpoint.pt'
        path.write_bytes(good)
        save_recipe(learn.recipe, folder/'recipe.json', data='sample')
        for p in (path, folder/'recipe.json'): p.chmod(0o444)
        with tarfile.open(data := f'{d}/data.tar', 'w') as tar: tar.add(ASSETS/'sample-test.webp', 'train/cat/sheet.webp')
        os.chmod(data, 0o444)
        folder.chmod(0o555)
        with nobody():
            with pytest.raises(OSError, match='cannot be written') as said: save_checkpoint(path, learn)
            tried('read-only folder: a checkpoint', said=str(said.value).replace(d, ''))
            with pytest.raises(OSError, match='cannot be written') as said: train_run(folder)
            tried('read-only folder: --resume', said=str(said.value).replace(d, ''))
            with pytest.raises(OSError, match='cannot make the folder') as said: new_run('demo', folder/'run')
            tried('read-only folder: a new run', said=str(said.value).replace(d, ''))
            with pytest.warns(UserWarning, match='could not keep a cache') as said: assert len(load_images(data, 'train', folder))==1
            tried('read-only folder: the cache of the data', said=str(said[-1].message).replace(d, ''))
        assert sorted(p.name for p in folder.iterdir())==['checkpoint.pt', 'data.tar', 'recipe.json'] and path.read_bytes()==good
        folder.chmod(0o755)

def test_folders_that_are_no_runs(tmp_path, tried):
    from cifar_cam.runs import new_run, train_run
    def refused(fault, error, match, act):
        with pytest.raises(error, match=match) as said: act()
        tried(fault, said=said.value)
    (tmp_path/'full').mkdir(); (tmp_path/'full'/'mine.txt').write_text('mine'); (tmp_path/'file').write_text(''); (tmp_path/'bad').mkdir(); (tmp_path/'bad'/'recipe.json').write_text('{"name": "dem')
    refused('--out is not empty', ValueError, 'is not empty', lambda: new_run('x', tmp_path/'full'))
    refused('--out is a file', ValueError, 'is a file', lambda: new_run('x', tmp_path/'file'))
    refused('--out cannot be made', OSError, 'cannot make the folder', lambda: new_run('x', '/proc/none/run'))
    refused('--resume of a folder that is no run', FileNotFoundError, 'no recipe', lambda: train_run(tmp_path/'full'))
    refused('--resume of a folder that there is not', FileNotFoundError, 'no run', lambda: train_run(tmp_path/'nowhere'))
    refused('recipe.json cut off', ValueError, 'is not a recipe', lambda: train_run(tmp_path/'bad'))
    assert (tmp_path/'full'/'mine.txt').read_text()=='mine'

def test_a_loss_that_is_no_number_stops_the_run(tmp_path, tried):
    learn = learner([CheckpointCB(tmp_path, minutes=0)], epochs=1)
    class Poison(CheckpointCB):
        order = -1
        def __init__(self): pass
        def before_fit(self, learn): pass
        def before_batch(self, learn):
            if learn.step==5: learn.xb = learn.xb*float('nan')
        def after_batch(self, learn): pass
        def after_fit(self, learn): pass
    learn.cbs.insert(0, Poison())
    with pytest.raises(RuntimeError, match='the loss is nan in epoch 1, step 6') as said: learn.fit()
    good = load_checkpoint(tmp_path/'checkpoint.pt', learner(epochs=1))
    assert good.step==5 and all(p.isfinite().all() for p in good.model.parameters())
    tried('loss is no number', said=said.value)

def test_weights_that_are_no_numbers_are_not_saved(tmp_path, tried):
    class Break(Callback):
        "Spoils the last step of the second epoch"
        order = 50
        def after_batch(self, learn):
            if learn.training and learn.step==2*len(learn.dls.train):
                with torch.no_grad(): learn.model[0].weight[0] = float('inf')
    learn = learner([CheckpointCB(tmp_path), Break()], epochs=2)
    with pytest.raises(RuntimeError, match='weights are NaN or infinite in epoch 2') as said: learn.fit()
    assert load_checkpoint(tmp_path/'checkpoint.pt', learner(epochs=2)).epoch==1 and len(json.loads((tmp_path/'history.json').read_text()))==1
    tried('the last step of an epoch spoils the weights', 1, 'the epoch', said.value)
