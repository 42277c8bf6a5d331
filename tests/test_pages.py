"Every page runs top to bottom in a kernel of its own, as in JupyterLab, and shows the pictures that are stored in it"
import importlib.util
from pathlib import Path
import pytest
import warm

root = Path(__file__).parent.parent
pages = [p for folder in ('', 'engine', 'tutorials') for p in sorted((root/'nbs'/folder).glob('*.ipynb'))]

def tool(name):
    "A module of tools/"
    spec = importlib.util.spec_from_file_location(name, root/'tools'/f'{name}.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

@pytest.mark.parametrize('page', pages, ids=lambda p: p.stem)
def test_page(page, shown, monkeypatch):
    import nbformat
    from jupyter_client.provisioning import local_provisioner
    monkeypatch.setattr(local_provisioner, 'launch_kernel', warm.launch_kernel)
    if page.stem=='peers': pytest.importorskip('torchcam')        # Python 3.11 or later
    run = tool('pages')
    stored, ran = ({c.id: run.pictures(c) for c in nb.cells} for nb in (nbformat.read(page, as_version=4), run.run(page)))
    shown(page.stem, (sum(stored.values()), sum(ran.values())))
    assert ran==stored

def test_all_pages_are_there_and_in_the_sidebar():
    import yaml
    names = [p.relative_to(root/'nbs').as_posix() for p in pages]
    assert [p.stem for p in pages] == ['00_data', '01_model', '02_train', '03_gradcam', '04_viz', '05_explorer', '06_recipes', '07_faithfulness', '08_report', '09_cli', 'index',
        'app', 'atlas', 'calibration', 'cells', 'consistency', 'core', 'export', 'film', 'fullgrad', 'layers', 'live', 'methods', 'neighbours', 'optim', 'parallel', 'passes', 'planted', 'resume', 'runs', 'server', 'sources', 'targets', 'watch',
        'any_model', 'first_network', 'how_it_learnt', 'left_out', 'peers', 'read_a_mistake', 'recipes_compared', 'right_reasons', 'scaling_out', 'which_map', 'whose_fault', 'your_own']
    home, *sections = yaml.safe_load((root/'nbs'/'_quarto.yml').read_text())['website']['sidebar']['contents']
    assert sorted([home['href'], *(p for s in sections for p in s['contents'])])==sorted(names)
