"""What each part of the recipe `fast` is worth: one part changed at a time, on a part of train, measured on held-out images

    python benchmarks/ablation.py --data FOLDER [--images 16000] [--epochs 5] [--seeds 1] [--only NAME ...] [--out FILE.json]

A short `fast`: three quarters of the epochs at 16 pixels, the last quarter at 24. Every variant sees the same images and takes about
the same floating-point operations (they are counted). A fifth of the images is held out, and what was learnt is measured on it at 24
pixels; the test split is not read. Results are added to the file one by one, so that a run that was cut off goes on where it stopped.
"""
import argparse, json, time
from dataclasses import replace
from pathlib import Path

from torch.nn import functional as F
from tqdm.auto import tqdm

from cifar_cam.data import load_images
from cifar_cam.recipes import get_recipe
from cifar_cam.runs import make_learner, run_cost
from cifar_cam.train import ProgressCB, evaluate

FAST, QUICK, SIZES, WIDTH = get_recipe('fast'), get_recipe('quick'), ((0., 16), (.75, 24)), 24
VARIANTS = {
    'fast, short': {},
    'SGD, batches of 128 at a rate of 0.1, instead of Muon': dict(optimizer='SGD', optimizer_args=QUICK.optimizer_args, lr=.1, bs=128),
    'one image size throughout (24), fewer epochs': dict(sizes=((0., 24),)),
    'no label smoothing': dict(label_smoothing=0.),
    'no holes': dict(augment={k: v for k,v in FAST.augment.items() if k!='CoarseDropout'}),
    'crops shifted by 2 instead of 4': dict(augment=FAST.augment | dict(PadIfNeeded=QUICK.augment['PadIfNeeded'])),
    'cosine instead of linear': dict(schedule_args=FAST.schedule_args | dict(anneal_strategy='cos')),
}

def measure(name, ims, seed, epochs):
    "Train a variant and measure it on what was held out"
    r = replace(FAST, **dict(epochs=epochs, sizes=SIZES, valid_pct=.2, seed=seed) | VARIANTS[name])
    if 'sizes' in VARIANTS[name]: r = replace(r, epochs=round(epochs*sum((b-a)*w*w for a,b,w in ((0,.75,16), (.75,1,WIDTH)))/WIDTH**2))
    learn = make_learner(r, ims, cbs=[ProgressCB()])
    cost, held_out = run_cost(learn, ims), learn.dls.valid
    learn.dls = type(learn.dls)(learn.dls.train, [])                   # measured once, after the end
    start = time.time()
    last, small = learn.fit()[-1], ((F.interpolate(x, size=(WIDTH, WIDTH), mode='bilinear', antialias=True), y) for x,y in held_out)
    return dict(variant=name, seed=seed, epochs=r.epochs, accuracy=evaluate(learn.model, small).accuracy, held_out=len(held_out.dataset),
                train_accuracy=last['train_accuracy'], seconds=round(time.time()-start), **cost)

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--data', required=True, help='data source, as for cifar-cam')
    p.add_argument('--images', type=int, default=16_000, help='images used, a fifth of them held out')
    p.add_argument('--epochs', type=int, default=5, help='passes over them')
    p.add_argument('--seeds', type=int, default=1, help='runs of each variant')
    p.add_argument('--only', nargs='*', choices=list(VARIANTS), help='variants to run')
    p.add_argument('--out', type=Path, default=Path(__file__).with_name('ablation.json'), help='file of results')
    a = p.parse_args()
    ims = load_images(a.data, 'train')
    ims = ims.split(1-a.images/len(ims), seed=0)[0] if a.images<len(ims) else ims
    settings = dict(data=ims.source, images=len(ims), epochs=a.epochs)
    made = json.loads(a.out.read_text()) if a.out.exists() else dict(settings, runs=[])
    if any(made[k]!=v for k,v in settings.items()): p.error(f'{a.out} holds runs with other settings: choose another --out')
    done = made['runs']
    todo = [(n, s) for s in range(a.seeds) for n in a.only or VARIANTS if not any((d['variant'], d['seed'])==(n, s) for d in done)]
    for name,seed in tqdm(todo, desc='variants'):
        done.append(measure(name, ims, seed, a.epochs))
        a.out.write_text(json.dumps(made, indent=1))
    for d in done: print(f'{d["variant"]:46} seed {d["seed"]}  {d["accuracy"]:.2%} held out, {d["train_accuracy"]:.2%} train, {d["pflop"]:.4f} PFLOP, {d["seconds"]} s')

if __name__=='__main__': main()
