"Networks that are not ours: what a map is, which layers are taken, manners in threads, what is folded, forgotten and refused"
import copy, threading, warnings, weakref
from collections import OrderedDict
import pytest
import torch
from torch import nn
from torchvision.models import ConvNeXt, ResNet, SwinTransformer, VisionTransformer
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.resnet import Bottleneck
from cifar_cam import faithfulness
from cifar_cam.faithfulness import average_drop, compare_methods, deletion, fill_in, insertion, on_mark, road, sanity_check, spearman
from cifar_cam.export import Folded, fold
from cifar_cam.gradcam import Taps, cam_layers, explain
from cifar_cam.layers import last_of_each_size
from cifar_cam.model import resnet18

METHODS = 'gradcam', 'ablationcam', 'random'

@pytest.fixture(scope='module', autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)

def small(**kw):
    "Two convolutions, three classes; modules in `kw` take the place of those of that name"
    torch.manual_seed(0)
    parts = OrderedDict(conv1=nn.Conv2d(3, 6, 3, padding=1), bn=nn.BatchNorm2d(6), relu=nn.ReLU(), conv2=nn.Conv2d(6, 5, 3, stride=2, padding=1), relu2=nn.ReLU(),
                        pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), fc=nn.Linear(5, 3))
    for m in (parts | kw).values():
        if isinstance(m, nn.BatchNorm2d): nn.init.normal_(m.weight, 1, .1); nn.init.normal_(m.bias)
    return nn.Sequential(parts | kw).eval()

def images(n=3, side=12): return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(1))

def same(a, b): return a.maps.keys()==b.maps.keys() and all(torch.allclose(a.maps[k], b.maps[k], rtol=1e-4, atol=1e-6) for k in a.maps)

# What is a map

class Table(nn.Module):
    "Adds a learnt table of length 1 that a module of its own puts out"
    def __init__(self):
        super().__init__()
        self.give, self.values = nn.Identity(), nn.Parameter(torch.ones(1, 1, 12, 12))
    def forward(self, x): return x + self.give(self.values)

@pytest.mark.parametrize('n', [1, 2, 3])
def test_a_map_has_the_length_of_the_batch(n):
    model = small(conv1=nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3, padding=1)), Table()), bn=nn.BatchNorm2d(8), conv2=nn.Conv2d(8, 5, 3, stride=2, padding=1))
    x = images(n)
    assert list(cam_layers(model, x))==['conv1.0', 'conv1.1', 'conv1', 'bn', 'relu', 'conv2', 'relu2']
    for k in METHODS: assert list(explain(model, x, method=k).maps)==['relu', 'relu2']
    if n>1:
        for layer in ('conv1.0.parametrizations.weight', 'conv1.1.give'):
            for k in METHODS:
                with pytest.raises(ValueError, match=f'not one stack of maps for each of {n} images'): explain(model, x, layers=['bn', layer], method=k)

def test_comparison_of_a_model_with_tables():
    model = small(conv1=nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 6, 3, padding=1)), Table()))
    at = torch.zeros(2, 12, 12, dtype=torch.bool)
    assert compare_methods(model, images(2), methods=['ablationcam'], at=at, progress=False).layers==['relu', 'relu2']

# Which layers are taken

def defaults(model, side=64, **kw): return list(explain(model.eval(), images(1, side), **kw).maps)

def convnext():
    torch.manual_seed(0)
    return ConvNeXt([CNBlockConfig(8, 16, 1), CNBlockConfig(16, 24, 1), CNBlockConfig(24, None, 1)], num_classes=5)

def swin():
    torch.manual_seed(0)
    return SwinTransformer([4, 4], 12, [1, 1, 1], [2, 2, 2], [4, 4], num_classes=5)

def vit():
    torch.manual_seed(0)
    model = VisionTransformer(image_size=48, patch_size=8, num_layers=3, num_heads=2, hidden_dim=32, mlp_dim=64, num_classes=5)
    nn.init.normal_(model.heads.head.weight)
    return model.eval()

def patches(out): return out[:, 1:].transpose(1, 2).unflatten(2, (6, 6))
def channels_last(out): return out.permute(0, 3, 1, 2)

