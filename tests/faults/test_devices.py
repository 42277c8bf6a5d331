"Two processes on the CPU (gloo): the same training as one, and the same heatmaps"
import json, os, re, signal, socket, subprocess, sys, time
from pathlib import Path
import pytest
import warm
from PIL import Image
from cifar_cam.data import load_images
from test_training import on_terminal, rest, wait_for_steps

TRAIN = '''
import json, os, signal, sys, torch
from dataclasses import replace
from cifar_cam.data import get_dls, load_images
from cifar_cam.model import resnet18
from cifar_cam.recipes import get_recipe
from cifar_cam.resume import CheckpointCB, batches_done, load_checkpoint
from cifar_cam.train import Callback, Learner

out, dies = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(1)
torch.manual_seed(0)
r = replace(get_recipe('quick'), epochs=3, bs=60, lr=1e-4, schedule='constant', schedule_args={}, optimizer_args={}, sizes=((0,12),))
dls = get_dls(load_images('sample', 'train')[:350], r.bs, r.augment)                                # five steps an epoch

class Losses(Callback):
    order = 40
    def after_batch(self, learn):
        if not learn.training: return
        loss = learn.accelerator.reduce(learn.loss.detach().clone(), 'mean').item()
        if learn.accelerator.is_main_process: print(json.dumps([learn.step, loss]), file=open(f'{out}/losses', 'a'))
        if learn.step==dies and os.environ.get('RANK', '1')=='1': os.kill(os.getpid(), signal.SIGKILL)

learn = Learner(resnet18(), dls, r, [Losses(), CheckpointCB(out, minutes=0 if dies else 5)], 'no')
if os.path.exists(f'{out}/checkpoint.pt'): load_checkpoint(f'{out}/checkpoint.pt', learn)
began = learn.step, batches_done(learn)
learn.fit()
if learn.accelerator.is_main_process:
    norm = learn.model.layer4[1].bn2
    json.dump(dict(began=began, processes=learn.accelerator.num_processes, history=learn.history, mean=norm.running_mean.tolist(), var=norm.running_var.tolist()), open(f'{out}/told.json', 'w'))
learn.accelerator.wait_for_everyone()
learn.accelerator.end_training()
'''

EXPLAIN = '''
import sys, torch
from cifar_cam.data import get_dl, load_images
from cifar_cam.model import load_model
from cifar_cam import atlas
torch.set_num_threads(1)
explained, real = [], atlas._explain_batch
atlas._explain_batch = lambda model, x, *a: (explained.append(len(x)), real(model, x, *a))[1]
out = atlas.explain_dataset(load_model('cifar10'), get_dl(load_images('sample', 'test')[:70], 16), sys.argv[1], 'both')
assert len(atlas.load_maps(out).logits)==70                                    # all are there, whoever was first
sys.stdout.write(' '.join(map(str, ('explained', *explained)))+'\\n')            # one write: two processes print at once
'''

CPU = os.environ | dict(ACCELERATE_USE_CPU='1', OMP_NUM_THREADS='1', NO_ALBUMENTATIONS_UPDATE='1')
TORCHRUN = sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node'

def run(folder, processes, source, *more):
    "What became of a script, run by so many processes: the worst exit code, and all they said"
    folder.mkdir(exist_ok=True)
    script, out = folder.parent/'script.py', folder.parent/'said'
    script.write_text(source)
    out.unlink(missing_ok=True)
    with socket.create_server(('127.0.0.1', 0)) as s: port = s.getsockname()[1]
    def env(rank): return dict(RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=processes, MASTER_ADDR='127.0.0.1', MASTER_PORT=port) if processes>1 else {}
    each = [warm.Popen([script, folder, *more], CPU | dict(TQDM_DISABLE='1') | {k: str(v) for k,v in env(rank).items()}, files=[out, out]) for rank in range(processes)]
    try: return max((p.wait(400) for p in each), key=abs), out.read_text()
    finally:
        for p in each: p.kill()                                                      # if one does not end, no other waits for it

def torchrun(folder, processes, *more):
    "The same, started by torchrun"
    r = subprocess.run([*TORCHRUN, str(processes), folder.parent/'script.py', folder, *map(str, more)], env=CPU | dict(TQDM_DISABLE='1'), capture_output=True, text=True, timeout=400)
    return r.returncode, r.stderr

def losses(folder): return [v for _,v in sorted(dict(map(json.loads, (folder/'losses').read_text().splitlines())).items())]
def far(a, b): return max(abs(x-y) for x,y in zip(a, b, strict=True))

