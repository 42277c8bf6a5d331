// The page: pictures, brush, questions. The network runs in live-worker.js
const A = JSON.parse(document.getElementById('about').textContent),
  $ = id => document.getElementById(id)
const N = A.size[0],
  PIXELS = N * N,
  ZOOM = 14,
  SMALL = 4,
  bytes = s => Uint8Array.from(atob(s), c => c.charCodeAt(0)),
  LUT = { plain: bytes(A.plain), signed: bytes(A.signed) }
const TOOLS = [
  ['mean', 'Hide', 'in the mean colour of all pictures'],
  ['blur', 'Blur', 'with what is around, blurred'],
  ['fill', 'Fill in', 'from the pixels around it'],
  ['reveal', 'Reveal', 'what was hidden or painted'],
  ['paint', 'Paint', 'in a colour']
]
const HIDDEN = { mean: 1, blur: 2, fill: 3 },
  SHARE = 0.2,
  ROUNDS = 10,
  STEPS = 60
const S = {
  at: A.first,
  own: null,
  hidden: new Uint8Array(PIXELS),
  paint: new Int32Array(PIXELS).fill(-1),
  of: null,
  less: null,
  stage: A.layers.length - 1,
  method: 0,
  tool: 'mean',
  size: 3,
  held: null
}
const numbers = A.images.map((_, i) => i),
  isRight = i => A.images[i].label === A.images[i].pred,
  RIGHT = numbers.filter(isRight),
  MISTAKES = numbers.filter(i => !isRight(i))
const pick = list => (list.length ? list[Math.floor(Math.random() * list.length)] : S.at)
let sheet,
  undo = [],
  series = [],
  R = null,
  game = null,
  trial = null

// ---- the network: one question at a time, in order

const net = { worker: null, ready: false, asked: new Map(), next: 0 }
function ask(images, weights) {
  // arrays of pictures (0 to 255, by pixel) and of class weights
  const n = images.length,
    x = new Float32Array(n * 3 * PIXELS)
  images.forEach((im, i) => {
    for (let c = 0; c < 3; c++)
      for (let p = 0; p < PIXELS; p++)
        x[(3 * i + c) * PIXELS + p] = (im[3 * p + c] / 255 - A.mean[c]) / A.std[c]
  })
  const id = net.next++,
    w = Float32Array.from(weights.flat())
  return new Promise((answer, fail) => {
    net.asked.set(id, { answer, fail })
    net.worker.postMessage({ id, n, images: x, weights: w }, [x.buffer, w.buffer])
  })
}
const onehot = c => A.classes.map((_, k) => +(k === c))
function softmax(z) {
  const top = Math.max(...z),
    e = z.map(v => Math.exp(v - top)),
    sum = e.reduce((a, b) => a + b)
  return e.map(v => v / sum)
}
const probs = answer => softmax([...answer.logits.slice(0, A.classes.length)].map(z => z / A.temperature)) // of the first picture
const likeliest = p => p.indexOf(Math.max(...p))
function map(answer, row, layer, method) {
  const {
    dims: [, m, h, w],
    data
  } = answer.maps[layer]
  return { h, w, v: data.slice((row * m + method) * h * w, (row * m + method + 1) * h * w) }
}

// ---- pictures

function sample(i) {
  // uint8, pixel by pixel
  const columns = sheet.width / N,
    { data } = sheet.getContext('2d').getImageData((i % columns) * N, Math.floor(i / columns) * N, N, N)
  return Uint8Array.from({ length: 3 * PIXELS }, (_, k) => data[4 * Math.floor(k / 3) + (k % 3)])
}
const base = () => S.own?.small ?? sample(S.at)