def test_layers_by_default_are_ends_of_stages():
    stages = ['layer1', 'layer2', 'layer3', 'layer4']
    bottlenecks = ResNet(Bottleneck, [1, 1, 1, 1], num_classes=5)
    assert defaults(resnet18(), 32)==stages
    assert defaults(bottlenecks)==['relu', *stages]
    assert defaults(nn.Sequential(nn.Identity(), bottlenecks))==['1.relu', *(f'1.{s}' for s in stages)]
    assert defaults(convnext())==['features.1', 'features.3', 'features']
    assert defaults(nn.Sequential(OrderedDict(stem=nn.Conv2d(3, 4, 1), stages=nn.Sequential(*(nn.Conv2d(4, 4, 3, s, 1) for s in (1, 2, 2))), pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten())), 16)==['stages.0', 'stages.1', 'stages']

def test_side_paths_are_left_out():
    shapes = {'stem': (8, 56, 56), 'stages.0': (8, 56, 56), 'stages.1.down': (16, 28, 28), 'stages.1.0.dip': (4, 7, 7), 'stages.1.0.attention': (4, 49, 49), 'stages.1.0': (16, 28, 28),
              'stages.1': (16, 28, 28), 'stages.2': (32, 14, 14), 'stages': (32, 14, 14)}
    assert last_of_each_size(shapes)==['stages.0', 'stages.1', 'stages']

def test_channels_last_is_no_map_until_reshaped():
    model, x = swin().eval(), images(2, 64)
    assert list(cam_layers(model, x))==['features.0.0', 'permute']
    assert list(explain(model, x).maps)==['permute']
    assert list(explain(model, x, reshape=channels_last).maps)==['features.1', 'features.3', 'norm']
    with pytest.raises(ValueError, match='channels last: give reshape'): explain(model, x, layers='features.1')

def test_tokens_need_a_reshape():
    model, x = vit(), images(2, 48)
    with pytest.raises(ValueError, match='no layers to choose.*name them, and give the `reshape`'): explain(model, x)
    r = explain(model, x, reshape=patches)                                     # behind the last block only one token is read
    assert list(r.maps)==['encoder.layers.encoder_layer_2.ln_1'] and r.maps[list(r.maps)[0]].shape==(2, 6, 6)
    with pytest.raises(ValueError, match='it fails: RuntimeError: unflatten') as e: explain(model, x, reshape=lambda out: out[:, 1:].transpose(1, 2).unflatten(2, (5, 5)))
    assert isinstance(e.value.__cause__, RuntimeError)

# Threads

class Meanwhile(nn.Module):
    "At each run in one thread, `do` is run in another, and waited for"
    def __init__(self):
        super().__init__()
        self.do, self.busy = None, False
    def forward(self, x):
        if self.do and not self.busy:
            self.busy = True
            t = threading.Thread(target=self.do)
            t.start(); t.join()
            self.busy = False
        return x

@pytest.mark.parametrize('method', METHODS)
def test_a_forward_in_another_thread(method):
    model, x, other = small(relu2=nn.Sequential(nn.ReLU(), Meanwhile())), images(), images(3, 16)
    alone, logits, seen = explain(model, x, layers=['bn', 'conv2'], method=method), model(other).detach(), []
    def forward():
        with torch.no_grad(): seen.append(model(other))
    model.relu2[1].do = forward
    assert same(explain(model, x, layers=['bn', 'conv2'], method=method), alone)
    assert seen and all(torch.equal(z, logits) for z in seen)
    names = list(cam_layers(model, x))
    assert fold(model, x) is not None and names==list(cam_layers(model, x))

def test_visitors_of_two_threads_leave_the_model_as_it_was():
    model, x, errors = small(relu2=nn.Sequential(nn.ReLU(), Meanwhile())).train(), images(), []
    first, go = threading.Event(), threading.Event()
    def state(): return [m.training for m in model.modules()], [p.requires_grad for p in model.parameters()]
    def hold(z):                                                              # the first is inside until the second has come
        first.set(); go.wait(20)
        return z[:, 0]
    before = state()
    t = threading.Thread(target=lambda: explain(model, x, hold, 'bn'))
    t.start(); first.wait(20)
    def last(z):                                                              # the second is inside until the first has gone
        go.set(); t.join(20)
        errors.extend([state()[0].count(True), state()[1].count(True)])
        return z[:, 0]
    explain(model, x, last, 'bn')
    assert errors==[0, 0] and state()==before

