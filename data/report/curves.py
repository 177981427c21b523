"""Pictures and tables of runs.

python3 -m data.report RUN [RUN ...] [--out comparison.png]     compares runs in a picture and a table
"""

import argparse
import json
import math
import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from data.answers.score import interval
from data.common.errors import UserError, printable
from data.common.files import read_object, read_records

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours (https://jfly.uni-koeln.de/color/), which most colour-blind people can tell apart
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
GREY = "#767676"
# options that do not change what a run computes
OF_THE_CALL = ("out", "resume", "force", "local_rank", "processes", "report_to")
TABLE_HEAD = (
    "| script | model | trainable of all | method | hardware | batch | examples/s | execution accuracy | "
    "exact match | n | commit | date |\n" + "|---" * 12 + "|"
)


def read_log(folder: Path) -> tuple[list[dict], list[dict]]:
    """-> (updates, evaluations) of a run's `log.jsonl`, sorted by update; of two records for an update the later counts.

    Malformed lines, and records with a figure that is not finite, are left out. Raises UserError where there is no log.
    """
    try:
        lines = (folder / "log.jsonl").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise UserError(f"{folder / 'log.jsonl'} cannot be read ({error.strerror}): name the folder of a run") from None
    found: dict[str, dict[int, dict]] = {"update": {}, "evaluation": {}}
    wanted = {"update": ("loss", "learning_rate", "seconds", "tokens"), "evaluation": ("execution_accuracy", "exact_match")}
    for line in lines:
        try:
            record = json.loads(line)
            kind, update = record["event"], record["update"]
            if isinstance(update, int) and all(math.isfinite(record[name]) for name in wanted[kind]):
                found[kind][update] = record
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            continue
    return tuple([records[update] for update in sorted(records)] for records in found.values())


def smoothed(values: Sequence[float], span: int) -> list[float]:
    """The mean of each value and up to `span` - 1 values before it."""
    return [statistics.fmean(values[max(0, i + 1 - span) : i + 1]) for i in range(len(values))]


def curves(folder: Path) -> None:
    """Draw `curves.png`: loss, learning rate, accuracies and tokens per second (no padding) over the updates of a run.

    Raises UserError where the folder holds no run.
    """
    updates, evaluations = read_log(folder)
    started = read_object(folder / "args.json", "name the folder of a run")
    figure, axes = panels(4)
    x = [record["update"] for record in updates]
    span = max(1, len(updates) // 50)
    if updates:
        loss, rate = ([record[name] for record in updates] for name in ("loss", "learning_rate"))
        speed = [record["tokens"] / record["seconds"] if record["seconds"] else 0.0 for record in updates]
        trace(axes[0], x, loss, span, COLOURS[0])
        note(axes[0], x[-1], smoothed(loss, span)[-1], f"{smoothed(loss, span)[-1]:.3g}", COLOURS[0])
        axes[1].plot(x, rate, color=COLOURS[0], linewidth=1.5)
        note(axes[1], x[rate.index(max(rate))], max(rate), f"peak {max(rate):.1e}", COLOURS[0])
        trace(axes[3], x, speed, span, COLOURS[0])
        median = statistics.median(speed)
        axes[3].axhline(median, color=GREY, linewidth=1, linestyle=":")
        note(axes[3], x[-1], median, f"median {median:,.0f}", GREY)
    if evaluations:
        at = [record["update"] for record in evaluations]
        for name, colour in (("execution_accuracy", COLOURS[0]), ("exact_match", COLOURS[1])):
            best = max(evaluations, key=lambda record: record[name])
            label = f"{name.replace('_', ' ')}: last {evaluations[-1][name]:.1%}, best {best[name]:.1%} at {best['update']:,}"
            accuracy(axes[2], at, evaluations, name, colour, label)
    titles = ("loss per answer token", "learning rate", "share of dev examples right, with 95 % intervals",
              "real tokens a second")  # fmt: skip
    dress(axes, titles)
    axes[1].yaxis.set_major_formatter("{x:.2g}")
    axes[2].set_ylim(0, 1)
    axes[2].yaxis.set_major_formatter("{x:.0%}")
    if evaluations:
        axes[2].legend(loc="best", fontsize=9, labelcolor="linecolor", framealpha=0.8, edgecolor="none")
    axes[3].yaxis.set_major_formatter("{x:,.0f}")
    n = f", {evaluations[-1]['n']:,} dev examples" if evaluations and "n" in evaluations[-1] else ""
    options = options_of(started)
    size = "tiny" if options.get("tiny") else options.get("model", "")
    title = f"{started.get('script', 'run')} ({size}): {x[-1] + 1 if x else 0:,} updates{n}"
    figure.suptitle(plain(title), x=0.012, ha="left", fontsize=12, fontweight="bold")
    write_picture(figure, folder / "curves.png")


def options_of(started: dict) -> dict:
    """The options in `args.json`; none where it is malformed."""
    return options if isinstance(options := started.get("args"), dict) else {}


def panels(count: int) -> tuple["Figure", list["Axes"]]:
    """A figure with two columns of panels that share the axis of updates."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = -(-count // 2)
    figure = Figure(figsize=(11, 3.1 * rows + 0.4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, 2, sharex=True, squeeze=False).flat)


def dress(axes: Sequence["Axes"], titles: Sequence[str], below: str = "update") -> None:
    from matplotlib.ticker import MaxNLocator

    for axis, title in zip(axes, titles):
        axis.set_title(title, loc="left", fontsize=10, color="#333333")
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="y", color="#e6e6e6", linewidth=0.8)
        axis.set_axisbelow(True)
        axis.tick_params(labelsize=9, colors="#444444")
        axis.margins(x=0.02)
        axis.xaxis.set_major_locator(MaxNLocator(8, integer=True))  # updates are whole numbers
        axis.xaxis.set_major_formatter("{x:,.0f}")
        axis.set_ylim(bottom=0)
        if not axis.has_data():
            axis.text(0.5, 0.5, "nothing yet", transform=axis.transAxes, ha="center", color=GREY)
    for axis in axes[-2:]:
        axis.set_xlabel(below, fontsize=9)


def trace(axis: "Axes", x: Sequence[int], values: Sequence[float], span: int, colour: str) -> None:
    """Draw the values, faint, and their running mean."""
    axis.plot(x, values, color=colour, alpha=0.25, linewidth=0.8)
    axis.plot(x, smoothed(values, span), color=colour, linewidth=1.8, marker="o" if len(x) == 1 else None)


def accuracy(axis: "Axes", x: Sequence[int], records: Sequence[dict], name: str, colour: str, label: str | None = None) -> None:
    """Draw shares, with their intervals where the log has them."""
    axis.plot(x, [record[name] for record in records], color=colour, linewidth=1.8, marker="o", markersize=4, label=label)
    ends = [[record.get(f"{name}{end}", record[name]) for record in records] for end in ("_low", "_high")]
    axis.fill_between(x, *ends, color=colour, alpha=0.12, linewidth=0)


def note(axis: "Axes", x: float, y: float, text: str, colour: str) -> None:
    """Write a value beside its point, with a white outline so that it can be read on top of lines."""
    from matplotlib.patheffects import withStroke

    left, right = axis.get_xlim()
    aside = dict(xytext=(-4, 8), ha="right")
    inwards = dict(xytext=(8, 0), ha="left") if x < (left + right) / 2 else aside
    how = dict(textcoords="offset points", fontsize=9, color=colour, annotation_clip=False)
    how |= dict(path_effects=[withStroke(linewidth=3, foreground="white")], zorder=5)
    axis.annotate(plain(text), (x, y), **inwards, **how)


def plain(text: str) -> str:
    """Escape dollar signs, which matplotlib would read as mathematics."""
    return text.replace("$", r"\$")


def write_picture(figure: "Figure", path: Path) -> None:
    """Write a PNG atomically."""
    aside = path.with_name(path.name + ".tmp")
    figure.savefig(aside, format="png")
    os.replace(aside, path)


# --------------------------------------------------------------------------------------------------------------- tables


def table_row(result: dict, started: dict) -> str:
    """The row of a run in a Markdown table of results, under TABLE_HEAD.

    `result` and `started` are the contents of `result.json` and `args.json`. Missing values are "-".
    """
    hardware = f"{result['gpus']} x {result['gpu_name']}" if result.get("gpus") else result.get("gpu_name")
    git = started.get("git") or {}
    commit = f"{git['commit'][:7]}{'+' if git.get('dirty') else ''}" if git.get("commit") else None
    cells = [
        result["script"],
        result["model"],
        f"{result['trainable_parameters']:,} of {result['parameters']:,}",
        result["method"],
        hardware,
        f"{result['train_batch_size']} / {result['eval_batch_size']}",
        number(result.get("train_examples_per_second"), "{:.3g}"),
        number(result.get("execution_accuracy"), "{:.1%}"),
        number(result.get("exact_match"), "{:.1%}"),
        number(result.get("n"), "{:,}"),
        commit,
        str(started.get("started", ""))[:10],
    ]
    return markdown(cells)


def number(value: float | None, form: str) -> str | None:
    return form.format(value) if isinstance(value, int | float) else None


def markdown(cells: Sequence[object]) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(printable(" ".join(str(cell or "-").split())).replace("|", "\\|") for cell in cells) + " |"


def difference(first: Sequence[bool], second: Sequence[bool]) -> tuple[float, float, float]:
    """The difference of two proportions on the same examples, second - first, and the ends of its 95 % interval.

    The interval is Agresti and Min's, which adds 0.5 to each cell of the 2 x 2 table (2005,
    https://doi.org/10.1002/sim.1781).
    """
    gained = sum(b and not a for a, b in zip(first, second)) + 0.5
    lost = sum(a and not b for a, b in zip(first, second)) + 0.5
    n = len(first) + 2
    centre, half = (gained - lost) / n, 1.959964 * math.sqrt(gained + lost - (gained - lost) ** 2 / n) / n
    measured = (gained - lost) / len(first) if first else 0.0
    return measured, max(-1.0, centre - half), min(1.0, centre + half)


def verdicts(folder: Path) -> dict[tuple, bool] | None:
    """(index, database, gold) of each example of a run -> whether it is right in execution; None before any predictions."""
    path, remedy = folder / "predictions.jsonl", "score the run again"
    if not path.exists():
        return None
    try:
        rows = read_records(path, remedy)
        return {(row["index"], row.get("db_id"), row.get("gold")): bool(row["execution_match"]) for row in rows}
    except (KeyError, TypeError) as error:
        raise UserError(f"{path} holds no verdicts ({error}): {remedy}") from None


def compare(folders: Sequence[Path], out: Path) -> str:
    """Draw the runs' losses and accuracies over the examples seen in `out`, and return a Markdown table of the runs.

    Raises UserError for a folder that holds no run.
    """
    started = [read_object(folder / "args.json", "name the folder of a run") for folder in folders]
    logs = [read_log(folder) for folder in folders]
    known = [read_object(f / "result.json", "finish the run") if (f / "result.json").exists() else None for f in folders]
    head = ("run", "script", "model", "method", "GPUs", "batch", "updates", "examples/s", "tokens/s", "utilisation", "peak GiB",
            "execution accuracy (95 %)", "exact match", "n", "difference to the first (95 %)")  # fmt: skip
    lines = [markdown(head), "|---" * len(head) + "|"]
    base = verdicts(folders[0])
    for folder, record, (updates, evaluations), result in zip(folders, started, logs, known):
        figures = result or (evaluations[-1] if evaluations else {})
        low, high = figures.get("execution_accuracy_low"), figures.get("execution_accuracy_high")
        share, n = figures.get("execution_accuracy"), figures.get("n")
        if low is None and isinstance(share, int | float) and isinstance(n, int):
            low, high = interval(round(share * n), n)
        reached = number(figures.get("execution_accuracy"), "{:.1%}")
        own, gap = verdicts(folder), None
        if folder != folders[0] and base and own and base.keys() == own.keys():
            middle, left, right = difference([base[i] for i in base], [own[i] for i in base])
            gap = f"{100 * middle:+.1f} ({100 * left:+.1f} to {100 * right:+.1f}) points"
        result = result or so_far(record, updates)
        cells = (folder.name, record.get("script"), options_of(record).get("model"), result.get("method"), gpu_names(record),
                 options_of(record).get("update_examples"), result.get("updates"),
                 number(result.get("train_examples_per_second"), "{:.3g}"),
                 number(result.get("train_tokens_per_second"), "{:,.0f}"),
                 number(result.get("utilisation"), "{:.0%}") or "unknown", number(result.get("peak_memory_gib"), "{:.1f}"),
                 f"{reached} ({low:.1%} to {high:.1%})" if reached and low is not None else reached,
                 number(figures.get("exact_match"), "{:.1%}"), number(figures.get("n"), "{:,}"), gap)  # fmt: skip
        lines.append(markdown(cells))
    picture(folders, started, logs, out)
    return "\n".join([*lines, *differing(started)])


def so_far(started: dict, updates: Sequence[dict]) -> dict:
    """The figures that the log gives for an unfinished run, with the names of `result.json`."""
    seconds = sum(record["seconds"] for record in updates)
    memory = [record["memory_gib"] for record in updates if isinstance(record.get("memory_gib"), int | float)]
    return dict(
        updates=f"{len(updates):,}, no result yet",
        train_examples_per_second=len(updates) * examples_per_update(started) / seconds if seconds else None,
        train_tokens_per_second=sum(record["tokens"] for record in updates) / seconds if seconds else None,
        peak_memory_gib=max(memory, default=None),
    )


def examples_per_update(started: dict) -> int:
    """Examples per update of a run, over all its processes."""
    return options_of(started).get("update_examples", 1)


def gpu_names(started: dict) -> str:
    names = started.get("gpus") or ["-"]
    return f"{len(names)} x {names[0]}"


def differing(started: Sequence[dict]) -> list[str]:
    """A line for each option in which the runs differ, and one if their data differ."""
    options = [options_of(record) for record in started]
    names = sorted({name for each in options for name in each} - set(OF_THE_CALL))
    different = [name for name in names if len({json.dumps(each.get(name)) for each in options}) > 1]
    lines = [f"--{name}: " + ", ".join(str(each.get(name, "-")) for each in options) for name in different]
    data = [record["data"] if isinstance(record.get("data"), dict) else {} for record in started]
    if len({each.get("sha256") for each in data}) > 1:
        names = [f"{each.get('directory', '-')} ({str(each.get('sha256', '-'))[:7]})" for each in data]
        lines.append("other data: " + ", ".join(names))
    return lines


def picture(folders: Sequence[Path], started: Sequence[dict], logs: Sequence[tuple], out: Path) -> None:
    from matplotlib.lines import Line2D

    figure, axes = panels(2)
    for number, (folder, record, (updates, evaluations)) in enumerate(zip(folders, started, logs)):
        # over examples seen, runs with different batch sizes can be compared
        colour, size = COLOURS[number % len(COLOURS)], examples_per_update(record)
        if updates:
            x = [(entry["update"] + 1) * size for entry in updates]
            trace(axes[0], x, [entry["loss"] for entry in updates], max(1, len(x) // 50), colour)
        if evaluations:
            at = [entry["update"] * size for entry in evaluations]
            accuracy(axes[1], at, evaluations, "execution_accuracy", colour)
            note(axes[1], at[-1], evaluations[-1]["execution_accuracy"], f"{evaluations[-1]['execution_accuracy']:.1%}", colour)
    dress(axes, ("loss per answer token", "execution accuracy, with 95 % intervals"), "examples seen")
    axes[1].set_ylim(0, 1)
    axes[1].yaxis.set_major_formatter("{x:.0%}")
    # matplotlib leaves labels that begin with "_" out of a legend, so make entries and set their texts afterwards
    swatches = [Line2D([], [], color=COLOURS[i % len(COLOURS)], linewidth=1.8) for i in range(len(folders))]
    key = figure.legend(swatches, ["run"] * len(folders), loc="outside lower left", ncols=4, frameon=False, fontsize=9)
    for text, folder in zip(key.get_texts(), folders):
        text.set_text(plain(folder.name))
    try:
        write_picture(figure, out)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror}): name another file with --out") from None


def main() -> None:
    parser = argparse.ArgumentParser(prog="python3 -m data.report", description="Compare runs in one picture and one table.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="the folder of a run")
    parser.add_argument("--out", type=Path, default=Path("comparison.png"), metavar="FILE", help="the picture (PNG)")
    args = parser.parse_args()
    print(compare(args.runs, args.out))
    print(printable(f"the picture: {args.out}"))
