"""Train the feature network of the colour model: it answers what the maker knows of a picture."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pictures
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from training import (
    Progress,
    ShuffledBatches,
    autocast,
    load_checkpoint,
    rate,
    save_checkpoint,
    set_rate,
    to_float,
)

from core.sampling.metrics import (
    FeatureNetwork,
    Judge,
    ReferenceStatistics,
    class_variance,
    gaussian,
)

HERE = Path(__file__).resolve().parent
CLASSES = [style.name for style in pictures.STYLES]


class Questions:
    """What the maker knows about a picture, as classification tasks: one per (class, attribute)."""

    def __init__(self, attributes: list[dict[str, str]], labels: np.ndarray):
        seen: dict[tuple[int, str], dict[str, int]] = {}
        for one, label in zip(attributes, labels.tolist(), strict=True):
            for name, value in one.items():
                seen.setdefault((label, name), {}).setdefault(value, 0)
                seen[label, name][value] += 1
        self.options = {
            key: [*sorted(values), "none"]
            for key, values in sorted(seen.items())
            if len(values) > 1 and max(values.values()) < 0.95 * (labels == key[0]).sum()
        }
        self.starts, total = {}, 0
        for key, values in self.options.items():
            self.starts[key] = total
            total += len(values)
        self.total = total
        self.of_class = {c: [k for k in self.options if k[0] == c] for c in range(10)}
        self.most = max(map(len, self.of_class.values()))

    def answers(self, attributes: list[dict[str, str]], labels: np.ndarray) -> Tensor:
        """Return (n, most) indices into the options of each question of the picture's class."""
        index = {k: {v: i for i, v in enumerate(values)} for k, values in self.options.items()}
        found = torch.zeros(len(labels), self.most, dtype=torch.int16)
        for i, (one, label) in enumerate(zip(attributes, labels.tolist(), strict=True)):
            for j, key in enumerate(self.of_class[label]):
                none = len(self.options[key]) - 1
                found[i, j] = index[key].get(one.get(key[1], "none"), none)
        return found

    def each(self, logits: Tensor, answers: Tensor, labels: Tensor):
        """Yield (question, logits (m, options), answers (m,)) of the pictures that it is about."""
        for c in range(10):
            rows = (labels == c).nonzero().flatten()
            if not len(rows):
                continue
            for j, key in enumerate(self.of_class[c]):
                start = self.starts[key]
                wanted = answers[rows, j].long()
                yield key, logits[rows, start : start + len(self.options[key])], wanted


def train_features(args) -> None:
    """Train the feature network on attributes (eyes, mouth, hair, colours), not only the class."""
    torch.manual_seed(args.seed)
    images, labels = pictures.load_split(args.work / "data", "train")
    attributes = pictures.load_attributes(args.work / "data", "train")
    questions = Questions(attributes, labels)
    answers, classes = questions.answers(attributes, labels), torch.from_numpy(labels)
    network = FeatureNetwork(channels=3, size=64)
    asked = nn.Linear(64, questions.total)
    both = nn.ModuleList([network, asked]).to(args.device, memory_format=torch.channels_last)
    total, batch = args.feature_steps, 128
    optimiser = torch.optim.AdamW(both.parameters(), lr=2e-3, weight_decay=0.01)
    checkpoint, first = args.work / "features.safetensors", 0
    if checkpoint.exists():
        first, (weights,) = load_checkpoint(checkpoint, optimiser, "weights")
        both.load_state_dict(weights)
        print(f"features resume at step {first}", flush=True)
    progress = Progress("features", total, batch, first)
    batches = ShuffledBatches(len(images), batch, args.seed)
    for step in range(first, total):
        set_rate(optimiser, 2e-3 * rate(step, total))
        pick = batches(step)
        with autocast(args.device):
            x = to_float(images[pick.numpy()], args.device)
            features = network.features(x.to(memory_format=torch.channels_last))
            logits, kinds = asked(F.relu(features)), network.head(F.relu(features))
        target = classes[pick].to(args.device)
        parts = [
            F.cross_entropy(part.float(), wanted)
            for _, part, wanted in questions.each(logits, answers[pick].to(args.device), target)
        ]
        loss = torch.stack(parts).mean() + 0.2 * F.cross_entropy(kinds.float(), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        progress(step, loss)
        if (step + 1) % 500 == 0 or step + 1 == total:
            save_checkpoint(checkpoint, step + 1, optimiser, weights=both.state_dict())
    both.cpu().eval()
    report_features(network, asked, questions, args.work / "data")


def report_features(
    network: FeatureNetwork, asked: nn.Linear, questions: Questions, data: Path
) -> None:
    """Write the network with its reference statistics, and what it reads off test pictures."""
    test, test_labels = pictures.load_split(data, "test")
    test_attributes = pictures.load_attributes(data, "test")
    wanted, kinds = questions.answers(test_attributes, test_labels), torch.from_numpy(test_labels)
    x = to_float(test)
    empty = ReferenceStatistics(torch.zeros(64), torch.eye(64), torch.ones(10), 1)
    features, predicted = Judge(network, empty).look(x)
    mean, covariance = gaussian(features)
    reference = ReferenceStatistics(mean, covariance, class_variance(features, kinds, 10), len(x))
    Judge(network, reference).save(HERE / "features")
    with torch.inference_mode():
        logits = asked(F.relu(features))
    right, most_common, names = [], [], {}
    for key, part, target in questions.each(logits, wanted, kinds):
        right.append(float((part.argmax(1) == target).float().mean()))
        most_common.append(float(target.bincount().max() / len(target)))
        names[f"{CLASSES[key[0]]}: {key[1]}"] = [round(right[-1], 3), round(most_common[-1], 3)]
    report = {
        "class_accuracy": float((predicted == kinds).float().mean()),
        "attribute_accuracy": sum(right) / len(right),
        "attribute_accuracy_of_the_most_common_value": sum(most_common) / len(most_common),
        "questions": len(right),
        "n": len(x),
        "each": names,
    }
    (HERE / "features" / "sees.json").write_text(json.dumps(report, indent=1) + "\n")
    print({k: v for k, v in report.items() if k != "each"}, flush=True)
