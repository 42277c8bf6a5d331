"""How long from a click to the new picture, in Chromium on this machine

    python benchmarks/explorer.py [--steps 40] [--out FILE.json]

The web application of `cifar-cam explore`, clicked through with pauses in which the next image is computed ahead; then by
clicks on a thumbnail three images on, which nobody has asked for yet; then the page that needs no server; then the page with
the network in it. A time runs from the click to the moment the new large picture is loaded (static: drawn and shown), or from
the stroke to the moment all maps are drawn. Median and 95th percentile, in milliseconds; how long the network takes to start,
in seconds, when it is loaded from this machine and when the browser has it.
"""
import argparse, json, shutil, socket, statistics, subprocess, sys, tempfile, time, urllib.error, urllib.request
from pathlib import Path

import numpy as np
import torch
from playwright.sync_api import sync_playwright
from tqdm.auto import tqdm

from cifar_cam.runs import machine

CLICK = '''async what => {
    const large = document.querySelector('.cc-large'), start = performance.now()
    const changed = new Promise(done => new MutationObserver((_, o) => { o.disconnect(); done() }).observe(large, { subtree: true, childList: true, attributes: true }))
    document.querySelector(what).click()
    await changed
    await large.querySelector('img').decode()
    return performance.now() - start }'''
STATIC = '''async () => {
    const start = performance.now()
    document.getElementById('next').click()
    await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))
    return performance.now() - start }'''

def told(times): return dict(median=round(statistics.median(times)), p95=round(float(np.quantile(times, .95))))

def live(browser, steps):
    with socket.create_server(('127.0.0.1', 0)) as s: port = s.getsockname()[1]
    with subprocess.Popen([Path(sys.executable).with_name('cifar-cam'), 'explore', '--no-browser', '--port', str(port)], stderr=subprocess.DEVNULL) as server:
        try:
            for _ in range(300):
                try: urllib.request.urlopen(f'http://127.0.0.1:{port}/static/', timeout=5); break
                except urllib.error.HTTPError: break
                except OSError: time.sleep(.2)
            page = browser.new_page()
            page.goto(f'http://127.0.0.1:{port}', timeout=180_000)
            page.wait_for_selector('.cc-large img', timeout=180_000)
            ahead, other = [], []
            for _ in tqdm(range(steps), desc='computed ahead'):
                page.wait_for_timeout(900)
                ahead.append(page.evaluate(CLICK, '.cc-next'))
            for _ in tqdm(range(steps), desc='not computed yet'):
                page.wait_for_timeout(900)
                other.append(page.evaluate(CLICK, '.cc-thumb-7'))
        finally: server.terminate()
    return dict(computed_ahead=told(ahead), not_computed_yet=told(other))

def static(browser, steps):
    with tempfile.TemporaryDirectory() as d:
        subprocess.run([Path(sys.executable).with_name('cifar-cam'), 'explore', '--html', f'{d}/page.html'], check=True, capture_output=True)
        page = browser.new_page()
        page.goto(f'file://{d}/page.html')
        return dict(static=told([page.evaluate(STATIC) for _ in range(steps)]), static_page_bytes=Path(f'{d}/page.html').stat().st_size)

STROKE = '''async k => {
    const large = document.getElementById('large'), box = large.getBoundingClientRect(), start = performance.now()
    const at = { clientX: box.x + box.width*(.2 + .6*k), clientY: box.y + box.height*(.3 + .4*(k*7 % 1)), pointerId: 1, bubbles: true }
    large.setPointerCapture = () => {}
    large.dispatchEvent(new PointerEvent('pointerdown', at))
    large.dispatchEvent(new PointerEvent('pointerup', at))
    await live.drawn()
    return performance.now() - start }'''

def in_the_page(browser, steps):
    with tempfile.TemporaryDirectory() as d:
        command = [Path(sys.executable).with_name('cifar-cam'), 'explore', '--live', f'{d}/live', '--no-browser']
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
            try:
                server.stdout.readline()                                   # where it was written
                address, context, starts = server.stdout.readline().split()[1].rstrip(','), browser.new_context(), []
                for _ in range(2):
                    page = context.new_page()
                    page.goto(address)
                    page.wait_for_selector('body[data-ready]')
                    begun = time.perf_counter()
                    page.click('#go')
                    page.wait_for_selector('main[data-mode=live]', timeout=120_000)
                    starts.append(round(time.perf_counter()-begun, 1))
                page.wait_for_timeout(1000)
                times = [page.evaluate(STROKE, k/steps) for k in tqdm(range(steps), desc='strokes')]
            finally: server.terminate()
        mb = {f.name: round(f.stat().st_size/1e6, 2) for f in sorted(Path(f'{d}/live').iterdir())}
    return dict(stroke=told(times), start_seconds=starts[0], next_start_seconds=starts[1], live_mb=mb)

def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--steps', type=int, default=40, help='clicks of each kind')
    p.add_argument('--out', help='file for the figures, as JSON')
    a = p.parse_args()
    with sync_playwright() as pw:
        browser = pw.chromium.launch(executable_path=shutil.which('chromium') or shutil.which('google-chrome'), args=['--no-sandbox'])
        out = static(browser, a.steps) | live(browser, a.steps) | in_the_page(browser, a.steps) | dict(steps=a.steps, browser=browser.version, **machine(torch.device('cpu')))
        browser.close()
    for k,v in out.items(): print(f'{k:20} {v}')
    if a.out: Path(a.out).write_text(json.dumps(out, indent=1))

if __name__=='__main__': main()
