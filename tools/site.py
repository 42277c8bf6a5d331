"""Build the site in pure Python, from the notebooks as they are and the `nbs/_quarto.yml` that Quarto reads too

    python tools/site.py [FOLDER]                   # _docs, if none is given

nbdev prepares the pages and smalldocs renders them. Where smalldocs is not Quarto, this makes up for it: names of files without
numbers, formulas as MathML, pictures in the size they were drawn for. Names in backticks become links, each symbol has its signature
and its parameters, and an answer is folded with what it shows. Links inside the site are relative, so that it can be read from a disk;
links to the repository there are once `pyproject.toml` says where it is. Exit code 1 if there is a warning.
"""
import base64, html, inspect, io, os, re, shutil, struct, sys, warnings
from importlib import import_module
from operator import attrgetter
from pathlib import Path

import numpy as np

root = Path(__file__).parent.parent
OUT = '_docs'
COLUMNS = 90                                                            # of a call before each parameter gets a line
LARGE = 100_000                                                         # characters of a picture that is worth making smaller
COMMANDS = 'cli'                                                        # its functions have the names of others: linked on its own page only
EXPLAINED = ("format-links", "output-file", "html-math-method")         # said for Quarto, by nbdev and by our yml; smalldocs does not read them

def plain(name): return re.sub(r'\b\d\d_(\w+)\.ipynb', r'\1.ipynb', name)

def picture(o, alt):
    "An output that is a picture, as HTML of the size it was drawn for"
    kind = next((k for k in ('image/png', 'image/jpeg') if k in o.get('data', {})), None)
    if kind is None or 'text/html' in o['data']: return o
    data = o['data'][kind]
    data = ''.join(data).strip()
    width = o['metadata'].get(kind, {}).get('width')
    if width is None and kind=='image/png': width = struct.unpack('>I', base64.b64decode(data)[16:20])[0]
    uri = f'data:{kind};base64,{data}'
    if kind=='image/png' and len(data)>LARGE: uri = as_webp(base64.b64decode(data))
    return o | dict(data={'text/html': f'<img src="{uri}" alt="{html.escape(alt)}" width="{width}" class="img-fluid">'})

def as_webp(png):
    "The same pixels as an address that holds them as WebP: a good third fewer bytes"
    from PIL import Image
    from cifar_cam.report import webp
    im = Image.open(io.BytesIO(png)).convert('RGBA')
    if im.getextrema()[3]==(255, 255): im = im.convert('RGB')           # nothing to be seen through
    return webp(np.asarray(im), lossless=True, method=1, quality=20)                # of the effort: half the time for 7 % more bytes

def badges(cfg, path):
    "Links that open a page's notebook, as Markdown; none while the repository has no address on GitHub"
    hub = cfg.git_url.removeprefix('https://github.com/')
    if hub==cfg.git_url: return ''
    return (f'[open in Colab](https://colab.research.google.com/github/{hub}/blob/{cfg.branch}/nbs/{path}){{.badge .text-bg-secondary}} '
            f'[open in Binder](https://mybinder.org/v2/gh/{hub}/{cfg.branch}?urlpath=lab/tree/nbs/{path}){{.badge .text-bg-secondary}}\n')

def about(cfg):
    "What the site says of itself, as the yml that nbdev writes for Quarto; addresses only if there are any"
    known = dict(title=cfg.title, description=cfg.description, **{'site-url': cfg.doc_url, 'repo-url': cfg.git_url, 'repo-branch': cfg.branch})
    return 'website:\n' + ''.join(f'  {k}: "{v}"\n' for k,v in known.items() if v)

def call(sym, name):
    "How `sym` is called: its parameters and their defaults"
    if isinstance(sym, property) or isinstance(sym, type) and not {'__init__', '__new__'} & vars(sym).keys(): return ''     # or made as its parent is
    sig = inspect.signature(sym)
    params = [p.replace(annotation=p.empty) for p in sig.parameters.values() if p.name!='self']
    line = f'{name}{sig.replace(parameters=params, return_annotation=sig.empty)}'
    return line if len(line)<=COLUMNS else f'{name}(\n    ' + '\n    '.join(f'{p},' for p in params) + '\n)'

