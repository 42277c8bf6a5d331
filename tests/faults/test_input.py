"What is handed in: images, folders, archives, weights, uploads; good ones are read, bad ones refused by name"
import hashlib, io, json, os, pickle, random, tarfile, warnings
from collections import OrderedDict
from datetime import datetime
from pathlib import Path
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings, strategies as st
from PIL import Image
from safetensors.torch import save
from cifar_cam.cli import COMMANDS, main
from cifar_cam.data import CLASSES, get_dl, load_images
from cifar_cam.sources import load_picture
from cifar_cam.explorer import Explorer
from cifar_cam.gradcam import explain
from cifar_cam.model import load_model, read_weights, resnet18, save_weights
from cifar_cam.recipes import load_recipe
from cifar_cam.atlas import explain_dataset, load_maps
from cifar_cam.resume import load_checkpoint, save_checkpoint
from cifar_cam.faithfulness import load_comparison
from test_training import learner

FUZZ, SEED = 2_500, 0    # inputs of each of four doors

@pytest.fixture(scope='module')
def sample(): return load_images('sample', 'test')

def encoded(im, kind='png', **kw):
    f = io.BytesIO()
    im.save(f, kind, **kw)
    return f.getvalue()

def bomb(width, height):
    "A PNG whose header promises many pixels"
    data = bytearray(encoded(Image.new('L', (8, 8))))
    data[16:24] = width.to_bytes(4, 'big')+height.to_bytes(4, 'big')
    import zlib
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, 'big')
    return bytes(data)

