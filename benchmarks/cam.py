"""How fast heatmaps are made, against grad-cam, torchcam and captum; everything interleaved in one run on one machine

    python benchmarks/cam.py [--batches 1 32 256] [--rounds 5] [--dataset 10000] [--out FILE.json]

Grad-CAM of real test images at the four stages of the shipped network, for the predicted class. `ours` is `explain`; `folded` the
same with the copy that `fold` makes, which torchcam, the fastest peer, is given too, and `folded, bf16` that under autocast. grad-cam
and captum take one layer a call; grad-cam's time includes enlarging and scaling its maps. A round times each tool once; ratios are
taken within a round, and their median is told. Then Score-CAM and Ablation-CAM of one image at `layer4` (512 maps, in batches of 64),
the maps of the JPEG test split written to disk, and the memory that one call on 32 images adds to a fresh process at its peak (Linux).
"""
import argparse, contextlib, io, json, statistics, subprocess, sys, time
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from tqdm.auto import tqdm

from cifar_cam.atlas import explain_dataset
from cifar_cam.data import get_dl, load_images, normalize
from cifar_cam.export import fold
from cifar_cam.gradcam import explain
from cifar_cam.model import STAGES, load_model
from cifar_cam.runs import machine

def ours(model, x, both=False, method='gradcam', layers=STAGES):
    if not both: return explain(model, x, None, layers, method).maps
    return explain(model, x, torch.stack([torch.zeros(len(x)).long(), torch.ones(len(x)).long()], 1), layers, method).maps

def bf16(model, x, **kw):
    with torch.autocast(x.device.type, torch.bfloat16): return ours(model, x, **kw)

def by_torchcam(model, x, name='GradCAM', layers=STAGES, **kw):
    import torchcam.methods
    with getattr(torchcam.methods, name)(model, target_layer=list(layers), **kw) as cam:
        z = model(x if name!='GradCAM' else x.clone().requires_grad_())  # without it a frozen model has no gradients
        return cam(z.argmax(1).tolist(), z)

def by_captum(model, x, layers=STAGES):
    from captum.attr import LayerGradCam
    with torch.no_grad(): c = model(x).argmax(1)
    return [LayerGradCam(model, model.get_submodule(l)).attribute(x, c) for l in layers]

def by_grad_cam(model, x, name='GradCAM', layers=STAGES):
    import pytorch_grad_cam
    out = []
    for l in layers:
        with contextlib.redirect_stderr(io.StringIO()), getattr(pytorch_grad_cam, name)(model, [model.get_submodule(l)]) as cam:
            cam.batch_size = 64
            out.append(cam(x, None))
    return out

def forward(model, x):
    with torch.no_grad(): return model(x)

def tools(x):
    "Name -> a call on images"
    net = load_model()
    fast = fold(net, x[:1])
    return {'forward': partial(forward, net), 'ours': partial(ours, net), 'ours, folded': partial(ours, fast), 'ours, folded, bf16': partial(bf16, fast),
            'ours, two classes': partial(ours, net, both=True), 'ours, folded, two classes': partial(ours, fast, both=True),
            'torchcam': partial(by_torchcam, net), 'torchcam, folded': partial(by_torchcam, fast), 'captum': partial(by_captum, net), 'grad-cam': partial(by_grad_cam, net)}

def slow_tools(x):
    net = load_model()
    fast, last = fold(net, x[:1]), dict(layers=['layer4'])
    return {'Score-CAM': {'ours': partial(ours, net, method='scorecam', **last), 'ours, folded': partial(ours, fast, method='scorecam', **last),
                          'torchcam': partial(by_torchcam, net, name='ScoreCAM', batch_size=64, **last), 'grad-cam': partial(by_grad_cam, net, name='ScoreCAM', **last)},
            'Ablation-CAM': {'ours': partial(ours, net, method='ablationcam', **last), 'ours, folded': partial(ours, fast, method='ablationcam', **last),
                             'grad-cam': partial(by_grad_cam, net, name='AblationCAM', **last)}}

def interleaved(calls, x, rounds):
    "Median seconds of each call, and the medians of their ratios to every other within a round"
    times = {k: [] for k in calls}
    for i in range(rounds+1):
        for k,f in calls.items():
            start = time.perf_counter()
            f(x)
            if i: times[k].append(time.perf_counter()-start)          # the first round warms up
    med = statistics.median
    return {k: round(med(v), 4) for k,v in times.items()}, {k: {o: round(med(a/b for a,b in zip(v, w)), 3) for o,w in times.items()} for k,v in times.items()}

def to_disk(n):
    "Seconds for the maps of the first `n` JPEG test images at the four stages, with reading them and writing maps"
    net, dl = load_model(), get_dl(load_images('jpeg', 'test')[:n])
    def seconds(model, half=False):
        with TemporaryDirectory() as d, torch.autocast('cpu', torch.bfloat16, enabled=half):
            start = time.perf_counter()
            explain_dataset(model, dl, d, progress=False)
            return round(time.perf_counter()-start, 1)
    fast = fold(net, next(iter(dl))[0][:1])
    return dict(images=n, seconds={'ours': seconds(net), 'ours, folded': seconds(fast), 'ours, folded, bf16': seconds(fast, True)})

def peak(name):
    "MiB that one call on 32 images adds to this process at its peak; for a process of its own"
    def status(key): return int(next(l for l in Path('/proc/self/status').read_text().splitlines() if l.startswith(key)).split()[1])/1024
    x = normalize(load_images('sample', 'test').images[:32])
    call = tools(x)[name]
    call(x[:1])
    Path('/proc/self/clear_refs').write_text('5')            # the highest mark starts anew
    before = status('VmRSS')
    call(x)
    return round(status('VmHWM')-before)

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--batches', type=int, nargs='+', default=[1, 32, 256], help='images a call')
    p.add_argument('--rounds', type=int, default=5, help='timed rounds')
    p.add_argument('--dataset', type=int, default=10_000, metavar='N', help='images of which maps are written to disk')
    p.add_argument('--out', help='file for the figures, as JSON')
    p.add_argument('--peak', help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.peak: return print(peak(a.peak))
    images = normalize(load_images('sample', 'test').images[:max(a.batches)])
    out = dict(seconds={}, ratios={}, rounds={}, layers=list(STAGES), peers={k: version(k) for k in ('grad-cam', 'torchcam', 'captum')}, **machine(images.device))
    jobs = [(str(n), tools(images), images[:n], 2 if n>100 else a.rounds) for n in a.batches] + [(k, calls, images[:1], 2) for k,calls in slow_tools(images).items()]
    for name,calls,x,rounds in tqdm(jobs, desc='measuring'):
        out['rounds'][name] = rounds
        out['seconds'][name], out['ratios'][name] = interleaved(calls, x, rounds)
    out['to_disk'] = to_disk(a.dataset)
    out['peak_mib'] = {k: int(subprocess.run([sys.executable, __file__, '--peak', k], capture_output=True, text=True, check=True).stdout) for k in tools(images)}
    for n,r in out['seconds'].items(): print(f'{n:>12}  ' + '  '.join(f'{k} {s*1000:.0f} ms' for k,s in r.items()))
    print(f'{a.dataset:>12,}  ' + '  '.join(f'{k} {s:.0f} s' for k,s in out['to_disk']['seconds'].items()))
    print('memory, MiB  ' + '  '.join(f'{k} {v}' for k,v in out['peak_mib'].items()))
    if a.out: open(a.out, 'w').write(json.dumps(out, indent=1))

if __name__=='__main__': main()
