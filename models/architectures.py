"""The CNNs, one function each. They take normalised pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import keras

# Kernel, stride of the first block, expansion, filters and number of blocks of each stage of EfficientNet-B0.
STAGES = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)


def build_efficientnet_lite0(num_labels: int = 1000) -> keras.Model:
    """EfficientNet-B0 without squeeze-and-excitation and with ReLU6, so that int8 loses little; ends at logits.

    Source: Tan and Le 2019 (arXiv:1905.11946), table 1; the changes are those of Google's EfficientNet-Lite, 2020.
    """
    from keras import Input, Model, layers

    pixels = Input((224, 224, 3), name="pixels")  # (B, 224, 224, 3) float32, normalised
    x = layers.Conv2D(32, 3, strides=2, padding="same", use_bias=False, name="stem_conv")(pixels)
    x = _normalise(x, "stem_bn")  # (B, 112, 112, 32)
    index = 0
    for kernel, stride, expansion, filters, repeats in STAGES:
        for repeat in range(repeats):
            x = _block(x, f"block{index}", kernel, stride if repeat == 0 else 1, expansion, filters)
            index += 1
        # (B, H, W, filters): 112x16, 56x24, 28x40, 14x80, 14x112, 7x192, 7x320
    x = layers.Conv2D(1280, 1, use_bias=False, name="head_conv")(x)
    x = _normalise(x, "head_bn")  # (B, 7, 7, 1280)
    x = layers.GlobalAveragePooling2D(name="pool")(x)  # (B, 1280)
    x = layers.Dropout(0.2, name="dropout")(x)
    logits = layers.Dense(num_labels, name="logits")(x)  # (B, K)
    return Model(pixels, logits, name="efficientnet_lite0")


def build_small_cnn(num_labels: int) -> keras.Model:
    """Three convolutions, flatten, dense with softmax: the classic first image classifier.

    Source: LeCun et al. 1998, section II.B, with ReLU and max pooling.
    """
    from keras import Input, Model, layers

    pixels = Input((128, 128, 3), name="pixels")  # (B, 128, 128, 3) float32, 0 to 1
    x = pixels
    for number, filters in enumerate((16, 32, 64), 1):
        x = layers.Conv2D(filters, 3, padding="same", activation="relu", name=f"conv{number}")(x)
        x = layers.MaxPooling2D(name=f"pool{number}")(x)  # (B, 64, 64, 16), (B, 32, 32, 32), (B, 16, 16, 64)
    x = layers.Flatten(name="flatten")(x)  # (B, 16384)
    confidences = layers.Dense(num_labels, activation="softmax", name="confidences")(x)  # (B, K)
    return Model(pixels, confidences, name="small_cnn")


def _block(
    x: keras.KerasTensor, name: str, kernel: int, stride: int, expansion: int, filters: int
) -> keras.KerasTensor:
    """Widen, filter each channel, narrow, and add what came in where the shapes allow (MobileNetV2's block)."""
    from keras import layers

    entered = x  # (B, H, W, C)
    channels = x.shape[-1]
    if expansion > 1:
        x = layers.Conv2D(expansion * channels, 1, use_bias=False, name=f"{name}_expand_conv")(x)
        x = _normalise(x, f"{name}_expand_bn")  # (B, H, W, C x expansion)
    x = layers.DepthwiseConv2D(kernel, strides=stride, padding="same", use_bias=False, name=f"{name}_depthwise_conv")(x)
    x = _normalise(x, f"{name}_depthwise_bn")  # (B, H / stride, W / stride, C x expansion)
    x = layers.Conv2D(filters, 1, use_bias=False, name=f"{name}_project_conv")(x)
    x = _normalise(x, f"{name}_project_bn", activation=False)  # (B, H / stride, W / stride, filters)
    if stride == 1 and filters == channels:
        x = layers.Add(name=f"{name}_add")([entered, x])
    return x


def _normalise(x: keras.KerasTensor, name: str, *, activation: bool = True) -> keras.KerasTensor:
    from keras import layers

    x = layers.BatchNormalization(epsilon=1e-3, momentum=0.99, name=name)(x)
    return layers.ReLU(6.0, name=f"{name}_relu6")(x) if activation else x
