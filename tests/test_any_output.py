"Outputs that are not plain logits, inputs that are not one batch of pictures, and maps with gradients"
from collections import namedtuple
from dataclasses import dataclass
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from cifar_cam.gradcam import METHODS, CamResult, cam_layers, default_layers, explain
from cifar_cam.layers import logits_of
from test_foreign_models import images, one_thread, same, small

EVERY = [k for k in METHODS if k!='cam']

class Gives(nn.Module):
    "The small network, its logits put into something else"
    def __init__(self, f):
        super().__init__()
        self.net, self.f = small(), f
    def forward(self, x): return self.f(self.net(x))

@dataclass
class Out: logits:torch.Tensor; features:torch.Tensor=None
Named = namedtuple('Named', 'logits aux')

def unwrapped(r): return CamResult(r.logits, r.target, {k.removeprefix('net.'): v for k,v in r.maps.items()}, r.method)

@pytest.mark.parametrize('f', [lambda z: dict(logits=z, more=1), Out, lambda z: Named(z, z)], ids=['mapping', 'dataclass', 'named tuple'])
@pytest.mark.parametrize('method', METHODS)
def test_logits_are_found(f, method):
    x, layer = images(), 'net.relu2' if method=='cam' else 'net.bn'
    r, plain = explain(Gives(f), x, layers=layer, method=method), explain(small(), x, layers=layer[4:], method=method)
    assert torch.equal(r.logits, plain.logits) and same(unwrapped(r), plain) and torch.allclose(r.scores, plain.scores)
    assert [n.removeprefix('net.') for n in default_layers(Gives(f), x)]==default_layers(small(), x)

def test_a_tuple_needs_a_function():
    model, x = Gives(lambda z: (z[:, :2], z[:, 2:])), images()
    with pytest.raises(ValueError, match='gives tuple, not logits.*a function as target'): explain(model, x, layers='net.bn')
    for k in EVERY:
        if k=='finercam': continue
        r, plain = (explain(m, x, t, 'net.bn'[i:], k) for m,t,i in ((model, lambda o: o[1][:, 0], 0), (small(), 2, 4)))
        assert r.logits is None and r.target is None and same(unwrapped(r), plain) and torch.allclose(r.scores, plain.scores)
    with pytest.raises(ValueError, match='no logits'): r.probs
    assert len(r[1:])==2 and torch.equal(r[1:].scores, r.scores[1:])

@pytest.mark.parametrize('cut', [lambda z: z[:, 1], lambda z: z[:, 1:2]], ids=['(n,)', '(n, 1)'])
def test_one_logit(cut):
    x = images()
    for k in EVERY:
        if k=='finercam': continue
        r = explain(Gives(cut), x, layers='net.bn', method=k)
        assert r.logits.shape==(3, 1) and r.target.tolist()==[0, 0, 0] and same(unwrapped(r), explain(small(), x, 1, 'bn', k))
    assert same(unwrapped(explain(Gives(cut), x, lambda z: -z.view(3), 'net.bn')), explain(small(), x, lambda z: -z[:, 1], 'bn'))

class Segments(nn.Module):
    "Scores of three classes at every place, as the segmentation models of torchvision give them"
    def __init__(self):
        super().__init__()
        self.body = small()[:5]
        torch.manual_seed(2)
        self.classifier = nn.Conv2d(5, 3, 1)
    def forward(self, x): return dict(out=F.interpolate(self.classifier(self.body(x)), x.shape[-2:], mode='bilinear'))

