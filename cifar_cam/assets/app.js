// Keys and clicks that ipywidgets does not hear. A key clicks what is there.
// A cell of the confusion matrix goes into a hidden field.
if (!window.cifarCam) {
  window.cifarCam = true
  const TARGETS = 3                       // predicted, true and their difference come first in the menu

  function change(field, value) {
    if (field.matches('select')) field.selectedIndex = value; else field.value = value
    field.dispatchEvent(new Event('change', { bubbles: true }))
  }

  function action(app, key) {
    const layers = [...app.querySelectorAll('.cc-layer button')]
    const at = layers.findIndex(b => b.matches('.mod-active'))
    const target = app.querySelector('.cc-target select')
    return {
      ArrowLeft: () => app.querySelector('.cc-prev').click(),
      ArrowRight: () => app.querySelector('.cc-next').click(),
      ArrowUp: () => layers[at - 1]?.click(),
      ArrowDown: () => layers[at + 1]?.click(),
      t: () => change(target, (target.selectedIndex + 1) % TARGETS),
    }[key]
  }

  window.addEventListener('keydown', e => {
    const app = e.target.closest?.('.cc-app'), slider = e.target.closest?.('[role=slider]')
    if (!app || e.target.matches('input, textarea, select') || e.ctrlKey || e.metaKey || e.altKey) return
    if (slider && !(slider.closest('.cc-index') && /^Arrow(Up|Down)$/.test(e.key))) return
    const act = action(app, e.key)
    if (act) { e.preventDefault(); e.stopPropagation(); act() }
  }, true)

  window.addEventListener('click', e => {
    const cell = e.target.closest?.('.cc-matrix [data-cell]')
    if (cell) change(cell.closest('.cc-app').querySelector('.cc-clicked input'), cell.dataset.cell)
  })
}
