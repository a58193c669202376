"""Inference: Fig. 3's network as we run it, against the same network as PyTorch's parts give it.

    OMP_NUM_THREADS=1 python benchmarks/inference.py

*Stock*: ``nn.LocalResponseNorm``, float32, NCHW. *Exact*: our contrast norm and channels_last, in
float32 still. *Ours*: the same in bfloat16. One thread, a batch of pictures at a time. The error is
the largest difference of a class probability from the stock network's, on the shipped photographs.
"""

from __future__ import annotations

import copy
import sys

import torch
import torch.nn.functional as F
from timing import interleaved, table
from training import stock

from zfcore.data import photographs, squares, to_input
from zfcore.model import build, initialize_, load

NETWORKS = {"zfnet": 8, "zfnet-64": 64}  # batch sizes
BARS = {"zfnet": 3.0, "zfnet-64": 2.0}
ERRORS = {"exact": 1e-5, "ours": 0.02}  # in probability


def main() -> int:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    missed, rows = [], []
    for name, batch in NETWORKS.items():
        if name == "zfnet-64":
            model, card = load(name)
            x = to_input(list(photographs().values()), card)
        else:
            model = build(name).eval()
            initialize_(model, "he")
            card = {"resize": 256, "input_size": 224}
            x = torch.from_numpy(squares(list(photographs().values()), card)).permute(0, 3, 1, 2)
            x = (x.float() - 128) / 64
        networks = {
            "stock": stock(model),
            "exact": copy.deepcopy(model).to(memory_format=torch.channels_last),
            "ours": copy.deepcopy(model).to(torch.bfloat16, memory_format=torch.channels_last),
        }
        inputs = {
            "stock": x,
            "exact": x.to(memory_format=torch.channels_last),
            "ours": x.to(torch.bfloat16, memory_format=torch.channels_last),
        }
        with torch.no_grad():
            seen = {who: F.softmax(net(inputs[who]).float(), 1) for who, net in networks.items()}
            errors = {who: float((seen[who] - seen["stock"]).abs().max()) for who in ERRORS}
            repeated = {
                who: pictures.repeat(-(-batch // len(x)), 1, 1, 1)[:batch] for who, pictures in inputs.items()
            }
            times = interleaved(
                {who: lambda n=net, p=repeated[who]: n(p) for who, net in networks.items()}, rounds=9
            )
        rates = {who: batch / seconds for who, seconds in times.items()}
        ratio = rates["ours"] / rates["stock"]
        gained = rates["exact"] / rates["stock"]
        speeds = (f"{rate:.0f}" for rate in rates.values())
        differences = (f"{error:.0e}" for error in errors.values())
        rows.append([name, *speeds, f"{gained:.1f}", f"{ratio:.1f}", f"{BARS[name]:.0f}", *differences])
        if ratio < BARS[name] or any(errors[who] > ERRORS[who] for who in ERRORS):
            missed.append(name)
    head = ["", "stock img/s", "exact img/s", "ours img/s", "exact/stock", "ours/stock", "bar"]
    print(table([*head, "error exact", "error ours"], rows))
    if missed:
        print("below the bar:", ", ".join(missed))
    return len(missed)


if __name__ == "__main__":
    sys.exit(main())