def test_a_class_inside_a_mask():
    model, x = Segments().double().eval(), images().double()
    mask = torch.rand(3, 12, 12, generator=torch.Generator().manual_seed(3))>.5
    def inside(out, rows): return (out['out'][:, 1]*mask[rows]).sum((1, 2))
    for k in EVERY:
        if k=='finercam': continue
        r = explain(model, x, inside, ['body.bn', 'body.relu2'], k, bs=4)
        for i in range(3):
            one = explain(model, x[i:i+1], lambda out: (out['out'][:, 1]*mask[i]).sum((1, 2)), ['body.bn', 'body.relu2'], k)
            assert all(torch.allclose(r.maps[n][i:i+1], one.maps[n], rtol=1e-6, atol=1e-9) for n in r.maps), k
    A = model.body(x).detach().requires_grad_()
    y = (F.interpolate(model.classifier(A), (12, 12), mode='bilinear')[:, 1]*mask).sum()
    g, = torch.autograd.grad(y, A)
    want = (g.mean((2, 3), keepdim=True)*A).sum(1).relu()
    assert torch.allclose(explain(model, x, inside, 'body.relu2').maps['body.relu2'], want)

def test_a_target_function_is_checked():
    m, x = small(), images()
    for f in (lambda z: z[:, :2], lambda z: z.sum(), lambda z: 3, lambda z, rows: z[rows, 0][:1]):
        with pytest.raises(ValueError, match=r'one score an image, shape \(3,\)'): explain(m, x, f, 'bn')
    with pytest.raises(ValueError, match='score of image 1 is NaN'): explain(m, x, lambda z: z[:, 0]*torch.tensor([1., torch.nan, 1.]), 'bn')

class WithTable(nn.Module):
    "An image and five numbers about it"
    def __init__(self):
        super().__init__()
        self.body, self.head = small()[:5], nn.Linear(10, 3)
    def forward(self, x, about): return self.head(torch.cat([self.body(x).mean((2, 3)), about.tanh()], 1))

class Fixed(nn.Module):
    def __init__(self, model, about): super().__init__(); self.model, self.about = model, about
    def forward(self, x): return self.model(x, self.about.expand(len(x), -1))

@pytest.mark.parametrize('kw', [dict(method=k) for k in EVERY] + [dict(smooth=2), dict(augment=True)], ids=str)
def test_several_inputs(kw):
    torch.manual_seed(0)
    model, x, about = WithTable().eval(), images(), torch.randn(3, 5)
    r = explain(model, (x, about), [[0, 1]]*3, ['body.bn', 'body.relu2'], **kw)
    for i in range(3):
        one = explain(Fixed(model, about[i:i+1]).eval(), x[i:i+1], [[0, 1]], ['model.body.bn', 'model.body.relu2'], **kw)
        assert torch.allclose(r.logits[i:i+1], one.logits, atol=1e-5)
        for n in r.maps: assert torch.allclose(r.maps[n][i:i+1], one.maps[f'model.{n}'], rtol=1e-4, atol=1e-6), n
    assert list(cam_layers(model, (x, about)))==['body.conv1', 'body.bn', 'body.relu', 'body.conv2', 'body.relu2', 'body']
    assert list(explain(model, (x, about)).maps)==['body.relu', 'body']

def test_inputs_are_checked():
    for bad,said in (((images(), torch.zeros(2, 5)), r'row for each of 3 images, not \(2, 5\)'), ((images(), 'about'), 'not str'), ((), 'not tuple')):
        with pytest.raises(ValueError, match=said): explain(WithTable(), bad)

def deep():
    "The small network, of volumes"
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(1, 6, 3, padding=1), nn.ReLU(), nn.Conv3d(6, 5, 3, stride=2, padding=1), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(5, 3)).eval()

def flat_of(model):
    "The network of pictures that does the same to a volume of one slice"
    def two(m):
        if not isinstance(m, nn.Conv3d): return nn.AdaptiveAvgPool2d(1) if isinstance(m, nn.AdaptiveAvgPool3d) else m
        c = nn.Conv2d(m.in_channels, m.out_channels, 3, m.stride[1:], 1)
        c.weight.data, c.bias.data = m.weight.data[:, :, 1], m.bias.data
        return c
    return nn.Sequential(*map(two, model)).eval()