// As pillow's bicubic: two passes, each rounded to bytes, with weights of 22 bits
function shrink(rgb, w, h) {
  const bicubic = x =>
    (x = Math.abs(x)) < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0
  const weights = n =>
    Array.from({ length: N }, (_, k) => {
      const scale = n / N,
        wide = Math.max(1, scale),
        centre = (k + 0.5) * scale,
        low = Math.max(0, Math.trunc(centre - 2 * wide + 0.5)),
        high = Math.min(n, Math.trunc(centre + 2 * wide + 0.5))
      const ws = Array.from({ length: high - low }, (_, j) => bicubic((low + j - centre + 0.5) / wide)),
        sum = ws.reduce((a, b) => a + b, 0)
      return [
        low,
        ws.map(v => {
          const s = (v / sum) * (1 << 22)
          return Math.trunc(s < 0 ? s - 0.5 : s + 0.5)
        })
      ]
    })
  const pass = (src, rows, at, out, to) =>
    weights(rows.n).forEach(([low, ws], k) => {
      for (let r = 0; r < rows.others; r++)
        for (let c = 0; c < 3; c++) {
          let sum = 1 << 21
          for (let j = 0; j < ws.length; j++) sum += src[at(r, low + j) + c] * ws[j]
          out[to(r, k) + c] = Math.min(255, Math.max(0, Math.floor(sum / (1 << 22))))
        }
    })
  let across = rgb,
    out = rgb
  if (w !== N) {
    out = across = new Uint8Array(3 * N * h)
    pass(
      rgb,
      { n: w, others: h },
      (y, x) => 3 * (y * w + x),
      across,
      (y, x) => 3 * (y * N + x)
    )
  }
  if (h !== N) {
    out = new Uint8Array(3 * PIXELS)
    pass(
      across,
      { n: h, others: N },
      (x, y) => 3 * (y * N + x),
      out,
      (x, y) => 3 * (y * N + x)
    )
  }
  return out
}

function blurred(im) {
  const r = 6,
    g = Array.from({ length: 2 * r + 1 }, (_, k) => Math.exp(-((k - r) ** 2) / 18)),
    out = [im, new Float64Array(3 * PIXELS), new Float64Array(3 * PIXELS)]
  for (const [a, dy, dx] of [
    [0, 0, 1],
    [1, 1, 0]
  ])
    for (let y = 0; y < N; y++)
      for (let x = 0; x < N; x++)
        for (let c = 0; c < 3; c++) {
          let sum = 0,
            all = 0
          for (let k = -r; k <= r; k++) {
            const v = y + k * dy,
              u = x + k * dx
            if (v < 0 || u < 0 || v >= N || u >= N) continue
            sum += g[k + r] * out[a][3 * (v * N + u) + c]
            all += g[k + r]
          }
          out[a + 1][3 * (y * N + x) + c] = sum / all
        }
  return out[2]
}

// Each missing pixel is the mean of its neighbours, those at the corners counting half (ROAD, arXiv 2202.00449)
function fillIn(im, missing) {
  const out = Float64Array.from(im),
    holes = []
  const left = [0, 1, 2].map(c => {
    let s = 0,
      n = 0
    for (let p = 0; p < PIXELS; p++)
      if (!missing[p]) {
        s += im[3 * p + c]
        n++
      }
    return n ? s / n : 255 * A.mean[c]
  })
  for (let p = 0; p < PIXELS; p++)
    if (missing[p]) {
      const near = [],
        y = Math.floor(p / N),
        x = p % N
      for (let dy = -1; dy <= 1; dy++)
        for (let dx = -1; dx <= 1; dx++)
          if ((dy || dx) && y + dy >= 0 && x + dx >= 0 && y + dy < N && x + dx < N)
            near.push([p + dy * N + dx, dy && dx ? 0.5 : 1])
      const all = near.reduce((s, [, w]) => s + w, 0)
      holes.push([p, near.map(([q, w]) => [q, w / all])])
      for (let c = 0; c < 3; c++) out[3 * p + c] = left[c]
    }
  for (let k = 0, moved = 1; k < 400 && moved > 1e-4; k++) {
    // over-relaxed
    moved = 0
    for (const [p, near] of holes)
      for (let c = 0; c < 3; c++) {
        let want = 0
        for (const [q, w] of near) want += w * out[3 * q + c]
        const step = 1.7 * (want - out[3 * p + c])
        out[3 * p + c] += step
        moved = Math.max(moved, Math.abs(step))
      }
  }
  return out
}

// What the network is shown: the picture, painted over, parts of it hidden
function composed() {
  const { hidden } = S,
    im = Float64Array.from(base())
  for (let p = 0; p < PIXELS; p++)
    if (S.paint[p] >= 0) for (let c = 0; c < 3; c++) im[3 * p + c] = (S.paint[p] >> (8 * (2 - c))) & 255
  const has = k => hidden.includes(k),
    soft = has(2) && blurred(im),
    filled =
      has(3) &&
      fillIn(
        im,
        hidden.map(v => +(v > 0))
      )
  for (let p = 0; p < PIXELS; p++)
    for (let c = 0; c < 3; c++) {
      const v = hidden[p]
      if (v) im[3 * p + c] = v === 1 ? 255 * A.mean[c] : v === 2 ? soft[3 * p + c] : filled[3 * p + c]
    }
  return im
}

// ---- drawing

