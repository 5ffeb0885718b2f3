"""How such a page begins: what it may load, and how it looks."""

from __future__ import annotations

from .text import shown

__all__ = ["STYLE", "head"]

# The policy is a second lock: should markup ever get through as markup, it can load and run nothing.
_HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
{generator}
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
"""

STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --paper: #fff; --faint: #5c6470; --line: #d8dce2;
  --panel: #f5f6f8; --bar: #2f6fbb; --bad: #a4262c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --paper: #16181c; --faint: #a0a8b4;
  --line: #383d45; --panel: #1f2227; --bar: #6aa5e8; --bad: #ff8a8a; } }
body { margin: 0 auto; max-width: 72rem; padding: 1.5rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; } h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; } p { margin: .5rem 0; } .faint { color: var(--faint); }
.bad { color: var(--bad); }
.counts { display: grid; grid-template-columns: repeat(auto-fill, minmax(10rem, 1fr)); gap: .75rem;
  margin: 0; }
.counts div { background: var(--panel); border-radius: .5rem; padding: .6rem .8rem; }
.counts dt { color: var(--faint); font-size: .85rem; } .counts dd { margin: 0; font-size: 1.3rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; } .full { width: 100%; }
th, td { text-align: start; padding: .25rem .75rem .25rem 0; vertical-align: top; }
thead th, caption { color: var(--faint); font-weight: normal; font-size: .85rem; text-align: start; }
tbody tr { border-top: 1px solid var(--line); } tbody th { font-weight: normal; }
.number { text-align: end; white-space: nowrap; font-variant-numeric: tabular-nums; }
.name { min-width: 8rem; max-width: 24rem; }
svg { fill: currentColor; } svg text { font: 11px system-ui, sans-serif; fill: var(--faint); }
.bar { fill: var(--bar); } .axis { stroke: var(--line); }
"""


def head(title: str, generator: str, style: str = "") -> str:
    """All up to the first thing that is seen.

    Args:
        title: any text.
        generator: the element by which a page knows its like.
        style: rules besides :data:`STYLE`.
    """
    return _HEAD.format(generator=generator, title=shown(title), style=STYLE + style)
