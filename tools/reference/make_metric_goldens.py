#!/usr/bin/env python3
"""Expected values for src/eval: what scikit-learn, scipy and numpy make of difficult inputs.

Usage: /usr/bin/python3 tools/reference/make_metric_goldens.py [tests/golden/metrics.json]
Needs Debian's python3-sklearn (1.2.1), python3-scipy (1.10.1) and python3-numpy (1.24).

Inputs are in the file beside the results. NaN is written as null. The resamples of the bootstrap come from the same
generator as in C (xoshiro256** seeded by splitmix64), written out here again from its authors' description, so that the
percentiles of the same draws can be compared and not only their sizes.
"""
import json
import sys
import warnings

import numpy as np
import scipy
import scipy.ndimage
import scipy.stats
import sklearn
from sklearn import metrics as sk

warnings.simplefilter("ignore")
M = (1 << 64) - 1


class Xoshiro:
    def __init__(self, seed):
        self.s = []
        for _ in range(4):
            seed = (seed + 0x9E3779B97F4A7C15) & M
            z = seed
            z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & M
            z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & M
            self.s.append(z ^ (z >> 31))

    def next(self):
        rot = lambda v, k: ((v << k) | (v >> (64 - k))) & M
        s = self.s
        result = (rot((s[1] * 5) & M, 7) * 9) & M
        t = (s[1] << 17) & M
        s[2] ^= s[0]
        s[3] ^= s[1]
        s[1] ^= s[2]
        s[0] ^= s[3]
        s[2] ^= t
        s[3] = rot(s[3], 45)
        return result

    def uniform(self):
        return (self.next() >> 11) * 2.0**-53


def number(x):
    x = float(x)
    return None if np.isnan(x) else x


def detection_case(name, label, said, score):
    label, said, score = np.array(label, int), np.array(said, int), np.array(score, float)
    both = len(set(label)) == 2
    tn, fp, fn, tp = sk.confusion_matrix(label, said, labels=[0, 1]).ravel()
    out = {
        "name": name, "label": label.tolist(), "said": said.tolist(), "score": score.tolist(),
        "accuracy": number(sk.accuracy_score(label, said)),
        "f1": number(sk.f1_score(label, said)) if 2 * tp + fp + fn else None,
        "precision": number(sk.precision_score(label, said)) if tp + fp else None,
        "recall": number(sk.recall_score(label, said)) if tp + fn else None,
        "specificity": number(sk.recall_score(label, said, pos_label=0)) if tn + fp else None,
        "balanced": number(sk.balanced_accuracy_score(label, said)) if both else None,
        "iou": number(sk.jaccard_score(label, said)) if tp + fp + fn else None,
        "auc": number(sk.roc_auc_score(label, score)) if both else None,
        "ap": number(sk.average_precision_score(label, score)) if label.any() else None,
    }
    if both:
        fpr, tpr, thr = sk.roc_curve(label, score, drop_intermediate=False)
        precision, recall, _ = sk.precision_recall_curve(label, score)
        out["curve"] = {"false_rate": fpr.tolist(), "recall": tpr.tolist(), "threshold": thr[1:].tolist(),
                        "precision": precision[::-1].tolist()}  # highest threshold first, as we keep it
    return out


def trufor(score, truth):
    """TruFor's localization figures, written from the description in the paper and the behaviour of its test program."""
    core = scipy.ndimage.minimum_filter(truth, 15) > 0
    far = scipy.ndimage.maximum_filter(truth, 11) == 0
    keep = core | far
    t, v = core[keep], score[keep]

    def f1(marked):
        tp, fp, fn = (marked & t).sum(), (marked & ~t).sum(), (~marked & t).sum()
        return 2 * tp / max(2 * tp + fp + fn, 1e-32), tp / max(tp + fp + fn, 1e-32)

    best = np.nan
    if keep.any():
        best = max(max(f1(v > th)[0], f1(~(v > th))[0]) for th in np.unique(v))
    fixed = iou = np.nan
    marked = v > 0.5
    if len(set(truth[keep].tolist()) | set(marked.astype(int).tolist())) == 2:  # else confusion_matrix is 1 x 1 and the program fails
        a, b = f1(marked), f1(~marked)
        fixed, iou = max(a[0], b[0]), max(a[1], b[1])
    return fixed, iou, best