function between(n, size) {
  // for each of `size` places: the two of `n` around it, and how far it is to the second
  const a = new Int32Array(size),
    b = new Int32Array(size),
    far = new Float64Array(size)
  for (let k = 0; k < size; k++) {
    const at = Math.max(0, ((k + 0.5) * n) / size - 0.5)
    a[k] = Math.min(n - 1, Math.floor(at))
    b[k] = Math.min(n - 1, a[k] + 1)
    far[k] = at - a[k]
  }
  return [a, b, far]
}
function grown(m, h, w, size) {
  // bilinear, pixel centres as in torch's interpolate(align_corners=False)
  const out = new Float64Array(size * size),
    row = new Float64Array(w),
    [ya, yb, yf] = between(h, size),
    [xa, xb, xf] = between(w, size)
  for (let y = 0, o = 0; y < size; y++) {
    for (let x = 0; x < w; x++) row[x] = (1 - yf[y]) * m[ya[y] * w + x] + yf[y] * m[yb[y] * w + x]
    for (let x = 0; x < size; x++) out[o++] = (1 - xf[x]) * row[xa[x]] + xf[x] * row[xb[x]]
  }
  return out
}
function draw(canvas, im, heat, zoom, blind = false) {
  // heat: { h, w, v, top, signed } or nothing; blind: colours without the picture
  const size = N * zoom,
    g = canvas.getContext('2d'),
    img = g.createImageData(size, size),
    { data } = img,
    signed = !!heat?.signed,
    lut = signed ? LUT.signed : LUT.plain,
    strength = blind ? 1 : +$('alpha').value
  canvas.width = canvas.height = size
  const hot = heat?.top ? grown(heat.v, heat.h, heat.w, size) : null,
    scale = hot ? 1 / heat.top : 0
  for (let y = 0, i = 0; y < size; y++)
    for (let x = 0, row = 3 * N * Math.floor(y / zoom); x < size; x++, i++) {
      const p = row + 3 * Math.floor(x / zoom),
        o = 4 * i,
        v = hot ? Math.min(1, Math.max(-1, hot[i] * scale)) : 0
      const a = !hot
          ? +blind
          : signed && !blind
            ? Math.min(1, 2 * strength * Math.sqrt(Math.abs(v)))
            : strength,
        c = 3 * Math.min(255, Math.max(0, Math.floor(256 * (signed ? (1 + v) / 2 : v))))
      for (let k = 0; k < 3; k++) data[o + k] = (1 - a) * im[p + k] + a * lut[c + k]
      data[o + 3] = 255
    }
  g.putImageData(img, 0, 0)
}
const percent = p =>
  p >= 0.995 && p < 1 ? '>99 %' : p > 0 && p < 0.005 ? '<1 %' : Math.round(100 * p) + ' %'
