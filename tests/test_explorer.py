"The explorer in a real browser"
import base64, io, json, os, re, shutil, socket, subprocess, sys, time, urllib.error, urllib.request
from pathlib import Path
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
    assert page.evaluate("(top => top('#large canvas') < Math.min(...['button', 'input', 'select'].map(top)))(q => Math.min(...[...document.querySelectorAll(q)].map(e => e.getBoundingClientRect().top)))")
    for said_now in ('stop', 'play'):
        page.click('#play')
        assert page.inner_text('#play')==said_now
    page.reload()
    first = int(app.positions('mistakes', order='confidence')[0])
    for target in ('predicted', 'true'):
        page.click(f'[data-target={target}]')
        for layer in app.layers:
            page.click(f'[data-layer={layer}]')
            png = page.evaluate("document.querySelector('#large canvas').toDataURL()").split(',')[1]
            shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert('RGB')).astype(int)
            diff = np.abs(shown-app.view(first, target, layer).large)
            assert diff.max()<=4 and (diff>1).mean()<1e-3              # 16 bits a pixel and rounded colours; see viz
    caption = lambda: page.inner_text('#caption')
    for act in (lambda: page.click('#next'), lambda: page.keyboard.press('ArrowRight'), lambda: page.keyboard.press('ArrowUp'), lambda: page.keyboard.press('t'), lambda: page.select_option('#filter', 'right')):
        before = caption()
        act()
        assert caption()!=before
    assert 'predicted correctly' in caption() and said==[]

def free_port():
    with socket.create_server(('127.0.0.1', 0)) as s: return s.getsockname()[1]

def wait_for(url, process, seconds=60):
    for _ in range(seconds*5):
        assert process.poll() is None, 'the server has ended'
        try: return urllib.request.urlopen(url, timeout=5).status
        except urllib.error.HTTPError as e: return e.code
        except OSError: time.sleep(.2)
    raise TimeoutError(url)

def steps(page, folder):
    "Everything there is to move: each changes what is seen"
    page.wait_for_selector('.cc-large img', timeout=120_000)
    seen = lambda: (page.inner_text('.cc-caption'), page.get_attribute('.cc-large img', 'src'))
    def act(do):
        before = seen()
        do()
        for _ in range(200):
            after = seen()
            if after[1]!=before[1] and after[0]!=before[0]: return
            page.wait_for_timeout(50)
        raise AssertionError(f'nothing has changed: {before[0]}')
    act(lambda: page.click('.cc-next'))
    act(lambda: page.click('.cc-layer button:has-text("layer2")'))
    act(lambda: page.click('.cc-thumb-6'))
    act(lambda: (page.focus('.cc-index [role=slider]'), page.keyboard.press('ArrowRight')))
    act(lambda: page.select_option('.cc-show select', 'mistakes'))
    act(lambda: page.select_option('.cc-target select', 'predicted − true'))
    act(lambda: page.get_by_role('button', name='play').click())
    act(lambda: None)                                          # the next one comes by itself
    page.get_by_role('button', name='stop', exact=True).click()
    page.get_by_role('button', name='play').wait_for()
    page.screenshot(path=folder/'difference.png', full_page=True)
    page.locator('.cc-app').get_by_text('confusion matrix:').click()
    act(lambda: page.click('.cc-cell[title^="cat predicted as dog"]'))
    assert 'cat' in seen()[0] and 'predicted as dog' in seen()[0] and page.inner_text('.cc-chip')=='cat predicted as dog ×'
    page.click('.cc-layer button:has-text("layer4")')
    for key in ('ArrowRight', 'ArrowUp', 't', 'ArrowDown', 'ArrowLeft'): act(lambda: page.keyboard.press(key))
    page.focus('.cc-index [role=slider]')
    act(lambda: page.keyboard.press('ArrowUp'))
    assert 'large: layer3' in seen()[0] and contrast(page, '.cc-cell.cc-correct')>4.5 and contrast(page, '.cc-cell.cc-mistake')>4.5
    page.screenshot(path=folder/'cell.png', full_page=True)
    page.locator('.cc-app').get_by_text('colours, scale').click()
    photo = io.BytesIO()
    Image.fromarray(np.linspace(0, 255, 90*120*3).reshape(90, 120, 3).astype(np.uint8)).save(photo, 'png')
    def upload(name, data):
        with page.expect_file_chooser() as chooser: page.click('.cc-upload')
        chooser.value.set_files(dict(name=name, mimeType='image/png', buffer=data))
    act(lambda: upload('photo.png', photo.getvalue()))
    assert 'your picture' in seen()[0]
    upload('virus.png', b'MZ'*50)
    page.wait_for_function('document.querySelector(".cc-caption").innerText.includes("is not an image")')
    assert page.evaluate("(b => b.scrollWidth <= b.clientWidth)(document.querySelector('.cc-upload'))")
    page.set_viewport_size(dict(width=390, height=844))
    page.wait_for_timeout(500)
    page.screenshot(path=folder/'phone.png', full_page=True)

