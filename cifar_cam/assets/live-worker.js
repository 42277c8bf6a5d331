// The network, in a thread of its own: the only file that knows ONNX
import * as ort from './ort.wasm.bundle.min.mjs'

let session, about

// A file, with its progress told; from the browser's own store if it was here before
async function load(url, tell) {
  const store = await self.caches?.open(about.store).catch(() => null)
  const kept = await store?.match(url)
  if (kept) {
    const all = new Uint8Array(await kept.arrayBuffer())
    tell(all.length)
    return all
  }
  const answer = await fetch(url)
  if (!answer.ok) throw new Error(`${url} cannot be loaded (${answer.status})`)
  const parts = [],
    reader = answer.body.getReader()
  for (;;) {
    const { done, value } = await reader.read()
    if (done) break
    parts.push(value)
    tell(value.length)
  }
  const all = new Uint8Array(await new Blob(parts).arrayBuffer())
  await store?.put(url, new Response(all)).catch(() => {})
  return all
}

async function start() {
  for (const k of (await self.caches?.keys()) ?? [])
    if (k.startsWith('cifar_cam ') && k !== about.store) self.caches.delete(k)
  let loaded = 0
  const tell = n => postMessage({ loaded: (loaded += n) })
  const [wasm, graph] = await Promise.all(about.files.map(f => load(f, tell)))
  const threads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1 // more than one needs headers that few servers send; ours does
  Object.assign(ort.env.wasm, { wasmBinary: wasm.buffer, numThreads: threads })
  session = await ort.InferenceSession.create(graph, {
    executionProviders: ['wasm'],
    graphOptimizationLevel: 'all'
  })
  postMessage({ ready: true })
}

async function run({ id, n, images, weights }) {
  const size = about.size,
    given = {
      images: new ort.Tensor('float32', images, [n, 3, ...size]),
      weights: new ort.Tensor('float32', weights, [n, about.classes.length])
    }
  const out = await session.run(given)
  postMessage({
    id,
    logits: out.logits.data,
    maps: about.layers.map(l => ({ dims: out['maps.' + l].dims, data: out['maps.' + l].data }))
  })
}

self.onmessage = ({ data }) => {
  const done = data.about ? ((about = data.about), start()) : run(data)
  done.catch(e => postMessage({ id: data.id, error: e.message }))
}
