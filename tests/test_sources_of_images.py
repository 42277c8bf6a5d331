"Pictures of every kind, folders of every shape, files that are smaller than they claim: nothing is read wrongly or in part without a word"
import gzip, io, json, os, subprocess, sys, tarfile, warnings
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from cifar_cam.data import load_images
from cifar_cam.sources import load_picture
from cifar_cam.model import load_model, read_weights, resnet18, save_weights

GREY = np.random.default_rng(0).integers(0, 256, (32, 32), np.uint8)
GREY[0,:2] = 0, 255

def encoded(im, kind='png', **kw):
    f = io.BytesIO()
    (Image.fromarray(im) if isinstance(im, np.ndarray) else im).save(f, kind, **kw)
    return f.getvalue()

def big_endian(): return Image.frombytes('I;16B', (32, 32), (GREY.astype('>u2')*257).tobytes())

KINDS = {'16 bits, PNG': lambda: encoded(GREY.astype(np.uint16)*257), '16 bits, TIFF': lambda: encoded(GREY.astype(np.uint16)*257, 'tiff'), '16 bits, top byte only': lambda: encoded(GREY.astype(np.uint16)*256),
         'big-endian 16 bits, TIFF': lambda: encoded(big_endian(), 'tiff'), 'big-endian 16 bits, PNG': lambda: encoded(big_endian()),
         '32 bits that hold 16': lambda: encoded(GREY.astype(np.int32)*257, 'tiff'), '32 bits that hold 8': lambda: encoded(GREY.astype(np.int32), 'tiff'),
         'floats from 0 to 1': lambda: encoded((GREY/255).astype(np.float32), 'tiff'), '8 bits': lambda: encoded(GREY), 'white is zero': lambda: encoded(65535-GREY.astype(np.uint16)*257, 'tiff', tiffinfo={262: 0})}

@pytest.mark.parametrize('kind', KINDS)
def test_grey_of_any_depth_is_the_grey_of_8_bits(kind):
    got = load_picture(KINDS[kind]())
    assert (got==GREY[...,None]).all()

def test_a_large_picture_of_16_bits_is_the_one_of_8_bits():
    large = np.kron(GREY, np.ones((5, 7), np.uint8))
    assert (load_picture(encoded(large.astype(np.uint16)*257))==load_picture(encoded(large))).all()

@pytest.mark.parametrize('values', [GREY.astype(np.float32), np.full((32, 32), -.5, np.float32), np.full((32, 32), np.nan, np.float32), np.full((32, 32), 10**6, np.int32), np.full((32, 32), -1, np.int32)], ids=['to 255', 'below 0', 'NaN', 'a million', '-1'])
def test_a_range_that_nobody_knows_is_refused(values):
    with pytest.raises(ValueError, match='its values run from'): load_picture(encoded(values, 'tiff'))

def logo():
    "A colour picture, and how opaque it is"
    colour, alpha = np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8), np.zeros((32, 32), np.uint8)
    alpha[8:24,8:24] = 255
    colour[alpha==0] = 0
    return colour, alpha

def test_what_is_transparent_is_white():
    colour, alpha = logo()
    on_white = np.where(alpha[...,None]>0, colour, 255)
    rgba = Image.fromarray(np.dstack([colour, alpha]))
    for kind in ('png', 'tiff', 'webp'): assert (load_picture(encoded(rgba, kind, **({'lossless': True, 'exact': True} if kind=='webp' else {})))==on_white).all()
    half = Image.fromarray(np.dstack([colour*0, np.full((32, 32), 128, np.uint8)]))
    assert (load_picture(encoded(half))==127).all()
    grey = np.where(alpha>0, GREY, 255)
    assert (load_picture(encoded(Image.fromarray(np.dstack([GREY, alpha]), 'LA')))==grey[...,None]).all()
    palette = Image.fromarray(np.where(alpha>0, GREY%7+1, 0).astype(np.uint8), 'P')
    palette.putpalette([v for k in range(8) for v in (30*k, 10*k, 5*k)])
    expected = np.where(alpha[...,None]>0, np.asarray(palette.convert('RGB')), 255)
    for kind in ('png', 'gif'): assert (load_picture(encoded(palette, kind, transparency=0))==expected).all()
    keyed = GREY.astype(np.uint16)*257
    assert (load_picture(encoded(Image.fromarray(keyed), transparency=0))==np.where(GREY==0, 255, GREY)[...,None]).all()
    def big(im): return Image.fromarray(im).resize((320, 320), Image.Resampling.NEAREST)
    assert abs(load_picture(encoded(Image.merge('RGBA', [*big(colour).split(), big(alpha)]))).astype(int)-load_picture(encoded(big(on_white)))).max()<=3