# Forgetting

def forgotten(monkeypatch, model, x, layers, **kw):
    "The stages of `sanity_check`, and the network when it has forgotten everything"
    seen = []
    def spy(m, *args, **kw): seen.append(copy.deepcopy(m.state_dict())); return explain(m, *args, **kw)
    monkeypatch.setattr(faithfulness, 'explain', spy)
    return list(sanity_check(model, x, layers=layers)), seen[-1], seen[0]

def trained(model):
    "Parameters and statistics that no initialisation gives"
    torch.manual_seed(1)
    with torch.no_grad():
        for p in model.parameters(): p.add_(.1*torch.randn_like(p))
        for n,b in model.named_buffers():
            if b.is_floating_point() and 'running' in n: b.add_(torch.rand_like(b))
    return model.eval()

def test_everything_forgets(monkeypatch):
    model = trained(vit())
    kept = copy.deepcopy(model.state_dict())
    stages, last, first = forgotten(monkeypatch, model, images(2, 48), 'conv_proj')
    assert stages==['heads', 'encoder', 'conv_proj']
    assert all(torch.equal(v, model.state_dict()[k]) for k,v in kept.items())
    assert not [k for k,v in last.items() if torch.equal(v, kept[k])]
    rms = lambda v: v.square().mean().sqrt()
    k = 'encoder.pos_embedding'
    assert .8 < rms(last[k])/rms(kept[k]) < 1.25

class Backwards(nn.Module):
    "Registers its stages in another order than it runs them"
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.late, self.scale, self.early = nn.Linear(5, 3), nn.Conv2d(6, 5, 3), nn.Parameter(torch.tensor(2.)), small()[:3]
    def forward(self, x): return self.fc(self.late(self.early(x)).relu().mean((2, 3)))*self.scale

def test_forgetting_goes_by_use_and_through_wrappers(monkeypatch):
    model = trained(Backwards())
    stages, last, first = forgotten(monkeypatch, model, images(), 'late')
    assert stages==['fc', 'late', 'early'] and not [k for k in last if 'tracked' not in k and torch.equal(last[k], first[k])]
    monkeypatch.undo()
    assert list(sanity_check(nn.Sequential(nn.Identity(), nn.Sequential(model)), images(), layers='1.0.late'))==['1.0.fc', '1.0.late', '1.0.early']
    with pytest.raises(ValueError, match='one class'): sanity_check(model, images(), [[0, 1]]*3, 'late')

# Folding

class NormAct(nn.BatchNorm2d):
    def forward(self, x): return super().forward(x).relu()

class StdConv(nn.Conv2d):
    def forward(self, x): return self._conv_forward(x, self.weight-self.weight.mean((1, 2, 3), keepdim=True), self.bias)

class AsDict(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = small()
    def forward(self, x): return dict(logits=self.net(x))

def folding():
    first = nn.Conv2d(3, 6, 3, padding=1)
    zero = small()
    for p in zero.fc.parameters(): nn.init.zeros_(p)
    return {'norm with its activation': (small(bn=NormAct(6)), 0), 'ReLU in place between': (small(conv1=nn.Sequential(first, nn.ReLU(True))), 0), 'convolution of its own': (small(conv1=StdConv(3, 6, 3, padding=1)), 0),
            'zero head': (zero, 1), 'weight norm': (small(conv1=nn.utils.parametrizations.weight_norm(copy.deepcopy(first))), 0), 'ReLU between': (small(conv1=nn.Sequential(first, nn.ReLU())), 0),
            'plain beside another': (small(conv1=nn.Sequential(copy.deepcopy(first), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 1)), bn=NormAct(6)), 1)}

@pytest.mark.parametrize('name', folding())
def test_only_what_is_plain_is_folded(name):
    model, folds = folding()[name]
    x = images()
    fast = fold(trained(model) if name!='zero head' else model, x)
    with torch.no_grad(): assert torch.allclose(fast(x), model(x), atol=1e-5)
    assert sum(isinstance(m, Folded) for m in fast.modules())==folds

def test_why_it_is_not_folded():
    with pytest.raises(ValueError, match='gives dict, not logits'): fold(AsDict(), images())
    with pytest.raises(ValueError, match='NaN'): fold(small(), images()*torch.nan)

