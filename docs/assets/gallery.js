// The filter of the gallery: shows the cards that have every word.
document$.subscribe(() => {
  const input = document.querySelector(".gallery-filter")
  if (!input) return
  input.hidden = false
  const cards = [...document.querySelectorAll(".card[data-words]")]
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean)
    for (const card of cards) card.hidden = !words.every(word => card.dataset.words.includes(word))
  })
})
