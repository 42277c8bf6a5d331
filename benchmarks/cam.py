"""How fast heatmaps are made, against grad-cam, torchcam and captum; everything interleaved in one run on one machine

    python benchmarks/cam.py [--batches 1 32 256] [--rounds 5] [--out FILE.json]

Grad-CAM of real test images at the four stages of the shipped network, for the predicted class. `ours` is `explain`; `folded` the
same with the copy that `fold` makes, and `folded bf16` that under autocast. grad-cam and captum take one layer a call. A round times
each tool once; ratios are taken within a round, and their median is told. Then Score-CAM and Ablation-CAM of one image at `layer4`
(512 maps), and the memory that one call on 32 images adds to a fresh process at its peak.
"""
import argparse, contextlib, io, json, resource, statistics, subprocess, sys, time
from functools import partial

import torch
from tqdm.auto import tqdm

from cifar_cam.data import load_images, normalize
from cifar_cam.gradcam import explain, fold
from cifar_cam.model import STAGES, load_model
from cifar_cam.report import machine

def ours(model, x, both=False, method='gradcam', layers=STAGES):
    if not both: return explain(model, x, None, layers, method).maps
    return explain(model, x, torch.stack([torch.zeros(len(x)).long(), torch.ones(len(x)).long()], 1), layers, method).maps

def bf16(model, x, **kw):
    with torch.autocast(x.device.type, torch.bfloat16): return ours(model, x, **kw)

def by_torchcam(model, x, name='GradCAM', layers=STAGES, **kw):
    import torchcam.methods
    with getattr(torchcam.methods, name)(model, target_layer=list(layers), **kw) as cam:
        z = model(x)
        return cam(z.argmax(1).tolist(), z)

def by_captum(model, x, layers=STAGES):
    from captum.attr import LayerGradCam
    with torch.no_grad(): c = model(x).argmax(1)
    return [LayerGradCam(model, model.get_submodule(l)).attribute(x, c) for l in layers]

def by_grad_cam(model, x, name='GradCAM', layers=STAGES):
    import pytorch_grad_cam
    out = []
    for l in layers:
        with contextlib.redirect_stderr(io.StringIO()), getattr(pytorch_grad_cam, name)(model, [model.get_submodule(l)]) as cam: out.append(cam(x))
    return out

def forward(model, x):
    with torch.no_grad(): return model(x)

def tools(x):
    "Name -> a call on images"
    net = load_model()
    fast = fold(net, x[:2])
    return {'forward': partial(forward, net), 'ours': partial(ours, net), 'ours, folded': partial(ours, fast), 'ours, folded, bf16': partial(bf16, fast),
            'ours, two classes': partial(ours, net, both=True), 'ours, folded, two classes': partial(ours, fast, both=True),
            'torchcam': partial(by_torchcam, net), 'captum': partial(by_captum, net), 'grad-cam': partial(by_grad_cam, net)}

def slow_tools(x):
    net = load_model()
    fast, last = fold(net, x[:2]), dict(layers=['layer4'])
    return {'Score-CAM': {'ours': partial(ours, net, method='scorecam', **last), 'ours, folded': partial(ours, fast, method='scorecam', **last),
                          'torchcam': partial(by_torchcam, net, name='ScoreCAM', **last), 'grad-cam': partial(by_grad_cam, net, name='ScoreCAM', **last)},
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

def peak(name):
    "MiB that one call on 32 images adds to this process at its peak; for a process of its own"
    x = normalize(load_images('sample', 'test').images[:32])
    call = tools(x)[name]
    call(x[:1])
    import psutil
    before = psutil.Process().memory_info().rss/2**20
    call(x)
    return round(max(0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024-before))

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--batches', type=int, nargs='+', default=[1, 32, 256], help='images a call')
    p.add_argument('--rounds', type=int, default=5, help='timed rounds')
    p.add_argument('--out', help='file for the figures, as JSON')
    p.add_argument('--peak', help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.peak: return print(peak(a.peak))
    images = normalize(load_images('sample', 'test').images[:max(a.batches)])
    out = dict(seconds={}, ratios={}, rounds=a.rounds, layers=list(STAGES), **machine(images.device))
    for n in tqdm(a.batches, desc='batch sizes'): out['seconds'][str(n)], out['ratios'][str(n)] = interleaved(tools(images[:n]) if n>1 else tools(images[:2]), images[:n], max(2, a.rounds//2) if n>100 else a.rounds)
    for name,calls in slow_tools(images[:2]).items(): out['seconds'][name], out['ratios'][name] = interleaved(calls, images[:1], 2)
    out['peak_mib'] = {k: int(subprocess.run([sys.executable, __file__, '--peak', k], capture_output=True, text=True, check=True).stdout) for k in tools(images[:2])}
    for n,r in out['seconds'].items(): print(f'{n:>12}  ' + '  '.join(f'{k} {s*1000:.0f} ms' for k,s in r.items()))
    print('memory, MiB  ' + '  '.join(f'{k} {v}' for k,v in out['peak_mib'].items()))
    if a.out: open(a.out, 'w').write(json.dumps(out, indent=1))

if __name__=='__main__': main()