const highest = m => {
  let low = Infinity,
    high = -Infinity
  for (const v of m.v) {
    low = Math.min(low, v)
    high = Math.max(high, v)
  }
  const top = Math.max(Math.abs(low), Math.abs(high))
  return high - low <= 1e-6 * top ? 0 : top
}
const asked = () => (R.less === null ? A.classes[R.of] : `${A.classes[R.of]} − ${A.classes[R.less]}`)
function heat(layer) {
  const m = map(R, 0, layer, S.method),
    signed = R.less !== null || m.v.some(v => v < 0)
  if (R.less !== null) {
    const other = map(R, 1, layer, S.method)
    m.v = m.v.map((v, k) => v - other.v[k])
  }
  const top = highest(m)
  return { ...m, signed, top: S.held && top ? S.held[layer] : top, own: top }
}
function show() {
  const im = R?.im ?? composed(),
    d = A.images[S.at],
    what = S.own ? 'Your picture' : `Number ${d.index}: ${A.classes[d.label]}`,
    blind = game && !game.said
  const mode = !R ? 'still' : game ? 'guess' : 'live'
  Object.assign(document.querySelector('main'), {
    className: blind && game.kind === 'picture' ? 'picture-only' : ''
  }).dataset.mode = mode
  $('number').value = S.own ? '' : d.index
  $('again').hidden = !(game?.said && game.round < ROUNDS)
  if (!R) {
    $('caption').textContent = what
    $('large').setAttribute('aria-label', what)
    for (const b of $('maps').children) draw(b.firstChild, im, null, SMALL)
    return draw($('large'), im, null, ZOOM)
  }
  const p = probs(R),
    best = likeliest(p),
    heats = A.layers.map((_, k) => heat(k))
  draw(
    $('large'),
    im,
    blind && game.kind === 'picture' ? null : heats[S.stage],
    ZOOM,
    blind && game.kind === 'map'
  )
  const changed = S.hidden.some(v => v) || S.paint.some(v => v >= 0),
    said = `The network says ${A.classes[best]} (${percent(p[best])}).`
  $('caption').innerHTML = ''
  const b = document.createElement('b')
  b.textContent = game ? game.text : said
  $('caption').append(
    b,
    game
      ? ''
      : ` ${what}${changed ? ', changed' : ''}. Colours: where it looks at ${A.layers[S.stage]} for ${asked()}.`
  )
  $('large').setAttribute(
    'aria-label',
    blind ? 'a picture to guess' : `${what}; ${said} Heatmap of ${A.layers[S.stage]} for ${asked()}`
  )
  heats.forEach((h, k) => {
    const button = $('maps').children[k]
    draw(button.firstChild, im, h, SMALL, blind && game.kind === 'map')
    button.lastChild.textContent = `${A.layers[k]} ${h.own ? h.own.toPrecision(2) : 'constant'}`
    button.setAttribute('aria-pressed', k === S.stage)
  })
  A.classes.forEach((c, k) => {
    const [of, less] = $('classes').children[k].children
    of.className = k === best && !blind ? 'of top' : 'of'
    of.children[1].style.width = blind ? 0 : 100 * p[k] + '%'
    of.children[2].textContent = blind ? '' : percent(p[k])
    of.setAttribute('aria-pressed', k === R.of && !game)
    less.setAttribute('aria-pressed', k === R.less)
    less.disabled = k === R.of
  })
  for (const t of TOOLS)
    $('tools')
      .querySelector(`[data-tool=${t[0]}]`)
      .setAttribute('aria-pressed', t[0] === S.tool)
  $('undo').disabled = !undo.length
  $('reset').disabled = !changed
  plot()
}
function plot() {
  // the explained class's probability over the last strokes
  const canvas = $('chart'),
    g = canvas.getContext('2d'),
    k = devicePixelRatio || 1,
    w = canvas.clientWidth,
    h = canvas.clientHeight
  canvas.width = w * k
  canvas.height = h * k
  g.scale(k, k)
  g.strokeStyle = g.fillStyle = getComputedStyle(canvas).color
  g.lineWidth = 2
  const at = i => [8 + ((w - 16) * i) / (STEPS - 1), h - 8 - (h - 16) * series[i]]
  g.beginPath()
  series.forEach((_, i) => g.lineTo(...at(i)))
  g.stroke()
  if (series.length) {
    g.beginPath()
    g.arc(...at(series.length - 1), 3.5, 0, 7)
    g.fill()
  }
  $('of').textContent =
    `How probable ${A.classes[R.of]} is, ${series.length > 1 ? 'over the last strokes' : 'and how it moves when you draw'}`
  canvas.setAttribute('aria-label', series.length ? `now ${percent(series.at(-1))}` : '')
}

// ---- ask again: the last stroke wins

let wanted = 0,
  seen = 0,
  loop = null
function refresh() {
  wanted++
  keep()
  return (loop ??= (async () => {
    try {
      while (seen < wanted) {
        const at = wanted
        await once()
        seen = at
      }
    } catch (e) {
      say(e.message)
    } finally {
      loop = null
    }
  })())
}
async function once() {
  if (!net.ready) return show()
  const im = composed(),
    { of, less, at, own } = S,
    question = c =>
      less === null
        ? [[im], [onehot(c)]]
        : [
            [im, im],
            [onehot(c), onehot(less)]
          ]
  let c = of ?? (S.own ? 0 : A.images[S.at].pred),
    answer = await ask(...question(c))
  if (of === null && likeliest(probs(answer)) !== c) {
    // nobody has asked about a class: the one it says
    c = likeliest(probs(answer))
    answer = await ask(...question(c))
  }
  if (S.at === at && S.own === own) S.of ??= c // unless another picture was chosen meanwhile
  R = { ...answer, im, of: c, less } // what came back, and what was asked
  series = [...series, probs(R)[c]].slice(-STEPS)
  show()
}
const say = text => {
  const at = document.querySelector('#start p')
  at.textContent = text
  if (R) {
    $('caption').textContent = text
  }
}

// ---- what one can do

