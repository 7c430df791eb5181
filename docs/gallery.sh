#!/usr/bin/env bash
# Makes the images of README.md and docs/. Run it in the project folder with nst-jax on the PATH.
set -euo pipefail

make="--model vgg16 --quiet"
rm -f docs/gallery/{cat,astronaut,coffee}-{swirls,mosaic,ink}.jpg
nst-jax batch examples/{cat,astronaut,coffee}.jpg --styles examples/swirls.jpg --styles examples/mosaic.jpg --styles examples/ink.jpg \
  --suffix .jpg --size 320 -o docs/gallery $make
nst-jax stylize examples/astronaut.jpg examples/swirls.jpg examples/ink.jpg \
  --mask examples/astronaut-mask.png --size 320 -o docs/gallery/masked.jpg $make
nst-jax interpolate examples/cat.jpg examples/ink.jpg examples/mosaic.jpg \
  --num-images 5 --size 192 -o docs/gallery/strip.jpg $make
for style in swirls mosaic ink; do
  nst-jax apply examples/cat.jpg --style examples/$style.jpg -o docs/gallery/at-once-$style.jpg \
    --size 320 --quiet
done
for scale in 0.5 1 2; do
  nst-jax stylize examples/coffee.jpg examples/mosaic.jpg -o docs/gallery/scale-$scale.jpg \
    --style-scales $scale --size 224 $make
done
for style in swirls mosaic ink; do
  nst-jax texture examples/$style.jpg -o docs/gallery/texture-$style.jpg --size 224 $make
done
for layer in relu1_1 relu2_1 relu3_1 relu4_1 relu5_1; do
  nst-jax reconstruct examples/astronaut.jpg -o docs/gallery/reconstruct-$layer.jpg \
    --content-layers $layer --size 224 --steps 120 $make
done
for mode in style luminance match histogram; do
  nst-jax stylize examples/coffee.jpg examples/swirls.jpg -o docs/gallery/color-$mode.jpg \
    --color-mode $mode --size 224 $make
done
for weight in 0.01 0.05 0.2 1; do
  nst-jax stylize examples/astronaut.jpg examples/swirls.jpg -o docs/gallery/content-$weight.jpg \
    --content-weight $weight --size 224 $make
done
nst-jax stylize examples/astronaut.jpg examples/swirls.jpg -o docs/gallery/loss-moments.jpg \
  --style-loss moments --content-weight 0.15 --size 224 $make
nst-jax stylize examples/astronaut.jpg examples/swirls.jpg -o docs/gallery/loss-nearest.jpg \
  --style-loss gram:1,nearest:0.2 --optimizer adam --size 224 $make
nst-jax stylize examples/astronaut.jpg examples/swirls.jpg -o docs/gallery/loss-sliced.jpg \
  --style-loss sliced --size 224 $make
for steps in 5 30; do
  nst-jax stylize examples/astronaut.jpg examples/swirls.jpg -o docs/gallery/steps-$steps.jpg \
    --steps $steps --size 224 $make
done
for min_size in 64 none; do
  nst-jax stylize examples/astronaut.jpg examples/swirls.jpg -o docs/gallery/min-size-$min_size.jpg \
    --min-size $min_size --size 224 $make
done
for weight in 1 10; do
  nst-jax stylize examples/astronaut.jpg examples/swirls.jpg -o docs/gallery/tv-$weight.jpg \
    --tv-weight $weight --size 224 $make
done
nst-jax stylize examples/astronaut.jpg examples/swirls.jpg -o docs/gallery/layers-shallow.jpg \
  --style-layers relu1_1,relu2_1 --size 224 $make
