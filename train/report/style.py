"""Style of report.html: light and dark, for phones, desktop screens and paper.

Colours of text have a contrast of 4.5 or more to their background (WCAG 2.2, level AA).
"""

from train.charts import COLOURS

LIGHT = {
    "text": "#1b1f24",
    "soft": "#57606a",
    "page": "#ffffff",
    "panel": "#f5f6f8",
    "rule": "#d3d8df",
    "link": "#1f4fbf",
    "alarm": "#8f2f10",
    "alarm-page": "#fdf1ea",
    **{f"series-{number}": colour for number, colour in enumerate(COLOURS)},
    "series-none": "#6b7280",
    "heat": "#2f5fd0",
}
DARK = {
    "text": "#e6e8eb",
    "soft": "#a3abb6",
    "page": "#14171c",
    "panel": "#1d2128",
    "rule": "#3a414c",
    "link": "#8fb4ff",
    "alarm": "#ffb08f",
    "alarm-page": "#33201a",
    "series-0": "#84a9ff",
    "series-1": "#ff9b73",
    "series-2": "#6fce85",
    "series-3": "#c79cf2",
    "series-4": "#d8b25c",
    "series-5": "#b4bdc9",
    "series-none": "#98a1ad",
    "heat": "#4a7bf0",
}


def format_properties(colours: dict[str, str]) -> str:
    """Formats colours as CSS custom properties."""
    return " ".join(f"--{name}: {colour};" for name, colour in colours.items())


STYLE = f"""
:root {{ color-scheme: light dark; {format_properties(LIGHT)} }}
@media screen and (prefers-color-scheme: dark) {{ :root {{ {format_properties(DARK)} }} }}
* {{ box-sizing: border-box; }}
body {{ font: 1rem/1.5 system-ui, sans-serif; color: var(--text); background: var(--page); margin: 0 auto;
  max-width: 76rem; padding: 1.5rem clamp(1rem, 4vw, 3rem) 4rem; overflow-wrap: break-word; }}
h1 {{ font-size: 1.75rem; line-height: 1.2; margin: .5rem 0; }}
h2 {{ font-size: 1.25rem; margin: 2.5rem 0 .75rem; padding-top: .75rem; border-top: 1px solid var(--rule); }}
header p {{ color: var(--soft); margin: 0; }}
header + main > section:first-child h2 {{ margin-top: 1.5rem; }}
code, pre {{ font: .8125rem/1.5 ui-monospace, monospace; }}
code {{ color: var(--text); background: var(--panel); padding: .1rem .3rem; border-radius: .25rem; }}
pre {{ background: var(--panel); padding: 1rem; border-radius: .5rem; overflow: auto; max-height: 32rem; }}
a {{ color: var(--link); }}
p.warning {{ margin: .5rem 0; padding: .6rem .9rem; max-width: 60rem; border-left: .25rem solid var(--alarm);
  background: var(--alarm-page); }}
p.warning strong {{ color: var(--alarm); margin-right: .4rem; }}
ul {{ padding-left: 1.25rem; max-width: 60rem; }}
.wide {{ overflow-x: auto; }}
table {{ border-collapse: collapse; margin: .5rem 0; font-size: .9375rem; }}
th, td {{ padding: .35rem 1.25rem .35rem 0; border-bottom: 1px solid var(--rule); text-align: left;
  vertical-align: top; }}
thead th, tr:first-child > th[scope=col] {{ color: var(--soft); font-weight: 500; }}
th[scope=row] {{ font-weight: 400; }}
table.numbers td {{ font-variant-numeric: tabular-nums; }} table.numbers td:nth-child(2) {{ white-space: nowrap; }}
@media screen {{ .steady td {{ white-space: nowrap; }} }}
figure {{ margin: 1.5rem 0 2rem; }}
figcaption {{ font-weight: 600; margin-bottom: .5rem; }}
figcaption a {{ font-weight: 400; font-size: .8125rem; margin-left: .5rem; padding: .25rem; }}
.curves {{ display: grid; gap: 1rem 2rem; grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); }}
.curves figure {{ margin: 0; min-width: 0; }}
img, svg {{ vertical-align: top; }}
@media (max-width: 40rem) {{
  body {{ padding-top: .5rem; }} h1 {{ font-size: 1.5rem; }}
  th, td {{ padding-right: .75rem; }}
}}
@media print {{
  @page {{ margin: 16mm; }}
  body {{ padding: 0; max-width: none; font-size: 10pt; }}
  * {{ print-color-adjust: exact; -webkit-print-color-adjust: exact; }}
  h2 {{ break-after: avoid; margin-top: 1.5rem; }}
  figure, tr, p {{ break-inside: avoid; }}
  figcaption {{ break-after: avoid; }}
  figcaption a {{ display: none; }}
  pre {{ white-space: pre-wrap; max-height: none; overflow: visible; }}
  .wide, figure div {{ overflow: visible !important; }}
  svg {{ min-width: 0 !important; }}
  img {{ max-width: 100% !important; object-fit: contain; object-position: left; }}
}}
"""
