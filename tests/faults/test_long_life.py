"Long use leaves memory, files, threads and hooks as they were (a thousand moves of the explorer: tests/test_explorer.py)"
import gc, threading
import psutil
import torch
from torch import nn
from cifar_cam.data import load_images, normalize
from cifar_cam.gradcam import METHODS, explain
from cifar_cam.resume import CheckpointCB
from test_training import learner

def use():
    "MiB of memory, open files, threads"
    gc.collect()
    p = psutil.Process()
    return p.memory_info().rss/2**20, p.num_fds(), threading.active_count()

def flat(before, after): return after[0]-before[0]<30 and after[1]<=before[1] and after[2]<=before[2]

def test_two_hundred_epochs(tmp_path, tried):
    learn = learner([CheckpointCB(tmp_path)], epochs=200)
    learn.dls = type(learn.dls)(*[torch.utils.data.DataLoader([b for b in dl], batch_size=None) for dl in learn.dls])         # the first epoch's batches, kept: this is not about augmentation
    seen = []
    class Look(CheckpointCB):
        def __init__(self): pass
        def before_fit(self, learn): pass
        def after_batch(self, learn): pass
        def after_epoch(self, learn):
            if learn.epoch in (20, 200): seen.append(use())
        def after_fit(self, learn): pass
    learn.cbs.append(Look())
    learn.fit()
    assert len(learn.history)==200 and flat(*seen), seen
    tried('200 epochs', 200, f'{seen[1][0]-seen[0][0]:+.0f} MiB, {seen[1][1]-seen[0][1]:+} files, {seen[1][2]-seen[0][2]:+} threads')

def test_ten_thousand_explanations(tried):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)).eval()
    x, quick, n = normalize(load_images('sample', 'test').images[:50])[..., :12, :12], [k for k in METHODS if k not in ('cam', 'scorecam', 'ablationcam')], 0
    while n<10_000:
        for k in quick: explain(net, x, 3, ['1', '3'], k); n += len(x)
        if n==len(quick)*50*2: before = use()
    after = use()
    assert flat(before, after), (before, after)
    assert not [m for m in net.modules() if m._forward_hooks or m._backward_hooks] and all(p.grad is None for p in net.parameters())
    tried('10,000 explanations', n, f'{after[0]-before[0]:+.0f} MiB, {after[1]-before[1]:+} files, {after[2]-before[2]:+} threads')
