"Two processes on the CPU (gloo): the same training as one"
import json, os, signal, subprocess, sys, time
from pathlib import Path
import pytest

SCRIPT = '''
import json, os, signal, sys, torch
from dataclasses import replace
from cifar_cam.data import get_dls, load_images
from cifar_cam.model import resnet18
from cifar_cam.recipes import get_recipe
from cifar_cam.train import Callback, CheckpointCB, Learner, load_checkpoint

out, epochs, dies = sys.argv[1], int(sys.argv[2]), len(sys.argv)>3
torch.set_num_threads(1)
torch.manual_seed(0)
r = replace(get_recipe('demo'), epochs=epochs, bs=60, lr=1e-4, schedule='constant', schedule_args={}, optimizer_args={}, sizes=((0,16),))
dls = get_dls(load_images('sample', 'train')[:370], r.bs, r.augment)

class Losses(Callback):
    def __init__(self): self.seen = []
    def after_batch(self, learn):
        if learn.training: self.seen.append(learn.accelerator.reduce(learn.loss.detach().clone(), 'mean').item())
        if dies and learn.step==3 and os.environ['RANK']=='1': os.kill(os.getpid(), signal.SIGKILL)

losses = Losses()
learn = Learner(resnet18(), dls, r, [losses, CheckpointCB(out)], 'no')
if os.path.exists(f'{out}/checkpoint.pt'): load_checkpoint(f'{out}/checkpoint.pt', learn)
learn.fit()
if learn.accelerator.is_main_process:
    norm = learn.model.layer4[1].bn2
    json.dump(dict(processes=learn.accelerator.num_processes, losses=losses.seen, history=learn.history, mean=norm.running_mean.tolist(), var=norm.running_var.tolist(), images=len(dls.valid.dataset)), open(f'{out}/told.json', 'w'))
learn.accelerator.wait_for_everyone()
learn.accelerator.end_training()
'''

def run(folder, processes, epochs, *more):
    "What the script tells, run by so many processes"
    folder.mkdir(exist_ok=True)
    script = folder.parent/'script.py'
    script.write_text(SCRIPT)
    start = [sys.executable] if processes==1 else [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', str(processes)]
    r = subprocess.run([*start, script, folder, str(epochs), *more], env=os.environ | dict(ACCELERATE_USE_CPU='1', OMP_NUM_THREADS='1', TQDM_DISABLE='1'), capture_output=True, text=True, timeout=400)
    return r, json.loads((folder/'told.json').read_text()) if r.returncode==0 else None

def close(a, b, tol): return len(a)==len(b) and max(abs(x-y) for x,y in zip(a, b))<=tol

def test_two_processes_train_as_one_and_go_on_as_one(tmp_path, tried):
    (_, one), (r, two) = run(tmp_path/'one', 1, 2), run(tmp_path/'two', 2, 1)
    assert r.returncode==0, r.stderr[-2000:]
    assert (one['processes'], two['processes'])==(1, 2)
    n = len(two['losses'])
    assert len(one['losses'])==2*n and n>=5 and close(one['losses'][:n], two['losses'], 1e-4)
    right = [h['history'][0]['valid_accuracy']*h['images'] for h in (one, two)]
    assert one['images']==two['images'] and right==pytest.approx([round(right[0])]*2, abs=1e-4)           # every image once
    assert abs(one['history'][0]['valid_loss']-two['history'][0]['valid_loss'])<1e-4 and abs(one['history'][0]['train_loss']-two['history'][0]['train_loss'])<1e-4
    r, on = run(tmp_path/'two', 1, 2)
    assert close(one['losses'][n:], on['losses'], 1e-3)
    assert close(one['mean'], on['mean'], 1e-3) and close(one['var'], on['var'], 1e-3)
    tried('a run of two processes goes on with one', said='the losses of one process')

def test_a_process_that_dies_ends_the_run(tmp_path, tried):
    start = time.monotonic()
    r, _ = run(tmp_path/'run', 2, 1, 'dies')
    seconds = time.monotonic()-start
    assert r.returncode!=0 and seconds<60
    tried('one of two processes is killed', 1, 'the epoch', f'ended with an error after {seconds:.0f} s')
