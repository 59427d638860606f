"""The page: HTML without scripts that asks for nothing, in which all that comes from files is escaped."""

from __future__ import annotations

import datetime
import shlex
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any

from .. import __version__
from .._config import Config
from .._errors import printable
from ..evaluation.units import unit_of
from ..training.config import TrainConfig
from ..training.runs import config_kind
from .command import train_command
from .curves import curve, number
from .facts import Facts, is_number
from .pictures import embedded, evenly, moving
from .words import GROUPS, WORDS

__all__ = ["page"]

_STRIP = 6  # pictures on the way
_STYLE = Path(__file__).with_name("style.css")
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_KINDS = {"gan": "GAN", "vae": "VAE", "vae-gan": "VAE-GAN"}


def page(facts: Facts) -> str:
    """The whole document; what cannot be shown becomes one of its notices."""
    pictures = _pictures(facts)  # before the notices: it finds more
    body = [_head(facts), _notices(facts), pictures, _quality(facts), _curves(facts), _data(facts)]
    body += [_configuration(facts), _repeat(facts), _foot(facts)]
    title = escape(printable(facts.folder.resolve().name))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title>\n<style>\n{_STYLE.read_text()}</style></head>\n<body>\n"
        + "\n".join(part for part in body if part)
        + "\n</body></html>\n"
    )


# ------------------------------------------------------------------------------------------------------ the parts
def _head(facts: Facts) -> str:
    name = _words(facts.folder.resolve().name)
    words, kind = _state(facts)
    numbers = {"steps": _of(facts.step, facts.steps)}
    batch = facts.config["train"].get("batch_size")
    if type(batch) is int:
        numbers["images seen"] = f"{facts.step * batch:,}"
    seconds, speed = facts.last("seconds"), facts.last("s_per_kimg")
    if seconds is not None:
        numbers["training time"] = _duration(seconds)
    if speed:
        numbers["images a second"] = number(round(1000 / speed, 1))
    parameters = facts.config["parameters"].get("total")
    if type(parameters) is int:
        numbers["parameters"] = f"{parameters:,}"
    if is_number(facts.best.get("value")):
        numbers[f"best {facts.best.get('metric')}"] = number(facts.best["value"])
    cells = "".join(f"<div><dt>{_words(key)}</dt><dd>{_words(value)}</dd></div>" for key, value in numbers.items())
    return (
        f'<header><h1>{name}<span class="badge {kind}">{escape(words)}</span></h1>'
        f'<p class="lead">{_summary(facts)}</p><dl class="numbers">{cells}</dl></header>'
    )


def _state(facts: Facts) -> tuple[str, str]:
    if facts.running:
        return "still being trained", "warn"
    if not facts.ended:
        return f"broke off after step {facts.step:,}", "bad"
    if facts.steps is not None and facts.step >= facts.steps:
        return "finished", "good"
    patience, since = facts.config["train"].get("patience"), facts.best.get("since")
    if is_number(patience) and is_number(since) and since >= patience > 0:
        return f"ended at step {facts.step:,}: nothing better came", "good"
    return f"stopped at step {facts.step:,}", "warn"


def _summary(facts: Facts) -> str:
    """One sentence: what was trained, on what."""
    train, data = facts.config["train"], facts.config["data"]
    kind = _KINDS.get(str(train.get("mode")), "model")
    networks = {"Networks": " of a program's own networks", "AutoencoderKL": " of diffusers' AutoencoderKL"}
    own = networks.get(str(facts.config["model"].get("model")), "")
    channels, images = data.get("channels"), data.get("images")
    held_out = train.get("validation_images")
    count = f"{images - (held_out if type(held_out) is int else 0):,} " if type(images) is int else ""
    colour = {1: "grey ", 3: "colour ", 4: "RGBA "}.get(channels if type(channels) is int else 0, "")
    images_of = f"{count}{colour}images of {_words(_size(data))}"
    return f"A {kind}{own}, trained on {images_of}: {_words(data.get('name', 'unknown'))}."


def _notices(facts: Facts) -> str:
    if not facts.notices:
        return ""
    return f'<section class="notice">{"".join(f"<p>{_words(line)}</p>" for line in facts.notices)}</section>'