function set(change) {
  Object.assign(S, change)
  return refresh()
}
function wipe() {
  S.hidden.fill(0)
  S.paint.fill(-1)
}
function clean() {
  wipe()
  undo = []
  series = []
  trial = null
  table()
}
function look(change) {
  clean()
  $('own').hidden = !change.own
  S.held = null
  $('hold').checked = false
  return set({ of: null, less: null, own: null, ...change })
}
const step = d => look({ at: (S.at + d + A.images.length) % A.images.length })
function remember() {
  undo.push([S.hidden.slice(), S.paint.slice()])
  undo = undo.slice(-100)
}
function back() {
  const was = undo.pop()
  if (was) {
    ;[S.hidden, S.paint] = was
    refresh()
  }
}
function stamp(x, y) {
  // in pixels of the picture
  const colour = parseInt($('colour').value.slice(1), 16),
    r = S.size / 2
  for (let v = 0; v < N; v++)
    for (let u = 0; u < N; u++)
      if (Math.hypot(u + 0.5 - x, v + 0.5 - y) <= r) {
        const p = v * N + u
        if (S.tool === 'reveal') {
          S.hidden[p] = 0
          S.paint[p] = -1
        } else if (S.tool === 'paint') {
          S.paint[p] = colour
          S.hidden[p] = 0
        } else S.hidden[p] = HIDDEN[S.tool]
      }
}
function stroke(from, to) {
  const n = Math.max(1, Math.ceil(2 * Math.hypot(to[0] - from[0], to[1] - from[1])))
  for (let k = 1; k <= n; k++)
    stamp(from[0] + ((to[0] - from[0]) * k) / n, from[1] + ((to[1] - from[1]) * k) / n)
  refresh()
}

// The experiment: without what the map ranks first, and without the same shape elsewhere
function shape() {
  const m = heat(S.stage),
    v = grown(m.v, m.h, m.w, N),
    first = [...v.keys()].sort((a, b) => v[b] - v[a]).slice(0, Math.ceil(SHARE * PIXELS)),
    out = new Uint8Array(PIXELS)
  for (const p of first) out[p] = HIDDEN.fill
  return out
}
async function fresh() {
  if (trial && trial.of === S.of && trial.less === S.less) return
  S.hidden.fill(0)
  await refresh()
  trial = { of: S.of, less: S.less, before: probs(R)[S.of], shape: shape(), ours: null, elsewhere: [] }
}
async function without(mask, note) {
  remember()
  S.hidden = mask
  await refresh()
  note(probs(R)[S.of])
  table()
}
async function hideOurs() {
  trial = null
  await fresh()
  await without(trial.shape.slice(), p => (trial.ours = p))
}
async function hideElsewhere() {
  await fresh()
  const [dy, dx] = [0, 0].map(() => 8 + Math.floor(Math.random() * (N - 15))) // what leaves on one side enters on the other
  await without(
    trial.shape.map((_, p) => trial.shape[((Math.floor(p / N) + dy) % N) * N + (((p % N) + dx) % N)]),
    p => trial.elsewhere.push(p)
  )
}
function table() {
  const t = trial,
    far = t?.elsewhere.length,
    rows = t
      ? [
          [`${A.classes[t.of]} as it is`, t.before],
          t.ours !== null && ['without what the map says', t.ours],
          far && [
            `without the same shape elsewhere${far > 1 ? `, mean of ${far}` : ''}`,
            t.elsewhere.reduce((a, b) => a + b) / far
          ]
        ].filter(Boolean)
      : []
  $('result').replaceChildren(
    ...rows.map(([k, p]) => {
      const r = document.createElement('tr')
      for (const s of [k, percent(p)]) r.insertCell().textContent = s
      return r
    })
  )
}

// Guess: the map without the picture, or the picture without its label
async function guess(kind) {
  game ??= { round: 0, score: 0 }
  Object.assign(game, { round: game.round + 1, kind, said: false, text: '…' })
  await look({ at: pick(Math.random() < 0.5 ? MISTAKES : RIGHT) })
  game.text = `Round ${game.round} of ${ROUNDS}: ${kind === 'map' ? 'here it looked. What did it see?' : 'what did the network say?'}`
  show()
}
function tell(c) {
  const best = likeliest(probs(R)),
    d = A.images[S.at]
  game.said = true
  game.score += c === best
  const end = game.round === ROUNDS ? ` By chance it would be ${Math.round(ROUNDS / A.classes.length)}.` : ''
  game.text = `${c === best ? 'Right' : 'No'}, the network said ${A.classes[best]}${best === d.label ? ', and so says the label' : `, but the label is ${A.classes[d.label]}`}. Your score: ${game.score} of ${game.round}.${end}`
  show()
}
function play() {
  if (game) {
    game = null
    $('guess').setAttribute('aria-pressed', false)
    $('guess').textContent = 'Guess'
    return look({})
  }
  $('guess').setAttribute('aria-pressed', true)
  $('guess').textContent = 'Stop guessing'
  return guess('map')
}