def test_other_modes_are_as_they_were():
    im = Image.fromarray(logo()[0])
    for data in (encoded(im), encoded(im.convert('CMYK'), 'jpeg'), encoded(im.convert('CMYK'), 'tiff'), encoded(im.convert('1')), encoded(im.convert('P')), encoded(im, 'bmp')):
        assert (load_picture(data)==np.asarray(Image.open(io.BytesIO(data)).convert('RGB'))).all()
    frames = encoded(im.convert('P'), 'gif', save_all=True, append_images=[im.rotate(90).convert('P')])
    assert (load_picture(frames)==np.asarray(Image.open(io.BytesIO(frames)).convert('RGB'))).all()
    exif = Image.Exif()
    exif[0x112] = 6
    assert (load_picture(encoded(im, exif=exif))==np.rot90(np.asarray(im), -1)).all()
    assert (load_picture(encoded(GREY.astype(np.uint16)*257, 'tiff', exif=exif))==np.rot90(GREY, -1)[...,None]).all()

PNG = encoded(GREY)

def folder(root, *names):
    for k,n in enumerate(names):
        (root/n).parent.mkdir(parents=True, exist_ok=True)
        (root/n).write_bytes(PNG)
    return root

def load(root, split='train'): return load_images(str(root), split, root.parent/'cache')

def test_a_folder_that_cannot_be_read_is_refused(tmp_path, monkeypatch):
    root, scandir = folder(tmp_path/'d', 'train/cat/1.png', 'train/dog/1.png', 'test/cat/1.png'), os.scandir
    def locked(path='.'):
        if str(path).endswith('dog'): raise PermissionError(13, 'Permission denied', str(path))
        return scandir(path)
    monkeypatch.setattr(os, 'scandir', locked)
    with pytest.raises(ValueError, match='train/dog cannot be read: Permission denied'): load(root)

def test_pictures_deeper_in_a_class_belong_to_it_and_others_are_counted(tmp_path):
    root = folder(tmp_path/'d', 'train/cat/1.png', 'train/cat/more/2.png', 'train/cat/more/yet/3.png', 'train/dog/1.tif', 'train/dog/2.GIF', 'train/lost.png', 'val/cat/1.png')
    with pytest.warns(UserWarning, match=r'2 images are in no train/<class> or test/<class>, such as (train/lost|val/cat/1).png: not read'): ims = load(root)
    assert (ims.classes, ims.labels.tolist())==(('cat', 'dog'), [0, 0, 0, 1, 1])
    assert load(folder(tmp_path/'t', 'train/train/1.png', 'train/cat/1.png')).classes==('cat', 'train')

def test_every_link_is_followed_unless_it_goes_round(tmp_path):
    root = folder(tmp_path/'d', 'train/cat/1.png', 'train/dog/1.png')
    (root/'train'/'hund').symlink_to(root/'train'/'dog')
    (root/'test').symlink_to(root/'train')
    (root/'train'/'cat'/'round').symlink_to(root)
    for split in ('train', 'test'): assert (load(root, split).classes, load(root, split).labels.tolist())==(('cat', 'dog', 'hund'), [0, 1, 2])
    (root/'train'/'dog'/'gone.png').symlink_to(root/'nowhere.png')
    with pytest.raises(ValueError, match='gone.png cannot be read: No such file'): load(root)

