#!/bin/sh
# Builds the two Python environments the reference scripts run in.
#
# FakeShield needs two generations of transformers: stage 1 (DTE-FDM) runs under 4.37.2, stage 2 (MFLM)
# under 4.28.0, and their tokenizers differ. Both environments see Debian's own PyTorch (1.13.1, the
# generation the original was trained with), torchvision, numpy and Pillow; nothing may replace those,
# so packages that would pull in another torch are installed with --no-deps.
#
# Usage:  tools/reference/make_env.sh            (about 400 MB in $FAKESHIELD_REF_ENV)
# Needs:  apt-get install python3-venv python3-torch python3-torchvision python3-numpy python3-pil \
#                         python3-psutil python3-yaml libopenblas0-pthread
# PyTorch takes whatever BLAS Debian has installed; without OpenBLAS it is the plain one, forty times slower.
set -eu

env_dir=${FAKESHIELD_REF_ENV:-$HOME/.cache/fakeshield-reference}
python=${PYTHON:-/usr/bin/python3}

"$python" -c 'import torch, torchvision, numpy, PIL, psutil, yaml' || {
    echo "make_env.sh: Debian's python3-torch, python3-torchvision, python3-numpy, python3-pil," \
         "python3-psutil and python3-yaml must be installed first" >&2
    exit 1
}

mkdir -p "$env_dir"

build() { # name transformers tokenizers
    if [ ! -x "$env_dir/$1/bin/python" ]; then
        "$python" -m venv --system-site-packages "$env_dir/$1"
    fi
    pip="$env_dir/$1/bin/pip --disable-pip-version-check install -q"
    $pip "transformers==$2" "tokenizers==$3" "huggingface_hub==0.23.5" "safetensors==0.4.2" \
         "sentencepiece==0.1.99" "protobuf==3.20.3" "numpy<2"
    $pip --no-deps "accelerate==0.25.0" "peft==0.5.0" "segment-anything==1.0"
    OPENBLAS_CORETYPE=${OPENBLAS_CORETYPE:-SkylakeX} "$env_dir/$1/bin/python" -c '
import torch, torchvision, transformers, PIL, peft, sentencepiece, segment_anything
print("torch", torch.__version__, "torchvision", torchvision.__version__, "transformers",
      transformers.__version__, "Pillow", PIL.__version__, "peft", peft.__version__)
assert torch.__version__.startswith("1.13"), "another torch shadows the Debian one"'
}

build tf437 4.37.2 0.15.2
build tf428 4.28.0 0.13.3
"$env_dir/tf437/bin/pip" --disable-pip-version-check install -q --no-deps "gguf==0.17.1" # only make_gguf_goldens.py wants it
"$env_dir/tf428/bin/pip" --disable-pip-version-check install -q --no-deps "opencv-python-headless==4.8.1.78" # make_image_goldens.py: cv2's decoding
echo "environments ready in $env_dir"
