"""How a report looks, beyond what every page of ours has, and what moves in it."""

LIGHT = ("#2f62c9", "#cf6417", "#1f8a57", "#b3389b", "#7757e8", "#8f7300", "#c13c3c", "#0e8a9e")
DARK = ("#78a9ff", "#f3a35c", "#60cf98", "#e98bd4", "#b3a1ff", "#dcc04e", "#f48a8a", "#5acbdd")

_STYLE = """
body { max-width: 82rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; overflow-wrap: anywhere; }
table { width: max-content; }
td { vertical-align: top; max-width: 24rem; overflow-wrap: anywhere; }
td code, .number { white-space: nowrap; }
td strong { font-weight: 650; }
.half { color: var(--soft); white-space: nowrap; }
.chip { display: inline-flex; align-items: baseline; gap: .4em; overflow-wrap: anywhere; }
table .chip { white-space: nowrap; }
.chip i { flex: none; width: .65em; height: .65em; border-radius: 50%; }
.legend { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; margin: .75rem 0; font-size: .9rem; }
.legend label { cursor: pointer; position: relative; }
.legend input { position: absolute; opacity: 0; }
.legend input:focus-visible + .chip { outline: 2px solid var(--ink); outline-offset: 3px; border-radius: .25rem; }
.legend input:not(:checked) + .chip { opacity: .4; text-decoration: line-through; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(19rem, 100%), 1fr)); gap: 1.25rem; margin: 1rem 0; }
.plots figure { background: var(--card); border-radius: .5rem; padding: .75rem .75rem .5rem; }
.plots figcaption { color: var(--ink); font-weight: 600; margin: 0 0 .25rem .25rem; }
.plots svg { display: block; width: 100%; height: auto; font-family: system-ui, sans-serif; }
.row { margin: 1rem 0 1.75rem; }
.row h3 { margin-bottom: .4rem; }
.tiles { display: flex; flex-wrap: wrap; gap: .75rem 1rem; }
.tiles figure { max-width: min(100%, 28rem); }
.tiles figcaption { display: flex; flex-direction: column; max-width: 13rem; line-height: 1.35; }
.time { display: block; width: 100%; height: 4px; margin-top: 3px; background: var(--line); border-radius: 2px;
  fill: var(--soft); }
.control { display: flex; align-items: center; gap: .6rem; max-width: 27rem; margin-top: .5rem; }
.control[hidden] { display: none; }
.control input { flex: 1; accent-color: var(--soft); min-width: 0; }
.control button { width: 2rem; height: 1.75rem; border: 1px solid var(--line); border-radius: .35rem; background: var(--card);
  color: var(--ink); font-size: .75rem; cursor: pointer; }
.control output { width: 2.5em; color: var(--soft); font-variant-numeric: tabular-nums; font-size: .85rem; }
details { margin: .75rem 0; }
summary { cursor: pointer; color: var(--soft); overflow-wrap: anywhere; }
pre { background: var(--card); padding: .75rem 1rem; border-radius: .5rem; overflow-x: auto;
  font: .8rem/1.5 ui-monospace, monospace; }
@media (max-width: 40rem) {
  body { padding: 1.25rem .9rem 3rem; }
  h1 { font-size: 1.4rem; overflow-wrap: anywhere; }
  .tiles figure { width: calc(50% - .5rem); }
  .tiles video { width: 100%; } }
"""

SCRIPT = """
for (const row of document.querySelectorAll(".row")) {
  const films = [...row.querySelectorAll("video")], control = row.querySelector(".control");
  if (!control) continue;
  const [button, range, shown] = control.children, fps = Number(row.dataset.fps), first = films[0];
  control.hidden = false;
  const place = (time) => films.forEach((film) => { film.currentTime = Math.min(time, (film.duration || time) - .5 / fps); });
  const play = (on) => {
    button.textContent = on ? "\\u275a\\u275a" : "\\u25b6";
    button.setAttribute("aria-label", on ? "pause" : "play");
    films.forEach((film) => { on ? film.play().catch(() => {}) : film.pause(); });
  };
  button.onclick = () => { const on = first.paused; if (on) place(first.currentTime); play(on); };
  range.oninput = () => { play(false); place((Number(range.value) + .5) / fps); shown.value = range.value; };
  first.addEventListener("timeupdate", () => {
    if (first.paused) return;
    range.value = shown.value = Math.min(range.max, Math.floor(first.currentTime * fps));
    for (const film of films.slice(1)) {
      const apart = Math.abs(film.currentTime - first.currentTime);
      if (film.readyState > 1 && apart > .75 / fps && first.currentTime < film.duration) film.currentTime = first.currentTime;
    }
  });
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) {
    films.forEach((film) => film.removeAttribute("autoplay"));
    play(false);
  }
}
for (const box of document.querySelectorAll(".legend input")) {
  box.onchange = () => {
    const place = box.closest("section");
    for (const part of place.querySelectorAll(`svg .s${box.dataset.series}, .tiles .t${box.dataset.series}`))
      part.style.display = box.checked ? "" : "none";
  };
}
"""


def style(series: int) -> str:
    """The CSS, with so many colours as things are told apart; those beyond the chosen ones follow the golden angle."""
    light, dark = _colours(LIGHT, series, "42%"), _colours(DARK, series, "72%")
    return f":root {{ {light} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}{_STYLE}"


def _colours(chosen: tuple[str, ...], series: int, lightness: str) -> str:
    return " ".join(f"--s{i}: {chosen[i] if i < len(chosen) else f'hsl({round(i * 137.508 % 360)} 60% {lightness})'};"
                    for i in range(series))