def described(cfg, path, name):
    "What there is to say of a symbol, as Markdown: where its source is, if that has an address; heading, signature, first words, parameters"
    from fastcore.docments import DocmentTbl, docstring
    from nbdev.doclinks import _get_exps
    sym = attrgetter(name)(import_module(path.removesuffix('.py').replace('/', '.')))
    source = f'[source]({cfg.git_url}/blob/{cfg.branch}/{path}#L{_get_exps(path)[name]}){{.source}}' if cfg.git_url else ''
    table = str(DocmentTbl(getattr(sym, 'fget', sym))).replace('| NoneType |', '|  |')         # a default of None says nothing of the type
    how, docs = call(sym, name), docstring(sym).strip()
    heading = '### ' + name.replace('_', r'\_') + f' {{#{name}}}'
    return '\n\n'.join(s for s in (source, heading, how and f'```python\n{how}\n```', docs and f'*{docs}*', table) if s) + '\n'

def shown(cell): return re.findall(r'^show_doc\(([\w.]+)', cell.source, flags=re.M) if cell.cell_type=='code' else []
def is_source(c): return c.cell_type=='code' and '#| exports' in c.source

def addresses(pages, here):
    "Names of symbols -> where they lead from the page `here`: to that page if it has them, else to the first one that does"
    found = {}
    for page in sorted(pages, key=lambda p: p!=here):
        if page.stem!=COMMANDS or page==here:
            for name in pages[page]:
                href = f'{os.path.relpath(page, here.parent)}#{name}'.replace(os.sep, '/')
                for k in (name, f'{page.stem}.{name}'): found.setdefault(k, href)
    return found

def linkify(text, to):
    "Markdown in which names in backticks lead to where `to` says, and papers to arXiv"
    def link(m):
        href = f'https://arxiv.org/abs/{m["paper"]}' if m['paper'] else to.get((m['name'] or '').removesuffix('()'))
        return f'[{m[0]}]({href})' if href else m[0]
    parts = re.split(r'(^```.*?^```|^    .*?$|!?\[[^\]]*\]\([^)]*\))', text, flags=re.M|re.S)         # code and links stay as they are
    parts[::2] = [re.sub(r'`(?P<name>[^`\s]+)`|`[^`]*`|\barXiv[ :](?P<paper>\d{4}\.\d{4,5})', link, p) for p in parts[::2]]
    return ''.join(parts)

def gather(cells):
    "Cells in which the headings of all symbols of an exported cell stand before it, in its order; its source says the rest"
    cells, i = list(cells), 0
    while i<len(cells):
        if is_source(cells[i]):
            j = i+1
            while j<len(cells) and shown(cells[j]): j += 1
            if j<len(cells) and is_source(cells[j]) and j>i+1: j -= 1            # the heading of the next one
            start = i-1 if i and shown(cells[i-1]) else i
            cells[start:j] = [*cells[start:i], *cells[i+1:j]][::-1] + [cells[i]]
            i = j
        else: i += 1
    return cells

def fold(cell):
    "A cell that is to be unfolded, code and outputs both"
    from fastcore.nbio import mk_cell
    if cell.cell_type!='code' or '#| code-fold: true' not in cell.source: return [cell]
    summary = re.search('#. code-summary: "(.*)"', cell.source)
    cell.source = re.sub(r'#\| code-(fold|summary):.*\n', '', cell.source)
    return [mk_cell(f'<details class="answer">\n<summary>{summary[1] if summary else "Code"}</summary>', 'markdown'), cell, mk_cell('</details>', 'markdown')]

def prepare(cfg, folder):
    "Make the pages that nbdev has left in `folder` ready for smalldocs"
    from fastcore.nbio import mk_cell, read_nb, write_nb
    from nbdev.processors import _default_exp
    files = {f.relative_to(folder): f for f in sorted(folder.rglob('*.ipynb'))}
    books = {Path(plain(str(here))).with_suffix('.html'): (here, read_nb(f)) for here,f in files.items()}
    pages = {page: [n for c in nb.cells for n in shown(c)] for page,(_,nb) in books.items()}
    for page,(here,nb) in books.items():
        to, room = addresses(pages, page), _default_exp(read_nb(cfg.nbs_path/here))
        path = f'{cfg.lib_name}/{room.replace(".", "/")}.py' if room else None
        for c in nb.cells:
            if c.cell_type!='code': c.source = linkify(plain(c.source), to)
            alt = re.search(r'#\| fig-alt: "(.*)"', c.source)
            if 'outputs' in c: c.outputs = [picture(o, alt[1] if alt else '') for o in c.outputs]
            for n in shown(c): c.outputs = [dict(output_type='display_data', metadata={}, data={'text/markdown': described(cfg, path, n)})]
            for o in c.get('outputs', []):
                if 'text/markdown' in o.get('data', {}): o['data']['text/markdown'] = linkify(plain(''.join(o['data']['text/markdown'])), to)
                if 'text/html' in o.get('data', {}): o['data']['text/html'] = plain(''.join(o['data']['text/html']))
        nb.cells = [o for c in gather(nb.cells) for o in fold(c)]
        if cfg.git_url: nb.cells.insert(1, mk_cell(badges(cfg, here.as_posix()), 'markdown'))
        files[here].unlink()
        write_nb(nb, files[here].with_name(plain(here.name)))
    yml = folder/'_quarto.yml'
    yml.write_text(plain(yml.read_text(encoding='utf-8')), encoding='utf-8')
    (folder/'nbdev.yml').write_text(about(cfg), encoding='utf-8')
    return [here.as_posix() for here in files]