# Finer-CAM

def test_rivals_are_the_closest():
    model, x = small(fc=nn.Linear(5, 7)).double(), images(8).double()
    with torch.no_grad(): z = model(x)
    target = z.argsort(1)[:, 2]                                               # a class of the lower half
    rivals = [sorted(set(range(7))-{t.item()}, key=lambda c: abs(v[c]-v[t]).item())[:3] for t,v in zip(target, z)]
    def score(z): return torch.stack([v[t]-.6*v[r].mean() for v,t,r in zip(z, target, rivals)])
    assert same(explain(model, x, target, 'bn', 'finercam'), explain(model, x, score, 'bn'))

# Compiled, in place, without statistics, not a number, half precision, memory

@pytest.mark.parametrize('how', ['wrapped', 'called', 'inside'])
def test_compiled_models(how):
    model, x = small(), images()
    plain = {k: explain(model, x, layers=['bn', 'conv2'], method=k) for k in METHODS}
    if how=='wrapped': model = torch.compile(model, backend='eager')
    elif how=='called': model.compile(backend='eager')
    else: model = nn.Sequential(OrderedDict(model.named_children()) | dict(conv2=torch.compile(model.conv2, backend='eager'))).eval()
    model(x)                                                                  # the compiled code is made, and knows no hooks
    for k in METHODS: assert same(explain(model, x, layers=['bn', 'conv2'], method=k), plain[k])
    assert 'bn' in cam_layers(model, x)
    if how=='wrapped': assert same(explain(model, x, layers=['_orig_mod.bn', 'conv2']), plain['gradcam'])
    assert same(explain(fold(model, x), x, layers=['bn']), explain(small(), x, layers=['bn']))

class InPlace(nn.Module):
    def forward(self, x): return x.sub_(.5).div_(.25)

def test_a_model_that_changes_its_input_in_place():
    x = images()
    model, kept = nn.Sequential(InPlace(), small()).eval(), x.clone()
    plain = explain(small(), (x-.5)/.25, method='ablationcam')
    r = explain(model, x, method='ablationcam')
    assert torch.equal(x, kept) and all(torch.allclose(r.maps[f'1.{k}'], v, atol=1e-5) for k,v in plain.maps.items())
    maps = r.resized(12).maps['1.relu2']
    for f in (deletion, insertion, road, average_drop): f(model, x, maps, 1)
    explain(model, x, method='scorecam')
    fold(model, x)
    assert torch.equal(x, kept)
    a, b = average_drop(model, x, maps, 1), average_drop(small(), (x-.5)/.25, maps, 1)
    assert torch.allclose(a.before, b.before, atol=1e-5)

def test_batch_norm_without_statistics_is_said():
    with pytest.warns(UserWarning, match="'bn' has no running statistics"): explain(small(bn=nn.BatchNorm2d(6, track_running_stats=False)), images(), layers='bn')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        explain(small(bn=nn.InstanceNorm2d(6)), images(), layers='bn')

def test_nan_is_refused():
    bad, x = small(), images()
    bad.fc.weight.data[0, 0] = torch.nan
    with pytest.raises(ValueError, match='logits of image 0 have NaN'): explain(bad, x, layers='bn')
    maps = torch.rand(3, 12, 12)
    maps[1, 2, 3] = torch.nan
    x[2, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match='x has NaN'): explain(small(), x, layers='bn')
    for f in (deletion, insertion, road, average_drop):
        with pytest.raises(ValueError, match='map 1 has NaN'): f(small(), images(), maps, 1)
    with pytest.raises(ValueError, match='map 1 has NaN'): on_mark(maps, maps>.5)
    with pytest.raises(ValueError, match='map 1 has NaN'): spearman(maps, maps)

def test_half_precision_stays_half():
    model, x = small().bfloat16(), images().bfloat16()
    assert fill_in(x, torch.rand(3, 12, 12)<.5).dtype==torch.bfloat16
    maps = explain(model, x, layers='relu2').resized(12).maps['relu2']
    for f in (deletion, insertion, road, average_drop): f(model, x, maps, 1)

