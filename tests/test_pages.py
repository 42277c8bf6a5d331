"Every page runs top to bottom, each in a process of its own"
import subprocess, sys
from pathlib import Path
import pytest

nbs = Path(__file__).parent.parent/'nbs'
pages = sorted(nbs.glob('*.ipynb')) + sorted(nbs.glob('tutorials/*.ipynb'))

@pytest.mark.parametrize('page', pages, ids=lambda p: p.stem)
def test_page(page):
    if page.stem=='peers': pytest.importorskip('torchcam')        # Python 3.11 or later
    r = subprocess.run([Path(sys.executable).with_name('nbdev-test'), page, '--n-workers', '0'], capture_output=True, text=True, cwd=nbs.parent)
    assert r.returncode==0, (r.stdout+r.stderr)[-4000:]

def test_all_rooms_are_there():
    assert [p.stem for p in pages] == ['00_data', '01_model', '02_train', '03_gradcam', '04_viz', '05_explorer', '06_recipes', '07_faithfulness', '08_report', '09_cli', 'index',
        'first_network', 'peers', 'read_a_mistake', 'recipes_compared', 'scaling_out', 'which_map', 'your_own']
