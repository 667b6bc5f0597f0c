#!/usr/bin/env python3
"""Makes one model.safetensors of a GPT-2 that is in several files, or in PyTorch's own format.

    python3 dev/data/convert_model.py FOLDER NEW_FOLDER

FOLDER is as Hugging Face's transformers saves a model: model.safetensors or pytorch_model.bin, or the parts
("shards") that model.safetensors.index.json or pytorch_model.bin.index.json names.  NEW_FOLDER gets all tensors
in one model.safetensors, under the names that transformers writes today ("transformer." in front, no attention
masks, which are not weights), and copies of config.json and the tokenizer's files.  Numbers keep their type:
train.c reads F32, F16 and BF16.  Needs torch and safetensors: dev/requirements.txt.
"""
import json
import os
import re
import shutil
import sys

KEPT = ["config.json", "generation_config.json", "vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json",
        "special_tokens_map.json"]


def fail(message):
    sys.exit(f"convert_model.py: {message}")


def files_of(folder):
    """The files that hold the weights, in a fixed order."""
    for whole in ("model.safetensors", "pytorch_model.bin"):
        index = os.path.join(folder, whole + ".index.json")
        if os.path.exists(os.path.join(folder, whole)):
            return [os.path.join(folder, whole)]
        if os.path.exists(index):
            with open(index, encoding="utf-8") as file:
                names = sorted(set(json.load(file)["weight_map"].values()))
            for name in names:
                if os.path.basename(name) != name:  # it could lead anywhere
                    fail(f"{index}: {name} is not the name of a file in this folder")
            return [os.path.join(folder, name) for name in names]
    fail(f"{folder}: holds no model.safetensors, no pytorch_model.bin, and no index of either")


def tensors_read(path):
    if path.endswith(".safetensors"):
        from safetensors.torch import load_file

        return load_file(path)
    import torch

    return torch.load(path, map_location="cpu", weights_only=True)  # numbers only: no code is run


def name_of(name):
    """As transformers writes it today; None for a mask."""
    if re.fullmatch(r"(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)", name):
        return None
    return name if name.startswith(("transformer.", "lm_head.")) else "transformer." + name


def main():
    if len(sys.argv) != 3 or sys.argv[1].startswith("-"):
        sys.exit("usage: convert_model.py FOLDER NEW_FOLDER")
    old, new = sys.argv[1:]
    if os.path.exists(os.path.join(new, "model.safetensors")):
        fail(f"{new}: already holds a model")
    tensors = {}
    for path in files_of(old):
        try:
            part = tensors_read(path)
        except Exception as error:  # each library has exceptions of its own
            fail(f"{path}: cannot be read: {str(error).splitlines()[0] if str(error) else error!r}")
        for name, tensor in part.items():
            name = name_of(name)
            if name in tensors:
                fail(f"{path}: {name} is in another file too")
            if name:
                tensors[name] = tensor.clone().contiguous()
    from safetensors.torch import save_file

    os.makedirs(new, exist_ok=True)
    for name in KEPT:
        if os.path.exists(os.path.join(old, name)):
            shutil.copy(os.path.join(old, name), os.path.join(new, name))
    save_file(tensors, os.path.join(new, "model.safetensors.tmp"), {"format": "pt"})
    os.replace(os.path.join(new, "model.safetensors.tmp"), os.path.join(new, "model.safetensors"))
    print(f"{new}: {len(tensors)} tensors, {sum(t.numel() for t in tensors.values())} numbers")


if __name__ == "__main__":
    main()