// A picture of one's own: a file, a drop, a paste, the camera
async function own(blob) {
  try {
    const im = await createImageBitmap(blob),
      canvas = $('photo'),
      [w, h] = [im.width, im.height]
    if (w * h > 25e6) throw new Error(`${w} × ${h} pixels are too many: at most 25 million`)
    const big = new OffscreenCanvas(w, h),
      g = big.getContext('2d', { willReadFrequently: true })
    g.fillStyle = '#fff'
    g.fillRect(0, 0, w, h)
    g.drawImage(im, 0, 0)
    const { data } = g.getImageData(0, 0, w, h),
      rgb = new Uint8Array(3 * w * h)
    for (let p = 0; p < w * h; p++) for (let c = 0; c < 3; c++) rgb[3 * p + c] = data[4 * p + c]
    canvas.height = 224
    canvas.width = Math.min(896, Math.max(1, Math.round((224 * w) / h)))
    canvas.getContext('2d').drawImage(im, 0, 0, canvas.width, 224)
    await look({ own: { small: shrink(rgb, w, h) } })
  } catch (e) {
    say(`This is no picture that can be read: ${e.message}`)
  }
}
async function camera() {
  const video = $('shot').querySelector('video')
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: { facingMode: 'environment' } })
  } catch (e) {
    return say(`The camera cannot be used: ${e.message}`)
  }
  $('shot').showModal()
  video.play()
  $('shot').onclose = () => {
    for (const t of video.srcObject.getTracks()) t.stop()
    video.srcObject = null
  }
  $('shot').onclick = async e => {
    if (e.target.value === 'take') {
      const c = new OffscreenCanvas(video.videoWidth, video.videoHeight)
      c.getContext('2d').drawImage(video, 0, 0)
      own(await c.convertToBlob())
    }
    if (e.target.value) $('shot').close()
  }
}

// ---- the address: number, class, stage, method, and what was drawn

const pack = a =>
    btoa(String.fromCharCode(...a))
      .replaceAll('+', '-')
      .replaceAll('/', '_')
      .replaceAll('=', ''),
  unpack = s => bytes(s.replaceAll('-', '+').replaceAll('_', '/'))
let later
function keep() {
  clearTimeout(later)
  later = setTimeout(() => history.replaceState(null, '', '#' + state()), 300)
}
function state() {
  const q = new URLSearchParams(),
    painted = [...S.paint.keys()].filter(p => S.paint[p] >= 0)
  if (S.own) q.set('own', pack(S.own.small))
  else q.set('n', A.images[S.at].index)
  if (S.of !== null) q.set('of', A.classes[S.of] + (S.less === null ? '' : `-${A.classes[S.less]}`))
  q.set('at', A.layers[S.stage])
  q.set('by', A.methods[S.method])
  if (S.hidden.some(v => v))
    q.set(
      'h',
      pack(
        Array.from({ length: PIXELS / 4 }, (_, k) =>
          [0, 1, 2, 3].reduce((b, j) => b | (S.hidden[4 * k + j] << (2 * j)), 0)
        )
      )
    )
  if (painted.length)
    q.set(
      'p',
      pack(
        painted.flatMap(p => [p >> 8, p & 255, S.paint[p] >> 16, (S.paint[p] >> 8) & 255, S.paint[p] & 255])
      )
    )
  return q.toString()
}
function restore() {
  // what an address does not say, or says wrong, stays as it is
  const q = new URLSearchParams(location.hash.slice(1)),
    at = A.images.findIndex(d => d.index === +q.get('n')),
    [of, less] = (q.get('of') ?? '').split('-').map(c => A.classes.indexOf(c)),
    n = (list, k, was) => {
      const i = list.indexOf(q.get(k))
      return i < 0 ? was : i
    }
  clean()
  $('own').hidden = true
  Object.assign(S, {
    of: of >= 0 ? of : null,
    less: of >= 0 && less >= 0 && less !== of ? less : null,
    stage: n(A.layers, 'at', S.stage),
    method: n(A.methods, 'by', S.method),
    own: null
  })
  if (q.has('n') && at >= 0) S.at = at
  try {
    if (q.has('own')) {
      const small = unpack(q.get('own'))
      if (small.length === 3 * PIXELS) S.own = { small }
    }
    if (q.has('h'))
      unpack(q.get('h'))
        .slice(0, PIXELS / 4)
        .forEach((b, k) => {
          for (let j = 0; j < 4; j++) S.hidden[4 * k + j] = (b >> (2 * j)) & 3
        })
    if (q.has('p')) {
      const b = unpack(q.get('p'))
      for (let k = 0; k + 4 < b.length; k += 5)
        S.paint[((b[k] << 8) | b[k + 1]) % PIXELS] = (b[k + 2] << 16) | (b[k + 3] << 8) | b[k + 4]
    }
  } catch {
    clean()
  }
  $('method').value = S.method
}
async function share() {
  history.replaceState(null, '', '#' + state())
  try {
    await navigator.clipboard.writeText(location.href)
    $('share').textContent = 'Copied'
  } catch {
    $('share').textContent = 'It is in the address'
  }
  setTimeout(() => ($('share').textContent = 'Share'), 1500)
}

