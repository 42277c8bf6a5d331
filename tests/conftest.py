"The table of faults, printed at the end"
import pytest

FAULTS = []

@pytest.fixture
def tried(tmp_path):
    "Notes a fault that was tried: what it was, how often, what was lost, what was said"
    def note(fault, times=1, lost='nothing', said=''): FAULTS.append((fault, times, lost, ' '.join(str(said).replace(f'{tmp_path}/', '').split())))
    return note

def pytest_terminal_summary(terminalreporter):
    if not FAULTS: return
    w = terminalreporter
    w.section(f'{len(FAULTS)} faults, tried {sum(f[1] for f in FAULTS):,} times')
    wide = max(len(f[0]) for f in FAULTS)
    for fault,times,lost,said in FAULTS: w.line(f'{fault:{wide}}  {times:>6,}  lost {lost}  {said[:110]}')