def test_pictures(sample, tried):
    im = Image.fromarray(sample.images[0]).resize((64, 48))
    frames = [im.rotate(k).convert('P') for k in (0, 90)]
    for name,data in {'grey': encoded(im.convert('L')), '16 bits': encoded(Image.fromarray(np.arange(64*48, dtype=np.uint16).reshape(48, 64)*20)), 'CMYK': encoded(im.convert('CMYK'), 'jpeg'), 'palette': encoded(im.convert('P')),
                      'transparent': encoded(im.convert('RGBA')), 'one bit': encoded(im.convert('1')), 'animated': encoded(frames[0], 'gif', save_all=True, append_images=frames[1:]), 'one pixel': encoded(im.resize((1, 1))), 'webp': encoded(im, 'webp')}.items():
        got = load_picture(data)
        assert (got.shape, got.dtype)==((32, 32, 3), np.uint8)
        tried(f'picture: {name}', said='read')
    assert load_picture(encoded(im, 'mpo', save_all=True, append_images=[im])).shape==(32, 32, 3)
    tried('picture: two in a JPEG, as telephones make them', said='the first is read')
    exif = Image.Exif()
    exif[0x112], exif[0x10E] = 6, 'x'
    wrong = encoded(im, 'jpeg', exif=exif).replace(b'\x01\x0e\x00\x02', b'\x01\x00\x00\x02')                # a width that is a word
    with pytest.raises(ValueError, match='cannot be read') as said: load_picture(wrong)
    tried('picture: EXIF of a wrong type', said=said.value)
    eps = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n{} loop\n'
    assert Image.open(io.BytesIO(eps)).format=='EPS'
    with pytest.raises(ValueError, match='not an image') as said: load_picture(eps)
    tried('picture: a PostScript program', said=said.value)
    png, jpg = encoded(im), encoded(im, 'jpeg')
    for name,data,match in (('empty', b'', 'not an image'), ('words', b'hello', 'not an image'), ('PNG cut off', png[:len(png)//2], 'cannot be read'), ('JPEG cut off', jpg[:len(jpg)//2], 'cannot be read'),
                            ('header only', png[:40], 'cannot be read|not an image'), ('promises 10**10 pixels', bomb(100_000, 100_000), 'pixels|exceeds'), ('promises 10**8 pixels', bomb(10_000, 10_000), 'at most 25,000,000'), ('zero wide', bomb(0, 8), 'cannot be read|not an image')):
        with pytest.raises(ValueError, match=match) as said: load_picture(data)
        tried(f'picture: {name}', said=said.value)

def write(root, files):
    for name,data in files.items():
        (root/name).parent.mkdir(parents=True, exist_ok=True)
        (root/name).write_bytes(data)
    return root

def archive(path, members):
    "A tar.gz of `(TarInfo or name, bytes)`"
    with tarfile.open(path, 'w:gz') as tar:
        for info,data in members:
            if isinstance(info, str): info = tarfile.TarInfo(info)
            if info.isreg(): info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path

def test_folders(sample, tmp_path, tried):
    png = encoded(Image.fromarray(sample.images[0]))
    def load(root, split='train'): return load_images(str(root), split, tmp_path/'cache')
    odd = write(tmp_path/'a folder, größer 猫', {'train/my cat/ä b.png': png, 'train/Hund/1.jpg': encoded(Image.fromarray(sample.images[1]), 'jpeg'), 'test/my cat/1.png': png})
    assert load(odd).classes==('Hund', 'my cat')
    tried('folder: spaces and letters of any alphabet', said='read')
    write(odd, {'train/my cat/.DS_Store': b'x', 'train/my cat/notes.txt': b'x', 'train/my cat/._1.png': b'x'})
    assert len(load(odd))==2
    tried('folder: other files beside the images', said='passed over')
    (odd/'train'/'loop').symlink_to(odd/'train')
    assert len(load(odd))==2
    (odd/'train'/'loop').unlink()
    tried('folder: a link in a circle', said='followed once')
    os.mkfifo(odd/'train'/'my cat'/'pipe.png')
    assert len(load(odd))==2
    tried('folder: a pipe among the images', said='passed over')
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        write(odd, {'train/Hund/2.png': encoded(Image.fromarray(sample.images[0]).resize((50, 20)))})
        assert load(odd).images.shape==(3, 32, 32, 3)
    tried('folder: an image of another size', said=said[0].message)
    (cache,) = [f for f in (tmp_path/'cache').glob('*.npz') if np.load(f)['images'].shape[0]==3]
    good = cache.read_bytes()
    for k in (0, 10, len(good)//2): cache.write_bytes(good[:k]); assert len(load(odd))==3
    tried('cache cut off', 3, said='made anew')
    for name,root,match in (('empty', write(tmp_path/'e', {'x': b''}), 'has neither train'), ('no test split', write(tmp_path/'n', {'test/a/1.png': png}), "has neither train"), ('a broken image', write(tmp_path/'b', {'train/a/1.png': b'no'}), r'train/a/1.png is not an image')):
        with pytest.raises(ValueError, match=match) as e: load(root)
        tried(f'folder: {name}', said=e.value)
    with pytest.raises(FileNotFoundError) as e: load(tmp_path/'nowhere')
    tried('folder: is not there', said=e.value)
    parts = write(tmp_path/'parts', {'train/cat/1.png': png, 'train/dog/1.png': png, 'test/dog/1.png': png})
    with pytest.warns(UserWarning, match='test has no images of cat') as said: ims = load(parts, 'test')
    assert (ims.classes, ims.labels.tolist())==(('cat', 'dog'), [1])
    tried('folder: a split lacks a class', said=said[0].message)
    write(tmp_path/'some', {f'data_batch_{k}': pickle.dumps({'data': np.zeros((2, 3072), np.uint8), 'labels': [0, 1]}) for k in (1, 3)})
    with pytest.warns(UserWarning, match='2 of 5 official batches of train are there: data_batch_1, data_batch_3') as said: assert len(load(tmp_path/'some'))==4
    tried('folder: official batches are missing', said=said[0].message)
    from cifar_cam.runs import measure
    with pytest.raises(ValueError, match='two has 2 classes; the network has 10 outputs') as e: measure('cifar10', str(write(tmp_path/'two', {'test/cat/1.png': png, 'test/dog/1.png': png})))
    tried('folder: other classes than the weights', said=e.value)

def test_archives(sample, tmp_path, tried):
    png = encoded(Image.fromarray(sample.images[0]))
    def load(path): return load_images(str(path), 'train', tmp_path/'cache')
    fine = archive(tmp_path/'fine.tar.gz', [('data/train/cat/1.png', png), ('data/train/dog/1.png', png)])
    assert load(fine).classes==('cat', 'dog')
    def info(name, **kw):
        t = tarfile.TarInfo(name)
        for k,v in kw.items(): setattr(t, k, v)
        return t
    huge = info('train/cat/1.png', size=5_000_000_000_000)
    for name,members,match in (('leads out by ..', [('../train/cat/1.png', png)], 'refused'), ('absolute name', [('/train/cat/1.png', png)], 'refused'), ('a symbolic link', [(info('train/cat/1.png', type=tarfile.SYMTYPE, linkname='/etc/passwd'), b'')], 'refused'),
                               ('a hard link', [(info('train/cat/1.png', type=tarfile.LNKTYPE, linkname='/etc/passwd'), b'')], 'refused'), ('a device', [(info('train/cat/1.png', type=tarfile.CHRTYPE), b'')], 'has neither'), ('nothing', [], 'has neither'), ('a broken image', [('train/cat/1.png', b'x')], 'not an image')):
        with pytest.raises(ValueError, match=match) as e: load(archive(tmp_path/f'{name}.tar.gz', members))
        tried(f'archive: {name}', said=e.value)
    (tmp_path/'huge.tar').write_bytes(huge.tobuf(tarfile.GNU_FORMAT)+bytes(1024))
    with pytest.raises(ValueError, match='at most 200 are read') as e: load(tmp_path/'huge.tar')
    tried('archive: a file of 5 TB', said=e.value)
    long = tarfile.TarInfo('x')
    long.type, long.size = tarfile.XHDTYPE, 10**10
    (tmp_path/'long.tar').write_bytes(long.tobuf(tarfile.GNU_FORMAT)+bytes(1024))
    with pytest.raises(ValueError, match='a name in the archive has 10,000 MB') as e: load(tmp_path/'long.tar')
    tried('archive: a name of 10 GB', said=e.value)
    whole = fine.read_bytes()
    for k in range(20, len(whole)-20, len(whole)//10):
        (tmp_path/'cut.tar.gz').write_bytes(whole[:k])
        with pytest.raises((ValueError, FileNotFoundError)) as e: load(tmp_path/'cut.tar.gz')
    tried('archive: cut off', 10, said=e.value)
    (tmp_path/'words.tar.gz').write_bytes(b'hello')
    with pytest.raises(ValueError, match='neither a folder nor') as e: load(tmp_path/'words.tar.gz')
    tried('archive: is none', said=e.value)
    class Evil:
        def __reduce__(self): return os.system, (f'touch {tmp_path}/gotcha',)
    for name,value,match in (('runs a command', {'data': Evil(), 'labels': [0]}, 'refused to unpickle'), ('is no dict', [1, 2], ''), ('has no labels', {'data': np.zeros((1, 3072), np.uint8)}, ''), ('images of a wrong shape', {'data': np.zeros((2, 100), np.uint8), 'labels': [0, 1]}, ''),
                             ('labels beyond the classes', {'data': np.zeros((2, 3072), np.uint8), 'labels': [0, 12]}, 'labels run from'), ('more labels than images', {'data': np.zeros((2, 3072), np.uint8), 'labels': [0]*3}, '2 images, 3 labels')):
        with pytest.raises(ValueError, match=match) as e: load(archive(tmp_path/'b.tar.gz', [('cifar-10-batches-py/data_batch_1', pickle.dumps(value))]))
        tried(f'official batch: {name}', said=e.value)
    for name,data in (('asks for 34 GB of memory', b'\x80\x02]r'+(2**31-1).to_bytes(4, 'little')+b'.'), ('asks for an array of 5 TB', b'\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nJ\x01\0\0\0\x8a\x06'+(5*10**12).to_bytes(6, 'little')+b'\x86U\x01b\x87R.')):
        with pytest.raises(ValueError, match='has no data|refused to unpickle') as e: load(archive(tmp_path/'b.tar.gz', [('cifar-10-batches-py/data_batch_1', data)]))
        tried(f'official batch: {name}', said=e.value)
    assert not (tmp_path/'gotcha').exists()
    assert {p.name for p in tmp_path.iterdir() if p.suffix not in ('.gz', '.tar')}=={'cache'}

def test_downloads(sample, tmp_path, tried, monkeypatch):
    from hashlib import md5
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
    from threading import Thread
    from torchvision.datasets import CIFAR10
    def batch(ims): return pickle.dumps({'data': ims.images.transpose(0, 3, 1, 2).reshape(len(ims), -1), 'labels': ims.labels.tolist()}, protocol=2)
    names = [*(f'data_batch_{k}' for k in range(1, 6)), 'test_batch']
    good = archive(tmp_path/'good.tar.gz', [(f'cifar-10-batches-py/{n}', batch(sample[10*k:10*k+10])) for k,n in enumerate(names)]).read_bytes()
    sent, root = [], tmp_path/'root'
    class Server(BaseHTTPRequestHandler):
        def do_HEAD(self): self.send_response(200); self.end_headers()
        def do_GET(self):
            self.send_response(200)
            if isinstance(sent[0], str): self.send_header('Transfer-Encoding', 'chunked'); self.end_headers(); self.wfile.write(sent[0].encode()); return
            self.send_header('Content-Length', str(len(good)))
            self.end_headers()
            self.wfile.write(sent[0])
        def log_message(self, *_): pass
    server = ThreadingHTTPServer(('127.0.0.1', 0), Server)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(CIFAR10, 'tgz_md5', md5(good).hexdigest())
    monkeypatch.setattr(CIFAR10, 'url', f'http://127.0.0.1:{server.server_address[1]}/{CIFAR10.filename}')
    k = len(good)//2
    for name,data in (('cut off', good[:k]), ('of a wrong checksum', good[:k]+bytes([good[k]^1])+good[k+1:]), ('a page that says no', b'<html>404</html>'.ljust(len(good))), ('chunks cut off', 'ffff\r\nabc')):
        sent[:] = [data]
        with pytest.raises(RuntimeError, match='cannot be downloaded to') as e: load_images('cifar10', 'train', root)
        assert not list(root.glob('*.npz'))
        tried(f'download: {name}', said=e.value)
    sent[:] = [good]
    train, test = (load_images('cifar10', s, root) for s in ('train', 'test'))
    assert (train.images==sample.images[:50]).all() and (test.images==sample.images[50:60]).all() and (test.labels==sample.labels[50:60]).all()
    tried('download: a damaged one lies there', said='loaded again')
    server.shutdown(); server.server_close()
    assert len(load_images('cifar10', 'train', root))==50
    tried('download: no network, but it was loaded before', said='read')
    with pytest.raises(RuntimeError, match='cannot be downloaded.*refused') as e: load_images('cifar10', 'train', tmp_path/'other')
    tried('download: no network', said=e.value)

def test_weights(tmp_path, tried):
    small = resnet18()
    good = Path(save_weights(small, tmp_path/'good.safetensors', half=True, classes=CLASSES)).read_bytes()
    bad = tmp_path/'bad.safetensors'
    for name,data in (('cut off', good[:len(good)//2]), ('empty', b''), ('words', b'hello'), ('header of 10**18 bytes', (10**18).to_bytes(8, 'little')+good[8:]), ('header is not JSON', good[:8]+b'x'*200+good[208:])):
        bad.write_bytes(data)
        with pytest.raises(ValueError, match='holds no weights that can be read') as e: read_weights(bad)
        tried(f'weights: {name}', said=e.value)
    class Evil:
        def __reduce__(self): return os.system, (f'touch {tmp_path}/gotcha',)
    torch.save({'net': Evil()}, tmp_path/'evil.pt')
    with pytest.raises(ValueError, match='holds no weights') as e: load_model(str(tmp_path/'evil.pt'))
    assert not (tmp_path/'gotcha').exists()
    tried('weights: a .pt that runs a command', said=str(e.value)[:90])
    for name,match,state in (('a shape is wrong', 'fc.weight is', {**small.state_dict(), 'fc.weight': torch.zeros(7, 512)}), ('one is missing', 'no fc.bias', {k: v for k,v in small.state_dict().items() if k!='fc.bias'}), ('one too many', 'other is not in the model', {**small.state_dict(), 'other': torch.zeros(1)}), ('a list', '', [1, 2]), ('a word for a tensor', '', {**small.state_dict(), 'fc.bias': 'word'})):
        torch.save(state, tmp_path/'x.pt')
        with pytest.raises(ValueError, match=match) as e: resnet18(weights=str(tmp_path/'x.pt'))
        tried(f'weights: {name}', said=str(e.value)[:110])
    state = {k: v.half() for k,v in small.state_dict().items()}
    for name,text in {'args': '[1]', 'args ': '{"foo": 1}', ' args': '{"norm": []}', 'args  ': '{"weights": "x"}', 'classes': '5', 'classes ': '["cat"]', 'mean': '"abc"', 'std': '[0, 0, 0]', 'mean ': '[NaN, 0, 0]', 'recipe': '"quick"', 'recipe ': '{"size": 99999}', ' recipe': '{"size": "64"}', 'anything': '{'}.items():
        bad.write_bytes(save(state, {name.strip(): text}))
        with pytest.raises(ValueError) as e: load_model(str(bad))
        tried(f'weights: {name.strip()} is {text}', said=e.value)
    bad.write_bytes(save(state))
    assert load_model(str(bad)).meta=={}
    tried('weights: without metadata', said='taken for ten classes of CIFAR-10')
    with pytest.raises(FileNotFoundError) as e: load_model('resnet99')
    tried('weights: not there', said=e.value)

def test_names_cannot_break_out_of_pages(sample, tmp_path, tried):
    from dataclasses import replace
    evil = '<img src=x onerror=alert(1)></script>'
    model = load_model()
    model.meta['classes'] = [evil, *CLASSES[1:]]
    explorer = Explorer(model, replace(sample[:3], classes=model.meta['classes']))
    app = explorer.app
    assert evil not in explorer.page() and evil not in app.probs.value and evil not in app.matrix.value
    assert evil not in app.caption.value
    tried('class name that is HTML, in the explorer', said='escaped')
    def upload(name, content, size=None): app.upload.value = [dict(name=name, size=size or len(content), type='image/png', content=content, last_modified=datetime.now())]
    upload('x.png', b'x', 10**9)
    assert 'at most 20 are read' in app.caption.value
    tried('upload of 1 GB', said='at most 20 are read')
    upload('x.png', bytes(20_000_001), 1)
    assert 'at most 20 are read' in app.caption.value
    tried('upload that lies about its size', said='at most 20 are read')
    upload('<b>.png', bomb(60_000, 60_000))
    assert 'pixels' in app.caption.value or 'exceeds' in app.caption.value
    tried('upload that promises 10**9 pixels', said='refused')

def mutated(dice, data):
    "A copy of some bytes with a few of them changed, cut or repeated"
    data = bytearray(data)
    for _ in range(dice.randrange(1, 8)):
        k = dice.randrange(len(data)) if data else 0
        what = dice.randrange(4)
        if what==0 and data: data[k] = dice.randrange(256)
        elif what==1: data[k:k+dice.randrange(1, 64)] = b''
        elif what==2: data[k:k] = data[k:k+dice.randrange(1, 64)]
        elif data: data[k:k+4] = dice.choice([b'\0\0\0\0', b'\xff\xff\xff\xff', b'\x7f\xff\xff\xff'])
    return bytes(data)

def test_ten_thousand_mutated_inputs(sample, tmp_path, tried):
    im, dice = Image.fromarray(sample.images[0]), random.Random(SEED)
    pictures = [encoded(im), encoded(im, 'jpeg'), encoded(im, 'gif'), encoded(im, 'webp'), encoded(im, 'bmp'), encoded(im, 'tiff')]
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode='w') as t:
        for name,data in (('train/cat/1.png', pictures[0]), ('train/dog/2.jpg', pictures[1]), ('cifar-10-batches-py/test_batch', pickle.dumps({'data': np.zeros((2, 3072), np.uint8), 'labels': [0, 1]}))):
            i = tarfile.TarInfo(name)
            i.size = len(data)
            t.addfile(i, io.BytesIO(data))
    tar = tar.getvalue()
    weights = save({'fc.weight': torch.zeros(2, 3), 'fc.bias': torch.zeros(2)}, {'classes': json.dumps(['a', 'b'])})
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 3))
    x = torch.randn(2, 3, 8, 8)
    inside = tmp_path/'inside'
    inside.mkdir()
    def picture(): return load_picture(mutated(dice, dice.choice(pictures)))
    def file(name, data, read):
        (inside/name).write_bytes(mutated(dice, data))
        return read(inside/name)
    def asked():
        target = dice.choice([None, 0, 3, -1, 1.5, 'cat', [0, 1], [0]*3, [[0, 1], [1, 2]], [], torch.tensor([1, 9]), torch.zeros(2), lambda z: z[:, 0], lambda z: z.sum(), lambda z: None])
        return explain(net, x, target, dice.choice([None, '0', '1', '4', '9', '', [], ['0', '1'], ['0', 'x']]), dice.choice(['gradcam', 'layercam', 'finercam', 'cam', 'lime', '', None]), smooth=dice.choice([0, 0, 2]))
    doors = dict(pictures=picture, archives=lambda: file('a.tar', tar, lambda p: load_images(str(p), dice.choice(['train', 'test']), inside)), weights=lambda: file('w.safetensors', weights, read_weights), explain=asked)
    fuzz(doors, FUZZ, tried)
    assert [p.name for p in tmp_path.iterdir()]==['inside']

def fuzz(doors, times, tried):
    "Go through every door so often: in, or refused by an error of our own"
    for name,door in doors.items():
        good = 0
        for _ in range(times):
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')
                try: door(); good += 1
                except (ValueError, FileNotFoundError): pass
        assert times>good>0 or name=='weights'
        tried(f'fuzz: {name}, seed {SEED}', times, said=f'{good} accepted, {times-good} refused')

def test_mutated_files_of_a_run_and_uploads(sample, tmp_path, tried):
    dice, pages = random.Random(SEED), Path(__file__).parents[2]/'nbs'/'tutorials'
    pictures = [encoded(Image.fromarray(sample.images[0]), k) for k in ('png', 'jpeg', 'gif')]
    tiny = torch.nn.Sequential(OrderedDict(conv=torch.nn.Conv2d(3, 4, 3), relu=torch.nn.ReLU(), pool=torch.nn.AdaptiveAvgPool2d(1), flat=torch.nn.Flatten(), fc=torch.nn.Linear(4, 10))).eval()
    app, now = Explorer(tiny, sample[:4], layers=['conv', 'relu']).app, datetime.now()
    explain_dataset(tiny, get_dl(sample[:4]), tmp_path/'maps', layers=['conv'], progress=False)
    learn = learner(epochs=1)
    save_checkpoint(tmp_path/'checkpoint.pt', learn)
    checkpoint = (tmp_path/'checkpoint.pt').read_bytes()[32:]
    torch.save({'fc.weight': torch.zeros(2, 3)}, tmp_path/'w.pt')
    (tmp_path/'recipe.json').write_bytes((pages/'runs'/'quick'/'recipe.json').read_bytes())
    (tmp_path/'planted.json').write_bytes((pages/'faithfulness'/'planted.json').read_bytes())
    def upload():
        app.upload.value = [dict(name=mutated(dice, b'<b>photo.png').decode('latin1'), size=1, type='image/png', content=mutated(dice, dice.choice(pictures)), last_modified=now)]
        if 'your picture' not in app.caption.value: raise ValueError(app.caption.value)
    def file(name, read):
        path = tmp_path/name
        good = path.read_bytes()
        path.write_bytes(mutated(dice, good))
        try: read()
        finally: path.write_bytes(good)
    def resumed():
        data = mutated(dice, checkpoint)
        (tmp_path/'checkpoint.pt').write_bytes(hashlib.sha256(data).digest()+data)
        load_checkpoint(tmp_path/'checkpoint.pt', learn)
    before = {p for p in tmp_path.rglob('*')}
    fuzz({'uploads': upload, 'weights in a .pt': lambda: file('w.pt', lambda: read_weights(tmp_path/'w.pt')), 'recipe.json': lambda: file('recipe.json', lambda: load_recipe(tmp_path/'recipe.json')), 'planted.json': lambda: file('planted.json', lambda: load_comparison(tmp_path/'planted.json')),
          'plan.json of maps': lambda: file('maps/plan.json', lambda: load_maps(tmp_path/'maps')), 'maps': lambda: file('maps/conv.npy', lambda: load_maps(tmp_path/'maps')), 'checkpoints with a fitting checksum': resumed}, 500, tried)
    assert {p for p in tmp_path.rglob('*')}==before

WORDS = st.one_of(st.sampled_from(['--data', '--weights', '--recipe', '--out', '--layers', '--classes', '--method', '--methods', '--epochs', '--seed', '--mistakes', '--images', '--port', '--html', '--resume', '--split', '--dry-run', '--tensorboard', '--workers', '-h', '--', '0', '-1', '3', '1e9', 'nan', 'cat', 'sample', 'cifar10', 'demo', 'fast', 'best', 'gradcam', 'layer4', 'x.png', '.', '..']), st.text(max_size=8).filter(lambda s: '/' not in s))

@seed(SEED)
@settings(max_examples=500, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from([*COMMANDS, 'tarin']), st.lists(WORDS, max_size=5))
def asks(command, words):
    "Any words after a command: an exit code, and a message in place of a traceback"
    ends = dict(explain=['--weights', 'nowhere.pt'], report=[], faithfulness=['--weights', 'nowhere.pt'])
    code = main([command, *words, *ends.get(command, ['--data', 'nowhere'])])
    CODES[code] = CODES.get(code, 0)+1
    assert code in (0, 1, 2)

CODES = {}

def test_any_words_after_a_command(tmp_path, tried, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    Image.new('RGB', (9, 9)).save('x.png')
    asks()
    assert 'Traceback' not in ''.join(capfd.readouterr())
    tried(f'fuzz: words on the command line, seed {SEED}', sum(CODES.values()), said=', '.join(f'exit {k}: {v}' for k,v in sorted(CODES.items())))
