"The command, as a user calls it: in a process, from another folder"
import csv, io, json, math, os, re, shutil, subprocess, sys
from pathlib import Path
import numpy as np
import pytest, torch
import warm

def cifar_cam(*args, cwd):
    "Run the installed command"
    return warm.run(Path(sys.executable).with_name('cifar-cam'), *args, cwd=cwd)

@pytest.fixture(scope='module')
def shipped(tmp_path_factory):
    "A run with the shipped weights"
    d = tmp_path_factory.mktemp('shipped')
    r = cifar_cam('run', '--weights', 'cifar10', '--out', d/'run', cwd=d)
    assert r.returncode==0, r.stderr
    return d/'run', r

def test_shipped_weights_are_as_good_as_their_metadata_say(shipped):
    from cifar_cam.model import load_model
    run, r = shipped
    m = json.loads((run/'metrics.json').read_text())
    (claim,) = [c for c in load_model().meta['measured'] if c['images']==1017]
    assert abs(m['accuracy']-claim['accuracy']) < .002       # rounding on another processor may move an image or two
    assert f'{m["accuracy"]:.2%}' in r.stdout and 'report.html' in r.stdout

def test_report_explains_the_mistakes(shipped):
    from cifar_cam.data import people
    from cifar_cam.runs import read_run
    run, _ = shipped
    m, page = json.loads((run/'metrics.json').read_text()), (run/'report.html').read_text(encoding='utf-8')
    _, ims, ev = read_run(run)
    asked = people(ims)
    wrong = [i in asked for i in ev.misclassified().tolist()]
    assert f'{sum(wrong)} of the mistakes are among the {len(asked)} images whose label is in doubt' in page
    assert page.count('<div class="card doubted">')==sum(wrong[:25])>0
    assert page.count('class="near"')==2*min(25, m['mistakes'])      # similar images, and influential ones
    assert (run/'report.html').stat().st_size<3e6
    assert len(re.findall('<div class="card( doubted)?">', page))==min(25, m['mistakes'])

def test_report_opens_in_a_browser_offline(shipped):
    chromium = shutil.which('chromium') or shutil.which('google-chrome')
    if not chromium: pytest.skip('no chromium on this machine')
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        b = p.chromium.launch(executable_path=chromium, args=['--no-sandbox'])
        page = b.new_page()
        said, asked = [], []
        page.on('console', lambda m: said.append(m.text))
        page.on('pageerror', lambda e: said.append(str(e)))
        page.on('request', lambda q: asked.append(q.url))
        page.goto((shipped[0]/'report.html').as_uri())
        sizes = page.evaluate("() => [...document.images].map(i => i.complete && i.naturalWidth)")
        wide = page.evaluate('() => document.documentElement.scrollWidth > innerWidth')
        def cards(): return [page.locator(f'.card{kind}:visible').count() for kind in ('.doubted', ':not(.doubted)')]
        doubted, clear = cards()
        for choice,want in (('clear', [0, clear]), ('doubted', [doubted, 0])):
            page.check(f'#{choice}')
            assert cards()==want
        b.close()
    assert said==[] and not [u for u in asked if not u.startswith(('file:', 'data:'))]
    assert len(sizes)>=25 and all(sizes)
    assert not wide

def test_probabilities_agree_wherever_they_are_shown(shipped):
    from cifar_cam.data import normalize
    from cifar_cam.explorer import Explorer
    from cifar_cam.gradcam import explain
    from cifar_cam.model import load_model
    from cifar_cam.runs import read_run
    run, _ = shipped
    model, (m, ims, ev) = load_model(run/'model.safetensors'), read_run(run)
    i = ev.misclassified(1)[0]
    z = ev.logits[i].double().numpy()/model.meta['temperature']
    true = np.exp(z-z.max())/np.exp(z-z.max()).sum()                  # in double precision, by hand
    assert .5<model.meta['temperature']<.9 and m['temperature']==model.meta['temperature']
    one = ims[i:i+1]
    e = Explorer(model, one)
    page = json.loads(re.search('<script id="data" type="application/json">(.*?)</script>', e.page([0]), re.S)[1])
    shown = dict(evaluation=ev.probs[i], result=explain(model, normalize(one.images)).probs[0], explorer=e.probs[0], view=e.view(0).probs, page=page['images'][0]['probs'])
    for name,p in shown.items(): assert np.abs(np.asarray(p)-true).max()<2e-5, name
    assert f'layer4, {ims.classes[true.argmax()]} {true.max():.0%}:' in (run/'report.html').read_text(encoding='utf-8')

