"The network in a page, in Chromium, with every address but this machine's blocked"
import base64, io, os, re, shutil, subprocess, sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
import numpy as np
import pytest
import torch
from PIL import Image
from cifar_cam.data import load_images, normalize
from cifar_cam.export import IN_A_GRAPH
from cifar_cam.faithfulness import fill_in
from cifar_cam.gradcam import explain
from cifar_cam.model import STAGES, load_model
from cifar_cam.sources import load_picture

pytest.importorskip('smalldocs')                             # builds the site, of which the page is a part
pytestmark = pytest.mark.skipif(not (chromium := shutil.which('chromium') or shutil.which('google-chrome')), reason='no chromium on this machine')

@pytest.fixture(scope='module')
def visit(site):
    "Opens the page, as the command serves it; nothing may be said on its console, and nothing asked of another machine"
    from playwright.sync_api import sync_playwright
    command = [Path(sys.executable).with_name('cifar-cam'), 'explore', '--live', site/'live', '--no-browser']
    said = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server, sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=['--no-sandbox', '--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream'])
        base = re.search(r'http://[\d.:]+', server.stdout.readline())[0]
        def open_page(hash='', start=True, script=None, **kw):
            page = browser.new_context(**dict(viewport=dict(width=1300, height=900)) | kw).new_page()
            page.on('console', lambda m: said.append(m.text) if m.type in ('error', 'warning') and not m.text.startswith('Canvas2D') else None)     # a test reads the canvas
            page.on('pageerror', lambda e: said.append(str(e)))
            page.route(lambda url: not url.startswith((base, 'data:', 'blob:')), lambda r: (said.append(r.request.url), r.abort()))
            if script: page.add_init_script(script)
            page.goto(f'{base}/{hash}')
            page.wait_for_selector('body[data-ready]')
            if start:
                page.click('#go')
                page.wait_for_selector('main[data-mode=live]', timeout=120_000)
            return page
        yield open_page
        server.terminate()
    assert said==[]

@pytest.fixture(scope='module')
def page(visit): return visit()

ASK = '''async ([images, weights]) => { const a = await live.ask(images.map(i => live.sample(i)), weights)
          return { logits: [...a.logits], maps: a.maps.map(m => ({ dims: [...m.dims], data: [...m.data] })) } }'''

def test_maps_in_the_page_are_those_of_explain(page):
    images, at, c = load_images('sample', 'test'), list(range(0, 1000, 100)), 5
    a = page.evaluate(ASK, [at, np.eye(10)[[c]*10].tolist()])
    model = load_model()
    for j,m in enumerate(IN_A_GRAPH):
        want = explain(model, normalize(images.images[at]), c, STAGES, m)
        assert np.allclose(np.reshape(a['logits'], (10, 10)), want.logits, atol=1e-4)
        for layer,got in zip(STAGES, a['maps']):
            maps = np.reshape(got['data'], got['dims'])[:, j]
            tops = want.maps[layer].abs().amax((1, 2))
            assert ((torch.from_numpy(maps)-want.maps[layer]).abs().amax((1, 2)) <= 1e-3*tops).all(), (m, layer)

def composed(page): return np.array(page.evaluate('[...live.composed()]')).reshape(32, 32, 3)
def percents(page): return page.eval_on_selector_all('#classes .of span', 'es => es.map(e => e.textContent)')
def settle(page): page.evaluate("async () => { await new Promise(r => setTimeout(r, 100)); while (live.drawn()) await live.drawn() }")
def go(page, number):
    "To an image, as it is"
    page.evaluate("document.getElementById('number').value = ''")
    page.fill('#number', str(number)); page.press('#number', 'Enter'); settle(page)

def test_the_pictures_are_the_lossless_ones_and_start_is_shown(visit):
    page, images = visit(start=False), load_images('sample', 'test').images
    for i in (0, 33, 1016): assert np.array_equal(np.array(page.evaluate(f'[...live.sample({i})]')).reshape(32, 32, 3), images[i])
    assert re.fullmatch(r'Start the network, \d+ MB', page.inner_text('#go'))

def test_a_picture_is_shrunk_as_load_picture_does(page, tmp_path):
    rng, ship = np.random.default_rng(0), Image.fromarray(load_images('sample', 'test').images[1])
    noise = Image.fromarray(rng.integers(0, 256, (50, 77, 3), dtype=np.uint8))
    for k,im in enumerate((ship.resize((400, 300), Image.Resampling.BICUBIC), noise, ship.resize((20, 64)), ship, noise.convert('L').resize((200, 32)))):
        im.save(tmp_path/f'{k}.png')
        page.evaluate('live.state.own = null')
        page.set_input_files('#file', tmp_path/f'{k}.png')
        page.wait_for_function('live.state.own')
        assert page.is_visible('#photo') and np.abs(composed(page)-load_picture(tmp_path/f'{k}.png')).max()<=1, k     # of 255; pillow 13 changes the order of passes where only the height shrinks
    settle(page)
    page.set_input_files('#file', dict(name='x.png', mimeType='image/png', buffer=b'not a picture'))
    page.wait_for_function("document.getElementById('caption').textContent.includes('no picture that can be read')")

