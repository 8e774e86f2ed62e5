"""Small random video models, as diffusers saves them."""

import json
import shutil

import diffusers
import torch
from transformers import CLIPTextModel, CLIPTokenizer

SIZE, FRAMES = 8, 3  # of the latents


def randomized(model, seed=0):
    """The model with random norms and biases, so that none of them can be missed."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def animatediff(diffusers_folder):
    """AnimateDiff's pipeline in diffusers, on the random image model's other parts."""
    torch.manual_seed(0)
    unet = diffusers.UNet2DConditionModel(
        sample_size=SIZE,
        block_out_channels=(16,),
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("UpBlock2D",),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=16,
        attention_head_dim=2,
    )
    with torch.no_grad():  # gentle, so that few steps have an exact inverse
        unet.conv_out.weight *= 0.1
    adapter = diffusers.MotionAdapter(
        block_out_channels=(16,),
        motion_layers_per_block=1,
        motion_norm_num_groups=8,
        motion_num_attention_heads=2,
        motion_max_seq_length=6,
    )
    tokenizer = CLIPTokenizer.from_pretrained(diffusers_folder / "tokenizer")
    text = CLIPTextModel.from_pretrained(diffusers_folder / "text_encoder")
    return diffusers.AnimateDiffPipeline(
        vae=diffusers.AutoencoderKL.from_pretrained(diffusers_folder / "vae"),
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        motion_adapter=adapter,
        scheduler=diffusers.DDIMScheduler(
            beta_schedule="linear", steps_offset=1, clip_sample=False
        ),
    ), unet


def save_parts(pipe, unet, folder):
    """Saves the model with its image UNet and its adapter apart, as people have it."""
    pipe.save_pretrained(folder)
    shutil.rmtree(folder / "unet")
    unet.save_pretrained(folder / "unet")
    index = json.loads((folder / "model_index.json").read_text())
    index["unet"] = ["diffusers", "UNet2DConditionModel"]
    (folder / "model_index.json").write_text(json.dumps(index))