@pytest.mark.parametrize('method', METHODS)
def test_a_volume_of_one_slice_is_a_picture(method):
    model, x = deep(), torch.randn(2, 1, 12, 16, generator=torch.Generator().manual_seed(1))
    layers = ['3'] if method=='cam' else ['1', '3']
    a, b = explain(model, x[:, :, None], [[0, 1]]*2, layers, method), explain(flat_of(model), x, [[0, 1]]*2, layers, method)
    for n in layers: assert a.maps[n].shape==(2, 2, 1, *b.maps[n].shape[2:]) and torch.allclose(a.maps[n][:, :, 0], b.maps[n], rtol=1e-4, atol=1e-6)
    a, b = (r.resized((12, 16)) if v is b else r.resized((1, 12, 16)) for v,r in ((a, a), (b, b)))
    for f in ('normalized', 'merged'):
        for n,v in getattr(a, f)().maps.items(): assert torch.allclose(v[:, :, 0], getattr(b, f)().maps[n], atol=1e-5)
    assert torch.allclose(a.top()['3'], b.top()['3'], rtol=1e-4)

def test_volumes_by_hand():
    model, x = deep().double(), torch.randn(2, 1, 6, 12, 16, generator=torch.Generator().manual_seed(1)).double()
    assert default_layers(model, x)==['1', '3']
    A = model[:4](x).detach().requires_grad_()
    g, = torch.autograd.grad(model[4:](A)[:, 1].sum(), A)
    want = (g.mean((2, 3, 4), keepdim=True)*A).sum(1).relu()
    r = explain(model, x, 1, '3')
    assert want.shape==(2, 3, 6, 8) and torch.allclose(r.maps['3'], want)
    assert r.resized((6, 12, 16)).maps['3'].shape==(2, 6, 12, 16) and r.normalized().maps['3'].amax((1, 2, 3)).tolist()==[1, 1]
    assert torch.equal(r.normalized(shared=True).maps['3'], r.normalized().maps['3'])

@pytest.mark.parametrize('channels, size', [(1, (12, 12)), (3, (12, 20)), (5, (224, 224))], ids=str)
def test_other_images(channels, size):
    model, x = small(conv1=nn.Conv2d(channels, 6, 3, padding=1)), torch.randn(2, channels, *size)
    for k in EVERY:
        r = explain(model, x, layers=['relu', 'relu2'], method=k) if size[0]<99 or k in ('gradcam', 'scorecam') else None
        if r: assert r.maps['relu'].shape==(2, *size) and r.resized(size).maps['relu2'].shape==(2, *size)
    assert list(explain(model, x).maps)==['relu', 'relu2']

def test_layers_as_modules():
    m, x = small(), images()
    assert same(explain(m, x, layers=[m.conv2, 'bn']), explain(m, x, layers=['conv2', 'bn']))
    assert list(explain(m, x, layers=m.relu2).maps)==['relu2']
    compiled = torch.compile(small(), backend='eager')
    assert same(explain(compiled, x, layers=compiled.conv2), explain(m, x, layers='conv2'))

# Several copies, and the strongest direction

def test_copies_by_hand():
    m, x = small(), images()
    want = sum(explain(m, f*x, 1, 'conv2', 'hirescam').maps['conv2'] + explain(m, (f*x).flip(-1), 1, 'conv2', 'hirescam').maps['conv2'].flip(-1) for f in (.9, 1, 1.1))/6
    assert torch.allclose(explain(m, x, 1, 'conv2', 'hirescam', augment=True).maps['conv2'], want, atol=1e-6)
    both = explain(m, x, 1, 'conv2', 'hirescam', augment=True, smooth=2, noise=1e-6).maps['conv2']
    assert torch.allclose(both, want, atol=1e-4)
    a, b = explain(m, x, 1, 'conv2', augment=True), explain(m, x.flip(-1), 1, 'conv2', augment=True)
    assert torch.allclose(a.maps['conv2'], b.maps['conv2'].flip(-1), atol=1e-6)       # a mirror image has the mirrored map, exactly

