#!/usr/bin/env bash
# The pictures of README.md; run in the project folder with nst-jax on the path.
set -euo pipefail

for photo in cat astronaut coffee; do
  for style in swirls mosaic ink; do
    nst-jax stylize examples/$photo.jpg examples/$style.jpg -o docs/gallery/$photo-$style.jpg \
      --size 320 --steps 120 --model vgg16 --quiet
  done
done
for style in swirls mosaic ink; do
  nst-jax texture examples/$style.jpg -o docs/gallery/texture-$style.jpg \
    --size 224 --steps 120 --model vgg16 --quiet
done
for layer in relu1_1 relu2_1 relu3_1 relu4_1 relu5_1; do
  nst-jax reconstruct examples/astronaut.jpg -o docs/gallery/reconstruct-$layer.jpg \
    --content-layers $layer --size 224 --steps 120 --model vgg16 --quiet
done
for color in style luminance match histogram; do
  nst-jax stylize examples/coffee.jpg examples/swirls.jpg -o docs/gallery/color-$color.jpg \
    --color $color --size 224 --steps 100 --model vgg16 --quiet
done
