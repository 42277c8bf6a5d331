"""What each part of a recipe is worth: one part changed at a time, measured on train images that are held out

    python benchmarks/ablation.py [--study fast|demo|start] [--data SOURCE] [--seeds 1] [--only NAME ...] [--out FILE.json]

`fast`: a short `fast` on 16,000 images, three quarters of its five epochs at 16 pixels, the last quarter at 24, where it is measured.
`demo`: the three epochs that the search for `demo` began with, measured at 32 pixels. `start`: the first epoch of `demo` as a run of its own,
at 16 pixels; quick, to find candidates.
Every variant of a study sees the same images and takes about the same floating-point operations unless its name says otherwise
(they are counted); the test split is not read. Results are added to the file one by one, so that a run that was cut off goes on where it stopped.
"""
import argparse, json, time
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import interpolate
from tqdm.auto import tqdm

from cifar_cam.data import load_images
from cifar_cam.recipes import get_recipe
from cifar_cam.runs import make_learner, run_cost
from cifar_cam.train import ProgressCB, evaluate

FAST, QUICK, DEMO = map(get_recipe, ('fast', 'quick', 'demo'))
Study = namedtuple('Study', 'recipe images held_out variants')

def muon(r, **kw): return dict(optimizer_args=r.optimizer_args | kw)
def without(r, *names): return dict(augment={k: v for k,v in r.augment.items() if k not in names})

def whiten(learn):
    "The first filters start as principal directions of 3x3 pixels, scaled to variance 1, and as their negatives (cifar10-airbench)"
    x, w = next(iter(learn.dls.train))[0], learn.model.conv1.weight
    v, n = x.unfold(2, 3, 1).unfold(3, 3, 1).permute(0, 2, 3, 1, 4, 5).flatten(0, 2).flatten(1), w[0].numel()
    size, direction = torch.linalg.eigh(v.T @ v/len(v))
    filters = (direction/(size+5e-4).sqrt()).T.view(n, *w[0].shape)
    with torch.no_grad(): w[:n], w[n:2*n] = filters, -filters

def whiten_and_keep(learn):
    "The same, and the stem is not trained"
    whiten(learn)
    learn.model.conv1.weight.requires_grad_(False)

def dirac(learn):
    "A convolution starts as the identity, as far as it can (cifar10-airbench)"
    for m in learn.model.modules():
        if isinstance(m, nn.Conv2d) and m.kernel_size==(3,3) and m.in_channels>3: nn.init.dirac_(m.weight.data[:m.in_channels])

def closed(learn):
    "Every block starts as the identity: the last batch norm's weight is 0 (arXiv 1706.02677)"
    for n,m in learn.model.named_modules():
        if n.endswith('bn2'): nn.init.zeros_(m.weight)

SHORT = replace(FAST, epochs=5, sizes=((0., 16), (.75, 24)))
THREE = replace(DEMO, epochs=3, sizes=((0., 16), (.67, 24), (.9, 32)))
START = replace(DEMO, epochs=1, sizes=((0., 16),))
FLIPS_ONLY = without(DEMO, 'PadIfNeeded', 'RandomCrop')
OF_DEMO = {
    'a rate of 0.06 instead of 0.1': dict(lr=.06),
    'a rate of 0.15': dict(lr=.15),
    'batches of 250 at a rate of 0.06': dict(bs=250, lr=.06),
    'Muon with a momentum of 0.9 instead of 0.8': muon(DEMO, momentum=.9),
    'five Newton-Schulz iterations instead of three': muon(DEMO, steps=5),
    'norms and classifier at a rate of 0.02 instead of 0.1': muon(DEMO, sgd=DEMO.optimizer_args['sgd'] | dict(lr=.02)),
    'norms and classifier at a rate of 0.3': muon(DEMO, sgd=DEMO.optimizer_args['sgd'] | dict(lr=.3)),
    'no label smoothing': dict(label_smoothing=0.),
    'label smoothing of 0.2': dict(label_smoothing=.2),
    'the augmentation of fast: crops shifted by 4, holes': dict(augment=FAST.augment),
    'holes in half of the images': dict(augment=DEMO.augment | dict(CoarseDropout=FAST.augment['CoarseDropout'])),
    'flips only': FLIPS_ONLY,
    'flips only, no label smoothing': FLIPS_ONLY | dict(label_smoothing=0.),
    'whitened stem': whiten, 'whitened stem, not trained': whiten_and_keep, 'identities at first': dirac, 'closed blocks at first': closed,
}
STUDIES = dict(
    fast=Study(SHORT, 16_000, .2, {
        'fast, short': {},
        'SGD, batches of 128 at a rate of 0.1, instead of Muon': dict(optimizer='SGD', optimizer_args=QUICK.optimizer_args, lr=.1, bs=128),
        'one image size throughout (24), fewer epochs': dict(sizes=((0., 24),), epochs=3),
        'no label smoothing': dict(label_smoothing=0.),
        'no holes': without(FAST, 'CoarseDropout'),
        'crops shifted by 2 instead of 4': dict(augment=FAST.augment | dict(PadIfNeeded=QUICK.augment['PadIfNeeded'])),
        'cosine instead of linear': dict(schedule_args=FAST.schedule_args | dict(anneal_strategy='cos'))}),
    start=Study(START, 50_000, .1, {'the first epoch of demo': {}} | OF_DEMO),
    demo=Study(THREE, 50_000, .1, {
        'three epochs': {},
        'four epochs, fewer at the larger widths: demo': dict(epochs=DEMO.epochs, sizes=DEMO.sizes),
        'two epochs, larger images sooner': dict(epochs=2, sizes=((0., 16), (.3, 24), (.75, 32)))} | OF_DEMO))

