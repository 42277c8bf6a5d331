"Several tests at a time, one thread for each; and what was tried, printed at the end: pictures of pages, and the table of faults"
import compileall, os, signal, subprocess, sys
from importlib.util import find_spec
from pathlib import Path
import pytest

root = Path(__file__).parent.parent

sys.modules['rfc3987_syntax'] = None                         # a grammar that jsonschema would compile at its import, and nobody asks for

FAULTS, PICTURES = [], {}

if 'PYTEST_XDIST_WORKER' in os.environ: os.environ |= dict(OMP_NUM_THREADS='1', MKL_NUM_THREADS='1')     # before torch is imported, and for its children
else:
    os.environ |= dict(MALLOC_MMAP_THRESHOLD_=str(2**30), MALLOC_TRIM_THRESHOLD_=str(2**32))             # before they start: glibc keeps freed memory, as in `keep_memory`
    torch = Path(find_spec('torch').origin).parent
    if not (torch/'__pycache__').exists(): compileall.compile_dir(torch, quiet=2, workers=0)             # by all cores, once; not by each of them

if signal.getsignal(signal.SIGINT)==signal.SIG_IGN: signal.signal(signal.SIGINT, signal.default_int_handler)   # started with `&`; children would not hear Ctrl-C

LONGEST = ('test_killed_at_random', 'test_faithfulness_scores', 'test_a_short_run', 'test_page[07', 'test_a_thousand_moves', 'test_page[runs',
           'test_the_command_in_two', 'test_page[08', 'test_two_processes_train', 'test_larger_images', 'test_jupyterlab_runs', 'test_page[03',
           'test_two_hundred', 'test_a_second_cycle', 'test_no_secrets', 'test_the_quickstart', 'test_shipped_weights', 'test_page[index',
           'test_the_command_is_interrupted', 'test_page[read', 'test_page[watch', 'test_page[00', 'test_page[whose')

def pytest_collection_modifyitems(items):
    """Each process gets a part of the list, and later takes from the ends of the others' parts. The first part begins with what needs the
    site, so that one process builds it while others are busy; the others begin with the longest tests, so that no core waits for them at the
    end. What needs a server, or the run with the shipped weights, comes next, each in one part, so that only one process makes it"""
    total, n = len(items), int(os.environ.get('PYTEST_XDIST_WORKER_COUNT', 1))
    site, server, shipped = ([i for i in items if f in i.fixturenames] for f in ('site', 'server', 'shipped'))
    longest = [i for i in items if i.name.startswith(LONGEST) and i not in site+shipped]
    parts = [site, *(longest[k::max(n-1, 1)] for k in range(max(n-1, 1)))]
    parts[1] += server
    parts[-1] += shipped
    first = {i for p in parts for i in p}
    items[:] = [i for i in items if i not in first]
    for k,p in enumerate(parts):
        begin = total*k//n
        items[begin:begin] = p

def pytest_sessionfinish(session):
    "Let the process that prints know what was tried in this one"
    if hasattr(session.config, 'workeroutput'): session.config.workeroutput['tried'] = FAULTS, PICTURES

@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    faults, pictures = getattr(node, 'workeroutput', {}).get('tried', ([], {}))
    FAULTS.extend(map(tuple, faults))
    PICTURES.update(pictures)

@pytest.fixture
def shown():
    "Notes a page that ran: how many pictures are stored in it, and how many it showed"
    return PICTURES.__setitem__

@pytest.fixture
def tried(tmp_path):
    "Notes a fault that was tried: what it was, how often, what was lost, what was said"
    def note(fault, times=1, lost='nothing', said=''): FAULTS.append((fault, times, lost, ' '.join(str(said).replace(f'{tmp_path}/', '').split())))
    return note

@pytest.fixture(scope='session')
def site(tmp_path_factory, worker_id):
    "The site, built once for all processes that test it"
    from filelock import FileLock
    base = tmp_path_factory.getbasetemp()
    out = (base if worker_id=='master' else base.parent)/'site'
    with FileLock(f'{out}.lock'):
        if not out.exists():
            built = subprocess.run([sys.executable, root/'tools'/'site.py', out], capture_output=True, text=True)
            assert (built.returncode, built.stderr)==(0, '')
    return out

def pytest_terminal_summary(terminalreporter):
    w = terminalreporter
    if PICTURES:
        w.section(f'{len(PICTURES)} pages: pictures stored and shown')
        for page,(stored,ran) in PICTURES.items(): w.line(f'{page:20}  {stored:>4}  {ran:>4}')
        w.line(f'{"together":20}  {sum(s for s,_ in PICTURES.values()):>4}  {sum(r for _,r in PICTURES.values()):>4}')
    if not FAULTS: return
    w.section(f'{len(FAULTS)} faults, tried {sum(f[1] for f in FAULTS):,} times')
    wide = max(len(f[0]) for f in FAULTS)
    for fault,times,lost,said in FAULTS: w.line(f'{fault:{wide}}  {times:>6,}  lost {lost}  {said[:110]}')