def pixel_case(name, level, truth, top=255):
    level, truth = np.array(level), np.array(truth, int)
    score = (level / np.float32(top)).astype(np.float32)
    flat, t = score.ravel(), truth.ravel()
    said = (flat > 0.5).astype(int)
    tn, fp, fn, tp = sk.confusion_matrix(t, said, labels=[0, 1]).ravel()
    out = {"name": name, "width": level.shape[1], "height": level.shape[0], "top": top, "level": level.ravel().tolist(),
           "truth": "".join(map(str, t)), "fixed": [int(tp), int(fp), int(fn), int(tn)],
           "iou": number(sk.jaccard_score(t, said, zero_division=1)), "f1": number(sk.f1_score(t, said, zero_division=1)),
           "auc": number(sk.roc_auc_score(t, flat)) if len(set(t)) == 2 else None}
    if t.any():
        out["best_f1"] = max(sk.f1_score(t, flat >= th) for th in np.unique(flat))
        out["best_iou"] = max(sk.jaccard_score(t, flat >= th) for th in np.unique(flat))
    else:
        out["best_f1"] = out["best_iou"] = 1.0
    fixed, iou, best = trufor(score, truth)
    out["permuted_f1"], out["permuted_iou"], out["permuted_best_f1"] = number(fixed), number(iou), number(best)
    return out