// ---- start

const simd = () =>
  typeof WebAssembly === 'object' &&
  WebAssembly.validate(
    new Uint8Array([
      0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253,
      98, 11
    ])
  )
function start() {
  if (!simd()) {
    say('This browser has no WebAssembly with SIMD, which the network needs. A newer one has. Until then, ')
    return document
      .querySelector('#start p')
      .append(
        element('a', { href: 'still.html', textContent: 'step through maps that were computed before' }),
        '.'
      )
  }
  const bar = document.querySelector('#start progress')
  $('go').hidden = true
  bar.hidden = false
  say('')
  net.worker = new Worker('live-worker.js', { type: 'module' })
  return new Promise(ready => {
    const failed = e => {
      net.worker.terminate()
      net.worker = null
      $('go').hidden = false
      bar.hidden = true
      say(e.message || 'The network could not be started.')
    }
    net.worker.onerror = failed
    net.worker.onmessage = ({ data }) => {
      if (data.loaded) {
        bar.value = data.loaded / A.bytes
        say(
          data.loaded < A.bytes
            ? `${(data.loaded / 1e6).toFixed(0)} of ${(A.bytes / 1e6).toFixed(0)} MB`
            : 'Starting …'
        )
      }
      if (data.ready) {
        net.ready = true
        say('')
        ready(refresh())
      }
      if (data.logits) {
        net.asked.get(data.id).answer(data)
        net.asked.delete(data.id)
      }
      if (data.error) {
        const waits = net.asked.get(data.id)
        waits ? (net.asked.delete(data.id), waits.fail(new Error(data.error))) : failed(new Error(data.error))
      }
    }
    net.worker.postMessage({ about: A })
  })
}

function element(tag, props, ...children) {
  const e = Object.assign(document.createElement(tag), props)
  e.append(...children)
  return e
}
for (const [name, text, title] of TOOLS) {
  const b = element('button', {
    textContent: text,
    title: `${text}: ${title}`,
    onclick: () => {
      S.tool = name
      show()
    }
  })
  b.dataset.tool = name
  $('tools').append(b)
}
$('tools').append(
  element('input', {
    id: 'colour',
    type: 'color',
    value: '#d03020',
    ariaLabel: 'colour to paint with',
    oninput: () => {
      S.tool = 'paint'
      show()
    }
  }),
  element(
    'label',
    {},
    'size ',
    element('input', {
      id: 'size',
      type: 'range',
      min: 1,
      max: 12,
      value: S.size,
      oninput: e => (S.size = +e.target.value)
    })
  ),
  element('button', { id: 'undo', textContent: 'Undo', onclick: back }),
  element('button', {
    id: 'reset',
    textContent: 'Reset',
    onclick: () => {
      remember()
      wipe()
      trial = null
      table()
      refresh()
    }
  })
)
A.layers.forEach((l, k) =>
  $('maps').append(
    element(
      'button',
      { title: `see ${l} large`, onclick: () => set({ stage: k }) },
      document.createElement('canvas'),
      document.createElement('span')
    )
  )
)
A.classes.forEach((c, k) =>
  $('classes').append(
    element(
      'div',
      {},
      element(
        'button',
        {
          className: 'of',
          title: `where it looks for ${c}`,
          onclick: () => (game ? game.said || tell(k) : ((series = []), set({ of: k, less: null })))
        },
        element('b', { textContent: c }),
        document.createElement('i'),
        document.createElement('span')
      ),
      element('button', {
        className: 'less',
        textContent: '−',
        title: `what speaks against ${c}`,
        ariaLabel: `minus ${c}`,
        onclick: () => set({ less: S.less === k ? null : k })
      })
    )
  )
)
A.methods.forEach((m, k) => $('method').append(element('option', { value: k, textContent: m })))
$('go').onclick = start
$('prev').onclick = () => step(-1)
$('next').onclick = () => step(1)
$('mistake').onclick = () => look({ at: pick(MISTAKES.filter(i => i !== S.at)) })
$('number').onchange = e => {
  const i = A.images.findIndex(d => d.index === +e.target.value)
  if (i >= 0) return look({ at: i })
  say(`There is no picture ${e.target.value}`)
  e.target.value = A.images[S.at].index
}
$('file').onchange = e => {
  if (e.target.files[0]) own(e.target.files[0])
  e.target.value = ''
}
$('camera').onclick = camera
$('share').onclick = share
$('again').onclick = () => guess(game.kind === 'map' ? 'picture' : 'map')
$('guess').onclick = play
$('ours').onclick = hideOurs
$('elsewhere').onclick = hideElsewhere
$('method').onchange = e => set({ method: +e.target.value })
$('alpha').oninput = show
$('hold').onchange = async e => {
  S.held = null
  if (e.target.checked) {
    const h = S.hidden.slice(),
      p = S.paint.slice()
    wipe()
    await refresh()
    S.held = A.layers.map((_, k) => heat(k).own || 1)
    S.hidden = h
    S.paint = p
  }
  refresh()
}

