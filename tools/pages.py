"""Run pages top to bottom as JupyterLab does: a real ipykernel, in the page's own folder

    python tools/pages.py nbs/03_gradcam.ipynb ...    # run them and keep their outputs
    python tools/pages.py --slow nbs/...              # slow cells too

Cells marked `#| eval: false`, `#| slow` or `#| cuda` are left out and keep the outputs that they have.
"""
import os, re, sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

QUIET = dict(IN_TEST='1', TQDM_DISABLE='1', ACCELERATE_USE_CPU='1', NO_ALBUMENTATIONS_UPDATE='1', COLUMNS='100')  # no bars, no GPU and no export in stored outputs

def left_out(cell, slow=False):
    "Whether a cell is not run"
    return bool(re.search(r'^#\|\s*(eval:\s*false|cuda' + ('' if slow else '|slow') + ')', cell.source, re.M))

def pictures(cell):
    "How many pictures a cell shows"
    return sum(any(k.startswith('image/') for k in o.get('data', {})) for o in cell.get('outputs', []))

def bar(output):
    "Whether an output is a bar of tqdm"
    return output.output_type=='display_data' and bool(re.search(r'\d+%\|.*\]$', output.data.get('text/plain', '')))

def run(path, slow=False, timeout=1200):
    "The notebook at `path`, run; raises `CellExecutionError` when a cell does"
    nb = nbformat.read(path, as_version=4)
    cells, nb.cells = nb.cells, [c for c in nb.cells if c.cell_type!='code' or not left_out(c, slow)]
    client = NotebookClient(nb, timeout=timeout, kernel_name='python3', store_widget_state=False, extra_arguments=['--InlineBackend.figure_formats=retina'],
                            resources=dict(metadata=dict(path=str(Path(path).resolve().parent))))
    client.execute(env=os.environ | QUIET)
    nb.cells = cells
    nb.metadata.pop('widgets', None)                                          # dead without their kernel, as below
    for c in cells:
        if 'outputs' in c: c.outputs = [o for o in c.outputs if not bar(o)]
        for o in c.get('outputs', []): o.get('data', {}).pop('application/vnd.jupyter.widget-view+json', None)
    return nb

if __name__=='__main__':
    slow, paths = '--slow' in sys.argv, [a for a in sys.argv[1:] if a!='--slow']
    for path in paths:
        nb = run(path, slow)
        nbformat.write(nb, path)
        os.system(f'nbdev-clean --fname {path}')
        print(f'{path}: {sum(map(pictures, nb.cells))} pictures')