def _pictures(facts: Facts) -> str:
    shown = {"samples": "Samples", "reconstructions": "Reconstructions: each row of images above what becomes of it"}
    latest, strip = [], []
    for name, title in shown.items():
        entries = facts.pictures.get(name, [])
        if entries:
            step, path = entries[-1]
            latest.append(_figure(facts, path, f"{title}, step {step:,}"))
    walk = facts.walk and _figure(facts, facts.walk, "Walks through the latent space")
    for step, path in evenly(facts.pictures.get("samples", [])[:-1], _STRIP):
        strip.append(_figure(facts, path, f"step {step:,}"))
    parts = [f'<div class="columns">{"".join(latest)}{walk or ""}</div>']
    if any(strip):
        parts.append(f'<h3>Samples on the way</h3><div class="strip">{"".join(strip)}</div>')
    if not any(latest) and not walk:
        parts = ['<p class="soft">No picture has been drawn yet.</p>']
    return f"<section><h2>What it makes</h2>{''.join(parts)}</section>"


def _figure(facts: Facts, path: Path, words: str) -> str:
    try:
        image = moving(path, words) if path.suffix == ".gif" else embedded(path, words)
    except OSError as error:
        facts.notices.append(f"{path} is not shown: {error.strerror or error}")
        return ""
    return f"<figure>{image}<figcaption>{escape(words)}</figcaption></figure>"


def _quality(facts: Facts) -> str:
    parts = []
    for file, content in facts.evaluations.items():
        settings = content.get("settings")
        settings = settings if isinstance(settings, dict) else {}
        k = settings.get("k", 0)
        rows = [
            (name, number(value) if is_number(value) else "not a number", unit_of(name, k))
            for name, value in content["metrics"].items()
        ]
        asked = ", ".join(f"{key} {settings[key]}" for key in ("data", "split", "n", "seed") if key in settings)
        parts.append(f"<h3>{_words(file)}{': ' if asked else ''}{_words(asked)}</h3>" + _table(rows, number_at=1))
    best = facts.best
    if is_number(best.get("value")):
        parts.append(
            f"<p>The best {_words(best.get('metric'))} on held-out images during the training is "
            f"<b>{number(best['value'])}</b>, at step {_words(best.get('step'))}, of {_words(best.get('images'))} "
            "images; that model is in the folder <code>best</code>.</p>"
        )
    if not parts:
        command = _command(
            "sdgan-ext", "evaluate", facts.folder, "--data", facts.config["data"].get("source") or "DATA"
        )
        parts.append(f"<p>It has not been evaluated yet:</p><pre>{command}</pre>")
    health = facts.health
    if health:
        parts.append(
            "<h3>Health of the training</h3>" + "".join(f'<p class="bad">{_words(line)}</p>' for line in health)
        )
    elif any(name.startswith("health/") for name in facts.history):
        parts.append(
            "<h3>Health of the training</h3><p>No lasting sign of a discriminator that wins outright, of a collapsed "
            "posterior or of collapsed samples.</p>"
        )
    return f"<section><h2>How good it is</h2>{''.join(parts)}</section>"


def _curves(facts: Facts) -> str:
    parts, drawn = [], {"images", "seconds"}
    for title, beginning in (*GROUPS, ("Speed, and what else was logged", "")):
        names = [name for name in facts.history if name.startswith(beginning) and name not in drawn]
        drawn.update(names)
        curves = [curve(_words(_short(name, beginning)), facts.history[name], _unit(name)) for name in names]
        if curves:
            parts.append(f'<h3>{title}</h3><div class="curves">{"".join(curves)}</div>')
    if not parts:
        parts = ['<p class="soft">Nothing has been logged yet.</p>']
    return f"<section><h2>How it went</h2>{''.join(parts)}</section>"


def _short(name: str, beginning: str) -> str:
    return name.removeprefix(beginning).replace("_", " ")


def _unit(name: str) -> str:
    return unit_of(name.removeprefix("evaluation/"), 0) if name.startswith("evaluation/") else WORDS.get(name, "")


def _data(facts: Facts) -> str:
    data = facts.config["data"]
    rows = [(name.replace("_", " "), _plain(value)) for name, value in (data | {"image_size": _size(data)}).items()]
    held_out = facts.config["train"].get("validation_images")
    if held_out:
        rows.append(("held out of training", _plain(held_out)))
    return f"<section><h2>On what</h2>{_table(rows)}</section>" if data else ""