def measure(study, name, ims, seed):
    "Train a variant and measure it on what was held out, at the width that it ends with"
    change = study.variants[name]
    fields, begin = ({}, change) if callable(change) else (change, lambda learn: None)
    r = replace(study.recipe, **dict(valid_pct=study.held_out, seed=seed) | fields)
    learn = make_learner(r, ims, cbs=[ProgressCB()])
    begin(learn)
    cost, held_out, width = run_cost(learn, ims), learn.dls.valid, r.sizes[-1][1]
    learn.dls = type(learn.dls)(learn.dls.train, [])                   # measured once, after the end
    start = time.perf_counter()
    last, sized = learn.fit()[-1], ((interpolate(x, size=(width, width), mode='bilinear', antialias=True), y) for x,y in held_out)
    return dict(variant=name, seed=seed, epochs=r.epochs, accuracy=evaluate(learn.model, sized).accuracy, held_out=len(held_out.dataset),
                train_accuracy=last['train_accuracy'], seconds=round(time.perf_counter()-start), **cost)

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--study', choices=list(STUDIES), default='fast', help='which recipe')
    p.add_argument('--data', default='jpeg', help='data source, as for cifar-cam')
    p.add_argument('--seeds', type=int, default=1, help='runs of each variant')
    p.add_argument('--only', nargs='*', metavar='NAME', help='variants to run')
    p.add_argument('--out', type=Path, help='file of results')
    a = p.parse_args()
    study, out = STUDIES[a.study], a.out or Path(__file__).with_name('ablation.json' if a.study=='fast' else f'ablation-{a.study}.json')
    if unknown := set(a.only or ())-set(study.variants): p.error(f'no variants: {unknown}; have {list(study.variants)}')
    ims = load_images(a.data, 'train')
    ims = ims.split(1-study.images/len(ims), seed=0)[0] if study.images<len(ims) else ims
    settings = dict(data=ims.source, images=len(ims), epochs=study.recipe.epochs)
    made = json.loads(out.read_text()) if out.exists() else dict(settings, runs=[])
    if any(made[k]!=v for k,v in settings.items()): p.error(f'{out} holds runs with other settings: choose another --out')
    done = made['runs']
    todo = [(n, s) for s in range(a.seeds) for n in a.only or study.variants if not any((d['variant'], d['seed'])==(n, s) for d in done)]
    for name,seed in tqdm(todo, desc='variants'):
        done.append(measure(study, name, ims, seed))
        done.sort(key=lambda d: list(study.variants).index(d['variant']))
        out.write_text(json.dumps(made, indent=1))
    for d in done: print(f'{d["variant"]:54} seed {d["seed"]}  {d["accuracy"]:.2%} held out, {d["train_accuracy"]:.2%} train, {d["pflop"]:.4f} PFLOP, {d["seconds"]} s')

if __name__=='__main__': main()
