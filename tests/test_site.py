"The site, built in pure Python: every link leads somewhere, every page works in a browser without a network"
import ast, json, os, re, shutil, subprocess, sys
from html import unescape
from html.parser import HTMLParser
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit
import pytest

pytest.importorskip('smalldocs')                             # Python 3.11 or later
root = Path(__file__).parent.parent
chromium = shutil.which('chromium') or shutil.which('google-chrome')

class Page(HTMLParser):
    "Links, names in code that are links, pictures, ids and plain text of a page"
    def __init__(self, path):
        super().__init__()
        self.links, self.ids, self.pictures, self.names, self.text, self.inside = [], set(), [], [], '', []
        self.source = path.read_text(encoding='utf-8')
        self.feed(self.source)
    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        if tag in ('a', 'code', 'pre', 'script', 'style', 'title'): self.inside.append((tag, a.get('href')))
        self.ids |= {a[k] for k in ('id', 'name') if k in a}
        self.links += [a[k] for k in ('href', 'src') if a.get(k)]
        if tag=='img': self.pictures.append(a)
    def handle_endtag(self, tag):
        if self.inside and self.inside[-1][0]==tag: self.inside.pop()
    def handle_data(self, data):
        if not self.inside: self.text += data
        elif [t for t,_ in self.inside]==['a', 'code']: self.names.append((data.removesuffix('()'), self.inside[0][1]))

@pytest.fixture(scope='module')
def pages(site): return {f.resolve(): Page(f) for f in site.rglob('*.html')}

def test_every_link_leads_somewhere_and_pictures_have_a_text(site, pages):
    assert len(pages)==len(list((root/'nbs').rglob('*.ipynb')))+2                 # those with the network in them, and with maps computed before
    broken, inner = [], 0
    for f,page in pages.items():
        for link in page.links:
            u = urlsplit(link)
            if u.scheme in ('http', 'https', 'data', 'mailto'): continue
            to = (f.parent/unquote(u.path)).resolve() if u.path else f
            inner += 1
            if not to.exists() or (u.fragment and to in pages and unquote(u.fragment) not in pages[to].ids): broken.append((f.name, link))
    assert broken==[] and inner>500
    assert [f.name for f,p in pages.items() for im in p.pictures if not im.get('alt')]==[]
    assert sum(f.stat().st_size for f in site.rglob('*') if f.is_file() and f.parent!=site/'live') < 29e6
    said = (site/'llms.txt').read_text()
    assert all(f'{k}.llms.md' in said for k in ('index', 'gradcam', 'tutorials/your_own')) and 'data:image' not in (site/'viz.llms.md').read_text()

def test_names_lead_to_the_room_that_teaches_them(pages):
    commands = {'run', 'train', 'evaluate', 'explain', 'explore', 'report', 'faithfulness'}
    seen = {(f.stem, name, Path(href).name) for f,p in pages.items() for name,href in p.names if name in commands}
    assert {to for page,_,to in seen if page!='cli'} == {'gradcam.html#explain', 'train.html#evaluate'}
    assert {('index', 'explain', 'gradcam.html#explain'), ('your_own', 'evaluate', 'train.html#evaluate')} <= seen
    assert {to for page,_,to in seen if page=='cli'} == {f'cli.html#{k}' for k in commands}

def test_every_function_has_its_parameters_under_its_heading(site):
    checked = 0
    for f in sorted((root/'cifar_cam').glob('[!_]*.py')):
        page, code = next(site.rglob(f'{f.stem}.html')).read_text(encoding='utf-8'), f.read_text(encoding='utf-8')
        for d in ast.parse(code).body:
            if not isinstance(d, ast.FunctionDef) or d.name.startswith('_') or any('patch' in ast.unparse(o) for o in d.decorator_list): continue
            heading = re.search(f'<h3[^>]*data-anchor-id="{d.name}".*?</h3>(.*?)<(h2|h3|details)', page, flags=re.S)
            assert heading, d.name
            call, rows = (re.findall(p, heading[1], flags=re.S) for p in ('<pre.*?</pre>', '<tr>\\s*<td[^>]*>(.*?)</td>'))
            params = [a.arg for a in (*d.args.posonlyargs, *d.args.args, d.args.vararg, *d.args.kwonlyargs, d.args.kwarg) if a]
            assert set(params) <= set(re.findall(r'\w+', re.sub('<[^>]*>', '', call[0]))), d.name
            said = '\n'.join(code.splitlines()[d.lineno-1:d.body[0].lineno-1])
            if params and '#' in said: assert [r for r in rows if 'Returns' not in r]==params, d.name
            checked += 1
    assert checked>60

def test_an_answer_is_folded_with_what_it_shows(site):
    folds = 0
    for f in (root/'nbs').rglob('*.ipynb'):
        cells = [c for c in json.loads(f.read_text(encoding='utf-8'))['cells'] if '#| code-fold: true\n' in c['source']]
        page = (site/f.relative_to(root/'nbs')).with_name(re.sub(r'^\d\d_', '', f.stem)+'.html').read_text(encoding='utf-8')
        answers = [d for d in re.findall(r'<details(?! open).*?</details>', page, flags=re.S) if '<summary>An answer</summary>' in d]
        assert [('<pre' in d, 'class="cell-output' in d) for d in answers]==[(True, bool(c['outputs'])) for c in cells], f.name
        folds += len(cells)
    assert folds>=30