const easel = $('large'),
  place = e => {
    const b = easel.getBoundingClientRect()
    return [((e.clientX - b.left) / b.width) * N, ((e.clientY - b.top) / b.height) * N]
  }
let last = null,
  key = [N / 2, N / 2]
easel.onpointerdown = e => {
  if (game || !R) return
  easel.setPointerCapture(e.pointerId)
  remember()
  series = series.slice(-1)
  last = place(e)
  stroke(last, last)
}
easel.onpointermove = e => {
  if (last) {
    const to = place(e)
    stroke(last, to)
    last = to
  }
}
easel.onpointerup = easel.onpointercancel = () => (last = null)
easel.onkeydown = e => {
  const move = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[e.key]
  if (!R || game || (!move && e.key !== ' ')) return
  e.preventDefault()
  e.stopPropagation()
  if (move) {
    key = key.map((v, i) => Math.min(N - 0.5, Math.max(0.5, Math.floor(v) + move[i] + 0.5)))
    mark()
  } else {
    remember()
    stroke(key, key)
  }
}
function mark() {
  show()
  const g = easel.getContext('2d')
  g.strokeStyle = '#fff'
  g.lineWidth = 3
  g.beginPath()
  g.arc(key[0] * ZOOM, key[1] * ZOOM, Math.max(5, (S.size * ZOOM) / 2), 0, 7)
  g.stroke()
  g.strokeStyle = '#000'
  g.lineWidth = 1
  g.stroke()
}
document.addEventListener('keydown', e => {
  if (e.target.matches('input, select') || e.ctrlKey || e.metaKey || e.altKey || $('shot').open) return
  const act =
    { ArrowLeft: () => step(-1), ArrowRight: () => step(1), z: back, r: () => $('reset').click() }[e.key] ??
    (TOOLS[e.key - 1] &&
      (() => {
        S.tool = TOOLS[e.key - 1][0]
        show()
      }))
  if (act && !game) {
    e.preventDefault()
    act()
  }
})
addEventListener('paste', e => {
  const f = [...(e.clipboardData?.files ?? [])].find(f => f.type.startsWith('image/'))
  if (f) own(f)
})
addEventListener('dragover', e => {
  e.preventDefault()
  $('drop').hidden = false
})
addEventListener('dragleave', e => {
  if (!e.relatedTarget) $('drop').hidden = true
})
addEventListener('drop', e => {
  e.preventDefault()
  $('drop').hidden = true
  if (e.dataTransfer.files[0]) own(e.dataTransfer.files[0])
})
addEventListener('hashchange', () => {
  restore()
  refresh()
})

const tiles = new Image()
tiles.src = A.sheet
await tiles.decode()
sheet = new OffscreenCanvas(tiles.width, tiles.height)
sheet.getContext('2d', { willReadFrequently: true }).drawImage(tiles, 0, 0)
restore()
show()
globalThis.live = { ask, composed, fillIn, sample, shrink, state: S, drawn: () => loop } // for tests, and for those who open the console
document.body.dataset.ready = ''
