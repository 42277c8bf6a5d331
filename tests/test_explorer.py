"The explorer in a real browser"
import base64, io, shutil
import numpy as np
import pytest
from PIL import Image

chromium = shutil.which('chromium') or shutil.which('google-chrome')
pytestmark = pytest.mark.skipif(not chromium, reason='no chromium on this machine')

@pytest.fixture(scope='module')
def app():
    from cifar_cam.data import load_images
    from cifar_cam.explorer import Explorer
    from cifar_cam.model import load_model
    return Explorer(load_model(), load_images('sample', 'test')[:120])

@pytest.fixture(scope='module')
def browser():
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p: yield p.chromium.launch(executable_path=chromium, args=['--no-sandbox'])

def test_static_page_steps_without_kernel_and_network(app, browser, tmp_path):
    path, said = app.save_html(tmp_path/'page.html'), []
    page = browser.new_page(viewport=dict(width=390, height=800))
    page.route('**/*', lambda r: r.continue_() if r.request.url==path.as_uri() else (said.append(r.request.url), r.abort()))
    page.on('console', lambda m: said.append(m.text))
    page.on('pageerror', lambda e: said.append(str(e)))
    page.goto(path.as_uri())
    assert not page.evaluate('document.documentElement.scrollWidth > innerWidth')
    first = int(app.positions('mistakes')[0])
    for target in ('predicted', 'true'):
        page.click(f'[data-target={target}]')
        for layer in app.layers:
            page.click(f'[data-layer={layer}]')
            png = page.evaluate("document.querySelector('#large canvas').toDataURL()").split(',')[1]
            shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert('RGB')).astype(int)
            diff = np.abs(shown-app.view(first, target, layer).overlay)
            assert diff.max()<=4 and (diff>1).mean()<1e-3              # 16 bits a pixel and rounded colours; see viz
    caption = lambda: page.inner_text('#caption')
    for act in (lambda: page.click('#next'), lambda: page.keyboard.press('ArrowRight'), lambda: page.keyboard.press('ArrowUp'), lambda: page.keyboard.press('t'), lambda: page.select_option('#filter', 'right')):
        before = caption()
        act()
        assert caption()!=before
    assert 'seen as such' in caption() and said==[]