def test_hidden_folders_are_no_classes(tmp_path):
    fine = ['train/cat/1.png', 'train/dog/1.png', 'test/cat/1.png', 'test/dog/1.png']
    root = folder(tmp_path/'d', *fine, 'train/.ipynb_checkpoints/1.png', 'train/cat/.ipynb_checkpoints/1.png', 'train/__MACOSX/1.png', '__MACOSX/train/x/1.png')
    with tarfile.open(tmp_path/'d.tar.gz', 'w:gz') as tar: tar.add(root, '.')
    for source in (root, tmp_path/'d.tar.gz'):
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            assert (load(source).classes, len(load(source)))==(('cat', 'dog'), 2)

def test_a_class_name_that_is_no_text_is_refused(tmp_path):
    try: root = folder(tmp_path/'d', 'train/ca\udcff/1.png', 'test/cat/1.png')
    except OSError: pytest.skip('this disk takes UTF-8 only')
    with pytest.raises(ValueError, match=r'class folder ca\\udcff is not UTF-8') as said: load(root)
    str(said.value).encode()

def test_an_archive_is_read_to_its_end(tmp_path):
    path, root = tmp_path/'a.tar.gz', folder(tmp_path/'d', 'train/cat/1.png', 'train/dog/1.png', 'test/cat/1.png')
    with tarfile.open(path, 'w:gz') as tar: tar.add(root, 'd')
    good = path.read_bytes()
    assert len(load(path))==2
    path.write_bytes(good[:-8]+bytes([good[-8]^1])+good[-7:])
    with pytest.raises(ValueError, match='CRC'): load(path)
    plain, path = gzip.decompress(good), tmp_path/'b.tar'
    path.write_bytes(plain+plain)
    with pytest.raises(ValueError, match='is damaged'): load(path)

def safetensors(shape, data, kind='F16'):
    head = json.dumps({'fc.weight': {'dtype': kind, 'shape': shape, 'data_offsets': [0, len(data)]}}).encode()
    return len(head).to_bytes(8, 'little')+head+data

def test_weights_that_are_empty_or_not_finite_are_refused(tmp_path):
    (tmp_path/'w.safetensors').write_bytes(safetensors([10**13, 0], b''))
    with pytest.raises(ValueError, match=r'fc.weight is \(10000000000000, 0\), which a file of \d+ bytes cannot hold'): load_model(tmp_path/'w.safetensors')
    torch.save({'fc.weight': torch.zeros(1, 1).expand(10**9, 512)}, tmp_path/'w.pt')
    with pytest.raises(ValueError, match='cannot hold'): read_weights(tmp_path/'w.pt')
    for bad in (torch.nan, torch.inf):
        model = resnet18()
        with torch.no_grad(): model.layer1[0].bn1.bias[3] = bad
        save_weights(model, tmp_path/'n.safetensors', half=True)
        torch.save(model.state_dict(), tmp_path/'n.pt')
        for name in ('n.safetensors', 'n.pt'):
            with pytest.raises(ValueError, match='layer1.0.bn1.bias has values that are not finite'): load_model(tmp_path/name)

def test_the_same_weights_are_the_same_file(tmp_path):
    model = torch.nn.Linear(2, 2)
    meta = {k: [k, 'é'] for k in 'zyxwvutsrqponm'}
    files = [save_weights(model, tmp_path/f'{k}.safetensors', **dict(sorted(meta.items(), reverse=k%2))) for k in range(6)]
    assert len({f.read_bytes() for f in files})==1
    state, got = read_weights(files[0])
    assert list(got)==sorted(got)
    assert got=={'args': {}, **meta} and all(torch.equal(state[k], v) for k,v in model.state_dict().items())
    with safe_open(files[0], 'pt') as f: assert sorted(f.keys())==['bias', 'weight'] and f.metadata()['format']=='pt'