def contrast(page, what):
    "Of the text on its ground, as WCAG defines it"
    def light(colour):
        rgb = [float(v)/255 for v in re.findall(r'[\d.]+', colour)[:3]]
        return sum(w*(v/12.92 if v<=.04045 else ((v+.055)/1.055)**2.4) for w,v in zip((.2126, .7152, .0722), rgb))
    a, b = sorted(light(c) for c in page.eval_on_selector(what, 'e => [getComputedStyle(e).color, getComputedStyle(e).backgroundColor]'))
    return (b+.05)/(a+.05)

def fits_a_phone(page):
    "The large heatmap comes before any control; nothing is cut off"
    page.set_viewport_size(dict(width=390, height=844))
    page.wait_for_timeout(500)
    top = lambda what: page.eval_on_selector_all(what, 'es => Math.min(...es.filter(e => e.offsetParent).map(e => e.getBoundingClientRect().top))')
    assert top('.cc-large img') < top('.cc-app button, .cc-app select, .cc-app input, .cc-app [role=slider]')
    page.locator('.cc-app').get_by_text('confusion matrix:').click()
    page.wait_for_timeout(500)
    assert page.evaluate("[...document.querySelectorAll('.cc-app .widget-label, .cc-app .cc-cell, .cc-app .cc-matrix th, .cc-app .cc-upload')].filter(e => e.offsetParent && (e.scrollWidth > e.clientWidth + 1 || e.getBoundingClientRect().right > innerWidth)).map(e => e.innerText)")==[]

@pytest.fixture
def screenshots(request):
    d = Path(os.environ.get('CIFAR_CAM_SCREENSHOTS', '') or request.getfixturevalue('tmp_path'))/request.node.name
    d.mkdir(parents=True, exist_ok=True)
    return d

def heard(page):
    said = []
    page.on('pageerror', lambda e: said.append(str(e)))
    page.on('console', lambda m: said.append(m.text) if m.type=='error' else None)
    return said

def test_explore_serves_a_web_application_and_stops(browser, screenshots, tmp_path):
    port = free_port()
    with subprocess.Popen([Path(sys.executable).with_name('cifar-cam'), 'explore', '--no-browser', '--port', str(port)], cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True) as server:
        try:
            wait_for(f'http://127.0.0.1:{port}/static/', server)
            page = browser.new_page(viewport=dict(width=1100, height=900))
            said, left = heard(page), []
            page.route(lambda url: '127.0.0.1' not in url and not url.startswith(('data:', 'blob:')), lambda r: (left.append(r.request.url), r.abort()))
            page.goto(f'http://127.0.0.1:{port}', timeout=180_000)
            steps(page, screenshots)
            (tmp_path/'huge.png').write_bytes(bytes(60_000_000))
            with page.expect_file_chooser() as chooser: page.click('.cc-upload')
            chooser.value.set_files(tmp_path/'huge.png')
            page.wait_for_function("document.querySelector('.cc-caption').innerText.includes('huge.png has 60 MB; at most 20 are read')", timeout=60_000)
            noise = np.random.default_rng(0).integers(0, 256, (2300, 2200, 3), np.uint8)
            Image.fromarray(noise).save(tmp_path/'large.png')
            assert 15e6<(tmp_path/'large.png').stat().st_size<20e6                # more than a server takes by itself
            with page.expect_file_chooser() as chooser: page.click('.cc-upload')
            chooser.value.set_files(tmp_path/'large.png')
            page.wait_for_function("document.querySelector('.cc-caption').innerText.includes('your picture')", timeout=60_000)
            fits_a_phone(page)
        finally: os.killpg(server.pid, 2)                      # Ctrl-C
        assert server.wait(30)==0 and 'Traceback' not in server.stderr.read()
    assert left==[] and [s for s in said if 'fontawesome' not in s]==[]        # a style sheet that the page is not allowed to fetch

