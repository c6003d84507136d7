"""The region encoder: boxes on the picture become rows that replace `<bbox>` embeddings.

Written from its description (GLaMM's layers.py builds it on mmcv and mmdet, which have no place in a
small environment): four CLIP levels are resized to a pyramid, mixed by five rounds of shared convolutions,
pooled inside each box by RoIAlign, and flattened. torchvision's roi_align with aligned=True and two samples per
bin computes what mmcv's does. The constants 224 and 14/8 .. 14 are the original's, for every grid size.
"""
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.ops import roi_align

ROI = 14
BOX_SCALE = 224
SCALES = (8 / 14, 4 / 14, 2 / 14, 1 / 14)


def resize(x, size):
    """Bilinear with corners aligned, computed in float32 whatever the type."""
    return F.interpolate(x.float(), size=size, mode="bilinear", align_corners=True).to(x.dtype)


class ConvNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.gn = nn.GroupNorm(64, width)

    def forward(self, x):
        return F.relu(self.gn(self.conv(x)))


class RegionEncoder(nn.Module):
    def __init__(self, width, pos, out):
        super().__init__()
        self.width = width
        self.mlvl_fuse = nn.Module()
        self.mlvl_fuse.input_conv = nn.ModuleList(nn.Conv2d(width + 2, width, 1) for _ in SCALES)
        self.mlvl_fuse.fuse_convs = nn.ModuleList(ConvNorm(width) for _ in range(5))
        self.roi_align = nn.Module()
        self.roi_align.pconvs = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in SCALES)
        self.roi_align.pos_embedd = nn.Sequential(nn.Linear(4, pos), nn.ReLU(), nn.LayerNorm(pos),
                                                  nn.Linear(pos, width), nn.ReLU(), nn.LayerNorm(width))
        self.roi_align.flatten_linear = nn.Linear(width * ROI * ROI, width)
        self.roi_align.updims = nn.Linear(width, out)

    def pyramid(self, levels):
        """levels: four [NP, width] -> four [1, width, s, s] with s = 8, 4, 2, 1 times the patch grid."""
        grid = int(round(levels[0].shape[0] ** 0.5))
        maps = [x.reshape(1, grid, grid, -1).permute(0, 3, 1, 2) for x in levels]
        return [resize(x, (grid << (3 - i), grid << (3 - i))) for i, x in enumerate(maps)]

    def fuse(self, maps):
        mixed = []
        for x, conv in zip(maps, self.mlvl_fuse.input_conv):
            line = torch.linspace(-1, 1, x.shape[-1])
            y_grid, x_grid = torch.meshgrid(torch.linspace(-1, 1, x.shape[-2]), line, indexing="ij")
            mixed.append(conv(torch.cat([x, x_grid.to(x.dtype)[None, None], y_grid.to(x.dtype)[None, None]], 1)))
        half, quarter = self.width // 2, self.width // 4
        for conv in self.mlvl_fuse.fuse_convs:
            previous, mixed = mixed, []
            for i, x in enumerate(previous):
                size = x.shape[-2:]
                above, below = previous[min(i + 1, 3)], previous[max(i - 1, 0)]
                mixed.append(conv(torch.cat([x[:, :half], resize(above[:, half + quarter:], size),
                                             resize(below[:, half:half + quarter], size)], 1)))
        return mixed

    def pool(self, maps, boxes):
        """boxes: [n, 4] normalised to the picture -> four [n, width, 14, 14]."""
        rois = torch.cat([boxes.new_zeros(len(boxes), 1), boxes * BOX_SCALE], 1).float()
        return [roi_align(x.float(), rois, ROI, scale, sampling_ratio=2, aligned=True).to(x.dtype)
                for x, scale in zip(maps, SCALES)]

    def forward(self, levels, boxes, trace=None):
        trace = {} if trace is None else trace
        trace["maps"] = maps = self.pyramid(levels)
        trace["fused"] = fused = self.fuse(maps)
        trace["roi"] = rois = self.pool(fused, boxes)
        trace["sum"] = total = F.relu(sum(conv(x) for conv, x in zip(self.roi_align.pconvs, rois)))
        trace["pos"] = pos = self.roi_align.pos_embedd(boxes.to(total.dtype))
        return self.roi_align.updims(self.roi_align.flatten_linear(total.flatten(1)) + pos)