def test_a_network_for_all_of_cifar10_is_measured_on_both_test_splits(tmp_path, monkeypatch):
    from cifar_cam import runs
    from cifar_cam.data import load_images, normalize
    from cifar_cam.model import load_model
    from cifar_cam.report import write_report
    monkeypatch.setattr(runs, 'load_images', lambda *a, **kw: load_images(*a, **kw)[:60])        # some of each will do
    m = runs.evaluate_run(tmp_path, 'jpeg', 'cifar10')
    assert (m['source'], m['data'], [o['source'] for o in m['others']])==('lossless sample', 'sample', ['CIFAR-10 as JPEG'])
    model = load_model()
    for measured,name in ((m, 'sample'), (m['others'][0], 'jpeg')):
        ims = load_images(name, 'test')[:60]
        with torch.no_grad(): right = model(normalize(ims.images)).argmax(1).numpy()==ims.labels
        assert abs(measured['accuracy']-right.mean())<1e-6 and measured['images']==60
    page = write_report(tmp_path, 1).read_text()
    assert all(f'on 60 test images, {source}' in page for source in ('lossless sample', 'CIFAR-10 as JPEG'))
    assert 'by the bootstrap' in page
    new = 'temperature', 'calibration_error', 'uncalibrated_error'             # which a run of an older version has not
    (tmp_path/'metrics.json').write_text(json.dumps({k: v for k,v in m.items() if k not in new}))
    assert 'by the bootstrap' not in write_report(tmp_path, 1).read_text()

def fitted_by_a_grid(run):
    "The temperature with the lowest loss on the held-out images, in steps of a hundredth"
    from cifar_cam.data import load_images, normalize
    from cifar_cam.model import load_model
    from cifar_cam.recipes import load_recipe
    recipe, _ = load_recipe(run/'recipe.json')
    held = load_images('sample').split(recipe.valid_pct, recipe.seed)[1]
    with torch.no_grad(): z = load_model(run/'model.safetensors')(normalize(held.images)).double()
    return min((1.01**i/20 for i in range(603)), key=lambda t: torch.nn.functional.cross_entropy(z/t, torch.from_numpy(held.labels)).item())

def test_a_short_run_leaves_everything_behind(tmp_path):
    (tmp_path/'sample').mkdir()                               # a folder of this name is not the data source of this name
    r = cifar_cam('run', '--quick', '--epochs', 1, '--mistakes', 3, '--tensorboard', cwd=tmp_path)
    assert r.returncode==0, r.stderr
    run = tmp_path/'runs'/'quick'
    assert {p.name for p in run.iterdir()} - {'.lock'} == {'model.safetensors', 'recipe.json', 'history.csv', 'history.json', 'metrics.json', 'predictions.npz', 'watched.npz', 'figures', 'tensorboard', 'report.html'}
    assert {'curves.png', 'batch.png', 'confusion.png', 'reliability.png', 'mistakes.png', 'correct.png'} <= {p.name for p in (run/'figures').iterdir()}
    assert [json.loads((run/f).read_text())['data'] for f in ('recipe.json', 'metrics.json')]==['sample', 'sample']
    with (run/'history.csv').open() as f: assert [row['epoch'] for row in csv.DictReader(f)]==['1']
    assert re.search(r'^1/1  loss \d\.\d\d  train \d+ %  valid \d+ %  \d+:\d\d$', r.stderr, re.M)
    first, *_, mistakes, report, after = r.stdout.splitlines()
    assert re.match(r'training quick: 36 steps with 1,800 images \(lossless sample\), 0\.\d+ PFLOP, about \d\d:\d\d on ', first)
    assert re.match(r'mistakes \d+, most often \d+ \w+ as \w+, \d+ \w+ as \w+$', mistakes)
    assert (report, after)==('report   runs/quick/report.html', 'next     cifar-cam explore --weights runs/quick/model.safetensors')
    assert abs(math.log(fitted_by_a_grid(run)/json.loads((run/'metrics.json').read_text())['temperature']))<.011
    again = cifar_cam('run', '--quick', '--out', run, cwd=tmp_path)
    assert (again.returncode, 'is not empty' in again.stderr, 'Traceback' in again.stderr) == (2, True, False)