def test_holes_are_filled_in_as_fill_in_does(page):
    rng, im = np.random.default_rng(0), load_images('sample', 'test').images[7]
    hole = np.zeros((32, 32), bool)
    hole[5:22, 8:30] = True
    for removed in (hole, rng.random((32, 32))<.5):
        got = np.reshape(page.evaluate('([im, m]) => [...live.fillIn(im, m)]', [im.ravel().tolist(), removed.ravel().astype(int).tolist()]), (32, 32, 3))
        want = fill_in(torch.from_numpy(im).permute(2, 0, 1)[None].double(), torch.from_numpy(removed)[None], noise=0)[0].permute(1, 2, 0).numpy()
        assert np.abs(got-want).max()<.05                     # of 255 levels

def test_draw_ask_doubt_undo_and_share(page, visit):
    go(page, 3)
    before, said = composed(page), percents(page)
    model, image = load_model(), load_images('sample', 'test').images[3:4]
    with torch.no_grad(): p = 100*(model(normalize(image)).double()/model.meta['temperature']).softmax(1)[0].numpy()
    assert all(abs(float(shown.strip('<>% '))-true)<1 for shown,true in zip(said, p)) and len(said)==10
    box = page.locator('#large').bounding_box()
    def stroke(*points):
        page.mouse.move(box['x']+points[0][0]*box['width'], box['y']+points[0][1]*box['height']); page.mouse.down()
        for x,y in points[1:]: page.mouse.move(box['x']+x*box['width'], box['y']+y*box['height'], steps=5)
        page.mouse.up(); settle(page)
    stroke((.3, .5), (.7, .5))
    hidden = composed(page)
    changed = (hidden!=before).any(2)
    assert 30<changed.sum()<200 and percents(page)!=said
    assert np.allclose(hidden[changed], 255*np.array([.4914, .4822, .4465]))
    page.click('[data-tool=paint]'); stroke((.2, .2), (.3, .3))
    assert (composed(page)==[0xd0, 0x30, 0x20]).all(2).sum()>5
    page.click('[data-tool=blur]'); stroke((.8, .8), (.9, .8))
    page.click('[data-tool=fill]'); stroke((.8, .2), (.9, .2))
    drawn, asked = composed(page), page.url
    assert len({tuple(v) for v in drawn[changed]})<=2
    page.locator('#classes .of').nth(0).click(); page.locator('#classes .less').nth(8).click(); settle(page)
    assert 'airplane − ship' in page.inner_text('#caption')
    page.locator('#maps button').nth(1).click(); page.select_option('#method', label='layercam'); settle(page)
    page.wait_for_timeout(400)
    q = {k: v[0] for k,v in parse_qs(urlsplit(page.url).fragment).items()}
    assert (q['n'], q['of'], q['at'], q['by'])==('3', 'airplane-ship', 'layer2', 'layercam') and page.url!=asked
    other = visit('#'+urlsplit(page.url).fragment, start=False)
    assert np.allclose(composed(other), drawn)
    assert other.evaluate('[live.state.of, live.state.less, live.state.stage, live.state.method]')==[0, 8, 1, 3]
    for _ in range(4): page.click('#undo'); settle(page)
    assert np.array_equal(composed(page), before) and page.is_disabled('#undo')
    page.fill('#number', '99999'); page.press('#number', 'Enter')
    assert page.inner_text('#caption')=='There is no picture 99999' and page.input_value('#number')=='3'
    page.click('#next'); page.click('#ours'); page.wait_for_selector('#result tr:nth-child(2)')
    page.click('#elsewhere'); page.wait_for_selector('#result tr:nth-child(3)'); page.click('#elsewhere')
    page.wait_for_function("document.getElementById('result').textContent.includes('mean of 2')")
    settle(page)
    hides = page.evaluate('[...live.state.hidden].filter(v => v).length')
    assert hides==205                                         # a fifth of 1,024 pixels

