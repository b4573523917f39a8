"""Write benchmark results as text: one line per ratio with its spread, per size, per count."""

from __future__ import annotations

from typing import Any

VERDICTS = {True: "met", False: "not met", None: "within the spread, neither met nor missed"}
# shown in a part's first line, or once for all parts
HEADER = ("part", "device", "threads", "torch", "when", "elapsed_seconds", "dtype")
# counted -> the paper's row
TITLES = {
    "dense_50": ("dense", 50),
    "dense_20": ("dense", 20),
    "uniform_30_floor_20": ("MosaicDiff 0.30", 20),
}


def table(result: dict[str, Any]) -> list[str]:
    """Return lines for the result of one part (`run_part`) or of all (`run_all`)."""
    if "parts" not in result:
        return part_lines(result)
    lines = [
        f"{result['device']}, torch {result['torch']}, {result['when']};"
        f" {result['elapsed_seconds']:.0f} s altogether"
    ]
    if result["quick"]:
        lines.append("quick: small sizes and two rounds, not for quoting")
    for part in result["parts"].values():
        lines += ["", *part_lines(part)]
    return lines


def part_lines(part: dict[str, Any]) -> list[str]:
    """Return a heading and a line for every ratio, time, size and count.

    For a result with none of these, one line for every number.
    """
    if "error" in part:
        return [f"{part['part']}: {part['error']}"]
    facts = [part.get("device"), part.get("dtype"), part.get("when")]
    head = (
        f"{part['part']} ({part['elapsed_seconds']:.0f} s{''.join(f', {f}' for f in facts if f)})"
    )
    lines = [
        line(row)
        for kind, line in (("ratios", ratio_line), ("times", time_line), ("sizes", size_line))
        for row in part.get(kind, [])
    ]
    if "measured" in part and "quoted" in part:
        lines += count_lines(part)
    lines = lines or other_lines({k: v for k, v in part.items() if k not in HEADER})
    return [head, *(f"  {line}" for line in [*lines, *([part["note"]] if "note" in part else [])])]


def ratio_line(row: dict[str, Any]) -> str:
    """Return "name  ×1.234 ± 0.005 (7 rounds); goal at least 0.95: met"."""
    line = f"{row['name']:<78} ×{row['ratio']:.3f} ± {row['spread']:.3f}"
    notes = [f"{row['rounds']} rounds"] if "rounds" in row else []
    if "speedup_macs" in row:
        notes.append(
            f"×{row['speedup_measured']:.2f} of ×{row['speedup_macs']:.2f},"
            f" ×{row['speedup_macs_with_attention']:.2f} with attention products"
        )
    if "seconds" in row:
        notes.append(f"{row['seconds']:.3g} s")
    return f"{line} ({', '.join(notes)}){_goal(row)}" if notes else line + _goal(row)


def time_line(row: dict[str, Any]) -> str:
    """Return "name  12.3 s ± 0.1 (3 rounds); goal at most 15 s: met"."""
    return (
        f"{row['name']:<78} {row['median']:.3g} {row['unit']} ± {row['spread']:.2g}"
        f" ({row['rounds']} rounds){_goal(row, 1, ' ' + row['unit'])}"
    )


def size_line(row: dict[str, Any]) -> str:
    """Return "name  2.06 GB (shapes)"."""
    size = f"{row['bytes'] / 1e9:.2f} GB" if row["bytes"] >= 1e9 else f"{row['bytes'] / 1e6:.2f} MB"
    return f"{row['name']:<90} {size:>9} ({row['counted']}){_goal(row, 1e9, ' GB')}"


def count_lines(part: dict[str, Any]) -> list[str]:
    """Return counted beside quoted MACs."""
    quoted = {(row["method"], row["steps"]): row["macs"] for row in part["quoted"]["rows"]}
    lines = [
        f"{name:<22} {macs / 1e12:.4f} T MACs counted, the paper prints"
        f" {quoted[TITLES[name]] / 1e12:.2f} T"
        for name, macs in part["measured"].items()
    ]
    return [*lines, f"counts {part['counts']}; {part['unit']}"]


def _goal(row: dict[str, Any], unit: float = 1.0, name: str = "") -> str:
    """Return the goal of a row in words; empty without one."""
    for sense in ("at_least", "at_most"):
        if sense in row:
            return (
                f"; goal {sense.replace('_', ' ')} {row[sense] / unit:g}{name}:"
                f" {VERDICTS[row['met']]}"
            )
    return ""


def other_lines(facts: dict[str, Any], path: str = "") -> list[str]:
    """Return every other number of a result, each with its spread.

    The spread of `x` is `x_spread`; that of `ratio` or `speedup` is `spread`.
    """
    lines = []
    for key, value in facts.items():
        name = f"{path}{key}".replace("_", " ")
        if isinstance(value, dict):
            lines += other_lines(value, f"{name}, ")
        elif isinstance(value, (list, tuple)) and value and all(isinstance(v, dict) for v in value):
            lines += [
                line
                for i, v in enumerate(value)
                for line in other_lines(v, f"{name} {v.get('name', i + 1)}, ")
            ]
        elif not key.endswith("spread"):
            spread = facts.get(
                f"{key}_spread", facts.get("spread") if key in ("ratio", "speedup") else None
            )
            lines.append(
                f"{name}: {_short(value)}" + (f" ± {_short(spread)}" if spread is not None else "")
            )
    return lines


def _short(value: Any) -> str:
    """Return a value as text, four digits of a float."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
