"""The architecture picture, and what it says: which part may import which.

    python docs/architecture.py      # writes docs/architecture.svg

LAYERS is the order. A part imports parts of layers below its own (or stands alone); a test reads every import of the
code and refuses one that goes up or sideways, and refuses a picture that is not the one drawn from the code of today.
"""

from __future__ import annotations

import ast
from pathlib import Path

HERE = Path(__file__).resolve().parent
PACKAGE = HERE.parent / "src" / "rsiccllm"

LAYERS: list[list[str]] = [
    ["errors", "__version__"],
    ["files", "shipped", "progress", "agreement", "processes", "cluster"],
    ["journal", "page", "words"],
    ["phrases", "endpoint", "people"],
    ["grammar"],
    ["facts", "keywords"],
    ["records", "masks", "pairs"],
    ["exports", "turning", "sources"],
    ["near_duplicates"],
    ["rsici", "model"],
    ["training", "rsicp"],
    ["caption"],
    ["geo", "serve", "benchmark", "doctor"],
    ["app"],
    ["demo"],
    ["cli"],
]
"""The parts of the package, a layer a line, from the bottom up."""

DRAWN = ["sources", "rsici", "model", "training", "rsicp", "caption", "geo", "serve", "app", "benchmark", "doctor",
         "demo", "cli"]  # fmt: skip
"""The parts that are boxes of their own; those of the layers below `sources` are drawn as one."""

Edges = dict[str, set[str]]


def imports() -> Edges:
    """For each part (a module or folder of the package) the parts that any file of it imports, anywhere in a file."""
    found: Edges = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        part = path.relative_to(PACKAGE).with_suffix("").parts[0]
        if part == "__init__":  # hands on two names on first use
            continue
        named: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "rsiccllm":
                whole = node.module == "rsiccllm"
                named |= {name.name for name in node.names} if whole else {node.module.split(".")[1]}
            elif isinstance(node, ast.Import):
                named |= {name.name.split(".")[1] for name in node.names if name.name.startswith("rsiccllm.")}
        found[part] = found.get(part, set()) | named - {part}
    return found


def wrong_way(edges: Edges) -> list[str]:
    """Imports that do not go down, and parts that no layer names: one line each."""
    level = {part: number for number, parts in enumerate(LAYERS) for part in parts}
    lines = [f"{part}: in no layer of docs/architecture.py" for part in sorted(edges.keys() - level.keys())]
    for part, others in sorted(edges.items()):
        lines += [f"{part} imports {other}, which is not below it" for other in sorted(others)
                  if part in level and level.get(other, 99) >= level[part]]  # fmt: skip
    return lines


def picture(edges: Edges) -> str:
    """SVG: a box for each drawn part, an arrow to each drawn part it imports that no other import already implies."""
    below = {part: others & set(DRAWN) for part, others in edges.items() if part in DRAWN}

    def reach(part: str) -> set[str]:
        return set().union(*({other} | reach(other) for other in below[part])) if below[part] else set()

    direct = {
        part: {other for other in others if not any(other in reach(third) for third in others if third != other)}
        for part, others in below.items()
    }
    rows: list[list[str]] = []
    for part in [part for parts in LAYERS for part in parts if part in DRAWN]:
        row = 1 + max(
            (next(i for i, placed in enumerate(rows) if other in placed) for other in below[part]), default=-1
        )
        rows += [[] for _ in range(row + 1 - len(rows))]
        rows[row].append(part)
    width, box, step = 920, 116, 74
    places = {}
    for number, row in enumerate(rows):
        gap = width / (len(row) + 1)
        for index, part in enumerate(row):
            places[part] = (gap * (index + 1), 40 + step * (len(rows) - 1 - number))
    height = 40 + step * len(rows) + 60
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="Helvetica, Arial, '
        'sans-serif" font-size="14">',
        f'  <rect width="{width}" height="{height}" fill="#ffffff"/>',
        '  <defs><marker id="a" markerWidth="8" markerHeight="8" refX="6" refY="3" orient="auto">'
        '<path d="M0 0L6 3L0 6z" fill="#5d6a66"/></marker></defs>',
        '  <g stroke="#5d6a66" stroke-width="1.3" fill="none" marker-end="url(#a)">',
    ]
    for part in DRAWN:
        x, y = places[part]
        for other in sorted(direct[part]):
            u, v = places[other]
            lines.append(
                f'    <path d="M{x:.0f} {y + 17:.0f}C{x:.0f} {y + 48:.0f} {u:.0f} {v - 48:.0f} {u:.0f} {v - 19:.0f}"/>'
            )
    lines.append("  </g>")
    for part, (x, y) in places.items():
        lines.append(
            f'  <rect x="{x - box / 2:.0f}" y="{y - 17:.0f}" width="{box}" height="34" rx="8" fill="#eef4fb" '
            f'stroke="#0b6bcb"/><text x="{x:.0f}" y="{y + 5:.0f}" text-anchor="middle" fill="#17212b">{part}</text>'
        )
    under = [part for parts in LAYERS for part in parts if part not in DRAWN and part != "__version__"]
    lines.append(
        f'  <rect x="20" y="{height - 62}" width="{width - 40}" height="48" rx="8" fill="#f3faf4" stroke="#15803d"/>'
    )
    half = len(under) // 2
    for number, words in enumerate((under[half:], under[:half])):
        lines.append(
            f'  <text x="{width / 2:.0f}" y="{height - 43 + 19 * number}" text-anchor="middle" font-size="12" '
            f'fill="#17212b">{", ".join(words)}</text>'
        )
    return "\n".join([*lines, "</svg>", ""])


if __name__ == "__main__":
    edges = imports()
    if lines := wrong_way(edges):
        raise SystemExit("\n".join(lines))
    (HERE / "architecture.svg").write_text(picture(edges), encoding="utf-8")
