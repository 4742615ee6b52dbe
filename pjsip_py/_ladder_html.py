# SPDX-License-Identifier: GPL-3.0-or-later
"""Ladders as an HTML page: one file, readable without its script."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from html import escape

from ._ladder_svg import summary
from .ladder import Picture, Row, clock, printable, since

_STYLE = """\
:root{color-scheme:light dark;--ink:#1f2328;--paper:#fff;--dim:#59636e;--line:#d1d9e0;--box:#f6f8fa;
--request:#0a58ca;--provisional:#59636e;--success:#1a7f37;--redirect:#8250df;--challenge:#7d5c00;
--failure:#cf222e}
@media(prefers-color-scheme:dark){:root{--ink:#e6edf3;--paper:#0d1117;--dim:#9198a1;--line:#3d444d;
--box:#161b22;--request:#6cb6ff;--provisional:#9198a1;--success:#3fb950;--redirect:#b083f0;
--challenge:#c9a227;--failure:#ff7b72}}
*{box-sizing:border-box}
body{font:15px/1.4 system-ui,sans-serif;color:var(--ink);background:var(--paper);margin:0 auto;
padding:1rem;width:fit-content;min-width:min(100%,76rem)}
h1{font-size:1.4rem}
.sip h2{font-size:1.15rem}
h1,.sip h2{margin:0 0 .25rem;overflow-wrap:anywhere}
.sip{--t:13.5rem;min-width:calc(var(--t) + var(--n)*11rem);margin-bottom:2rem;max-width:110rem}
.sip p{margin:.25rem 0 .75rem;color:var(--dim)}
.sip>:is(h1,h2,p){position:sticky;left:1rem;width:fit-content;max-width:calc(100vw - 2rem)}
.sip form{display:flex;flex-wrap:wrap;gap:.5rem .75rem;align-items:center;margin:.5rem 0;
max-width:calc(100vw - 2rem);position:sticky;left:1rem}
.sip input,.sip select,.sip button{font:inherit;color:inherit;background:var(--box);
border:1px solid var(--line);border-radius:6px;padding:.25rem .5rem;max-width:100%}
.sip select{max-width:16rem}
.sip label{display:inline-flex;gap:.35rem;align-items:center}
.sip header{position:sticky;top:0;z-index:2;display:flex;padding-left:var(--t);
background:var(--paper);border-bottom:1px solid var(--line)}
.sip header div{flex:1 1 0;min-width:0;text-align:center;padding:.4rem .35rem;font-weight:600;
overflow-wrap:anywhere;line-height:1.25}
.sip header small{display:block;color:var(--dim);font-weight:400}
.rows{position:relative;padding:.5rem 0}
.rows>i{position:absolute;top:0;bottom:0;border-left:1px solid var(--line);
left:calc(var(--t) + (100% - var(--t))*var(--x))}
.m,.n,.g{position:relative}
.m summary{list-style:none;cursor:pointer;scroll-margin-top:4rem}
.m summary::-webkit-details-marker{display:none}
.m summary,.n,.g{display:flex;align-items:center;padding:.4rem 0}
.m summary:hover,.m[open] summary{background:color-mix(in srgb,var(--ink) 6%,transparent)}
.m summary:focus-visible{outline:2px solid var(--request);outline-offset:-2px}
.t{flex:0 0 var(--t);min-width:0;font:.8rem/1.3 ui-monospace,monospace;color:var(--dim);
display:flex;gap:.75rem;justify-content:space-between;padding:0 .9rem 0 .3rem;white-space:nowrap}
.m .t::before{content:"\\25b8";width:.6rem}
.m[open] .t::before{content:"\\25be"}
.t time{flex:1}
.a{flex:1 1 0;min-width:0}
.w{display:block;margin-left:calc(var(--l)*100%);width:calc(var(--w)*100%);text-align:center;
padding:0 .9rem;overflow-wrap:anywhere;line-height:1.3;color:var(--c)}
.w b,.w small{background:var(--paper);border-radius:3px;padding:0 .25rem}
.m summary:hover .w :is(b,small),.m[open] .w :is(b,small){background:transparent}
.w small{color:var(--dim);display:inline-block}
.l{display:block;height:0;border-top:2px solid;margin:.15rem -.9rem;position:relative}
.failure .l{border-top-width:3px}
.again .l{border-top-style:dashed}
.l::after{content:"";position:absolute;top:-6px;border:5px solid transparent}
.failure .l::after{top:-7px}
.r .l::after{right:0;border-left:9px solid;border-right:0}
.b .l::after{left:0;border-right:9px solid;border-left:0}
.s .w{text-align:left}
.s .l{width:3rem;height:.7rem;border:2px solid;border-left:0;margin:.2rem 0 .2rem -.9rem}
.s .l::after{left:0;top:calc(.7rem - 8px);border-right:9px solid;border-left:0}
.request{--c:var(--request)}.provisional{--c:var(--provisional)}.success{--c:var(--success)}
.redirect{--c:var(--redirect)}.challenge{--c:var(--challenge)}.failure{--c:var(--failure)}
.n .a span{display:inline-block;background:var(--box);border:1px solid var(--line);
border-radius:1rem;padding:.1rem .8rem;overflow-wrap:anywhere;font-size:.9rem}
.n.failure .a span{color:var(--c);border-color:var(--c)}
.g{color:var(--dim);font-size:.8rem}
.g span{flex:0 0 var(--t);text-align:right;padding-right:.9rem}
.g::after{content:"";flex:1;border-top:1px dotted var(--dim)}
.full{margin:.25rem 0 .75rem;border:1px solid var(--line);border-left:4px solid var(--c);
border-radius:6px;background:var(--box);position:sticky;left:1rem;max-width:calc(100vw - 2rem)}
.full p{margin:0;padding:.4rem .8rem;border-bottom:1px solid var(--line);overflow-wrap:anywhere;
font-size:.85rem}
pre{margin:0;padding:.6rem .8rem;font:.82rem/1.45 ui-monospace,monospace;white-space:pre-wrap;
overflow-wrap:anywhere;tab-size:4}
.key{list-style:none;display:flex;flex-wrap:wrap;gap:.25rem 1.25rem;padding:0;margin:.75rem 0 0;
font-size:.85rem;color:var(--dim);max-width:calc(100vw - 2rem);position:sticky;left:1rem}
.key li::before{content:"";display:inline-block;width:1.5rem;border-top:3px solid var(--c);
vertical-align:middle;margin-right:.4rem}
.key .again::before{border-top:3px dashed var(--dim)}
.h{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%);white-space:nowrap}
[hidden]{display:none!important}
@media(max-width:40rem){body{padding:.5rem}
.sip>:is(h1,h2,p,form,.key),.sip .full{left:.5rem;max-width:calc(100vw - 1rem)}
.sip{--t:4.6rem;min-width:calc(var(--t) + var(--n)*7rem)}
.t time{display:none}.t{font-size:.7rem;padding-right:.5rem}.w{padding:0 .5rem}
.l{margin:.15rem -.5rem}}
@media print{body{padding:0;min-width:0;width:auto}.sip form{display:none}
.sip header{position:static}.m,.n{break-inside:avoid}.full{max-width:none}.sip{min-width:0}}
"""

# Without it all is there but the filters.
_SCRIPT = """\
for (const part of document.querySelectorAll(".sip")) {
  const form = part.querySelector("form"), rows = [...part.querySelectorAll(".m,.n,.g")];
  if (!form) continue;
  const {text, aor, call, bad, all} = form.elements, told = form.querySelector("output");
  const messages = rows.filter(row => row.matches(".m"));
  const show = () => {
    const words = text.value.toLowerCase();
    const some = words || aor?.value || call?.value || bad.checked;
    let count = 0;
    for (const row of rows) {
      const fits = row.matches(".m")
        ? (!words || row.textContent.toLowerCase().includes(words))
          && (!aor?.value || row.dataset.aor === aor.value)
          && (!call?.value || row.dataset.call === call.value)
          && (!bad.checked || row.matches(".failure"))
        : !some || (row.matches(".n.failure") && bad.checked && !words);
      row.hidden = !fits;
      count += fits && row.matches(".m");
    }
    told.textContent = some ? `${count} of ${messages.length} shown` : "";
  };
  form.addEventListener("input", show);
  form.addEventListener("submit", event => event.preventDefault());
  all.addEventListener("click", () => {
    const open = messages.some(row => !row.hidden && !row.open);
    for (const row of messages) if (!row.hidden) row.open = open;
    all.textContent = open ? "Close all" : "Open all";
  });
  form.hidden = false;
  show();
}
"""


def page(title: str, body: str, style: str = "", script: str = "") -> str:
    """A page round *body*; nothing can be loaded into it, and no script but these runs."""
    scripts = [each for each in (_SCRIPT, script) if each]
    hashes = [b64encode(sha256(each.encode()).digest()).decode() for each in scripts]
    allowed = " ".join(f"'sha256-{each}'" for each in hashes)
    return (
        "<!DOCTYPE html>\n"
        '<html lang="en">\n'
        '<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        f"style-src 'unsafe-inline'; img-src data:; script-src {allowed}\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_text(title)}</title>\n"
        f"<style>\n{_STYLE}{style}</style>\n"
        f"<main>\n{body}</main>\n"
        + "".join(f"<script>{each}</script>\n" for each in scripts)
        + "</html>\n"
    )


def _text(text: str) -> str:
    return escape(printable(text), quote=True)


def section(picture: Picture, heading: str = "h2") -> str:
    """One ladder, to stand on a page."""
    lanes = max(1, len(picture.lanes))
    parts = [f'<section class="sip" style="--n:{lanes}">\n']
    if picture.title:
        parts.append(f"<{heading}>{_text(picture.title)}</{heading}>\n")
    parts.append(f"<p>{_text(summary(picture))}</p>\n")
    if picture.messages > 1:
        parts.append(_form(picture))
    if picture.lanes:
        parts.append("<header>")
        for lane in picture.lanes:
            more = f" +{len(lane.addresses) - 1}" if len(lane.addresses) > 1 else ""
            address = "<wbr>:".join(_text(lane.addresses[0]).rsplit(":", 1)) + more
            inner = f"{_text(lane.name)}<small>{address}</small>" if lane.name else address
            parts.append(f'<div title="{_text(chr(10).join(lane.addresses[:20]))}">{inner}</div>')
        parts.append("</header>\n")
    parts.append('<div class="rows">\n')
    for each in range(len(picture.lanes)):
        parts.append(f'<i style="--x:{(each + 0.5) / lanes:.5g}"></i>')
    parts += [_row(row, picture) for row in picture.rows]
    parts.append("</div>\n")
    key = [f'<li class="{name}">{meaning}</li>' for name, meaning in picture.legend]
    if any(row.again for row in picture.rows):
        key.append('<li class="again">sent again</li>')
    if key:
        parts.append(f'<ul class="key">{"".join(key)}</ul>\n')
    parts.append("<p>Times in UTC. What proves a password is blotted out.</p>\n</section>\n")
    return "".join(parts)


def _form(picture: Picture) -> str:
    messages = [row for row in picture.rows if row.kind == "message"]
    parts = [
        "<form hidden>",
        '<label>Find <input name="text" type="search" placeholder="in the messages"></label>',
    ]
    for name, title, values in (
        ("aor", "AOR", dict.fromkeys(row.aor for row in messages if row.aor)),
        ("call", "Call-ID", dict.fromkeys(row.call_id for row in messages if row.call_id)),
    ):
        if len(values) > 1:
            options = "".join(
                f'<option value="{_text(each)}">{f"{number}: " if name == "call" else ""}'
                f"{_text(each)}</option>"
                for number, each in enumerate(values, 1)
            )
            parts.append(
                f'<label>{title} <select name="{name}"><option value="">all</option>'
                f"{options}</select></label>"
            )
    parts.append('<label><input name="bad" type="checkbox"> failures only</label>')
    parts.append('<button name="all" type="button">Open all</button>')
    parts.append('<output aria-live="polite"></output></form>\n')
    return "".join(parts)


def _row(row: Row, picture: Picture) -> str:
    if row.kind == "gap":
        return f'<div class="g"><span>\u22ee {row.label}</span></div>\n'
    times = (
        f'<span class="t"><time>{clock(row.time)}</time>'
        f"<span>{since(row.time - picture.start)}</span></span>"
    )
    mark = "\u2717 " if row.style == "failure" else ""
    if row.kind == "note":
        return (
            f'<div class="n {row.style}">{times}<span class="a"><span>{mark}'
            f"{_text(row.label)}</span></span></div>\n"
        )
    lanes = len(picture.lanes)
    left, right = sorted((row.source, row.target))
    if row.source == row.target:
        way, start, wide = "s", (left + 0.5) / lanes, min(1, lanes - left - 0.5) / lanes
    else:
        way = "r" if row.target > row.source else "b"
        start, wide = (left + 0.5) / lanes, (right - left) / lanes
    # Lines break between the particulars only.
    particulars = [_text(each).replace(" ", "\u00a0") for each in row.details]
    details = "<small>" + "\u00a0\u00b7 ".join(particulars) + "</small>" if particulars else ""
    css = f"m {way} {row.style}" + (" again" if row.again else "")
    return (
        f'<details class="{css}" data-aor="{_text(row.aor)}" data-call="{_text(row.call_id)}">'
        f'<summary>{times}<span class="a"><span class="w" style="--l:{start:.5g};--w:{wide:.5g}">'
        f'<b>{mark}{_text(row.label)}</b><span class="l"></span>{details}'
        f'<span class="h"> {_text(row.path)}</span></span></span></summary>'
        f'<div class="full"><p>{_text(row.path)}</p>'
        f"<pre>{_text(row.text.rstrip())}</pre></div></details>\n"
    )
