"The explorer's server: who may ask, how many pages, and what stays behind; and what its menus, its chip and its thread do"
import http.client, re, shutil, socket, subprocess, sys, time
from pathlib import Path
import psutil, pytest

def wait_until(true, seconds=60):
    for _ in range(seconds*10):
        if true(): return
        time.sleep(.1)
    raise TimeoutError

@pytest.fixture(scope='module')
def server(tmp_path_factory):
    "`serve` for two pages, with a page that is one word, so that a kernel takes a second and not ten"
    pytest.importorskip('voila')
    with socket.create_server(('127.0.0.1', 0)) as s: port = s.getsockname()[1]
    code = f'import cifar_cam.server as e; e.MOST_PAGES, e.GONE, e._code = 2, 3, lambda *_: "import ipywidgets\\nipywidgets.HTML(\'ready\')"; e.serve(port={port}, browser=False)'
    with subprocess.Popen([sys.executable, '-c', code], cwd=tmp_path_factory.mktemp('server'), stderr=subprocess.DEVNULL) as p:
        try:
            wait_until(lambda: not socket.socket().connect_ex(('127.0.0.1', port)))
            yield port, lambda: len(psutil.Process(p.pid).children())      # a server has no children but kernels
        finally: p.terminate()

def ask(port, path='/', method='GET', **headers):
    "Status and body"
    c = http.client.HTTPConnection('127.0.0.1', port, timeout=60)
    c.request(method, path, headers={k.replace('_', '-'): v for k,v in headers.items()})
    r = c.getresponse()
    return (r.status, '') if r.status==101 else (r.status, r.read().decode())

SOCKET = dict(Upgrade='websocket', Connection='Upgrade', Sec_WebSocket_Version='13', Sec_WebSocket_Key='dGhlIHNhbXBsZSBub25jZQ==')

@pytest.mark.parametrize('headers', [dict(Host='evil.com'), dict(Origin='http://evil.com'), dict(Host='evil.com', Origin='http://evil.com'), dict(Sec_Fetch_Site='cross-site'), dict(Sec_Fetch_Site='same-site'), dict(Host='127.0.0.1.evil.com')])
def test_other_sites_and_names_get_no_page_and_no_kernel(server, headers):
    port, kernels = server
    before = kernels()
    assert ask(port, **headers)[0]==403
    assert ask(port, '/voila/api/shutdown/0-0-0-0-0', 'POST', **headers)[0]==403
    assert kernels()<=before

def test_a_page_that_is_gone_leaves_no_kernel_and_its_socket_is_for_its_own_origin(server):
    port, kernels = server
    wait_until(lambda: kernels()==0)
    status, page = ask(port)                                     # a page that never opens its socket
    assert status==200 and kernels()==1
    channels = f'/api/kernels/{re.search(r"kernelId.{4}([0-9a-f-]{36})", page)[1]}/channels'
    assert ask(port, channels, Host='evil.com', Origin='http://evil.com', **SOCKET)[0]==403
    assert ask(port, channels, Origin='http://evil.com', **SOCKET)[0]==403
    assert ask(port, channels, Host=f'localhost:{port}', Origin=f'http://localhost:{port}', **SOCKET)[0]==101
    wait_until(lambda: kernels()==0)

def test_more_pages_than_can_be_are_told_so(server):
    port, kernels = server
    wait_until(lambda: kernels()==0)
    from concurrent.futures import ThreadPoolExecutor
    with ThreadPoolExecutor(4) as pool: said = list(pool.map(lambda _: ask(port), range(4)))
    assert sorted(s for s,_ in said)==[200, 200, 503] + [503] and kernels()==2
    assert all('2 pages of the explorer are open' in text for s,text in said if s==503)

@pytest.mark.skipif(not (shutil.which('chromium') or shutil.which('google-chrome')), reason='no chromium on this machine')
def test_a_page_loaded_again_and_again_has_one_kernel_and_asks_nobody_else(server):
    from playwright.sync_api import sync_playwright
    port, kernels = server
    wait_until(lambda: kernels()==0)
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=shutil.which('chromium') or shutil.which('google-chrome'), args=['--no-sandbox'])
        page, left = browser.new_page(), []
        page.route(lambda url: '127.0.0.1' not in url and not url.startswith(('data:', 'blob:')), lambda r: (left.append(r.request.url), r.abort()))
        page.goto(f'http://127.0.0.1:{port}', timeout=180_000)
        for _ in range(3):
            page.get_by_text('ready').wait_for(timeout=180_000)
            wait_until(lambda: kernels()==1, 2)                  # long before a page that is gone is looked for
            page.reload(timeout=180_000)
        page.get_by_text('ready').wait_for(timeout=180_000)
        page.wait_for_timeout(5000)                              # longer than a page that is gone is waited for
        assert kernels()==1
        page.close(run_before_unload=True)
        browser.close()
    wait_until(lambda: kernels()==0)
    assert left==[]

