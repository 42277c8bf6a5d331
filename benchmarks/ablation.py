"""What each part of the recipe `fast` is worth: one part changed at a time, on a part of train, measured on held-out images

    python benchmarks/ablation.py --data FOLDER [--images 10000] [--seeds 1] [--only NAME ...] [--out benchmarks/ablation.json]

Every variant sees the same images, and about the same floating-point operations unless it is one that changes them. The test split
is not read. Results are added to the file one by one, so that a run that was cut off goes on where it stopped.
"""
import argparse, json
from dataclasses import replace
from pathlib import Path

import torch
from tqdm.auto import tqdm

from cifar_cam.data import get_dls, load_images
from cifar_cam.model import resnet18
from cifar_cam.recipes import get_recipe
from cifar_cam.report import run_cost
from cifar_cam.train import Learner, ProgressCB

FAST, DEMO = get_recipe('fast'), get_recipe('demo')
VARIANTS = {
    'fast': {},
    'SGD instead of Muon, batches of 128': dict(optimizer='SGD', optimizer_args=DEMO.optimizer_args, lr=.1, bs=128),
    'full size throughout, half the epochs': dict(sizes=(), epochs=FAST.epochs//2),
    'no label smoothing': dict(label_smoothing=0.),
    'no holes': dict(augment={k: v for k,v in FAST.augment.items() if k!='CoarseDropout'}),
    'crops shifted by 2 instead of 4': dict(augment=FAST.augment | dict(PadIfNeeded=DEMO.augment['PadIfNeeded'])),
    'cosine instead of linear': dict(schedule_args=FAST.schedule_args | dict(anneal_strategy='cos')),
}

def measure(name, ims, seed):
    "Train a variant and measure it"
    r = replace(FAST, valid_pct=.2, seed=seed, **VARIANTS[name])
    torch.manual_seed(seed)
    dls = get_dls(ims, r.bs, r.augment, r.valid_pct, seed=seed)
    learn = Learner(resnet18(), dls, r, [ProgressCB()])
    cost = run_cost(learn, ims)
    last = learn.fit()[-1]
    return dict(variant=name, seed=seed, accuracy=last['valid_accuracy'], train_accuracy=last['train_accuracy'],
                seconds=round(sum(h['seconds'] for h in learn.history)), held_out=len(dls.valid.dataset), **cost)

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--data', required=True, help='data source, as for cifar-cam')
    p.add_argument('--images', type=int, default=10_000, help='images used, a fifth of them held out')
    p.add_argument('--seeds', type=int, default=1, help='runs of each variant')
    p.add_argument('--only', nargs='*', choices=list(VARIANTS), help='variants to run')
    p.add_argument('--out', type=Path, default=Path(__file__).with_name('ablation.json'), help='file of results')
    a = p.parse_args()
    done = json.loads(a.out.read_text()) if a.out.exists() else []
    ims = load_images(a.data, 'train')
    ims = ims.split(1-a.images/len(ims), seed=0)[0] if a.images<len(ims) else ims
    todo = [(n, s) for s in range(a.seeds) for n in a.only or VARIANTS if not any((d['variant'], d['seed'], d['trained_on'], d['images']+d['held_out'])==(n, s, ims.source, len(ims)) for d in done)]
    for name,seed in tqdm(todo, desc='variants'):
        done.append(measure(name, ims, seed))
        a.out.write_text(json.dumps(done, indent=1))
    for d in done: print(f'{d["variant"]:40} seed {d["seed"]}  {d["accuracy"]:.2%} held out, {d["train_accuracy"]:.2%} train, {d["pflop"]:.3f} PFLOP')

if __name__=='__main__': main()