def test_train_on_a_folder_and_resume(tmp_path):
    from PIL import Image
    from cifar_cam.data import load_images
    from cifar_cam.model import read_weights
    for split in ('train', 'test'):
        ims = load_images('sample', split)[:120]
        for i in range(120):
            p = tmp_path/'mine'/split/ims.classes[ims.labels[i]]/f'{i:03}.png'
            p.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(ims.images[i]).save(p)
    env = os.environ | {'XDG_CACHE_HOME': str(tmp_path/'cache')}
    r = subprocess.run([Path(sys.executable).with_name('cifar-cam'), 'train', '--data', tmp_path/'mine', '--epochs', '1', '--out', tmp_path/'run'], capture_output=True, text=True, env=env)
    assert r.returncode==0, r.stderr
    assert list((tmp_path/'cache'/'cifar_cam').glob('mine-train-*.npz'))
    assert r.stderr.startswith('cifar-cam: loading torch and the data...\n') and '1/1  loss' in r.stderr
    assert re.search(r'^accuracy \d+\.\d% on the images held out of the train split, after epoch 1$', r.stdout, re.M) and r.stdout.endswith(f'next     cifar-cam report {tmp_path}/run\n')
    before, meta = read_weights(tmp_path/'run'/'model.safetensors')
    r = subprocess.run([Path(sys.executable).with_name('cifar-cam'), 'train', '--resume', tmp_path/'run'], capture_output=True, text=True, env=env)
    assert r.returncode==0, r.stderr
    after, again = read_weights(tmp_path/'run'/'model.safetensors')
    assert again==meta and all(after[k].equal(v) for k,v in before.items())

def test_larger_images(tmp_path, capsys, monkeypatch):
    "The size is noted with the recipe and the weights, and everything after the training knows it"
    from PIL import Image
    from dataclasses import replace
    from cifar_cam import cli
    from cifar_cam.data import load_images
    from cifar_cam.explorer import explorer_of
    from cifar_cam.live import write_live
    from cifar_cam.model import flops, load_model
    from cifar_cam.recipes import RECIPES
    from cifar_cam.runs import plan_run, read_recipe, read_run
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path/'cache'))
    for split in ('train', 'test'):
        ims = load_images('sample', split)
        for i in np.flatnonzero(ims.labels<2)[:60 if split=='train' else 24]:
            p = tmp_path/'mine'/split/ims.classes[ims.labels[i]]/f'{i:04}.png'
            p.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(ims.images[i]).resize((48, 48)).save(p)
    mine, weights = str(tmp_path/'mine'), tmp_path/'run'/'model.safetensors'
    def said(*argv):
        code, out = cli.main([*map(str, argv)]), capsys.readouterr()
        assert code==0, out.err
        return out.out
    said('train', '--data', mine, '--size', 48, '--epochs', 1, '--out', tmp_path/'run')
    recipe, about = read_recipe(tmp_path/'run')
    assert (recipe.size, recipe.sizes)==(48, ((0, 24), (.7, 36), (.9, 48))) and recipe.augment['RandomCrop']==dict(height=48, width=48)
    plan = plan_run(replace(RECIPES['quick'].scaled(48), sizes=(), epochs=1, bs=5), mine)
    assert plan['pflop']==pytest.approx(10*5*flops(load_model(weights), 48)/1e15, abs=1e-6)    # of 60, 54 to train on
    assert 'weights' in said('train', '--resume', tmp_path/'run')
    assert 'on 24 test images (mine)' in said('evaluate', '--weights', weights, '--data', mine)
    said('report', tmp_path/'run')
    m, ims, ev = read_run(tmp_path/'run')
    assert ims.images.shape==(24, 48, 48, 3) and m['size']==48 and (tmp_path/'run'/'report.html').is_file()
    picture = next((tmp_path/'mine'/'test').rglob('*.png'))
    assert 'seen at 48x48 as ' in said('explain', picture, '--weights', weights, '--out', tmp_path/'cam.png')
    explorer = explorer_of(weights, mine)
    assert explorer.maps(explorer.ims.images[0], 0, 'gradcam', ['layer1'])['layer1'].shape[-2:]==(48, 48)
    with pytest.raises(ValueError, match='pictures of 32 pixels, and these weights are for 48'): write_live(tmp_path/'live', weights, mine)
    for size in (4, 5000):
        with pytest.raises(ValueError, match='size must be from 8 to 1024'): RECIPES['quick'].scaled(size)

def test_dry_run_tells_steps_work_and_time_and_leaves_nothing(tmp_path):
    r = cifar_cam('train', '--recipe', 'quick', '--data', 'sample', '--dry-run', cwd=tmp_path)
    assert r.returncode==0, r.stderr
    assert '432 steps with 1,800 images' in r.stdout and 'PFLOP, about ' in r.stdout           # 12 epochs of 1,800/50 batches
    assert 'Muon' not in r.stdout and 'optimizer       SGD' in r.stdout
    assert not list(tmp_path.iterdir())