def test_out_of_memory_is_not_called_a_damaged_file(tmp_path, monkeypatch):
    def none_left(*_, **__): raise MemoryError
    root = folder(tmp_path/'d', 'train/cat/1.png', 'test/cat/1.png')
    w = save_weights(torch.nn.Linear(2, 2), tmp_path/'w.safetensors')
    for name in ('cifar_cam.sources.Image.open', 'cifar_cam.sources._walk', 'cifar_cam.model.safe_open'):
        with monkeypatch.context() as m:
            m.setattr(name, none_left)
            with pytest.raises(MemoryError): read_weights(w) if 'model' in name else load(root)

def test_a_mistake_of_ours_is_not_called_a_damaged_file(tmp_path, monkeypatch):
    def mistaken(*_): return None+1
    root = folder(tmp_path/'d', 'train/cat/1.png', 'test/cat/1.png')
    for name in ('sources._place', 'sources._rgb', 'data.ImageSet'):
        with monkeypatch.context() as m:
            m.setattr(f'cifar_cam.{name}', mistaken)
            with pytest.raises(TypeError): load(root)

MEMORY = '''
import os, resource, sys
import torch
from cifar_cam.data import load_images
from cifar_cam.sources import load_picture
from cifar_cam.model import load_model
torch.set_num_threads(1)
def load(path):
    try: load_model(path) if path.endswith('safetensors') else load_images(path, 'train', sys.argv[1]) if path.endswith('.gz') else load_picture(path)
    except (ValueError, FileNotFoundError): pass
def child(path):
    pid = os.fork()
    if pid: return os.wait4(pid, 0)[2].ru_maxrss//1024
    try: load(path)
    finally: os._exit(0)
nothing = child(os.devnull)
for path in sys.argv[2:]: print(child(path)-nothing)
'''

def test_small_files_take_little_memory(tmp_path):
    "Each of them is below 3 MB; none may take 450 MB"
    import zlib
    def png(name, width, height, kind, depth=8):
        def chunk(tag, data): return len(data).to_bytes(4, 'big')+tag+data+zlib.crc32(tag+data).to_bytes(4, 'big')
        line, pack = bytes(1+width*{0: 1, 2: 3, 4: 2, 6: 4}[kind]*depth//8), zlib.compressobj(9)
        data = b''.join(pack.compress(line) for _ in range(height))+pack.flush()
        (tmp_path/name).write_bytes(b'\x89PNG\r\n\x1a\n'+chunk(b'IHDR', width.to_bytes(4, 'big')+height.to_bytes(4, 'big')+bytes([depth, kind, 0, 0, 0]))+chunk(b'IDAT', data)+chunk(b'IEND', b''))
        return name
    (tmp_path/'empty.safetensors').write_bytes(safetensors([1_500_000, 0], b''))
    (tmp_path/'thin.safetensors').write_bytes(safetensors([1_200_000, 1], bytes(2_400_000)))
    sparse = tarfile.TarInfo('train/cat/1.png')
    sparse.type, sparse.size = tarfile.GNUTYPE_SPARSE, 0
    head = bytearray(sparse.tobuf(tarfile.GNU_FORMAT))
    head[483:495] = b'%011o\0' % 900_000_000
    head[148:156] = b'        '
    head[148:156] = b'%06o\0 ' % sum(head)
    with gzip.open(tmp_path/'sparse.tar.gz', 'wb') as f: f.write(bytes(head)+bytes(1024))
    names = ['empty.safetensors', 'thin.safetensors', 'sparse.tar.gz', png('16.png', 5000, 5000, 0, 16), png('alpha.png', 5000, 5000, 6), png('grey.png', 7000, 7000, 0)]
    assert all((tmp_path/n).stat().st_size<3_000_000 for n in names)
    r = subprocess.run([sys.executable, '-c', MEMORY, tmp_path/'cache', *(tmp_path/n for n in names)], capture_output=True, text=True, check=True)
    took = dict(zip(names, map(int, r.stdout.split())))
    assert max(took.values())<450, took