def test_tables_have_no_empty_heading_papers_are_linked_and_figures_fit_the_column(pages):
    for f,p in pages.items():
        assert [h for h in re.findall('<thead>.*?</thead>', p.source, flags=re.S) if not unescape(re.sub('<[^>]*>', '', h)).strip()]==[], f.name
        assert re.findall(r'arXiv.{0,3}\d{4}\.\d+', p.text)==[], f.name
        if f.stem=='which_map': assert len(p.pictures)==3 and all(int(im['width'])<=700 for im in p.pictures)
    assert 'https://arxiv.org/abs/1610.02391' in next(p.links for f,p in pages.items() if f.stem=='gradcam')

@pytest.mark.parametrize('url', ['', 'https://github.com/OWNER/REPO'])
def test_links_to_the_repository_need_an_address(url, tmp_path):
    from fastcore.nbio import dict2nb, mk_cell, write_nb
    spec = spec_from_file_location('site_tool', root/'tools'/'site.py')
    tool = module_from_spec(spec)
    spec.loader.exec_module(tool)
    cells = [mk_cell('# recipes', 'markdown'), mk_cell('#| echo: false\n#| output: asis\nshow_doc(get_recipe)'), mk_cell('Ask `get_recipe` (arXiv 1610.02391).', 'markdown')]
    write_nb(dict2nb(dict(cells=cells, metadata={}, nbformat=4, nbformat_minor=5)), tmp_path/'06_recipes.ipynb')
    (tmp_path/'_quarto.yml').write_text('project: {type: website}\nwebsite: {repo-subdir: nbs, repo-actions: [edit, issue]}\nmetadata-files: [nbdev.yml]\n')
    cfg = SimpleNamespace(git_url=url, doc_url='', branch='main', title='t', description='d', lib_name='cifar_cam', nbs_path=root/'nbs')
    assert tool.render(cfg, tmp_path, tmp_path/'out')==[]
    page = Page(tmp_path/'out'/'recipes.html')
    away = {link.split('#')[0] for link in page.links if '://' in link}
    hub, book = url.removeprefix('https://github.com/'), 'nbs/06_recipes.ipynb'
    there = {f'{url}/edit/main/{book}', f'{url}/issues/new', f'{url}/blob/main/cifar_cam/recipes.py',
             f'https://colab.research.google.com/github/{hub}/blob/main/{book}', f'https://mybinder.org/v2/gh/{hub}/main?urlpath=lab/tree/{book}'}
    assert away == {'https://arxiv.org/abs/1610.02391'} | (there if url else set())
    assert ('get_recipe', 'recipes.html#get_recipe') in page.names

@pytest.mark.skipif(not (root/'.git').exists(), reason='not a working copy of the repository')
@pytest.mark.parametrize('names', ['cifar-cam[.]github[.]io|github[.]com/cifar-cam', r'pip install (-\w+ )*\\?["\']?cifar_cam'])
def test_no_file_names_an_address_that_is_not_ours(names):
    found = subprocess.run(['git', 'grep', '-IlE', '-e', names], cwd=root, capture_output=True, text=True)
    assert (found.returncode, found.stdout)==(1, '')

def test_symbols_are_linked_and_source_is_shown(site):
    text = (site/'gradcam.html').read_text(encoding='utf-8')
    assert 'id="explain"' in text and '<math' in text and 'katex' not in text
    for t in ('first_network', 'read_a_mistake', 'your_own', 'scaling_out'): assert 'After this page' in (site/'tutorials'/f'{t}.html').read_text(encoding='utf-8')
    assert re.search(r'<a href="(\./)?data\.html#load_images"', (site/'train.html').read_text(encoding='utf-8')+(site/'cli.html').read_text(encoding='utf-8')+(site/'explorer.html').read_text(encoding='utf-8')+(site/'data.html').read_text(encoding='utf-8'))