def test_a_second_cycle_starts_from_weights(tmp_path):
    from cifar_cam.runs import train_run
    from cifar_cam.recipes import get_recipe
    from cifar_cam.model import read_weights
    from dataclasses import replace
    tiny = replace(get_recipe('best'), epochs=1, lr=1e-9, optimizer_args=dict(sgd=dict(lr=1e-9)), bs=1000, sizes=((0,8),), after='')
    for name,weights in (('new', None), ('second', 'cifar10')): (tmp_path/name).mkdir(); train_run(tmp_path/name, tiny, cbs=[], weights=weights)
    shipped, new, second = (read_weights(w)[0]['fc.weight'].float() for w in ('cifar10', tmp_path/'new'/'model.safetensors', tmp_path/'second'/'model.safetensors'))
    assert shipped.allclose(second, atol=1e-5) and not shipped.allclose(new, atol=1e-2)
    assert json.loads((tmp_path/'second'/'recipe.json').read_text())['weights']=='cifar10'
    r = cifar_cam('train', '--recipe', 'best', cwd=tmp_path)
    assert (r.returncode, "weights that 'fast' has trained" in r.stderr, 'Traceback' in r.stderr)==(2, True, False)

def test_export_writes_a_graph_that_explains_as_explain_does(tmp_path):
    import onnxruntime
    from cifar_cam.data import load_images, normalize
    from cifar_cam.gradcam import explain
    from cifar_cam.model import load_model
    wrong = cifar_cam('export', '--methods', 'scorecam', cwd=tmp_path)
    assert (wrong.returncode, 'cannot be written as a graph' in wrong.stderr, list(tmp_path.iterdir()))==(2, True, [])
    r = cifar_cam('export', '--methods', 'gradcam,xgradcam', '--layers', 'layer1,layer4', cwd=tmp_path)
    assert r.returncode==0, r.stderr
    assert re.match(r'written  cam.onnx, 2\d\.\d MB\nchecked  differs from explain by \de-\d\d of the highest value', r.stdout)
    session, model = onnxruntime.InferenceSession(tmp_path/'cam.onnx', providers=['CPUExecutionProvider']), load_model()
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about['classes'])==model.meta['classes'] and max(json.loads(about['differences']).values())<1e-4
    x = normalize(load_images('sample', 'test').images[10:15])
    logits, first, last = session.run(['logits', 'maps.layer1', 'maps.layer4'], dict(images=x.numpy(), weights=torch.eye(10)[[7]*5].numpy()))
    for j,m in enumerate(('gradcam', 'xgradcam')):
        want = explain(model, x, 7, ['layer1', 'layer4'], m)
        for got,maps in ((logits, want.logits), (first[:, j], want.maps['layer1']), (last[:, j], want.maps['layer4'])):
            assert (torch.from_numpy(got)-maps).abs().max()<1e-5*maps.abs().max()

def test_faithfulness_scores_methods_at_stages_and_against_a_planted_mark(tmp_path):
    from cifar_cam.faithfulness import load_comparison
    r = cifar_cam('faithfulness', '--images', 2, '--methods', 'gradcam,cam', '--out', tmp_path/'run', cwd=tmp_path)
    assert r.returncode==0, r.stderr
    assert {p.name for p in (tmp_path/'run').iterdir()}=={'comparison.json', 'comparison.png', 'planted.json', 'planted.png'}
    c, about = load_comparison(tmp_path/'run'/'comparison.json')
    assert (c.methods, c.layers, about['images'])==(['gradcam', 'cam', 'random'], ['layer1', 'layer2', 'layer3', 'layer4'], 2)
    assert set(c.refused)=={('cam', l) for l in ('layer1', 'layer2', 'layer3')}
    planted, about = load_comparison(tmp_path/'run'/'planted.json')
    assert about['shares']['marked']>=.95 and about['shares']['removed']<=.05 and planted.measures==['hit', 'mass']
    assert 'gradcam      layer4' in r.stdout and f'seen as {about["target"]}' in r.stdout
    wrong = cifar_cam('faithfulness', '--methods', 'lime', cwd=tmp_path)
    assert (wrong.returncode, "unknown method 'lime'" in wrong.stderr, (tmp_path/'runs').exists())==(2, True, False)
