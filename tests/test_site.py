"The site, built in pure Python: every link leads somewhere, every page works in a browser without a network"
import os, re, shutil, subprocess, sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit
import pytest

pytest.importorskip('smalldocs')                             # Python 3.11 or later
root = Path(__file__).parent.parent
chromium = shutil.which('chromium') or shutil.which('google-chrome')

@pytest.fixture(scope='module')
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp('site')
    built = subprocess.run([sys.executable, root/'tools'/'site.py', out], capture_output=True, text=True)
    assert (built.returncode, built.stderr)==(0, '')
    return out

class Page(HTMLParser):
    "Links, addresses of parts, pictures and ids of a page"
    def __init__(self, path):
        super().__init__()
        self.links, self.ids, self.pictures = [], set(), []
        self.feed(path.read_text(encoding='utf-8'))
    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        self.ids |= {a[k] for k in ('id', 'name') if k in a}
        self.links += [a[k] for k in ('href', 'src') if a.get(k)]
        if tag=='img': self.pictures.append(a)

def test_every_link_leads_somewhere_and_pictures_have_a_text(site):
    pages = {f.resolve(): Page(f) for f in site.rglob('*.html')}
    assert len(pages)==18
    broken, inner = [], 0
    for f,page in pages.items():
        for link in page.links:
            u = urlsplit(link)
            if u.scheme in ('http', 'https', 'data', 'mailto'):
                if 'cifar-cam.github.io' in u.netloc: broken.append((f.name, link))         # of this site: should be relative
                continue
            to = (f.parent/unquote(u.path)).resolve() if u.path else f
            inner += 1
            if not to.exists() or (u.fragment and to in pages and unquote(u.fragment) not in pages[to].ids): broken.append((f.name, link))
    assert broken==[] and inner>500
    assert [f.name for f,p in pages.items() for im in p.pictures if not im.get('alt')]==[]
    assert sum(f.stat().st_size for f in site.rglob('*') if f.is_file()) < 25e6
    said = (site/'llms.txt').read_text()
    assert all(f'{k}.llms.md' in said for k in ('index', 'gradcam', 'tutorials/your_own')) and 'data:image' not in (site/'viz.llms.md').read_text()

def test_symbols_are_linked_and_source_is_shown(site):
    text = (site/'gradcam.html').read_text(encoding='utf-8')
    assert 'id="explain"' in text and '<math' in text and 'katex' not in text
    for t in ('first_network', 'read_a_mistake', 'your_own', 'scaling_out'): assert 'After this page' in (site/'tutorials'/f'{t}.html').read_text(encoding='utf-8')
    assert re.search(r'<a href="(\./)?data\.html#load_images"', (site/'train.html').read_text(encoding='utf-8')+(site/'cli.html').read_text(encoding='utf-8')+(site/'explorer.html').read_text(encoding='utf-8')+(site/'data.html').read_text(encoding='utf-8'))

@pytest.mark.skipif(not chromium, reason='no chromium on this machine')
def test_pages_work_in_a_browser_without_a_network(site, request, tmp_path):
    from axe_playwright_python.sync_playwright import Axe
    from playwright.sync_api import sync_playwright
    shots = Path(os.environ.get('CIFAR_CAM_SCREENSHOTS', '') or tmp_path)/request.node.name
    shots.mkdir(parents=True, exist_ok=True)
    with subprocess.Popen([sys.executable, '-m', 'http.server', '0', '--bind', '127.0.0.1', '-d', site], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=os.environ | dict(PYTHONUNBUFFERED='1'), text=True) as server, sync_playwright() as p:
        base = re.search(r'http://[\d.:]+', server.stdout.readline())[0]
        browser, said = p.chromium.launch(executable_path=chromium, args=['--no-sandbox']), []
        def open_page(name, width, scheme):
            page = browser.new_page(viewport=dict(width=width, height=900), color_scheme=scheme)
            page.on('console', lambda m: said.append((name, m.text)) if m.type in ('error', 'warning') else None)
            page.on('pageerror', lambda e: said.append((name, str(e))))
            page.route(lambda url: not url.startswith((base, 'data:', 'about:')), lambda r: (said.append((name, r.request.url)), r.abort()))
            page.goto(f'{base}/{name}')
            return page
        try:
            for f in sorted(site.rglob('*.html')):
                name = f.relative_to(site).as_posix()
                for width,scheme in ((1300, 'light'), (390, 'dark')):
                    page = open_page(name, width, scheme)
                    assert page.evaluate('document.documentElement.scrollWidth <= innerWidth'), name
                    said += [(name, scheme, v['id'], v['nodes'][0]['html'][:200]) for v in Axe().run(page).response['violations'] if v['impact'] in ('serious', 'critical')]
                    page.screenshot(path=shots/f'{f.stem}-{width}-{scheme}.png', full_page=f.stem=='index')
                    page.close()
            page = open_page('index.html', 1300, 'light')
            page.locator('input[type=search], #quarto-search input').first.fill('explain')
            page.wait_for_selector('a[href*="gradcam.html"][href*="explain"]')
            page.screenshot(path=shots/'search.png')
        finally: server.terminate()
    assert said==[]