def test_two_processes_train_as_one_whoever_goes_on(tmp_path, tried):
    one, two, after = tmp_path/'one', tmp_path/'two', []
    code, said = run(one, 1, TRAIN, 0)
    assert code==0, said
    two.mkdir()
    for processes,dies in ((2, 7), (1, 10), (2, 12), (3, 0)):                        # 10 is the last step of an epoch, before it is measured
        start = time.monotonic()
        code, said = torchrun(two, processes, dies) if dies==7 else run(two, processes, TRAIN, dies)
        assert (code!=0)==bool(dies), said[-2000:]
        if processes==2 and dies: after.append(time.monotonic()-start)
    want, told = (json.loads((d/'told.json').read_text()) for d in (one, two))
    assert (want['processes'], told['processes'], want['began'], told['began'])==(1, 3, [0, 0], [12, 2])
    assert len(losses(one))==15 and far(losses(one), losses(two))<1e-3 and far(losses(one)[:7], losses(two)[:7])<1e-4
    for a,b in zip(want['history'], told['history'], strict=True):
        assert a['train_loss']==pytest.approx(b['train_loss'], abs=1e-3) and a['valid_loss']==pytest.approx(b['valid_loss'], abs=1e-3)
        assert a['valid_accuracy']==pytest.approx(b['valid_accuracy'], abs=1e-6) and a['train_accuracy']==pytest.approx(b['train_accuracy'], abs=.005)       # every image once
    assert far(want['mean'], told['mean'])<1e-3 and far(want['var'], told['var'])<1e-3
    assert max(after)<60
    tried('one of two processes is killed', 2, 'nothing', f'ended with an error, {max(after):.0f} s after the start')
    tried('a run goes on with another number of processes: 2, 1, 2, 3', 3, said=f'losses of one process, at most {far(losses(one), losses(two)):.0e} off')

OTHER = '''
import os
from pathlib import Path
from cifar_cam.data import load_images
from cifar_cam.recipes import get_recipe
from cifar_cam.runs import make_learner
from dataclasses import replace
ims = load_images('sample', 'train')[:200]
if os.environ['RANK']=='1': ims.images[3] = 0
make_learner(replace(get_recipe('quick'), epochs=1, bs=90, sizes=((0,8),)), ims).fit()
'''

def test_processes_that_see_other_data_are_refused(tmp_path, tried):
    code, said = run(tmp_path/'run', 2, OTHER)
    (said,) = set(re.findall('RuntimeError: (process 1 does not train what process 0 does: data: pixels was .*)', said))
    assert code
    tried('one of two processes sees a picture that is another', 1, said=said)

def test_the_command_in_two_processes(tmp_path, tried):
    ims, root = load_images('sample', 'train')[:160], tmp_path/'data'
    for k,(im,label) in enumerate(zip(ims.images, ims.labels)):
        (d := root/'train'/ims.classes[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(im).save(d/f'{k}.png')
    p = on_terminal([*TORCHRUN, '2', '-m', 'cifar_cam.cli', 'train', '--data', root, '--epochs', '4', '--out', 'run'], cwd=tmp_path, env=CPU, start_new_session=True)
    wait_for_steps(p)
    os.killpg(p.pid, signal.SIGINT)
    said = rest(p)
    assert p.returncode and 'saved, to be resumed from run' in said, said
    assert sorted(f.name for f in tmp_path.iterdir())==['data', 'run'] and not list(tmp_path.glob('run/*.safetensors'))
    tried('Ctrl-C of two processes', said=re.search('interrupted in .*', said)[0])
    r = subprocess.run([Path(sys.executable).with_name('accelerate'), 'launch', '--cpu', '--num_processes', '1', '-m', 'cifar_cam.cli', 'train', '--resume', 'run'], cwd=tmp_path, env=CPU, capture_output=True, text=True, timeout=400)
    assert r.returncode==0 and 'weights  run/model.safetensors' in r.stdout, r.stderr[-2000:]
    tried('a run of torchrun goes on under accelerate launch')

def test_two_processes_share_heatmaps(tmp_path, tried):
    for processes in (1, 2):
        code, said = run(tmp_path/f'{processes}', processes, EXPLAIN)
        assert code==0, said[-2000:]
        assert sorted(l for l in said.splitlines() if l.startswith('explained'))==(['explained 16 16', 'explained 16 16 6'] if processes==2 else ['explained 16 16 16 16 6'])
    one, two = ({f.name: f.read_bytes() for f in (tmp_path/n).iterdir()} for n in '12')
    assert one==two and len(one)==12
    tried('maps of a data set by two processes', said='the same bytes as by one')
