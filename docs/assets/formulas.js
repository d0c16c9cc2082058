// Render what pymdownx.arithmatex marked: \(inline\) and \[display\].
document$.subscribe(() => {
  for (const element of document.querySelectorAll(".arithmatex")) {
    const text = element.textContent.trim()
    const display = text.startsWith("\\[")
    if (!display && !text.startsWith("\\(")) continue // rendered before
    katex.render(text.slice(2, -2), element, { displayMode: display })
  }
})
