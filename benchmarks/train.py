"""How fast a training step is, against a plain loop; everything interleaved in one run on one machine

    python benchmarks/train.py [--data FOLDER] [--steps 6] [--rounds 5] [--epochs 6] [--out FILE.json]

`ours` is `Learner` with the data pipeline of `get_dls`, in the precision the machine really has; `no data` the same with one batch
that is there already; `compiled` as `ours`, with `torch.compile`, where there is a C++ compiler (how long it compiles is told, and is
not in the rate). `float32` and `bfloat16` are what the machine can do in these formats: a matrix product and nothing else. `plain` is the loop of
the widespread CIFAR repositories: torchvision's transforms image by image in two worker processes, float32, contiguous memory. All see
32x32 images in batches of 128, the same network, SGD with momentum, crops and flips. A round times a few steps of each in turn; ratios
are taken within a round, and their median is told.
"""
import argparse, json, shutil, statistics, time
from dataclasses import replace

import psutil
import torch
import torchvision.transforms as T
from torch.nn import functional as F
from tqdm.auto import tqdm

from cifar_cam.data import CIFAR_MEAN, CIFAR_STD, DataLoaders, get_dl, get_dls, load_images
from cifar_cam.model import flops, resnet18
from cifar_cam.optim import best_device, precision
from cifar_cam.recipes import CROP_FLIP, get_recipe
from cifar_cam.runs import TimeCB, machine
from cifar_cam.train import Callback, Learner, evaluate

BS = 128
FORMATS = dict(no='float32', bf16='bfloat16')              # name of a precision -> that of the number format
RECIPE = replace(get_recipe('quick'), name='bench', epochs=10_000, bs=BS, sizes=(), augment=CROP_FLIP, valid_pct=0.)

class WaitCB(Callback):
    "Seconds from the end of a batch to the moment the next one is there"
    order = 200
    def __init__(self): self.waited, self.end = [], None
    def before_batch(self, learn): self.waited += [] if self.end is None else [time.perf_counter()-self.end]
    def after_batch(self, learn): self.end = time.perf_counter()

class Again:
    "One batch, again and again"
    def __init__(self, batch, n): self.batch, self.n = batch, n
    def __len__(self): return self.n
    def __iter__(self): return (self.batch for _ in range(self.n))
    def set_epoch(self, epoch): pass

class Ours:
    "Steps of our training loop; `data=False` without the pipeline, `compiled` by `torch.compile`"
    def __init__(self, ims, data=True, compiled=False):
        self.model, self.dls, self.waits = resnet18(), get_dls(ims, BS, CROP_FLIP, 0.), []
        if not data: self.dls = DataLoaders(Again(next(iter(self.dls.train)), 10_000), [])
        if compiled: self.model.compile()
    def __call__(self, steps):
        timer, wait = TimeCB(steps+1), WaitCB()
        learn = Learner(self.model, self.dls, RECIPE, [wait, timer])
        learn.fit()
        self.waits += [w/s for w,s in zip(wait.waited, timer.seconds[1:])]
        return steps*BS/sum(timer.seconds[1:])

class Pictures(torch.utils.data.Dataset):
    "Images one at a time, transformed by torchvision"
    tfm = T.Compose([T.RandomCrop(32, padding=2), T.RandomHorizontalFlip(), T.ToTensor(), T.Normalize(CIFAR_MEAN, CIFAR_STD)])
    def __init__(self, ims): self.ims = ims
    def __len__(self): return len(self.ims)
    def __getitem__(self, i): return self.tfm(T.functional.to_pil_image(self.ims.images[i])), int(self.ims.labels[i])

