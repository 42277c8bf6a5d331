"Pictures as their users meet them: in a script, on a page of any width, with any names"
import json, re, shutil, subprocess, sys
from pathlib import Path
import numpy as np
import pytest
from PIL import Image

root = Path(__file__).parent.parent
chromium = shutil.which('chromium') or shutil.which('google-chrome')
NAMES = ['$\\frac{$', '<b>&amp;', '猫']

@pytest.fixture(scope='module')
def odd(tmp_path_factory):
    "A folder with the report of an untrained network whose classes have odd names"
    import torch
    from cifar_cam.model import resnet18, save_weights
    from cifar_cam.report import write_report
    from cifar_cam.runs import evaluate_run
    d, rng = tmp_path_factory.mktemp('odd'), np.random.default_rng(0)
    names = sorted(n.replace('/', '') for n in NAMES)
    for n in names:
        (d/'data'/'test'/n).mkdir(parents=True)
        for i in range(4): Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(d/'data'/'test'/n/f'{i}.png')
    torch.manual_seed(0)
    save_weights(resnet18(3).eval(), d/'w.safetensors', classes=names)
    (d/'run').mkdir()
    evaluate_run(d/'run', str(d/'data'), str(d/'w.safetensors'))
    return write_report(d/'run', 2)

def test_the_quickstart_as_a_script_leaves_a_picture(tmp_path):
    (code,) = [c for c in re.findall(r'```python\n(.*?)```', (root/'README.md').read_text(encoding='utf-8'), re.S) if 'show_cams' in c]
    (tmp_path/'quickstart.py').write_text(code)
    r = subprocess.run([sys.executable, 'quickstart.py'], cwd=tmp_path, capture_output=True, text=True)
    assert r.returncode==0, r.stderr
    (png,) = tmp_path.glob('*.png')
    assert len(code.strip().splitlines())==8 and Image.open(png).width>600

def test_names_of_classes_are_no_formulas_and_no_html(odd):
    page = odd.read_text(encoding='utf-8')
    assert page.count('<div class="card">')==2 and '&lt;b&gt;&amp;amp;' in page and '<b>&amp;' not in page and '$\\frac{$' in page

@pytest.mark.skipif(not chromium, reason='no chromium on this machine')
def test_maps_of_the_last_stage_are_large_and_two_columns_fit_a_phone(odd):
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=['--no-sandbox'])
        seen = {}
        for width in (1300, 390):
            page = browser.new_page(viewport=dict(width=width, height=900))
            page.goto(odd.as_uri())
            seen[width] = page.evaluate('''() => [...document.querySelector('.card').querySelectorAll('img')].map(i => [i.alt, i.getBoundingClientRect().width, i.getBoundingClientRect().left])''')
            assert page.evaluate('document.documentElement.scrollWidth <= innerWidth')
    for rows in seen.values():
        assert [a.split(' ')[0] for a,*_ in rows]==['the', *['layer4']*3, *['layer1', 'layer2', 'layer3']*3]
    assert min(w for _,w,_ in seen[1300][:4])>170 and min(w for _,w,_ in seen[390][:4])>130
    assert len({left for *_,left in seen[390][:4]})==2

def test_the_picture_of_explain_says_what_it_is_and_keeps_its_shape():
    from cifar_cam.data import load_images
    from cifar_cam.report import explain_picture
    im = load_images('sample', 'test').images[4]
    fig, _ = explain_picture(im, classes=['FROG', ' cat'], method='layercam', photo=im.repeat(2, 0).repeat(3, 1), name='frog $2$.png')
    first, seen = fig.axes[0].images[0].get_array(), fig.axes[1].images[0].get_array()
    assert fig.get_suptitle().replace('\\', '')=='frog $2$.png: layercam' and first.shape==(64, 96, 3) and seen.shape==(32, 32, 3)
    with pytest.raises(ValueError, match="'lion'; have airplane"): explain_picture(im, classes=['lion'])

def test_three_classes_are_three_rows_of_maps_of_one_size():
    from cifar_cam.data import load_images, normalize
    from cifar_cam.gradcam import explain
    from cifar_cam.model import load_model
    from cifar_cam.viz import show_cams
    ims = load_images('sample', 'test').images[:2]
    fig = show_cams(ims, explain(load_model(), normalize(ims), [[0, 1, 2], [3, 4, 5]]))
    maps = [ax for ax in fig.axes if ax.get_xlabel()]
    fig.draw_without_rendering()
    widths = [ax.get_window_extent().width/fig.dpi for ax in maps]
    assert len(maps)==2*3*4 and max(widths)-min(widths)<.01 and fig.get_size_inches()[0]<6.7
    left = [t.get_window_extent() for ax in maps for t in [ax.yaxis.label] if t.get_text()]
    assert len(left)==6 and not [1 for a in left for b in left if a is not b and a.overlaps(b)]