class Watched(torch.autograd.Function):
    "Counts the graphs that are still there when the next is made"
    alive, refs = [], []
    @staticmethod
    def forward(ctx, x):
        Watched.alive.append(sum(r() is not None for r in Watched.refs))
        Watched.refs.append(weakref.ref(ctx))
        return x*1
    @staticmethod
    def backward(ctx, g): return g

class Watch(nn.Module):
    def forward(self, x): return Watched.apply(x)

def test_one_graph_at_a_time():
    Watched.alive.clear(); Watched.refs.clear()
    explain(small(relu2=nn.Sequential(nn.ReLU(), Watch())), images(), layers='bn', smooth=3)
    assert len(Watched.alive)==4 and not any(Watched.alive)

class Caches(nn.Module):
    "Stores in evaluation mode what it computes from a parameter, as LeViT does"
    def __init__(self):
        super().__init__()
        self.bias, self.cache = nn.Parameter(torch.ones(6, 1, 1)), None
    def forward(self, x):
        self.cache = self.bias*2
        return x + self.cache

def test_parameters_ask_for_no_gradient_meanwhile():
    model, x, wants = small(relu=nn.Sequential(nn.ReLU(), Caches())), images(), []
    model.relu[1].bias.requires_grad_(False)
    before = [p.requires_grad for p in model.parameters()]
    model.conv1.register_forward_hook(lambda m, args, out: wants.append(out.requires_grad))
    explain(model, x, layers='relu')
    model.relu[1].bias.requires_grad_(True)
    explain(model, x, layers='conv2')
    copy.deepcopy(model)
    assert wants==[False, False] and sum(before)+1==sum(p.requires_grad for p in model.parameters()) and all(p.grad is None for p in model.parameters())

# What is said

class Ends(nn.Module):
    def __init__(self, f):
        super().__init__()
        self.net, self.f = small(), f
    def forward(self, x): return self.f(self.net(x))

def refusals():
    m, x = small(), images()
    maps = torch.rand(3, 12, 12)
    return {"layer '0' is not spatial": lambda: explain(nn.Sequential(m), x, layers=[m]),
            'Conv2d is no layer of the model': lambda: explain(m, x, layers=[nn.Conv2d(3, 3, 1)]),
            r"unknown layer 'conv3'; did you mean conv\d or conv\d\?; 5 layers have maps": lambda: explain(m, x, layers='conv3'),
            r'`reshape` fails at layer .bn., it gives \(3, 6, 12, 12\): IndexError: tuple index': lambda: explain(m, x, layers='bn', reshape=lambda o: o.view(o.shape[7])),
            'of which `reshape` makes no': lambda: explain(m, x, layers='bn', reshape=lambda o: o.flatten(1)),
            r'gives \(3, 1\) of torch.int64, not logits': lambda: explain(Ends(lambda z: z.argmax(1)), x, layers='net.bn'),
            r'gives \(3, 3\) of torch.int64, not logits': lambda: explain(Ends(lambda z: z.long()), x, layers='net.bn'),
            'gradient is cut on the way': lambda: explain(Ends(lambda z: z.detach()), x, layers='net.bn'),
            'gives tuple, not logits': lambda: explain(Ends(lambda z: (z, z)), x, layers='net.bn'),
            'not ndarray': lambda: explain(m, x.numpy()), 'not torch.uint8': lambda: explain(m, x.byte()),
            'noise must be 0 or more': lambda: explain(m, x, smooth=2, noise=-1),
            'steps must be at least 1, not 0': lambda: deletion(m, x, maps, 1, steps=0),
            'classes run from 0 to 2': lambda: insertion(m, x, maps, 3),
            'target must be one class, or one for each image': lambda: road(m, x, maps, None),
            'target must be one class, or one for each image ': lambda: average_drop(m, x, maps, [[0, 1]]*3),
            r'target of shape \(2,\) for 3 images': lambda: deletion(m, x, maps, [0, 1]),
            'fractions must be above 0': lambda: road(m, x, maps, 1, fractions=()),
            'must be classes': lambda: compare_methods(m, x, lambda z: z[:, 0], progress=False)}

@pytest.mark.parametrize('said', refusals())
def test_refusals_help(said):
    with pytest.raises(ValueError, match=said) as e: refusals()[said]()
    if said.startswith('`reshape` fails'): assert isinstance(e.value.__cause__, IndexError)
    assert len(str(e.value))<300