def _configuration(facts: Facts) -> str:
    columns = []
    for title, name, kind in (
        ("Training", "train", TrainConfig),
        ("Model", "model", config_kind(facts.config["model"])),
    ):
        values = {key: value for key, value in facts.config[name].items() if key != "format_version"}
        usual = _defaults(kind)
        own = {key: value for key, value in values.items() if usual.get(key, usual) != value}
        parts = []
        if own:
            changed = [(key, _plain(value), _plain(usual[key]) if key in usual else "") for key, value in own.items()]
            parts.append(f"<h3>{title}: what is not the default</h3>" + _table(changed, head=("", "here", "default")))
        if values:
            rows = [(key, _plain(value)) for key, value in values.items()]
            parts.append(f"<details><summary>{title}: all of it</summary>{_table(rows)}</details>")
            columns.append(f"<div>{''.join(parts)}</div>")
    if not columns:
        return ""
    return f'<section><h2>How it is set</h2><div class="columns">{"".join(columns)}</div></section>'


def _repeat(facts: Facts) -> str:
    config, folder = facts.config, facts.folder
    command = train_command(config) if config["train"] else None
    parts = []
    if command:
        parts.append(f"<p>Train it again, from the same seed:</p><pre>{_words(command)}</pre>")
        file = _command("sdgan-ext", "train", "--config", folder / "config.yaml")
        parts.append(f"<p>The same by the run's own file:</p><pre>{file}</pre>")
        steps = facts.steps if facts.steps and facts.step < facts.steps else 2 * max(1, facts.step)
        go_on = _command("sdgan-ext", "train", "--resume", folder, "--steps", steps)
        parts.append(f"<p>Go on with it:</p><pre>{go_on}</pre>")
        parts.append(f"<p>More samples:</p><pre>{_command('sdgan-ext', 'sample', folder, '--seeds', '0-31')}</pre>")
    elif config["train"]:
        parts.append(
            "<p>A program made its networks or its data, and only that program can train it again; "
            "<code>Trainer.resume(run, model=...).fit(dataset)</code> goes on with it.</p>"
        )
    versions = ", ".join(f"{name} {value}" for name, value in config["versions"].items())
    if versions:
        parts.append(f'<p class="soft">It was trained with {_words(versions)}.</p>')
    return f"<section><h2>How to repeat it</h2>{''.join(parts)}</section>" if parts else ""


def _foot(facts: Facts) -> str:
    now = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    return f"<footer>Written by sdgan-ext {__version__} on {now} from {_words(facts.folder.resolve())}</footer>"


# ----------------------------------------------------------------------------------------------------- the words
def _words(value: object) -> str:
    return escape(printable(value))


def _command(*words: object) -> str:
    return _words(shlex.join(map(str, words)))


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_plain, value))
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    return f"{value:,}" if type(value) is int and abs(value) >= 10_000 else str(value)


def _size(data: Mapping[str, Any]) -> str:
    size = data.get("image_size")
    return "x".join(map(str, size)) if isinstance(size, list) else "unknown size"


def _table(rows: Iterable[tuple[str, ...]], *, head: tuple[str, ...] = (), number_at: int | None = None) -> str:
    """``number_at``: the column of numbers."""
    lines = [f"<tr>{''.join(f'<th>{_words(cell)}</th>' for cell in head)}</tr>"] if head else []
    for row in rows:
        cells = (f"<td{' class=n' * (i == number_at)}>{_words(cell)}</td>" for i, cell in enumerate(row))
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f'<div class="tables"><table>{"".join(lines)}</table></div>'


def _of(step: int, steps: int | None) -> str:
    return f"{step:,}" if steps is None else f"{step:,} of {steps:,}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = ((days, "d"), (hours, "h"), (minutes, "min"), (rest, "s"))
    first = next((i for i, (count, _) in enumerate(parts) if count), 3)
    return " ".join(f"{count} {unit}" for count, unit in parts[first : first + 2])


def _defaults(kind: type[Config]) -> Mapping[str, Any]:
    return kind().to_dict()
