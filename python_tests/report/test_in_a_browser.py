"""The page of a run as a browser shows it: every picture, every curve, nothing cut off, nothing fetched."""

import html
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from sdgan_ext.cli import main
from sdgan_ext.report import write_report

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome is installed"),
]

#: What a test copy of the page measures when it is loaded, and says in its own text.
PROBE = """<pre id="probe"></pre><script>
addEventListener("load", () => setTimeout(() => {
  const outside = svg => [...svg.querySelectorAll("polyline, circle, text")].filter(part => {
    const box = part.getBBox(), view = svg.viewBox.baseVal;
    return box.x < -1 || box.y < -1 || box.x + box.width > view.width + 1 || box.y + box.height > view.height + 1;
  }).map(part => part.outerHTML);
  const apart = (a, b) => a.right <= b.left || b.right <= a.left || a.bottom <= b.top || b.bottom <= a.top;
  const boxes = [...document.querySelectorAll("h1, h2, h3, figure, table, pre:not(#probe)")]
    .filter(part => part.offsetParent).map(part => part.getBoundingClientRect());
  document.getElementById("probe").textContent = JSON.stringify({
    pictures: [...document.images].map(image => image.complete && image.naturalWidth > 0 && image.width > 60),
    curves: [...document.querySelectorAll("svg")].map(svg => svg.getBoundingClientRect().height > 50),
    outside: [...document.querySelectorAll("svg")].flatMap(outside),
    wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    overlaps: boxes.some((a, i) => boxes.slice(i + 1).some(b => !apart(a, b))),
    fetched: performance.getEntriesByType("resource").map(({name}) => name).filter(name => !name.startsWith("data:")),
    style: getComputedStyle(document.querySelector(".curve polyline")).fill,
  });
}, 0));
</script></body>"""


def browse(page, width, *arguments):
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--virtual-time-budget=5000",
    ]
    command += [f"--user-data-dir={page.parent / 'profile'}", f"--window-size={width},4000"]
    ran = subprocess.run([*command, *arguments, page.as_uri()], capture_output=True, text=True, timeout=240)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Of a VAE-GAN of wide images, with a long name."""
    folder = tmp_path_factory.mktemp("runs")
    data = folder / ("data of a long name " * 8 + ".npz")
    np.savez(data, np.random.default_rng(0).integers(0, 256, (16, 8, 24, 3), dtype=np.uint8))
    flags = "--steps 6 --batch-size 4 --log-every 1 --sample-every 2 --evaluate-every 2 --evaluate-images 4"
    flags += " --validation-images 4 --encoder-channels 4, --generator-channels 4 --discriminator-channels 4,"
    out = folder / "out"
    assert main(["train", "--data", str(data), "--out", str(out), *flags.split(), "--feature-layer", "0"]) == 0
    (run,) = out.iterdir()
    record = {"a/the_widest_numbers": -1.2345e-100, "a/large": 123456789.0, "images": 24, "seconds": 1.0}
    with open(run / "log.jsonl", "a") as log:
        log.write(json.dumps({"step": 6, **record}) + "\n" + json.dumps({"step": 123_456_789, "a/large": 1.0}) + "\n")
    metrics = {"a_metric_with_quite_a_long_name_in_it": 1.5, "neg_elbo": 123456.789}
    (run / "evaluation-00000.json").write_text(
        json.dumps({"metrics": metrics, "settings": {"k": 5, "data": "x" * 200}})
    )
    return write_report(run)


@pytest.mark.parametrize("width", [1280, 500])
def test_everything_is_shown_and_nothing_is_cut_off(page, tmp_path, width):
    text = page.read_text()
    policy = re.search(r"<meta http-equiv[^>]*>", text)[0]
    copy = tmp_path / "probe.html"
    copy.write_text(text.replace(policy, "").replace("</body>", PROBE).replace("<details>", "<details open>"))
    shown = re.search(r'<pre id="probe">(.*?)</pre>', browse(copy, width, "--dump-dom"), re.DOTALL)[1]
    seen = json.loads(html.unescape(shown))
    assert len(seen["pictures"]) == text.count("<img ") == 5 and all(seen["pictures"])
    assert len(seen["curves"]) == text.count("<svg ") > 15 and all(seen["curves"])
    assert seen["outside"] == []
    assert seen["wide"] <= 0 and not seen["overlaps"]
    assert seen["fetched"] == [] and seen["style"] == "none"


def test_its_policy_runs_no_script_and_still_shows_it(page, tmp_path):
    """As written, with a script smuggled in: it does not run, and style and pictures pass."""
    copy, shot = tmp_path / "page.html", tmp_path / "page.png"
    attack = "<script>document.body.textContent = ''</script><img src='https://192.0.2.1/x.png'></body>"
    copy.write_text(page.read_text().replace("</body>", attack))
    assert "What it makes" in browse(copy, 1000, "--dump-dom")
    browse(copy, 1000, f"--screenshot={shot}")
    with Image.open(shot) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    colours = len(np.unique(pixels.reshape(-1, 3), axis=0))
    assert colours > 1000  # of random images; a page without pictures has a few dozen
    assert (pixels != pixels[0, 0]).any(axis=2).any(axis=1).mean() > 0.5  # of its rows, most have something