def test_jupyterlab_runs_the_explorer_page(browser, screenshots, tmp_path):
    from fastcore.nbio import read_nb, write_nb
    nb = read_nb(Path(__file__).parent.parent/'nbs'/'05_explorer.ipynb')
    nb.cells = [c for c in nb.cells if 'nbdev_export()' not in c.source]
    write_nb(nb, tmp_path/'live.ipynb')
    port = free_port()
    for name,value in {'apputils-extension/notification': dict(fetchNews='false', checkForUpdates=False), 'notebook-extension/tracker': dict(windowingMode='none')}.items():
        f = tmp_path/'settings'/'@jupyterlab'/f'{name}.jupyterlab-settings'
        f.parent.mkdir(parents=True)
        f.write_text(json.dumps(value))
    env = os.environ | {k: str(tmp_path/k) for k in ('JUPYTER_CONFIG_DIR', 'JUPYTER_DATA_DIR', 'JUPYTER_RUNTIME_DIR', 'JUPYTERLAB_WORKSPACES_DIR', 'IPYTHONDIR')} | dict(JUPYTERLAB_SETTINGS_DIR=str(tmp_path/'settings'))
    cmd = [sys.executable, '-m', 'jupyterlab', '--no-browser', '--allow-root', '--ServerApp.ip=127.0.0.1', f'--ServerApp.port={port}', '--ServerApp.port_retries=0', '--IdentityProvider.token=TOK',
           f'--ServerApp.root_dir={tmp_path}', '--LabApp.expose_app_in_browser=True', '--LabApp.extension_manager=readonly']
    with subprocess.Popen(cmd, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            wait_for(f'http://127.0.0.1:{port}/api/status?token=TOK', server)
            page = browser.new_page(viewport=dict(width=1300, height=1200))
            said = heard(page)
            page.goto(f'http://127.0.0.1:{port}/lab/tree/live.ipynb?reset&token=TOK')
            page.wait_for_selector('.jp-Notebook .jp-CodeCell', timeout=90_000)
            page.evaluate('''async () => { const z = ms => new Promise(r => setTimeout(r, ms))
                while (!window.jupyterapp?.shell?.currentWidget?.sessionContext) await z(50)
                const c = jupyterapp.shell.currentWidget.sessionContext; await c.ready
                while (!(c.session?.kernel?.connectionStatus === 'connected' && c.session.kernel.status === 'idle')) await z(50) }''')
            page.evaluate("() => jupyterapp.commands.execute('notebook:run-all-cells')")
            page.evaluate("() => jupyterapp.commands.execute('apputils:change-theme', { theme: 'JupyterLab Dark' })")
            page.wait_for_function("document.body.dataset.jpThemeLight === 'false'")
            steps(page, screenshots)
        finally:
            urllib.request.urlopen(urllib.request.Request(f'http://127.0.0.1:{port}/api/shutdown', method='POST', headers=dict(Authorization='token TOK')))
            server.wait(30)
    assert said==[]

def test_a_thousand_moves_leave_memory_and_model_as_they_were():
    import random
    import psutil
    from cifar_cam.data import load_images
    from cifar_cam.explorer import TARGETS, Explorer
    explorer, dice = Explorer(None, load_images('sample', 'test')[:60], keep=32), random.Random(0)
    app = explorer.app
    moves = [lambda: app.next.click(), lambda: app.step(dice.randrange(60)), lambda: setattr(app.look['layer'], 'value', dice.choice(explorer.layers)), lambda: setattr(app.look['target'], 'value', dice.choice([*TARGETS])),
             lambda: setattr(app.which['show'], 'value', dice.choice(['all', 'correct'])), lambda: setattr(app.look['method'], 'value', dice.choice(['gradcam', 'layercam', 'hirescam'])), lambda: setattr(app.look['alpha'], 'value', dice.random())]
    for i in range(1001):
        dice.choice(moves)()
        if i==200: before = psutil.Process().memory_info().rss
    assert (psutil.Process().memory_info().rss-before)/2**20 < 50
    assert len(explorer._kept)==32 and not [m for m in explorer.model.modules() if m._forward_hooks or m._forward_pre_hooks or m._backward_hooks]

def test_a_hundred_classes_need_some_dozens_of_widgets_and_their_matrix_scrolls(browser):
    import torch
    from cifar_cam.data import ImageSet, load_images
    from cifar_cam.explorer import Explorer
    ims, net = load_images('sample', 'test')[:100], torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 100))
    app = Explorer(net.eval(), ImageSet(ims.images, range(100), [f'class {i}' for i in range(100)]), layers=['0']).app
    def count(w): return 1 + sum(map(count, getattr(w, 'children', ())))
    assert count(app.widget)<60 and app.matrix.value.count('data-cell')==10_000
    from cifar_cam.app import CSS
    page = browser.new_page(viewport=dict(width=390, height=844))
    page.set_content(f'<style>{CSS}</style><div class="cc-app"><div class="cc-matrix">{app.matrix.value}</div></div>')
    assert page.evaluate('document.documentElement.scrollWidth <= innerWidth') and page.evaluate("(e => e.scrollWidth > e.clientWidth && e.scrollHeight > e.clientHeight)(document.querySelector('.cc-matrix'))")
    assert page.evaluate("Math.min(...[...document.querySelectorAll('.cc-matrix td[data-cell]')].map(e => e.getBoundingClientRect().width))")>15
    assert page.get_by_role('rowheader', name='class 7', exact=True).count()==1 and page.get_by_role('button', name=re.compile('class 7 predicted as class .*: 1')).count()==1