def test_no_host_is_no_address(monkeypatch):
    from cifar_cam.server import serve
    def listens(*a, **kw): raise AssertionError('it would listen')
    monkeypatch.setattr(pytest.importorskip('voila.app').Voila, 'launch_instance', listens)
    with pytest.raises(ValueError, match='host must be an address'): serve(host='', browser=False)

@pytest.fixture(scope='module')
def first():
    from cifar_cam.data import load_images
    from cifar_cam.explorer import Explorer
    return Explorer(None, load_images('sample', 'test')[:120])

@pytest.fixture
def app(first):
    from cifar_cam.explorer import Explorer
    explorer = Explorer(first.model, first.ims)
    explorer._logits = first.logits                              # seen once for all tests
    return explorer.app

def app_css():
    from cifar_cam.app import CSS
    return CSS

def click(app, cell):
    "What the browser does when a cell `(true, predicted)` is clicked"
    app.clicked.value = ','.join(str(app.explorer.ims.classes.index(c)) for c in cell)

def dim(app): return 'cc-dim' in app.widget._dom_classes

def test_a_slow_method_gives_a_sign_shows_layers_as_they_come_and_is_broken_off(app, monkeypatch):
    import asyncio, threading
    from cifar_cam import explorer, gradcam
    gate, begun = threading.Semaphore(0), []
    def slow(model, x, target, layers, method):
        if method=='scorecam':
            begun.append((int(target), list(layers)))
            assert gate.acquire(timeout=20)
        return gradcam.explain(model, x, target, layers, 'gradcam')
    monkeypatch.setattr(explorer, 'explain', slow)
    async def until(true):
        for _ in range(1000):
            if true(): return
            await asyncio.sleep(.01)
        raise TimeoutError(app.caption.value)
    async def play():
        before, c = app.picture.value, int(app.explorer.logits[app.at[app.index.value]].argmax())
        app.look['method'].value = 'scorecam'
        await until(lambda: begun)
        assert dim(app) and 'scorecam: computing…' in app.caption.value and 'scorecam' in app.about.value and app.stop.layout.display==''
        assert begun==[(c, ['layer4'])] and app.picture.value==before
        gate.release()
        await until(lambda: len(begun)==2)
        await until(lambda: not dim(app))
        assert 'still to come: layer3, layer2, layer1' in app.caption.value and 'layer3 …' in app.caption.value
        app.stop.click()
        gate.release(9)
        await until(lambda: not app.thread.is_alive())
        assert 'scorecam: stopped' in app.caption.value and app.stop.layout.display=='none'
        assert list(app.explorer.kept(app.explorer.ims.images[app.at[app.index.value]], c, 'scorecam'))==['layer4']  # broken off inside the second
        while gate.acquire(blocking=False): pass
        begun.clear()
        app.seconds['scorecam'] = 12.3
        app.next.click()
        await until(lambda: begun)
        assert 'scorecam: about 12 s' in app.caption.value
        app.look['method'].value = 'hirescam'                              # anything else that is chosen
        gate.release(9)
        await until(lambda: 'hirescam' in app.about.value and not dim(app) and 'Explained' in app.caption.value and app.job is None)
        assert len(begun)==1 and not app.explorer.model._forward_pre_hooks
        while gate.acquire(blocking=False): pass
        app.play.value = True
        assert app.play.description=='stop'
        app.play.value = False
        assert app.play.description=='play'
    asyncio.run(play())
    assert not [m for m in app.explorer.model.modules() if m._forward_hooks or m._forward_pre_hooks]

def test_a_cell_of_the_matrix_is_marked_and_its_chip_takes_the_choice_back(app):
    explorer = app.explorer
    k, classes = explorer.positions('mistakes')[0], explorer.ims.classes
    cell = classes[explorer.ims.labels[k]], classes[int(explorer.logits[k].argmax())]
    marked = lambda: [(classes[int(t)], classes[int(p)]) for t,p in re.findall(r'data-cell="(\d+),(\d+)"', app.mark.value)]
    app.which['show'].value = 'correct'
    click(app, cell)
    assert (app.chip.description, app.chip.layout.display, marked()) == (f'{cell[0]} predicted as {cell[1]} ×', '', [cell])
    assert list(app.at)==list(explorer.positions('all', *cell)) and app.which['show'].value=='all'
    app.which['order'].value = 'loss'
    assert marked()==[cell] and sorted(app.at)==sorted(explorer.positions('all', *cell))
    app.chip.click()
    assert len(app.at)==120 and app.chip.layout.display=='none' and marked()==[]

