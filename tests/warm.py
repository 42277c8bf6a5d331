"Processes that need not import torch: forked from one that has"
import multiprocessing, os, runpy, subprocess, sys
from pathlib import Path
from tempfile import TemporaryDirectory

multiprocessing.set_forkserver_preload(['torch._dynamo', 'torchvision', 'albumentations', 'accelerate', 'scipy.stats', 'nbdev.export', 'pytest', 'ipykernel.kernelapp'])     # what each of many processes would import; but for matplotlib, which asks where it is

def become(args, env, cwd, files, started):
    "Do what `python *args` does; `files` are for stdout and stderr"
    os.setsid()
    for number,path in enumerate(files, 1):
        with open(path, 'a') as f: os.dup2(f.fileno(), number)
    os.chdir(cwd or '.')
    os.environ.clear()
    os.environ.update(env)
    multiprocessing.set_start_method('fork', force=True)      # as it is in a process that was started
    started.set()
    module = args[0]=='-m'
    sys.argv = args[module:]
    sys.path.insert(0, '' if module else str(Path(args[0]).parent))
    if module: runpy.run_module(args[1], run_name='__main__', alter_sys=True)
    else: runpy.run_path(args[0], run_name='__main__')

class Popen:
    "A running `python *args`, as far as a kernel's manager and our tests ask for it"
    stdin = stdout = stderr = None
    def __init__(self, args, env=None, cwd=None, files=()):
        mp = multiprocessing.get_context('forkserver')
        started = mp.Event()
        self.process = mp.Process(target=become, args=(list(map(str, args)), dict(os.environ if env is None else env), cwd, files, started))
        self.process.start()
        assert started.wait(120)
        self.pid = self.process.pid
    def poll(self): return self.process.exitcode
    def wait(self, timeout=None):
        self.process.join(timeout)
        if self.poll() is None: raise subprocess.TimeoutExpired('python', timeout)
        return self.poll()
    def send_signal(self, number): os.kill(self.pid, number)
    def terminate(self): self.process.terminate()
    def kill(self): self.process.kill()

def run(*args, env=None, cwd=None):
    "What became of `python *args`, as `subprocess.run` tells it"
    with TemporaryDirectory() as d:
        files = [Path(d)/name for name in ('stdout', 'stderr')]
        code = Popen(args, env, cwd, files).wait()
        return subprocess.CompletedProcess(args, code, *(f.read_text() for f in files))

def launch_kernel(cmd, env=None, cwd=None, **kw):
    "What `jupyter_client` starts kernels by"
    return Popen(cmd[cmd.index('-m'):], env, cwd)
