"""Golden results of optimizers and learning-rate schedules: tests/golden/optim.safetensors, read by tests/unit/test_optim.c.

Optimizers: torch.optim.AdamW and SGD, ten steps in float32 on two tensors that stand in two groups (rate, decay), with a factor of a cosine
schedule on the rate. Tensor k begins as weightgen's `optim.k`; its gradient in step s (from 0) is weightgen's `optim.grad.k.s` times
10 ** (-s % 4). Saved: NAME.k.after1 and NAME.k.after10; m and v for AdamW after the tenth. clip.factor: what clip_grad_norm_ multiplied with,
clip.norm: the norm.
Schedules: KIND.TOTAL.WARMUP, the rate (base rate 1) of steps 0 .. TOTAL - 1, in float64; DeepSpeed's classes come from its source package.

    pip download --no-deps --no-binary :all: deepspeed==0.12.5 and unpack it
    OPENBLAS_CORETYPE=SkylakeX python make_optim_goldens.py deepspeed-0.12.5 ../../tests/golden/optim.safetensors
"""
import importlib.util
import logging
import sys
import types

import torch
import transformers
from safetensors.torch import save_file

from weightgen import tensor

SHAPES = ((37, 13), (5,))
GROUPS = ((3e-4, 0.0), (2e-2, 0.1))  # rate, weight decay
results = {}


def deepspeed_schedules(folder):
    """lr_schedules.py alone: the rest of the package wants a GPU."""
    utils = types.ModuleType("deepspeed.utils")
    utils.logger = logging.getLogger("deepspeed")
    sys.modules["deepspeed"], sys.modules["deepspeed.utils"] = types.ModuleType("deepspeed"), utils
    spec = importlib.util.spec_from_file_location("lr_schedules", f"{folder}/deepspeed/runtime/lr_schedules.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def gradient(k, step):
    return tensor(f"optim.grad.{k}.{step}", SHAPES[k]) * 10.0 ** (-(step % 4))


def run(name, make, states):
    weights = [torch.nn.Parameter(tensor(f"optim.{k}", shape).clone()) for k, shape in enumerate(SHAPES)]
    optimizer = make([{"params": [w], "lr": rate, "weight_decay": decay} for w, (rate, decay) in zip(weights, GROUPS)])
    schedule = transformers.get_cosine_schedule_with_warmup(optimizer, 2, 10)
    for step in range(10):
        for k, w in enumerate(weights):
            w.grad = gradient(k, step)
        optimizer.step()
        schedule.step()
        if step in (1, 9):  # the rate of the very first is 0
            for k, w in enumerate(weights):
                results[f"{name}.{k}.after{step + 1}"] = w.detach().clone()
    for k, w in enumerate(weights):
        for key, short in states.items():
            results[f"{name}.{k}.{short}"] = optimizer.state[w][key].clone()


def rates(scheduler_of, total):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler, out = scheduler_of(optimizer), []
    for _ in range(total):
        out.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return torch.tensor(out, dtype=torch.float64)


def main():
    folder, target = sys.argv[1:]
    deepspeed = deepspeed_schedules(folder)
    run("adamw", lambda groups: torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8), {"exp_avg": "m", "exp_avg_sq": "v"})
    run("sgd", lambda groups: torch.optim.SGD(groups, lr=1.0, momentum=0.9), {"momentum_buffer": "m"})
    run("nesterov", lambda groups: torch.optim.SGD(groups, lr=1.0, momentum=0.8, nesterov=True), {"momentum_buffer": "m"})

    clipped = [torch.nn.Parameter(torch.zeros(shape)) for shape in SHAPES]
    for k, w in enumerate(clipped):
        w.grad = gradient(k, 0)
    results["clip.norm"] = torch.nn.utils.clip_grad_norm_(clipped, 1.0).reshape(1)
    for k, w in enumerate(clipped):
        results[f"clip.{k}"] = w.grad

    for total, warmup in ((100, 3), (1000, 100), (7, 0), (5, 1)):
        key = f"{total}.{warmup}"
        results[f"constant.{key}"] = rates(lambda o: transformers.get_constant_schedule_with_warmup(o, warmup), total)
        results[f"cosine.{key}"] = rates(lambda o: transformers.get_cosine_schedule_with_warmup(o, warmup, total), total)
        results[f"warmup-decay.{key}"] = rates(lambda o: transformers.get_linear_schedule_with_warmup(o, warmup, total), total)
        results[f"warmup-decay-upstream.{key}"] = rates(
            lambda o: deepspeed.WarmupDecayLR(o, total, 0.0, 1.0, warmup, "linear"), total)
    save_file(results, target)
    print(len(results), "tensors")


main()
