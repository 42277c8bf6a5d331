"Processes that need not import torch: forked from one that has"
import multiprocessing, os, runpy, sys
from pathlib import Path

multiprocessing.set_forkserver_preload(['torch._dynamo', 'torchvision', 'albumentations', 'accelerate', 'scipy.sparse.linalg', 'ipykernel.kernelapp'])     # what each of many processes would import; but for matplotlib, which asks where it is

def become(args, env, cwd, out, started):
    "Do what `python *args` does, and say everything into the file `out`"
    os.setsid()
    if out:
        with open(out, 'a') as f: os.dup2(f.fileno(), 1), os.dup2(f.fileno(), 2)
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
    def __init__(self, args, env=None, cwd=None, out=None):
        mp = multiprocessing.get_context('forkserver')
        started = mp.Event()
        self.process = mp.Process(target=become, args=(list(map(str, args)), dict(os.environ if env is None else env), cwd, out, started))
        self.process.start()
        assert started.wait(120)
        self.pid = self.process.pid
    def poll(self): return self.process.exitcode
    def wait(self, timeout=None):
        self.process.join(timeout)
        return self.poll()
    def send_signal(self, number): os.kill(self.pid, number)
    def terminate(self): self.process.terminate()
    def kill(self): self.process.kill()

def launch_kernel(cmd, env=None, cwd=None, **kw):
    "What `jupyter_client` starts kernels by"
    return Popen(cmd[cmd.index('-m'):], env, cwd)
