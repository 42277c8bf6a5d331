"Write README.md from nbs/index.ipynb; with --check, only say (by exit code 1) whether it is out of step"
import base64, re, sys
from pathlib import Path
from fastcore.nbio import read_nb

root = Path(__file__).parent.parent
folder = root/'nbs'/'images'

def from_root(text):
    "Markdown whose links to pages and pictures lead there from the root of the repository"
    return re.sub(r'\]\(([^):]+\.(?:ipynb|webp))', r'](nbs/\1', text)

def outputs(cell):
    "Markdown for what a cell shows, and the image files it needs"
    text, files = [], {}
    for o in cell.get('outputs', []):
        data = {k: ''.join(v) if isinstance(v, list) else v for k,v in o.get('data', {}).items()}
        if 'image/png' in data:
            path = folder/f'index-{cell["id"]}.png'
            files[path] = base64.b64decode(data['image/png'])
            width = o['metadata'].get('image/png', {}).get('width')
            alt = re.search('#. fig-alt: "(.*)"', cell.source)[1]
            text.append(f'<img src="{path.relative_to(root).as_posix()}" alt="{alt}"' + (f' width="{width}">' if width else '>'))
        elif 'text/markdown' in data: text.append(from_root(data['text/markdown']))
        elif 'text/plain' in data: text.append(f'```\n{data["text/plain"]}\n```')
    return text, files

parts, files = [], {}
for c in read_nb(root/'nbs'/'index.ipynb').cells:
    if c.cell_type=='markdown': parts.append(from_root(c.source))
    elif c.cell_type=='code' and '#| hide' not in c.source:
        if '#| echo: false' not in c.source: parts.append('```python\n' + re.sub(r'^#\|.*\n', '', c.source, flags=re.M) + '\n```')
        instead = re.search('#. readme: "(.*)"', c.source)                   # what a README cannot show
        text, more = ([instead[1].replace('](', '](nbs/')], {}) if instead else outputs(c)
        parts += text
        files |= more
files[root/'README.md'] = ('\n\n'.join(parts).rstrip()+'\n').encode()
stale = [p for p,b in files.items() if not p.exists() or p.read_bytes()!=b] + [p for p in folder.glob('index-*.png') if p not in files]
if '--check' in sys.argv:
    for p in stale: print(f'{p.relative_to(root)} is out of step with nbs/index.ipynb: run tools/readme.py')
    sys.exit(bool(stale))
folder.mkdir(exist_ok=True)
for p in folder.glob('index-*.png'): p.unlink()
for p,b in files.items(): p.write_bytes(b)
