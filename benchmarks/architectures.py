"""Which networks of torchvision and timm are explained, at which layers, how exactly, and by which methods

    pip install timm
    python benchmarks/architectures.py [--only NAME ...] [--out FILE.json]

Each has random weights and sees one image of noise. The reference is the formula of Grad-CAM in float64: a copy of the network, whose last
default layer stands inside a module that keeps what it returned, and plain autograd; no hook, nothing of `explain`. The error is that
of `explain` in float32, as a share of the highest value. Every method is then asked for a map of the same layer.
"""
import argparse, copy, json, time, warnings
from importlib.metadata import version
from pathlib import Path

import torch
from torch import nn
from tqdm.auto import tqdm

from cifar_cam.gradcam import METHODS, NoMap, default_layers, explain

def tokens(first, side): return lambda out: out[:, first:].transpose(1, 2).unflatten(2, (side, side))
def channels_last(out): return out.permute(0, 3, 1, 2)

# name: side of the image, and what makes maps of the layers, where they give something else
NETWORKS = {
    'torchvision/alexnet': (64, None), 'torchvision/vgg11_bn': (64, None), 'torchvision/resnet50': (64, None), 'torchvision/resnext50_32x4d': (64, None),
    'torchvision/densenet121': (64, None), 'torchvision/googlenet': (64, None), 'torchvision/inception_v3': (160, None), 'torchvision/squeezenet1_1': (64, None),
    'torchvision/mobilenet_v3_small': (64, None), 'torchvision/shufflenet_v2_x1_0': (64, None), 'torchvision/mnasnet0_5': (64, None), 'torchvision/efficientnet_b0': (64, None),
    'torchvision/regnet_y_400mf': (64, None), 'torchvision/convnext_tiny': (64, None), 'torchvision/swin_t': (64, channels_last), 'torchvision/vit_b_32': (224, tokens(1, 7)),
    'torchvision/maxvit_t': (224, None), 'timm/ghostnet_100': (64, None), 'timm/hrnet_w18_small': (64, None), 'timm/xception41': (96, None), 'timm/convnextv2_atto': (64, None),
    'timm/poolformer_s12': (64, None), 'timm/mixer_s32_224': (224, tokens(0, 7)), 'timm/deit_tiny_patch16_224': (224, tokens(1, 14))}

def build(name, side):
    "A network of random weights, in evaluation mode, and one image"
    torch.manual_seed(0)
    library, short = name.split('/')
    if library=='timm':
        import timm
        model = timm.create_model(short)
    else:
        import torchvision
        more = dict(init_weights=False) if short in ('googlenet', 'inception_v3') else {}
        model = torchvision.models.get_model(short, weights=None, **more)
    for m in model.modules():          # some classifiers come as zeros, and would make every score the same
        if isinstance(m, nn.Linear) and not m.weight.any(): nn.init.normal_(m.weight, std=.02)
    return model.eval(), torch.randn(1, 3, side, side)

class Keeps(nn.Module):
    "A layer, and what it returned last"
    def __init__(self, layer): super().__init__(); self.layer = layer
    def forward(self, *args, **kw):
        self.out = self.layer(*args, **kw)
        self.out.retain_grad()
        return self.out.clone()

def reference(model, x, layer, reshape):
    "Grad-CAM of the predicted class from its formula, in float64"
    model, maps = copy.deepcopy(model).double(), reshape or (lambda v: v)
    held = Keeps(model.get_submodule(layer))
    model.set_submodule(layer, held)
    model(x.double()).amax().backward()
    A, g = maps(held.out.detach())[0], maps(held.out.grad)[0]
    return sum(gk.mean()*Ak for Ak,gk in zip(A, g)).clamp_min(0)

def survey(name, side, reshape):
    "What can be said of one network"
    model, x = build(name, side)
    layers = default_layers(model, x, reshape)
    want, got = reference(model, x, layers[-1], reshape), explain(model, x, layers=layers, reshape=reshape).maps[layers[-1]][0]
    said = {}
    for k in METHODS:
        try: explain(model, x, layers=layers[-1], method=k, reshape=reshape)
        except NoMap as e: said[k] = str(e)
    error = ((got-want).abs().max()/want.max()).item() if want.any() else got.abs().max().item()
    return dict(side=side, layers=layers, size=list(got.shape), reshape=reshape is not None, error=error, methods=list(METHODS), refused=said)

if __name__=='__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--only', nargs='+', choices=NETWORKS, default=list(NETWORKS), metavar='NAME')
    p.add_argument('--out', type=Path, help='file for the results')
    a = p.parse_args()
    warnings.simplefilter('ignore')
    results = dict(versions={k: version(k) for k in ('torch', 'torchvision', 'timm')}, networks={})
    for name in (bar := tqdm(a.only, unit='network')):
        bar.set_postfix_str(name)
        start = time.perf_counter()
        r = results['networks'][name] = survey(name, *NETWORKS[name])
        bar.write(f'{name:32} {r["size"]} error {r["error"]:.1e}, {len(METHODS)-len(r["refused"])} methods, {time.perf_counter()-start:.0f} s: {", ".join(r["layers"])}')
        if a.out: a.out.write_text(json.dumps(results, indent=1))