def test_colours_are_those_of_the_package(page):
    from cifar_cam.viz import overlay_cam, overlay_difference
    images, model, size = load_images('sample', 'test').images, load_model(), 32*14
    go(page, 3)
    large, x = images[3].repeat(14, 0).repeat(14, 1), normalize(images[3:4])
    def seen(): return np.array(page.evaluate(f"""() => {{ const {{ data }} = document.getElementById('large').getContext('2d').getImageData(0, 0, {size}, {size})
        return Array.from({{ length: 64*64 }}, (_, k) => [0, 1, 2].map(c => data[4*7*({size}*Math.floor(k/64) + k % 64) + c])) }}""")).reshape(64, 64, 3)
    def click(*buttons):
        for where,k in buttons: page.locator(where).nth(k).click()
        settle(page)
    page.select_option('#method', label='gradcam'); click(('#maps button', 2), ('#classes .of', 8))
    maps = explain(model, x, 8, 'layer3').normalized().resized(size).maps['layer3'][0].numpy()
    assert np.abs(seen()-overlay_cam(large, maps)[::7, ::7].astype(int)).max()<=3 and maps.std()>.1
    page.select_option('#method', label='layercam'); click(('#classes .less', 0))
    diff = explain(model, x, [[8, 0]], 'layer3', 'layercam').difference().normalized().resized(size).maps['layer3'][0].numpy()
    assert np.abs(seen()-overlay_difference(large, diff)[::7, ::7].astype(int)).mean()<.5 and diff.std()>.1
    page.select_option('#method', label='hirescam'); click(('#classes .of', 8))
    signed = explain(model, x, 8, 'layer3', 'hirescam').normalized().resized(size).maps['layer3'][0].numpy()
    assert (signed<0).any() and np.abs(seen()-overlay_difference(large, signed)[::7, ::7].astype(int)).mean()<.5
    page.select_option('#method', label='gradcam')

def test_guess_tells_the_answer_only_when_asked(page):
    page.click('#guess'); page.wait_for_selector('main[data-mode=guess]')
    page.wait_for_function("document.getElementById('caption').textContent.startsWith('Round 1 of 10')")
    for k in range(1, 11):
        page.wait_for_function(f"document.getElementById('caption').textContent.startsWith('Round {k} of 10')")
        assert set(percents(page))=={''} and 'says' not in page.get_attribute('#large', 'aria-label')
        page.locator('#classes .of').nth(k % 10).click()
        page.wait_for_function("document.getElementById('caption').textContent.includes('the network said')")
        if k<10: page.click('#again')
    assert re.search(r'Your score: \d+ of 10. By chance it would be 1', page.inner_text('#caption'))
    page.click('#guess'); page.wait_for_selector('main[data-mode=live]')

def test_keys_camera_a_drop_and_a_paste(page):
    go(page, 0)
    page.keyboard.press('Escape'); page.evaluate('document.activeElement.blur()')
    page.keyboard.press('ArrowRight'); page.wait_for_function("document.getElementById('number').value==='1'"); settle(page)
    page.keyboard.press('1'); page.focus('#large'); page.keyboard.press('ArrowUp'); page.keyboard.press('Space'); settle(page)
    assert page.evaluate('[...live.state.hidden].some(v => v)') and page.input_value('#number')=='1'
    page.keyboard.press('z'); settle(page)
    assert not page.evaluate('[...live.state.hidden].some(v => v)')
    page.evaluate('document.activeElement.blur()'); page.click('#camera'); page.wait_for_function("document.querySelector('video').videoWidth > 0"); page.click('#shot [value=take]')
    page.wait_for_function('live.state.own')
    page.click('#next'); page.wait_for_function('!live.state.own')
    Image.fromarray(load_images('sample', 'test').images[4]).save(f := io.BytesIO(), 'png')
    for event in ("new DragEvent('drop', { dataTransfer: d })", "new ClipboardEvent('paste', { clipboardData: d })"):
        page.evaluate("""async b64 => { const file = new File([await (await fetch('data:image/png;base64,' + b64)).blob()], 'x.png', { type: 'image/png' }), d = new DataTransfer()
                         d.items.add(file); dispatchEvent(%s) }""" % event, base64.b64encode(f.getvalue()).decode())
        page.wait_for_function('live.state.own'); settle(page)
        assert np.array_equal(composed(page), load_images('sample', 'test').images[4]), event
        page.click('#next'); page.wait_for_function('!live.state.own')

@pytest.mark.parametrize('width,scheme', [(1300, 'light'), (390, 'dark')])
def test_it_can_be_used_by_all_and_fits(visit, width, scheme):
    from axe_playwright_python.sync_playwright import Axe
    page = visit(viewport=dict(width=width, height=844), color_scheme=scheme)
    assert page.evaluate('document.documentElement.scrollWidth <= innerWidth')
    assert [(v['id'], v['nodes'][0]['html'][:200]) for v in Axe().run(page).response['violations'] if v['impact'] in ('serious', 'critical')]==[]
    if shots := os.environ.get('CIFAR_CAM_SCREENSHOTS'): page.screenshot(path=Path(shots)/f'live-{width}-{scheme}.png', full_page=True)

def test_without_simd_it_says_so(visit):
    page = visit(start=False, script='WebAssembly.validate = () => false')
    page.click('#go')
    assert 'no WebAssembly with SIMD' in page.inner_text('#start p')
    page.click('#start a')
    page.wait_for_selector('#panels button')
