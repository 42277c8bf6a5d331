"Write nbs/images/explorer.webp, the kernel-free explorer stepped through in Chromium, and card.png, what a link to the site shows"
import io, shutil
from pathlib import Path
from matplotlib.figure import Figure
from PIL import Image
from playwright.sync_api import sync_playwright
from cifar_cam.data import normalize
from cifar_cam.explorer import Explorer
from cifar_cam.gradcam import explain
from cifar_cam.viz import overlay_cam

images = Path(__file__).parent.parent/'nbs'/'images'
app = Explorer()
mistakes = app.positions('mistakes', order='confidence')[:6]

def card():
    "Two mistakes beside their heatmaps for the class the network chose and for the true one"
    fig = Figure((12, 6.3), dpi=100, facecolor='#150e37')
    fig.text(.05, .78, 'cifar_cam', size=64, color='w', weight='bold')
    fig.text(.05, .68, 'Train ResNet-18 on CIFAR-10, find what it got wrong, and see where it looked', size=20, color='w')
    for i,k in enumerate(mistakes[:2]):
        im, both = app.ims.images[k], [[int(app.logits[k].argmax()), int(app.ims.labels[k])]]
        maps = explain(app.model, normalize(im[None]), both, 'layer4').normalized().resized(128).maps['layer4'][0]
        big = im.repeat(4, 0).repeat(4, 1)
        for j,(shown, said) in enumerate(zip((big, *(overlay_cam(big, m) for m in maps)), (f'{app.ims.classes[both[0][1]]}, really', *(f'why {app.ims.classes[c]}?' for c in both[0])))):
            ax = fig.add_axes((.05+.47*i+.145*j, .14, .135, .4))
            ax.imshow(shown); ax.set_axis_off(); ax.set_title(said, color='w', size=14)
    fig.savefig(images/'card.png')

def animation():
    "Steps through layers and both classes of every mistake"
    out, frames, times = images/'explorer.webp', [], []
    page_file = app.save_html(out.with_suffix('.html'), mistakes)
    try:
        with sync_playwright() as p:
            page = p.chromium.launch(executable_path=shutil.which('chromium') or shutil.which('google-chrome'), args=['--no-sandbox']).new_page(viewport=dict(width=1000, height=430))
            page.goto(page_file.as_uri())
            def shot(ms): frames.append(Image.open(io.BytesIO(page.screenshot())).convert('RGB')); times.append(ms)
            for _ in mistakes:
                for target in ('predicted', 'true'):
                    page.click(f'[data-target={target}]')
                    for layer in app.layers[::1 if target=='predicted' else 3]: page.click(f'[data-layer={layer}]'); shot(700 if layer!=app.layers[-1] else 1300)
                page.click('#next')
    finally: page_file.unlink()
    frames[0].save(out, save_all=True, append_images=frames[1:], duration=times, loop=0, quality=70, method=6)

for make in (card, animation): make()
for f in ('card.png', 'explorer.webp'): print(f'{images/f}: {(images/f).stat().st_size:,} bytes')