def contents(m):
    "The title of a page and, folded, what is on it: for a screen without room for that at its side"
    toc = re.search(r'<nav id="TOC".*?</h2>(<ul>.*</ul>)', m.string, flags=re.S)
    return m[0] + (f'<details class="contents"><summary>On this page</summary>{re.sub(r" (id|class|data-scroll-target)=.[^ >]*", "", toc[1].split("</nav>")[0])}</details>' if toc else '')

def headless(m): return m[0] if re.sub(r'<[^>]*>|\s|&nbsp;', '', m[0]) else ''      # a table whose heading is empty has none

def finish(out, sources):
    "Mend the rendered pages"
    for f in out.rglob('*.css'): f.write_text(re.sub(r'@import\s*url\([^)]*\)\s*;', '', f.read_text(encoding='utf-8')), encoding='utf-8')   # fonts from elsewhere
    from latex2mathml.converter import convert
    def formula(m): return convert(html.unescape(m[2]), display='block' if m[1]=='display' else 'inline')
    for f in out.rglob('*.html'):
        text = f.read_text(encoding='utf-8')
        text = re.sub(r'<span class="math (inline|display)">\\[(\[](.*?)\\[)\]]</span>', formula, text, flags=re.S)
        text = re.sub(r'<(link|script)[^>]*katex[^>]*>(</script>)?', '', text)
        text = re.sub(r'<thead>.*?</thead>', headless, text, flags=re.S)
        text = re.sub(r'<header id="title-block-header".*?</header>', contents, text, count=1, flags=re.S)
        text = re.sub(r'<(pre|div class="sd-table")(?=[ >])(?![^>]*tabindex)', r'<\1 tabindex="0"', text)   # what scrolls can be reached by keys
        for path in sources: text = text.replace(f'/nbs/{plain(path)}"', f'/nbs/{path}"')
        f.write_text(text, encoding='utf-8')
    for f in out.rglob('*.llms.md'):                                        # words only
        text = re.sub(r'<img src="data:[^"]*" alt="([^"]*)"[^>]*>', r'[picture: \1]', f.read_text(encoding='utf-8'))
        f.write_text(re.sub(r'<iframe title="([^"]*)".*?</iframe>', r'[\1]', text, flags=re.S), encoding='utf-8')

def render(cfg, folder, out):
    "Render what nbdev has left in `folder` into the folder `out`; returns the warnings"
    from smalldocs.config import load
    from smalldocs.site import Site
    sources = prepare(cfg, folder)
    site = Site(load(folder))
    site.out = Path(out).resolve()
    shutil.rmtree(site.out, ignore_errors=True)
    site.build()
    finish(site.out, sources)
    return [w for w in site.warnings if not any(k in w for k in EXPLAINED)]

def build(out):
    "Build into the folder `out`; returns the warnings"
    os.environ |= dict(NO_ALBUMENTATIONS_UPDATE='1')
    from nbdev import processors
    from nbdev.config import get_config
    from nbdev.serve import proc_nbs
    from cifar_cam.live import write_live
    os.chdir(root)
    processors.add_links = lambda cell: None                                # of modules with a name in common, nbdev links the last
    said = render(get_config(), proc_nbs(n_workers=0, force=True), out)
    write_live(Path(out)/'live')
    return said

if __name__=='__main__':
    with warnings.catch_warnings(record=True) as heard: said = build(sys.argv[1] if len(sys.argv)>1 else OUT)
    said += [str(w.message) for w in heard if 'cifar_cam' in w.filename or 'nbdev' in w.filename]
    for w in said: print(f'warning: {w}', file=sys.stderr)
    sys.exit(bool(said))
