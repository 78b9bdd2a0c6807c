"""The styles of a report, and of its tables, which pages show too."""

from __future__ import annotations

TABLE_CSS = """
.wide{overflow-x:auto;max-width:100%}
.wide table{border-collapse:collapse;font-size:.9rem;line-height:1.45;margin:.3rem 0 1rem}
.wide th,.wide td{text-align:left;vertical-align:top;padding:.45rem .7rem;border-bottom:1px solid rgba(128,140,150,.35);
overflow-wrap:anywhere;min-width:5.5rem}
.wide td:first-child{min-width:10.5rem}
@media(max-width:700px){.wide th,.wide td{min-width:7.5rem}}
.wide thead th{border-bottom-width:2px}
.wide th small{font-weight:400;opacity:.75}
.rates th[scope=row]{min-width:9.5rem;overflow-wrap:normal}
.rates td{min-width:11rem;font-variant-numeric:tabular-nums}
.rates tr.chosen>*{background:rgba(0,114,178,.10)}
.rates tr.chosen th{box-shadow:inset 3px 0 #0072B2}
.faint{opacity:.72}
td .odd{text-decoration:underline dotted;cursor:help}
"""

PAGE_CSS = (
    """
:root{color-scheme:light dark;--back:#fff;--text:#16202a;--line:#d5dde3}
@media(prefers-color-scheme:dark){:root{--back:#10161c;--text:#e8eef3;--line:#33414d}}
body{margin:0;background:var(--back);color:var(--text);font:15px/1.55 system-ui,"Segoe UI",Roboto,sans-serif}
main{max-width:1080px;margin:0 auto;padding:2.2rem 1.2rem 4rem}
h1{font-size:1.8rem;margin:0 0 .2rem}
h2{font-size:1.25rem;margin:2.2rem 0 .6rem;border-bottom:1px solid var(--line);padding-bottom:.2rem}
h3{font-size:1rem;margin:1.2rem 0 .3rem}
figure{margin:0 0 1.2rem;background:#fff;border:1px solid var(--line);
border-radius:6px;padding:.4rem;overflow-x:auto;break-inside:avoid}
figure img{width:100%;height:auto;display:block}
.prompt{white-space:pre-wrap;border-left:3px solid var(--line);padding-left:.8rem}
.light.tokens,.light.legend{background:#fff;color:#16202a;padding:.5rem .7rem;border-radius:6px}
dt{font-weight:600}dd{margin:0 0 .5rem}
@media print{:root{--back:#fff;--text:#000}main{max-width:none;padding:0}details{display:block}.wide{overflow:visible}}
"""
    + TABLE_CSS
)
