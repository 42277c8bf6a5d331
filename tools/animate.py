"Write nbs/images/explorer.webp: the kernel-free explorer, stepped through in Chromium, as a moving picture"
import io, shutil, sys
from pathlib import Path
from PIL import Image
from playwright.sync_api import sync_playwright
from cifar_cam.explorer import Explorer

out = Path(__file__).parent.parent/'nbs'/'images'/'explorer.webp'
app = Explorer()
page_file = app.save_html(out.with_suffix('.html'), app.positions('mistakes', order='confidence')[:6])
frames, times = [], []
try:
    with sync_playwright() as p:
        page = p.chromium.launch(executable_path=shutil.which('chromium') or shutil.which('google-chrome'), args=['--no-sandbox']).new_page(viewport=dict(width=1000, height=430))
        page.goto(page_file.as_uri())
        def shot(ms): frames.append(Image.open(io.BytesIO(page.screenshot())).convert('RGB')); times.append(ms)
        for _ in range(6):
            for target in ('predicted', 'true'):
                page.click(f'[data-target={target}]')
                for layer in app.layers[::1 if target=='predicted' else 3]: page.click(f'[data-layer={layer}]'); shot(700 if layer!=app.layers[-1] else 1300)
            page.click('#next')
finally: page_file.unlink()
frames[0].save(out, save_all=True, append_images=frames[1:], duration=times, loop=0, quality=70, method=6)
print(f'{out}: {len(frames)} frames, {out.stat().st_size:,} bytes')
