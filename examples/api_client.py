"""Drive a running studio from another program, by its six named endpoints.

    python app.py                                                     # in another terminal
    python examples/api_client.py http://127.0.0.1:7860 [--out FOLDER] [--seconds 30]

Needs `gradio_client` alone, which comes with gradio. The address with /gradio_api/info describes
every argument, and `Client.view_api()` prints them.
"""

from __future__ import annotations

import argparse
import zipfile
from pathlib import Path

from gradio_client import Client

STEPS = 10
IMAGES = 4


def main(url: str, out: Path, seconds: float) -> None:
    """Ask for a plan, look at what it costs, prune, compare, sweep and tune."""
    studio = Client(url, verbose=False)

    # Curves -> plan: the paper's rule on the model's own noise schedule.
    plan = studio.predict(steps=STEPS, target=0.33, api_name="/curves")["plan"]
    print(f"plan: boundaries {plan['boundaries']}, sparsity {plan['sparsity']}")

    # Plan -> what it costs. Counted and predicted, nothing is measured here.
    predicted = studio.predict(plan=plan, steps=STEPS, api_name="/predict")
    print(f"predicted: {predicted['speedup_macs']:.2f} times fewer multiply-accumulates")

    # Plan -> subnetworks, which `MosaicTransformer.from_pretrained` opens over the dense model.
    facts, archive = studio.predict(plan=plan, steps=STEPS, api_name="/prune")
    with zipfile.ZipFile(archive) as files:
        files.extractall(out / "subnetworks")
    print(f"pruned: {', '.join(facts['files'])} in {out / 'subnetworks'}")

    # Dense and pruned from the same noise, timed in turn.
    found = studio.predict(plan=plan, steps=STEPS, images=IMAGES, repeats=1, api_name="/compare")
    print(f"compared: PSNR {found['psnr']:.1f} dB, n = {found['n']}, on {found['device_found']}")

    # The same for several settings.
    record, _ = studio.predict(
        plan=plan, x="target=0.2,0.4", steps=STEPS, images=IMAGES, repeats=0, api_name="/sweep"
    )
    for cell in record["cells"]:
        print(f"target {cell['x']}: {cell['state']}, PSNR {cell['numbers']['psnr']:.1f} dB")

    # Steps, solver and plan with the best pictures at a third of the work.
    tuned = studio.predict(speedup=3, seconds=seconds, evaluations=4, api_name="/tune")
    print(f"tuned: {tuned['scheduler']} in {tuned['steps']} steps, {tuned['evaluations']} tried")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url", nargs="?", default="http://127.0.0.1:7860")
    parser.add_argument("--out", type=Path, default=Path("pruned"))
    parser.add_argument("--seconds", type=float, default=30)
    args = parser.parse_args()
    main(args.url, args.out, args.seconds)