NO_TOKENS = dict(exclude=[['pre code']])                      # axe would measure each of 20,000 tokens; CONTRAST measures one of each kind
AS_TEXT = "() => document.querySelectorAll('pre code').forEach(c => c.textContent = c.textContent)"       # and would still ask where each of them is
FAULTS_ONLY = dict(resultTypes=['violations'])                  # axe would describe thousands of nodes that passed
OF_LAYOUT = FAULTS_ONLY | dict(runOnly=['color-contrast', 'link-in-text-block', 'scrollable-region-focusable', 'target-size'])     # what a page's width and colours change; its frame is the same on all pages
CONTRAST = """() => {
  const rgba = c => { const [r, g, b, a = 1] = c.match(/[\\d.]+/g).map(Number); return [r, g, b, a] }
  const over = (top, below) => [0, 1, 2].map(i => top[3]*top[i] + (1 - top[3])*below[i])
  const ground = e => over(rgba(getComputedStyle(e).backgroundColor), e.parentElement ? ground(e.parentElement) : [255, 255, 255])
  const light = c => { const [r, g, b] = c.map(v => (v /= 255) <= .04045 ? v/12.92 : ((v + .055)/1.055)**2.4); return .2126*r + .7152*g + .0722*b }
  const ratio = (text, back) => { const on = ground(back), a = light(over(rgba(getComputedStyle(text).color), on)), b = light(on); return (Math.max(a, b) + .05)/(Math.min(a, b) + .05) }
  const kinds = new Map()
  document.querySelectorAll('pre code, pre a, pre span[class]').forEach(e => kinds.set(`${e.closest('pre').className}|${e.parentElement.className}|${e.className}`, e))
  return [['search', ratio(document.querySelector('.smalldocs-search .bi-search'), document.querySelector('.smalldocs-search input'))],
          ...[...kinds].map(([kind, e]) => [kind, ratio(e, e)])] }"""

WRAPPED = """() => {
  document.querySelectorAll('details').forEach(d => d.open = true)
  return [...document.querySelectorAll('pre.sourceCode, div.sourceCode pre')].flatMap(pre => {
    const code = pre.querySelector('code') || pre, style = getComputedStyle(code), pen = document.createElement('canvas').getContext('2d')
    pen.font = `${style.fontSize} ${style.fontFamily}`
    const room = code.getBoundingClientRect().width + 1, lines = code.innerText.split('\\n').filter(l => pen.measureText(l).width > room)
    return lines.map(l => l.slice(0, 60)) }) }"""

@pytest.mark.skipif(not chromium, reason='no chromium on this machine')
@pytest.mark.parametrize('width,scheme', [(1300, 'light'), (390, 'dark')])
def test_pages_work_in_a_browser_without_a_network(site, width, scheme):
    from axe_playwright_python.sync_playwright import Axe
    from playwright.sync_api import sync_playwright
    shots = os.environ.get('CIFAR_CAM_SCREENSHOTS') and Path(os.environ['CIFAR_CAM_SCREENSHOTS'])/'pages'      # for people to look at
    if shots: shots.mkdir(parents=True, exist_ok=True)
    with subprocess.Popen([sys.executable, '-m', 'http.server', '0', '--bind', '127.0.0.1', '-d', site], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=os.environ | dict(PYTHONUNBUFFERED='1'), text=True) as server, sync_playwright() as p:
        base = re.search(r'http://[\d.:]+', server.stdout.readline())[0]
        browser, said, kinds = p.chromium.launch(executable_path=chromium, args=['--no-sandbox']), [], set()
        try:
            page = browser.new_page(viewport=dict(width=width, height=900), color_scheme=scheme)
            page.on('console', lambda m: said.append((page.url, m.text)) if m.type in ('error', 'warning') else None)
            page.on('pageerror', lambda e: said.append((page.url, str(e))))
            page.route(lambda url: not url.startswith((base, 'data:', 'about:')), lambda r: (said.append((page.url, r.request.url)), r.abort()))
            for f in sorted(f for f in site.rglob('*.html') if f.parent!=site/'live'):
                name = f.relative_to(site).as_posix()
                page.goto(f'{base}/{name}')
                assert page.evaluate('document.documentElement.scrollWidth <= innerWidth'), name
                wide = page.evaluate("[...document.querySelectorAll('.sd-table')].filter(t => t.scrollWidth>t.clientWidth).map(t => getComputedStyle(t).backgroundAttachment)")
                assert all('local' in w for w in wide), name                        # an edge says that there is more
                assert not (wide and width==1300 and 'recipes_compared' in name)
                assert page.locator('details.contents > summary').is_visible(), name
                (icon, *tokens) = page.evaluate(CONTRAST)
                assert icon[1]>3, name
                said += [(name, scheme, kind, ratio) for kind,ratio in tokens if ratio<4.5]
                kinds |= {kind for kind,_ in tokens}
                if shots: page.screenshot(path=shots/f'{f.stem}-{width}-{scheme}.png', full_page=f.stem=='index')
                page.evaluate(AS_TEXT)
                rules = FAULTS_ONLY if width==1300 or name=='index.html' else OF_LAYOUT
                said += [(name, scheme, v['id'], v['nodes'][0]['html'][:200]) for v in Axe().run(page, context=NO_TOKENS, options=rules).response['violations'] if v['impact'] in ('serious', 'critical')]
                if width==1300: said += [(name, 'wraps', line) for line in page.evaluate(WRAPPED)]
            if width==1300:
                page.goto(f'{base}/index.html')
                page.locator('input[type=search], #quarto-search input').first.fill('explain')
                page.wait_for_selector('a[href*="gradcam.html"][href*="explain"]')
                if shots: page.screenshot(path=shots/'search.png')
        finally: server.terminate()
    assert said==[] and len(kinds)>20