class Plain:
    "Steps of the plain loop"
    def __init__(self, ims):
        self.device = best_device()
        self.model = resnet18().to(self.device)
        self.opt = torch.optim.SGD(self.model.parameters(), lr=.01, momentum=.9, weight_decay=5e-4)
        self.dl = torch.utils.data.DataLoader(Pictures(ims), BS, shuffle=True, drop_last=True, num_workers=2, persistent_workers=True, prefetch_factor=1)
        self.batches = (b for _ in range(10_000) for b in self.dl)
    def __call__(self, steps):
        self.model.train()
        for i in range(steps+1):
            if i==1: start = time.perf_counter()             # the first step warms up
            x, y = (t.to(self.device) for t in next(self.batches))
            self.opt.zero_grad()
            loss = F.cross_entropy(self.model(x), y)
            loss.backward()
            self.opt.step()
            loss.item()
        return steps*BS/(time.perf_counter()-start)

def product(name, size=2048, times=20):
    "Operations in a second of a plain product of two square matrices of a number format, / 10**12"
    a = torch.randn(size, size, device=best_device(), dtype=getattr(torch, name))
    def run(n):
        start = time.perf_counter()
        for _ in range(n): b = a@a
        b.sum().item()                                       # until a GPU has really done it
        return time.perf_counter()-start
    run(3)
    return 2*size**3*times/run(times)/1e12

def memory_over_epochs(ims, epochs):
    "Memory of the process after each epoch, MiB"
    class Memory(Callback):
        def __init__(self): self.mib = []
        def after_epoch(self, learn): self.mib.append(round(psutil.Process().memory_info().rss/2**20))
    memory = Memory()
    Learner(resnet18(), get_dls(ims[:1024], BS, CROP_FLIP, 0.), replace(RECIPE, epochs=epochs, sizes=((0.,8),)), [memory]).fit()
    return memory.mib

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--data', default='sample', help='data source, as for cifar-cam')
    p.add_argument('--steps', type=int, default=6, help='timed steps of each in a round')
    p.add_argument('--rounds', type=int, default=5, help='rounds')
    p.add_argument('--epochs', type=int, default=6, help='epochs over which memory is watched')
    p.add_argument('--out', help='file for the figures, as JSON')
    a = p.parse_args()
    ims = load_images(a.data, 'train')
    ours, no_data, plain = Ours(ims), Ours(ims, data=False), Plain(ims)
    loops, compiling = dict(ours=ours, no_data=no_data, plain=plain), None
    if shutil.which('c++'):
        loops['compiled'] = Ours(ims, compiled=True)
        start = time.perf_counter()
        loops['compiled'](1)
        compiling = round(time.perf_counter()-start)
    rounds = [{k: loop(a.steps) for k,loop in loops.items()} | {k: product(k) for k in FORMATS.values()} for _ in tqdm(range(a.rounds), desc='rounds')]
    start = time.perf_counter()
    evaluate(ours.model, get_dl(ims[:1000]), progress=False)
    median = lambda xs: round(statistics.median(xs), 3)
    work = flops(ours.model, ims.images.shape[1])/1e12        # of one image, forward and backward
    ours_in = FORMATS[precision()]
    out = dict(**{f'{k}_images_per_second': median(r[k] for r in rounds) for k in loops},
               **{f'{k}_over_plain': median(r[k]/r['plain'] for r in rounds) for k in loops if k!='plain'}, seconds_to_compile=compiling,
               **{f'{k}_product_tflops': median(r[k] for r in rounds) for k in FORMATS.values()}, number_format=ours_in,
               share_of_product=median(r['ours']*work/r[ours_in] for r in rounds),
               share_waiting_for_data=median(ours.waits), evaluation_images_per_second=round(1000/(time.perf_counter()-start), 1),
               memory_mib_after_each_epoch=memory_over_epochs(ims, a.epochs), images=ims.source, batch=BS, rounds=a.rounds, steps=a.steps,
               **machine(next(ours.model.parameters()).device))
    for k,v in out.items(): print(f'{k:34} {v}')
    if a.out: open(a.out, 'w').write(json.dumps(out, indent=1))

if __name__=='__main__': main()
