"""LaVie's base UNet in PyTorch, from the formulas, with the names of its tensors.

Videos are (f, c, h, w) here: one sample, frames in place of the batch.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F


def over_frames(norm, x):
    """Group normalization with the statistics of all frames together."""
    return norm(x.transpose(0, 1)[None])[0].transpose(0, 1)


class Resnet(nn.Module):
    def __init__(self, into, out, time, config):
        super().__init__()
        self.norm1 = nn.GroupNorm(config["norm_num_groups"], into, eps=1e-5)
        self.conv1 = nn.Conv2d(into, out, 3, padding=1)
        self.shifts = config["resnet_time_scale_shift"] == "scale_shift"
        self.time_emb_proj = nn.Linear(time, 2 * out if self.shifts else out)
        self.norm2 = nn.GroupNorm(config["norm_num_groups"], out, eps=1e-5)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        if into != out:
            self.conv_shortcut = nn.Conv2d(into, out, 1)

    def forward(self, x, time):
        y = self.conv1(F.silu(over_frames(self.norm1, x)))
        time = self.time_emb_proj(F.silu(time))[:, None, None]
        if self.shifts:
            scale, shift = time.chunk(2)
            y = over_frames(self.norm2, y) * (1 + scale) + shift
        else:
            y = over_frames(self.norm2, y + time)
        shortcut = getattr(self, "conv_shortcut", lambda x: x)
        return shortcut(x) + self.conv2(F.silu(y))


class Attention(nn.Module):
    def __init__(self, width, heads, context=None):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context or width, width, bias=False)
        self.to_v = nn.Linear(context or width, width, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x, context=None):
        """Attends along the second to last axis; heads are slices of the last."""
        context = x if context is None else context
        found = []
        for query, key, value, head in zip(
            *(
                y.chunk(self.heads, -1)
                for y in (self.to_q(x), self.to_k(context), self.to_v(context))
            ),
            range(self.heads),
            strict=True,
        ):
            weights = self.logits(query, key, head).softmax(-1)
            found.append(weights @ value)
        return self.to_out[0](torch.cat(found, -1))

    def logits(self, query, key, head):
        return query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5


class RelativePositionBias(nn.Module):
    def __init__(self, heads):
        super().__init__()
        self.relative_attention_bias = nn.Embedding(32, heads)

    def forward(self, query, key):
        """Buckets 0-7 for distances 0-7, 8-15 up to 32; 16 more for later keys."""
        distance, later = abs(query - key), 16 * (key > query)
        if distance >= 8:
            distance = min(8 + int(8 * math.log(distance / 8, 4)), 15)
        return self.relative_attention_bias.weight[distance + later]


class Rotary(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("freqs", 10_000.0 ** (-torch.arange(0, 32, 2) / 32))


class TemporalAttention(Attention):
    def __init__(self, width, heads):
        super().__init__(width, heads)
        self.time_rel_pos_bias = RelativePositionBias(heads)
        self.rotary_emb = Rotary()

    def logits(self, query, key, head):
        """A rotation is a multiplication of complex numbers."""

        def rotated(x):
            angles = torch.arange(x.shape[-2])[:, None] * self.rotary_emb.freqs
            pairs = torch.view_as_complex(x[..., :32].unflatten(-1, (16, 2)).clone())
            turned = pairs * torch.polar(torch.ones_like(angles), angles)
            return torch.cat([torch.view_as_real(turned).flatten(-2), x[..., 32:]], -1)

        frames = range(query.shape[-2])
        bias = [[self.time_rel_pos_bias(i, j)[head] for j in frames] for i in frames]
        return super().logits(rotated(query), rotated(key), head) + torch.tensor(bias)


class GEGLU(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.proj = nn.Linear(width, 8 * width)

    def forward(self, x):
        value, gate = self.proj(x).chunk(2, -1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.net = nn.Sequential(
            GEGLU(width), nn.Identity(), nn.Linear(4 * width, width)
        )

    def forward(self, x):
        return self.net(x)


class Block(nn.Module):
    def __init__(self, width, heads, config):
        super().__init__()
        self.norm1, self.norm2, self.norm3, self.norm_temp = (
            nn.LayerNorm(width) for _ in range(4)
        )
        self.attn1 = Attention(width, heads)
        self.attn2 = Attention(width, heads, config["cross_attention_dim"])
        self.attn_temp = TemporalAttention(width, heads)
        self.ff = FeedForward(width)

    def forward(self, x, text):
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), text)
        x = x + self.attn_temp(self.norm_temp(x).transpose(0, 1)).transpose(0, 1)
        return x + self.ff(self.norm3(x))


class Transformer(nn.Module):
    def __init__(self, width, heads, config):
        super().__init__()
        dense = config["use_linear_projection"]
        self.norm = nn.GroupNorm(config["norm_num_groups"], width, eps=1e-6)
        self.proj_in, self.proj_out = (
            nn.Linear(width, width) if dense else nn.Conv2d(width, width, 1)
            for _ in range(2)
        )
        self.transformer_blocks = nn.ModuleList([Block(width, heads, config)])

    def forward(self, x, text):
        def projected(layer, y):
            if isinstance(layer, nn.Linear):
                return layer(y.movedim(1, -1)).movedim(-1, 1)
            return layer(y)

        y = projected(self.proj_in, self.norm(x))
        tokens = self.transformer_blocks[0](y.flatten(2).transpose(1, 2), text)
        y = tokens.transpose(1, 2).unflatten(2, x.shape[2:])
        return projected(self.proj_out, y) + x


class Resampler(nn.Module):
    def __init__(self, width, stride):
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=stride, padding=1)

    def forward(self, x):
        return self.conv(x)


class Stage(nn.Module):
    """Residual blocks, each with a transformer if there are heads."""

    def __init__(self, widths, heads, time, config, sampler=None, stride=1):
        super().__init__()
        self.resnets = nn.ModuleList([Resnet(a, b, time, config) for a, b in widths])
        if heads:
            self.attentions = nn.ModuleList(
                [Transformer(b, heads, config) for _, b in widths]
            )
        if sampler:
            self.add_module(sampler, nn.ModuleList([Resampler(widths[-1][1], stride)]))

    def layer(self, i, x, time, text):
        x = self.resnets[i](x, time)
        return self.attentions[i](x, text) if hasattr(self, "attentions") else x


class LaVie(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config = config
        widths, layers = config["block_out_channels"], config["layers_per_block"]
        last, time = len(widths) - 1, 4 * widths[0]
        heads = config["attention_head_dim"]
        heads = (heads,) * len(widths) if isinstance(heads, int) else heads

        def attends(kinds, i):
            return heads[i] if kinds.startswith("CrossAttn") else 0

        self.conv_in = nn.Conv2d(config["in_channels"], widths[0], 3, padding=1)
        self.time_embedding = nn.ModuleDict(
            {"linear_1": nn.Linear(widths[0], time), "linear_2": nn.Linear(time, time)}
        )
        self.down_blocks, self.up_blocks = nn.ModuleList(), nn.ModuleList()
        skips = [widths[0]]
        for i, width in enumerate(widths):
            pairs = [(widths[max(i - 1, 0)], width)] + [(width, width)] * (layers - 1)
            sampler = "downsamplers" if i < last else None
            kind = attends(config["down_block_types"][i], i)
            self.down_blocks.append(Stage(pairs, kind, time, config, sampler, 2))
            skips += [width] * (layers + (i < last))
        self.mid_block = Stage([(widths[-1],) * 2] * 2, 0, time, config)
        middle = Transformer(widths[-1], heads[-1], config)
        self.mid_block.attentions = nn.ModuleList([middle])
        width = widths[-1]
        for i in reversed(range(len(widths))):
            pairs = []
            for _ in range(layers + 1):
                pairs.append((width + skips.pop(), widths[i]))
                width = widths[i]
            kind = attends(config["up_block_types"][last - i], i)
            sampler = "upsamplers" if i else None
            self.up_blocks.append(Stage(pairs, kind, time, config, sampler))
        self.conv_norm_out = nn.GroupNorm(config["norm_num_groups"], width, eps=1e-5)
        self.conv_out = nn.Conv2d(width, config["out_channels"], 3, padding=1)

    def forward(self, x, timestep, text):
        half = self.config["block_out_channels"][0] // 2
        phases = timestep * 10_000.0 ** (-torch.arange(half) / half)
        time = torch.cat([phases.cos(), phases.sin()])
        time = self.time_embedding["linear_1"](time)
        time = self.time_embedding["linear_2"](F.silu(time))
        x = self.conv_in(x)
        skips = [x]
        for stage in self.down_blocks:
            for i in range(len(stage.resnets)):
                x = stage.layer(i, x, time, text)
                skips.append(x)
            for sampler in getattr(stage, "downsamplers", ()):
                x = sampler(x)
                skips.append(x)
        first, second = self.mid_block.resnets
        x = second(self.mid_block.attentions[0](first(x, time), text), time)
        for stage in self.up_blocks:
            for i in range(len(stage.resnets)):
                x = stage.layer(i, torch.cat([x, skips.pop()], 1), time, text)
            for sampler in getattr(stage, "upsamplers", ()):
                x = sampler(F.interpolate(x, size=skips[-1].shape[2:]))
        return self.conv_out(F.silu(over_frames(self.conv_norm_out, x)))