def test_the_strongest_direction():
    m, x = small().double(), images().double()
    plain, r = (explain(m, x, 1, 'conv2', 'hirescam', eigen=e).maps['conv2'] for e in (False, True))
    assert (plain*r).sum((1, 2)).min()>=0                                             # never the opposite
    assert torch.allclose(r.relu(), explain(m, x, 1, 'conv2', 'eigengradcam').maps['conv2'])
    one = small(conv2=nn.Conv2d(6, 1, 3, padding=1), fc=nn.Linear(1, 3)).double()          # of one map there is one direction
    assert same(explain(one, x, layers='conv2', method='hirescam', eigen=True), explain(one, x, layers='conv2', method='hirescam'))

# Maps with gradients

@pytest.mark.parametrize('method', [k for k in METHODS if k not in ('cam', 'random')])
def test_gradients_of_maps(method):
    "Against central differences, of a network without kinks"
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Softplus(), nn.Conv2d(4, 3, 3), nn.Softplus(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4)).double().eval()
    x, w = images(2, 8).double(), net[0].weight
    def loss(graph): return explain(net, x, 1, '1', method, graph=graph).maps['1'].square().mean()
    y = loss(True)
    g, = torch.autograd.grad(y, w)
    assert all(p.grad is None for p in net.parameters()) and y.item()==pytest.approx(loss(False).item(), rel=1e-9)
    for at in ((0, 0, 1, 1), (3, 2, 0, 2)):
        ends = []
        for step in (1e-5, -1e-5):
            with torch.no_grad(): w[at] += step
            ends.append(loss(False).item())
            with torch.no_grad(): w[at] -= step
        assert g[at].item()==pytest.approx((ends[0]-ends[1])/2e-5, rel=1e-3, abs=1e-9)

def test_one_forward_for_the_loss_and_its_maps():
    m, x = small().train(), images().requires_grad_()
    r = explain(m, x, [0, 1, 2], ['bn', 'conv2'], graph=True)
    (F.cross_entropy(r.logits, torch.tensor([0, 1, 2])) + r.maps['conv2'].mean() + r.scores.mean()).backward()
    assert all(p.grad is not None and p.grad.abs().sum()>0 for p in m.parameters()) and x.grad.abs().sum()>0 and m.training
    assert not any(v.requires_grad for v in explain(m, x, layers='bn').maps.values())

# After a reading

def test_one_image_of_a_result_is_a_batch():
    m, x = small(), images()
    r = explain(m, x, [[0, 1]]*3, ['bn', 'conv2'])
    for i in (0, 2, -1):
        one = r[i]
        assert len(one)==1 and one.maps['bn'].shape==(1, 2, 12, 12) and torch.equal(one.probs, r.probs[[i]])
    assert len(list(r))==3
    with pytest.raises(IndexError): r[3]

def test_two_dimensions_that_are_no_logits():
    x, m = images(), Gives(lambda z: z.repeat(2, 1))
    with pytest.raises(ValueError, match='a function as target'): explain(m, x, layers='net.bn')
    assert same(unwrapped(explain(m, x, lambda out: out[:3, 1], 'net.bn')), explain(small(), x, 1, 'bn'))

def test_what_compares_classes_needs_two():
    with pytest.raises(ValueError, match='needs two at least'): explain(Gives(lambda z: z[:, 0]), images(), layers='net.bn', method='finercam')
    with pytest.raises(ValueError, match='no logits of classes'): explain(Gives(lambda z: z[:, 0]), images(), layers='net.bn').probs

@pytest.mark.parametrize('f', [lambda z: dict(logits=z), Out, lambda z: dict(scores=z)], ids=['logits', 'dataclass', 'mapping'])
def test_the_first_layers_run_once_whatever_the_output(f):
    m, x, runs = Gives(f), images(1), []
    m.net.conv1.register_forward_hook(lambda m, args, out: runs.append(len(out)))
    explain(m, x, lambda out: (out['scores'] if isinstance(out, dict) and 'scores' in out else logits_of(out))[:, 0], 'net.relu2', 'ablationcam')
    assert runs==[1, 1]                                                       # the image; and once more, for all its variants
