"""Trains ResNet-20 on CIFAR-10 by PyTorch and by Trimtab in turn: the same recipe, accuracy and seconds.

    python resnet20_train.py CIFAR10.safetensors --trimtab ../../target/release/trimtab [--seeds 0 1 2] [--epochs 3] [--threads 2]

The recipe is recipes/resnet20_cifar10.toml: batches of 128, crops from 4 pixels of padding and flips, SGD with momentum 0.9 and
weight decay 1e-4, rate 0.1 with linear warm-up over 5 % of the images and a cosine down to 0. Both start from random weights of
their own, so accuracies agree by distribution and not by seed.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
RECIPE = Path(__file__).parents[2] / "recipes" / "resnet20_cifar10.toml"
BATCH, RATE, WARMUP, PADDING = 128, 0.1, 0.05, 4


class Block(nn.Module):
    """Two 3x3 convolutions; a shortcut that subsamples and pads with zero channels (option A of He et al.)."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.stride, self.extra = stride, outputs - inputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.extra:
            half = self.extra // 2
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.extra - half))
        return F.relu(x + y)


def resnet20() -> nn.Module:
    blocks, inputs = [], 16
    for outputs, stride in ((16, 1), (32, 2), (64, 2)):
        for number in range(3):
            blocks.append(Block(inputs, outputs, stride if number == 0 else 1))
            inputs = outputs
    stem = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
    model = nn.Sequential(stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight)
    return model


def normal(images: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (images.float() / 255 - mean) / std


def augmented(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Each image (bytes) cropped from its padding and flipped by a coin of its own, as in torchvision."""
    size = images.shape[-1]
    padded = F.pad(images, (PADDING,) * 4)
    corners = torch.randint(0, 2 * PADDING + 1, (len(images), 2), generator=generator).tolist()
    crops = torch.stack([padded[i, :, y : y + size, x : x + size] for i, (y, x) in enumerate(corners)])
    flips = torch.rand(len(images), generator=generator) < 0.5
    return normal(torch.where(flips.view(-1, 1, 1, 1), crops.flip(3), crops))


def train(data: dict[str, torch.Tensor], seed: int, epochs: int) -> dict[str, float]:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = resnet20()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9, weight_decay=1e-4)
    images, labels = data["train.images"], data["train.labels"].long()
    total, seen, start = epochs * len(images), 0, time.perf_counter()
    for _ in range(epochs):
        for items in torch.randperm(len(images), generator=generator).split(BATCH):
            seen += len(items)
            warm = WARMUP * total
            rate = seen / warm if seen < warm else 0.5 * (1 + math.cos(math.pi * (seen - warm) / (total - warm)))
            optimizer.param_groups[0]["lr"] = RATE * rate
            optimizer.zero_grad()
            F.cross_entropy(model(augmented(images[items], generator)), labels[items]).backward()
            optimizer.step()
    seconds = time.perf_counter() - start
    model.eval()
    with torch.no_grad():
        tests = data["test.images"].split(500)
        found = torch.cat([model(normal(part)).argmax(1) for part in tests])
    accuracy = (found == data["test.labels"].long()).double().mean().item()
    return {"program": "pytorch", "seed": seed, "accuracy": accuracy, "seconds": seconds}


def train_trimtab(program: str, path: str, seed: int, epochs: int, threads: int) -> dict[str, float]:
    """The same by Trimtab. Its seconds are those of the whole program: reading, measuring and writing are in them."""
    text = RECIPE.read_text().replace("seed = 0", f"seed = {seed}").replace("epochs = 3", f"epochs = {epochs}")
    text = text.replace("heldout_every = 100\n", "").replace("save_every = 100\n", "")
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "recipe.toml"
        recipe.write_text(text)
        command = [program, "train", recipe, "--data", Path(path).absolute(), "-o", f"{folder}/out", "--json", "--threads", str(threads)]
        start = time.perf_counter()
        result = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        seconds = time.perf_counter() - start
    return {"program": "trimtab", "seed": seed, "accuracy": result["accuracy"], "seconds": seconds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--trimtab", required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    data = load_file(args.data)
    for seed in args.seeds:
        for row in (
            train(data, seed, args.epochs),
            train_trimtab(args.trimtab, args.data, seed, args.epochs, args.threads),
        ):
            json.dump(row | {"epochs": args.epochs, "threads": args.threads, "torch": torch.__version__}, sys.stdout)
            print(flush=True)


if __name__ == "__main__":
    main()
