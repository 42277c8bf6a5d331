"""Build the site in pure Python, from the notebooks as they are and the `nbs/_quarto.yml` that Quarto reads too

    python tools/site.py [FOLDER]                   # _docs, if none is given

nbdev prepares the pages and smalldocs renders them. Where smalldocs is not Quarto, this makes up for it: names of files without
numbers, formulas as MathML, pictures in the size they were drawn for. Links to this site's own address become relative, so that
it can be read from a disk. Exit code 1 if there is a warning.
"""
import base64, html, os, re, shutil, struct, sys, warnings
from pathlib import Path

root = Path(__file__).parent.parent
OUT = '_docs'
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
    return o | dict(data={'text/html': f'<img src="data:{kind};base64,{data}" alt="{html.escape(alt)}" width="{width}" class="img-fluid">'})

def badges(cfg, path):
    "Links that open a page's notebook, as Markdown"
    hub = cfg.git_url.removeprefix('https://github.com/')
    return (f'[open in Colab](https://colab.research.google.com/github/{hub}/blob/{cfg.branch}/nbs/{path}){{.badge .text-bg-secondary}} '
            f'[open in JupyterLab](https://mybinder.org/v2/gh/{hub}/{cfg.branch}?urlpath=lab/tree/nbs/{path}){{.badge .text-bg-secondary}}\n')

def is_doc(c): return c.cell_type=='code' and 'show_doc(' in c.source
def is_source(c): return c.cell_type=='code' and '#| exports' in c.source

def gather(cells):
    "Cells in which the headings of all symbols of an exported cell stand before it, in its order; its source says the rest"
    cells, i = list(cells), 0
    for c in cells:
        for o in c.get('outputs', []) if is_doc(c) else []:
            text = ''.join(o['data']['text/markdown'])
            o['data']['text/markdown'] = re.sub(r'```python\n.*?\n```\n*', '', text.removeprefix('---\n\n'), flags=re.S)
    while i<len(cells):
        if is_source(cells[i]):
            j = i+1
            while j<len(cells) and is_doc(cells[j]): j += 1
            if j<len(cells) and is_source(cells[j]) and j>i+1: j -= 1            # the heading of the next one
            start = i-1 if i and is_doc(cells[i-1]) else i
            cells[start:j] = [*cells[start:i], *cells[i+1:j]][::-1] + [cells[i]]
            i = j
        else: i += 1
    return cells

def prepare(cfg, folder):
    "Make the pages that nbdev has left in `folder` ready for smalldocs"
    from fastcore.nbio import mk_cell, read_nb, write_nb
    for f in sorted(folder.rglob('*.ipynb')):
        nb, here = read_nb(f), f.relative_to(folder)
        up = '../'*(len(here.parts)-1)
        for c in nb.cells:
            if c.cell_type!='code': c.source = re.sub(r'\[(`_\w+`)\]\([^)]*\)', r'\1', plain(c.source)).replace(cfg.doc_url, up)   # what is private has no heading
            alt = re.search(r'#\| fig-alt: "(.*)"', c.source)
            if 'outputs' in c: c.outputs = [picture(o, alt[1] if alt else '') for o in c.outputs]
            for o in c.get('outputs', []):
                for k in ('text/markdown', 'text/html'):
                    if k in o.get('data', {}): o['data'][k] = plain(''.join(o['data'][k])).replace(cfg.doc_url, up)
        nb.cells = gather(nb.cells)
        nb.cells.insert(1, mk_cell(badges(cfg, here.as_posix()), 'markdown'))
        f.unlink()
        write_nb(nb, f.with_name(plain(f.name)))
    yml = folder/'_quarto.yml'
    yml.write_text(plain(yml.read_text()))

def finish(out, sources):
    "Mend the rendered pages"
    for f in out.rglob('*.css'): f.write_text(re.sub(r'@import\s*url\([^)]*\)\s*;', '', f.read_text(encoding='utf-8')), encoding='utf-8')   # fonts from elsewhere
    from latex2mathml.converter import convert
    def formula(m): return convert(html.unescape(m[2]), display='block' if m[1]=='display' else 'inline')
    for f in out.rglob('*.html'):
        text = f.read_text(encoding='utf-8')
        text = re.sub(r'<span class="math (inline|display)">\\[(\[](.*?)\\[)\]]</span>', formula, text, flags=re.S)
        text = re.sub(r'<(link|script)[^>]*katex[^>]*>(</script>)?', '', text)
        text = re.sub(r'<(pre|div class="sd-table")(?=[ >])(?![^>]*tabindex)', r'<\1 tabindex="0"', text)   # what scrolls can be reached by keys
        for path in sources: text = text.replace(f'/nbs/{plain(path)}"', f'/nbs/{path}"')
        f.write_text(text, encoding='utf-8')
    for f in out.rglob('*.llms.md'):                                        # words only
        text = re.sub(r'<img src="data:[^"]*" alt="([^"]*)"[^>]*>', r'[picture: \1]', f.read_text(encoding='utf-8'))
        f.write_text(re.sub(r'<iframe title="([^"]*)".*?</iframe>', r'[\1]', text, flags=re.S), encoding='utf-8')

def build(out):
    "Build into the folder `out`; returns the warnings"
    os.environ |= dict(NO_ALBUMENTATIONS_UPDATE='1')
    from nbdev.config import get_config
    from nbdev.quarto import refresh_quarto_yml
    from nbdev.serve import proc_nbs
    from smalldocs.config import load
    from smalldocs.site import Site
    os.chdir(root)
    cfg = get_config()
    refresh_quarto_yml()
    folder = proc_nbs(n_workers=0, force=True)
    sources = [f.relative_to(folder).as_posix() for f in folder.rglob('*.ipynb')]
    prepare(cfg, folder)
    site = Site(load(folder))
    site.out = Path(out).resolve()
    shutil.rmtree(site.out, ignore_errors=True)
    site.build()
    finish(site.out, sources)
    return [w for w in site.warnings if not any(k in w for k in EXPLAINED)]

if __name__=='__main__':
    with warnings.catch_warnings(record=True) as heard: said = build(sys.argv[1] if len(sys.argv)>1 else OUT)
    said += [str(w.message) for w in heard if 'cifar_cam' in w.filename or 'nbdev' in w.filename]
    for w in said: print(f'warning: {w}', file=sys.stderr)
    sys.exit(bool(said))
