"""The results as a Markdown table, as JSON, and as a plot."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks.cases import Case
from benchmarks.delayproxy import Capacity
from benchmarks.options import OURS, Options
from benchmarks.results import Results, Summary
from benchmarks.targets import Verdict, judge

BAR = "\\|"
"""A vertical bar in a cell of a table."""


def machine() -> dict[str, str]:
    """What it ran on."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "system": platform.platform(),
        "cores": str(os.cpu_count()),
        "memory": f"{memory / 2**30:.0f} GiB",
        "python": platform.python_version(),
        "load before": f"{os.getloadavg()[0]:.1f}",
    }


def write_all(
    options: Options,
    results: Results,
    versions: Mapping[str, str],
    capacity: Capacity | None,
    facts: Mapping[str, str],
) -> None:
    """Write ``table.md``, ``figures.json`` and ``plot.png`` into the output folder.

    Args:
        capacity: of the proxy; None where no case went through it.
        facts: about the machine, as it was before.
    """
    options.output.mkdir(parents=True, exist_ok=True)
    summaries = results.summaries()
    verdicts = judge(results, options.sizes)
    sizes: dict[str, int] = {str(name): count for name, count in options.sizes.items()}
    figures = {
        "machine": facts,
        "versions": versions,
        "quick": options.quick,
        "rounds": options.rounds,
        "sizes": {**sizes, "big bytes": options.big_bytes, "log bytes": options.log_bytes},
        "proxy": asdict(capacity) if capacity else None,
        "summaries": [asdict(summary) for summary in summaries],
        "targets": [
            {"case": v.target.case, "target": v.target.text, "met": v.is_met, "found": v.found}
            for v in verdicts
        ],
        "runs": [asdict(run) for run in results.runs],
    }
    (options.output / "figures.json").write_text(json.dumps(figures, indent=1, ensure_ascii=False), "utf-8")
    text = markdown(options, summaries, verdicts, versions, capacity, facts)
    (options.output / "table.md").write_text(text, "utf-8")
    plot(options, summaries, options.output / "plot.png")


def markdown(
    options: Options,
    summaries: Sequence[Summary],
    verdicts: Sequence[Verdict],
    versions: Mapping[str, str],
    capacity: Capacity | None,
    facts: Mapping[str, str],
) -> str:
    """All tables."""
    lines = ["# Benchmark", ""]
    if options.quick:
        lines += [
            "**`--quick`: trees so small that start-up decides. None of this is a figure to publish.**",
            "",
        ]
    lines.append("; ".join(f"{name}: {value}" for name, value in facts.items()))
    lines += ["", "; ".join(f"{name}: {text}" for name, text in versions.items()), ""]
    if capacity:
        lines += [
            f"The delay proxy, with no delay, carries {capacity.megabytes:.0f} MB/s on one connection and"
            f" {capacity.exchanges:.0f} small exchanges a second on 32 (without it:"
            f" {capacity.megabytes_direct:.0f} and {capacity.exchanges_direct:.0f}).",
            "",
        ]
    for case in options.cases:
        rows = [summary for summary in summaries if summary.case == case.name]
        if rows:
            lines += [f"## {title(case, options)}", "", *_table(rows), ""]
        busiest = max(rows, key=lambda row: row.proxy_load, default=None)
        if busiest is not None and busiest.proxy_load:
            load = f"{busiest.proxy_load:.0%} of the time ({busiest.tool})"
            lines += [f"The proxy was busy for at most {load}.", ""]
    lines += ["## Targets", "", "| case | target | | found |", "|---|---|---|---|"]
    words = {True: "met", False: "**not met**", None: "not known"}
    for v in verdicts:
        cells = (v.target.case, v.target.text, words[v.is_met], v.found)
        lines.append(f"| {' | '.join(cell.replace('|', BAR) for cell in cells)} |")
    return "\n".join(lines) + "\n"


def title(case: Case, options: Options) -> str:
    """A case for people."""
    shape = case.job.shape
    if shape == "many":
        what = f"{options.sizes[case.size]:,} files"
    else:
        size = options.log_bytes if shape == "log" else options.big_bytes
        what = f"{2 if shape == 'pair' else 1} × {size >> 20:,} MiB"
    return f"{case.job.title}, {what}, {case.network.name}"


def _table(rows: Sequence[Summary]) -> list[str]:
    head = "| | seconds (least–most) | × ours | CPU s | peak MB | requests | MB up | MB down |"
    lines = [head, "|---|---|---|---|---|---|---|---|"]
    for row in rows:
        tool = row.tool.replace("|", BAR)
        if row.failure:
            why = " ".join(row.failure.split())[:160].replace("|", BAR)
            lines.append(f"| {tool} | failed: {why} | | | | | | |")
            continue
        requests = ", ".join(f"{n} {kind}" for kind, n in sorted(row.requests.items())) or "–"
        lines.append(
            f"| {tool} | {row.seconds:.2f} ({row.fastest:.2f}–{row.slowest:.2f}) | {row.ratio:.2f}"
            f" | {row.cpu:.2f} | {row.peak / 1e6:.0f} | {requests} | {row.uploaded / 1e6:.2f}"
            f" | {row.downloaded / 1e6:.2f} |"
        )
    return lines


def plot(options: Options, summaries: Sequence[Summary], path: Path) -> None:
    """Median seconds of each tool in each case, one panel a case, on axes of their own from zero."""
    import matplotlib as mpl  # noqa: PLC0415  a second to import

    mpl.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    cases = [case for case in options.cases if any(s.case == case.name and s.seconds for s in summaries)]
    if not cases:
        return
    columns = min(3, len(cases))
    rows = -(-len(cases) // columns)
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(5.2 * columns, 2.5 * rows), squeeze=False, layout="constrained"
    )
    for axis in axes.flat[len(cases) :]:
        axis.axis("off")
    for axis, case in zip(axes.flat, cases, strict=False):
        found = [s for s in summaries if s.case == case.name][::-1]
        floors = case.job.floors
        colours = [
            "#1f77b4" if s.tool == OURS else "#bbbbbb" if s.tool in floors else "#ff9f40" for s in found
        ]
        axis.barh([s.tool for s in found], [s.seconds for s in found], color=colours)
        for place, one in enumerate(found):
            text = "failed" if one.failure else f" {one.seconds:.2f} s"
            axis.text(one.seconds, place, text, va="center", fontsize=8)
        axis.set_title(title(case, options), fontsize=9)
        axis.tick_params(labelsize=8)
        axis.margins(x=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    note = " (--quick: not figures to publish)" if options.quick else ""
    figure.suptitle(f"Median seconds, less is better{note}", fontsize=11)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