def pixel_cases():
    rng = np.random.default_rng(5)
    h, w = 34, 41
    truth = np.zeros((h, w), int)
    truth[6:28, 9:31] = 1
    noise = rng.integers(0, 256, (h, w))
    good = np.clip(truth * 120 + noise // 2, 0, 255)
    ring = truth.copy()
    ring[12:20, 14:22] = 0
    edge = np.zeros((h, w), int)
    edge[:, :20] = 1
    return [
        pixel_case("a good map", good, truth), pixel_case("its inverse", 255 - good, truth), pixel_case("noise", noise, truth),
        pixel_case("a hole in the mask", good, ring), pixel_case("a region at the picture's edge", np.clip(edge * 90 + noise // 3, 0, 255), edge),
        pixel_case("nothing tampered", good, truth * 0), pixel_case("all tampered", good, truth * 0 + 1),
        pixel_case("all tampered, nothing marked", good * 0, truth * 0 + 1), pixel_case("nothing tampered, nothing marked", good * 0, truth * 0),
        pixel_case("a mask of two levels", (good > 140) * 255, truth), pixel_case("one level", good * 0 + 77, truth),
        pixel_case("a region that the border eats", noise[:12, :13], truth[4:16, 7:20] * 0 + np.eye(12, 13, dtype=int)),
        pixel_case("16 bits", rng.integers(0, 65536, (20, 23)) // 2 + truth[:20, :23] * 20000, truth[:20, :23], 65535),
        pixel_case("one pixel", [[200]], [[1]]), pixel_case("the threshold itself", [[127, 128], [128, 127]], [[0, 1], [0, 1]]),
        pixel_case("one row", [np.arange(40) * 6], [[0] * 20 + [1] * 20]),
    ]


def set_case():
    """A whole set: means over forged pictures, pooled pixels, the original's gIoU and cIoU, the best threshold of the set."""
    rng = np.random.default_rng(8)
    h, w = 22, 26
    pictures = []
    for k in range(9):
        truth = np.zeros((h, w), int)
        if k < 6:
            truth[2 + k : 18, 3 : 12 + 2 * k] = 1
        level = np.clip(truth * int(rng.integers(40, 150)) + rng.integers(0, 140, (h, w)), 0, 255)
        if k == 6:
            level = np.zeros((h, w), int)  # forged by label, but its mask is empty, and nothing is marked
        pictures.append({"tampered": k < 7, "silent": k in (2, 8), "level": level, "truth": truth})
    forged = [p for p in pictures if p["tampered"]]
    ratio = lambda a, b: a / b if b else 1.0

    def counts(p, at):
        m = np.zeros((h, w), bool) if p["silent"] else p["level"] >= at
        t = p["truth"] == 1
        return (m & t).sum(), (m & ~t).sum(), (~m & t).sum()

    at = lambda k: [(ratio(tp, tp + fp + fn), ratio(2 * tp, 2 * tp + fp + fn)) for tp, fp, fn in (counts(p, k) for p in forged)]
    fixed = np.array(at(128))
    pool = np.array([counts(p, 128) for p in forged]).sum(0)
    sweep = np.array([np.mean(at(k), axis=0) for k in range(256)])
    best, permuted, auc, precision, recall = [], [], [], [], []
    for p in forged:
        t, level = p["truth"], p["level"]
        if p["silent"]:
            best.append((0, 0)), permuted.append((0, 0, 0)), auc.append(0.5), precision.append(np.nan), recall.append(0)
            continue
        f = level.ravel()
        best.append((max(sk.jaccard_score(t.ravel(), f >= k) for k in np.unique(f)), max(sk.f1_score(t.ravel(), f >= k) for k in np.unique(f)))
                    if t.any() else (1, 1))
        fixed_f1, fixed_iou, best_f1 = trufor((level / np.float32(255)).astype(np.float32), t)
        permuted.append((fixed_iou, fixed_f1, best_f1))
        auc.append(sk.roc_auc_score(t.ravel(), f) if t.any() else np.nan)
        tp, fp, fn = counts(p, 128)
        precision.append(tp / (tp + fp) if tp + fp else np.nan), recall.append(tp / (tp + fn) if tp + fn else np.nan)
    union = [(counts(p, 128)[0], sum(counts(p, 128))) for p in forged]
    all_t = np.concatenate([p["truth"].ravel() for p in forged])
    all_v = np.concatenate([(p["level"] * (not p["silent"])).ravel() for p in forged])
    permuted = np.nanmean(np.array(permuted, float), axis=0)
    figures = {
        "localization.fixed.iou": fixed[:, 0].mean(), "localization.fixed.f1": fixed[:, 1].mean(),
        "localization.pooled.iou": pool[0] / pool.sum(), "localization.pooled.f1": 2 * pool[0] / (pool[0] + pool.sum()),
        "localization.upstream.giou": sum(i / (u + 1e-5) + (u == 0) for i, u in union) / (len(forged) + 1e-5),
        "localization.upstream.ciou": sum(i for i, _ in union) / (sum(u for _, u in union) + 1e-10),
        "localization.best-set.iou": sweep[:, 0].max(), "localization.best-set.f1": sweep[:, 1].max(),
        "localization.best-image.iou": np.mean(best, axis=0)[0], "localization.best-image.f1": np.mean(best, axis=0)[1],
        "localization.permuted.iou": permuted[0], "localization.permuted.f1": permuted[1], "localization.permuted-best.f1": permuted[2],
        "localization.pixel_auc": np.nanmean(auc), "localization.pooled_pixel_auc": sk.roc_auc_score(all_t, all_v),
        "localization.pixel_precision": np.nanmean(precision), "localization.pixel_recall": np.nanmean(recall),
        "localization.false_alarm_area": np.mean([0 if p["silent"] else (p["level"] >= 128).mean() for p in pictures if not p["tampered"]]),
    }
    return {"width": w, "height": h, "threshold_iou": int(sweep[:, 0].argmax()) / 256, "threshold_f1": int(sweep[:, 1].argmax()) / 256,
            "figures": {k: float(v) for k, v in figures.items()},
            "pictures": [{"tampered": p["tampered"], "silent": p["silent"], "level": p["level"].ravel().tolist(),
                          "truth": "".join(map(str, p["truth"].ravel()))} for p in pictures]}


def bootstrap_cases(cases):
    rng = np.random.default_rng(6)
    n, resamples = 37, 200
    label = (rng.random(n) < 0.4).astype(int)
    score = np.round(np.clip(label * 0.25 + rng.random(n) * 0.75, 0, 1), 1)
    iou = np.where(rng.random(n) < 0.2, np.nan, rng.random(n))
    result = []
    for stratified in (False, True):
        x = Xoshiro(99)
        strata = [np.flatnonzero(label == 0), np.flatnonzero(label == 1)] if stratified else [np.arange(n)]
        values = []
        for _ in range(resamples):
            drawn = np.concatenate([s[[int(x.uniform() * len(s)) for _ in s]] for s in strata])
            y, p = label[drawn], score[drawn]
            both = len(set(y)) == 2
            values.append([np.mean((p > 0.5) == y), sk.f1_score(y, p > 0.5), sk.roc_auc_score(y, p) if both else np.nan,
                           sk.average_precision_score(y, p) if y.any() else np.nan, np.nanmean(iou[drawn])])
        low, high = np.nanpercentile(np.array(values), [2.5, 97.5], axis=0)
        result.append({"stratified": stratified, "low": low.tolist(), "high": high.tolist()})
    return {"seed": 99, "resamples": resamples, "level": 0.95, "label": label.tolist(), "score": score.tolist(),
            "value": [number(v) for v in iou], "figures": ["accuracy", "f1", "auc", "ap", "mean of value"], "cases": result}


def paired_cases():
    rng = np.random.default_rng(7)
    mcnemar = [{"a": a, "b": b, "p": scipy.stats.binomtest(a, a + b, 0.5).pvalue if a + b else 1.0}
               for a, b in [(0, 0), (1, 0), (3, 9), (9, 3), (5, 5), (40, 61), (700, 812), (2, 90)]]
    wilcoxon = []
    for name, n, digits, shift in [("exact", 23, 9, 0.1), ("exact, 50", 50, 9, 0.02), ("exact, zeros", 21, 9, 0.1), ("approximate", 80, 9, 0.05), ("ties", 40, 1, 0.05),
                                   ("zeros", 30, 1, 0.0), ("one", 1, 9, 0.2)]:
        a = np.round(rng.random(n), digits)
        b = np.round(np.clip(a + shift + rng.normal(0, 0.2, n), 0, 1), digits)
        if name.startswith("exact"):
            b = a + shift + rng.normal(0, 0.2, n)
        if name == "exact, zeros":
            b[::4] = a[::4]
        d = b - a
        kept = d[d != 0]
        exact = len(kept) <= 50 and len(set(np.abs(kept))) == len(kept)
        r = scipy.stats.wilcoxon(kept, zero_method="wilcox", correction=False, method="exact" if exact else "approx")
        wilcoxon.append({"name": name, "a": a.tolist(), "b": b.tolist(), "n": int((d != 0).sum()), "exact": bool(exact),
                         "statistic": float(r.statistic), "p": float(r.pvalue)})
    return mcnemar, wilcoxon


def main():
    rng = np.random.default_rng(4)
    n = 60
    label = (rng.random(n) < 0.45).astype(int)
    score = np.clip(label * 0.3 + rng.random(n) * 0.7, 0, 1)
    tied = np.round(score, 1)
    detection = [
        detection_case("ordinary", label, score > 0.5, score), detection_case("ties", label, tied > 0.5, tied),
        detection_case("all scores equal", label, score > 9, score * 0 + 0.5), detection_case("perfect", label, label, label),
        detection_case("all wrong", label, 1 - label, 1 - label), detection_case("always tampered", label, label * 0 + 1, score),
        detection_case("all tampered set", label * 0 + 1, score > 0.5, score), detection_case("all authentic set", label * 0, score > 0.5, score),
        detection_case("two pictures", [0, 1], [1, 1], [0.7, 0.7]), detection_case("negative scores", label, score > 0.5, score * 20 - 10),
    ]
    mcnemar, wilcoxon = paired_cases()
    v = [3.5, -1.0, 2.25, 9.0, 0.5, 2.25, 7.0]
    percentiles = {"values": v, "q": [0, 0.025, 0.3, 0.5, 0.75, 0.975, 1], "out": np.percentile(v, [0, 2.5, 30, 50, 75, 97.5, 100]).tolist()}
    golden = {"made_with": f"scikit-learn {sklearn.__version__}, scipy {scipy.__version__}, numpy {np.__version__}", "detection": detection,
              "pixel": pixel_cases(), "set": set_case(), "percentile": percentiles, "bootstrap": bootstrap_cases(detection), "mcnemar": mcnemar,
              "wilcoxon": wilcoxon}
    path = sys.argv[1] if len(sys.argv) > 1 else "tests/golden/metrics.json"
    with open(path, "w") as f:
        json.dump(golden, f, separators=(",", ":"))
        f.write("\n")


main()