def test_a_number_is_gone_to_and_a_wrong_one_is_named(app):
    here = lambda: app.explorer.ims.index[app.at[app.index.value]]
    app.which['show'].value = 'correct'
    among = len(app.at)
    app.number.value = str(app.explorer.ims.index[app.at[30]])
    assert (app.index.value, len(app.at))==(30, among) and 'not among' not in app.caption.value
    wrong = app.explorer.ims.index[app.explorer.positions('mistakes')[0]]
    app.number.value = str(wrong)
    assert here()==wrong and len(app.at)==120 and f'Number {wrong} was not among the images chosen' in app.caption.value
    shown = app.picture.value
    for text in ('abc', '8.5', '-1', '99999'):
        app.number.value = text
        assert f'number must be a whole number from 0 to 119, not &#x27;{text}&#x27;' in app.caption.value and app.picture.value==shown

def test_where_no_image_is_none_is_shown(app):
    classes = app.explorer.ims.classes
    nobody = next((t, p) for t in classes for p in classes if not len(app.explorer.positions(true=t, predicted=p)))
    click(app, nobody)
    assert 'there is no such image' in app.caption.value and app.picture.value=='' and 'url' not in app.pictures.value
    app.next.click(); app.thumbs[0].click()
    app.chip.click()
    assert '<img' in app.picture.value and not dim(app)

def test_opens_on_the_surest_mistake_and_a_difference_has_a_key(app):
    probs, labels = app.explorer.logits.softmax(1), app.explorer.ims.labels
    assert app.at[app.index.value]==max((i for i in range(120) if int(probs[i].argmax())!=labels[i]), key=lambda i: probs[i].max())
    app.look['target'].value = 'predicted − true'
    assert app.look['alpha'].disabled and app.look['cmap'].disabled and 'red: more for' in app.about.value and 'blue: more for' in app.about.value
    app.look['target'].value = 'predicted'
    assert not app.look['alpha'].disabled and not app.look['cmap'].disabled and 'red' not in app.about.value

def test_a_picture_of_ones_own_marks_no_other_and_a_large_one_is_refused(app):
    import io
    from datetime import datetime
    from PIL import Image
    from cifar_cam.app import NEIGHBOURS
    f, middle = io.BytesIO(), app.thumbs[NEIGHBOURS]
    Image.new('RGB', (40, 40), 'red').save(f, 'png')
    def upload(content): app.upload.value = [dict(name='p.png', size=len(content), type='image/png', content=content, last_modified=datetime.now())]
    upload(f.getvalue())
    assert 'your picture' in app.caption.value and 'cc-here' not in middle._dom_classes
    middle.click()
    assert 'your picture' not in app.caption.value and 'cc-here' in middle._dom_classes
    upload(bytes(60_000_000))
    assert 'p.png has 60 MB; at most 20 are read' in app.caption.value
    assert '20 MB' in app.upload.description and re.search(r'\.widget-upload,[^{]*{ width: auto }', app_css())

def test_an_error_that_is_no_refusal_is_raised_and_not_looked_for_layer_by_layer(app, monkeypatch):
    from cifar_cam import explorer
    class NoMap(ValueError): "Stands for the refusal"
    asked = []
    def broken(model, x, target, layers, method):
        asked.append(layers)
        raise ValueError('a mistake of ours')
    monkeypatch.setattr(explorer, 'NoMap', NoMap)
    monkeypatch.setattr(explorer, 'explain', broken)
    with pytest.raises(ValueError, match='a mistake of ours'): app.explorer.view(0, method='eigencam')
    assert asked==[app.explorer.layers]

def test_a_model_of_other_classes_is_refused():
    from cifar_cam.data import CLASSES, load_images
    from cifar_cam.explorer import Explorer
    from cifar_cam.model import resnet18
    ims = load_images('sample', 'test')[:4]
    def model(n, classes):
        m = resnet18(n)
        m.meta = dict(classes=classes)
        return m
    for n,classes,said in ((100, None, 'outputs'), (9, None, 'outputs'), (10, list(CLASSES)[::-1], 'the network knows truck'), (10, [f'c{i}' for i in range(10)], 'the network knows c0')):
        with pytest.raises(ValueError, match=said): Explorer(model(n, classes), ims)
    assert Explorer(model(10, list(CLASSES)), ims).layers

def test_the_page_shows_the_explorer_before_its_machinery():
    from fastcore.nbio import read_nb
    cells = read_nb(Path(__file__).parent.parent/'nbs'/'05_explorer.ipynb').cells
    shown = next(i for i,c in enumerate(cells) if any('text/html' in o.get('data', {}) for o in c.get('outputs', [])))
    assert shown < next(i for i,c in enumerate(cells) if c.source.startswith('#| exports'))
