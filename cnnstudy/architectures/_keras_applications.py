"""Any network of keras.applications, as `keras:EfficientNetB0`: its backbone, with our preprocessing and head.

Preprocessing is there once: what a network brings along (EfficientNet, MobileNetV3, ConvNeXt) is left out, and what its
published weights expect comes before it. EfficientNet's own is complete only in a network that is built with ImageNet
weights: its Normalization divides by the root of the deviations, and a further layer divides by the root again.

Layers have the names that Keras gives them, but for those that Keras numbers as it happens to build them (`conv2d_17`):
they are named after the next layer with a name of its own, which in InceptionV3 ends their block (`mixed3_conv2d_1`);
and those of NASNet, whose cells come first here (`cell12_...`), so that a stage is a prefix.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cnnstudy.architectures import (
    IMAGENET_DEVIATIONS,
    IMAGENET_MEANS,
    Architecture,
    ImageNetWeights,
    Outputs,
    pooled_head,
)
from cnnstudy.errors import UnknownNameError, did_you_mean

if TYPE_CHECKING:
    import keras

PREFIX = "keras:"
#: Scale and offset of red, green and blue by the name that keras.applications has for them, and these in words.
PREPROCESSING: dict[str, tuple[tuple[float, ...], tuple[float, ...], str]] = {
    "caffe": ((1.0,) * 3, (-123.68, -116.779, -103.939), "BGR minus (103.939, 116.779, 123.68)"),
    "tf": ((1 / 127.5,) * 3, (-1.0,) * 3, "RGB / 127.5 - 1"),
    "tf, by 128": ((1 / 128,) * 3, (-1.0,) * 3, "RGB / 128 - 1"),
    "torch": (
        tuple(1 / (255 * deviation) for deviation in IMAGENET_DEVIATIONS),
        tuple(-mean / deviation for mean, deviation in zip(IMAGENET_MEANS, IMAGENET_DEVIATIONS, strict=True)),
        "(RGB / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)",
    ),
}


@dataclass(frozen=True)
class _Family:
    """What networks have in common.

    Args:
        last_block: the stages of the lowest resolution; `{size}` stands for the end of the network's name.
    """

    pattern: str  # of the names of its networks
    preprocessing: str
    last_block: tuple[str, ...]
    minimum_size: int = 32
    dropout: float = 0.2
    learning_rate: float = 1e-3
    has_batch_norm: bool = True


#: The first that a name matches counts.
FAMILIES = (
    _Family(
        r"ConvNeXt(\w+)",
        "torch",
        ("convnext_{size}_downsampling_block_2", "convnext_{size}_stage_3"),
        32,
        0.2,
        1e-4,
        False,
    ),
    _Family(r"DenseNet(\d+)", "torch", ("conv5_", "bn")),
    _Family(r"EfficientNetB(\d)", "torch", ("block6", "block7", "top_")),
    _Family(r"EfficientNetV2(B\d)", "torch", ("block6", "top_")),
    _Family(r"EfficientNetV2(S)", "tf, by 128", ("block6", "top_")),
    _Family(r"EfficientNetV2([ML])", "tf, by 128", ("block6", "block7", "top_")),
    _Family(r"InceptionResNetV(2)", "tf", ("mixed_7a", "block8_", "conv_7b"), 75),
    _Family(r"InceptionV(3)", "tf", ("mixed8", "mixed9"), 75),
    _Family(r"MobileNetV3(Small)", "tf", ("expanded_conv_8", "expanded_conv_9", "expanded_conv_10", "conv_1")),
    _Family(r"MobileNetV3(Large)", "tf", ("expanded_conv_12", "expanded_conv_13", "expanded_conv_14", "conv_1")),
    _Family(r"MobileNetV(2)", "tf", ("block_13", "block_14", "block_15", "block_16", "Conv_1")),
    _Family(r"MobileNe(t)", "tf", ("conv_dw_12", "conv_pw_12", "conv_dw_13", "conv_pw_13")),
    _Family(r"NASNet(Mobile)", "tf", ("reduce8_", "cell9_", "cell10_", "cell11_", "cell12_")),
    _Family(r"NASNet(Large)", "tf", ("reduce12_", "cell13_", "cell14_", "cell15_", "cell16_", "cell17_", "cell18_")),
    _Family(r"ResNet(\d+)V2", "tf", ("conv5_", "post_")),
    _Family(r"ResNet(\d+)", "caffe", ("conv5_",)),
    _Family(r"VGG(\d+)", "caffe", ("block5",), 32, 0.5, 1e-4, False),
    _Family(r"Xceptio(n)", "tf", ("block13", "block14"), 71),
)

_SITE = "https://storage.googleapis.com/tensorflow/keras-applications/"
_NOTOP = "_weights_tf_dim_ordering_tf_kernels_notop.h5"
#: Network -> its file of ImageNet weights below _SITE, and the hash that Keras checks; "": none is published.
FILES = {
    "ConvNeXtBase": (
        "convnext/convnext_base_notop.h5",
        "40a20c5548a5e9202f69735ecc06c990e6b7c9d2de39f0361e27baeb24cb7c45",
    ),
    "ConvNeXtLarge": (
        "convnext/convnext_large_notop.h5",
        "96f02b6f0753d4f543261bc9d09bed650f24dd6bc02ddde3066135b63d23a1cd",
    ),
    "ConvNeXtSmall": (
        "convnext/convnext_small_notop.h5",
        "6fc8009faa2f00c1c1dfce59feea9b0745eb260a7dd11bee65c8e20843da6eab",
    ),
    "ConvNeXtTiny": (
        "convnext/convnext_tiny_notop.h5",
        "d547c096cabd03329d7be5562c5e14798aa39ed24b474157cef5e85ab9e49ef1",
    ),
    "ConvNeXtXLarge": (
        "convnext/convnext_xlarge_notop.h5",
        "de3f8a54174130e0cecdc71583354753d557fcf1f4487331558e2a16ba0cfe05",
    ),
    "DenseNet121": (f"densenet/densenet121{_NOTOP}", "30ee3e1110167f948a6b9946edeeb738"),
    "DenseNet169": (f"densenet/densenet169{_NOTOP}", "b8c4d4c20dd625c148057b9ff1c1176b"),
    "DenseNet201": (f"densenet/densenet201{_NOTOP}", "c13680b51ded0fb44dff2d8f86ac8bb1"),
    "EfficientNetB0": ("keras-applications/efficientnetb0_notop.h5", "50bc09e76180e00e4465e1a485ddc09d"),
    "EfficientNetB1": ("keras-applications/efficientnetb1_notop.h5", "74c4e6b3e1f6a1eea24c589628592432"),
    "EfficientNetB2": ("keras-applications/efficientnetb2_notop.h5", "111f8e2ac8aa800a7a99e3239f7bfb39"),
    "EfficientNetB3": ("keras-applications/efficientnetb3_notop.h5", "af6d107764bb5b1abb91932881670226"),
    "EfficientNetB4": ("keras-applications/efficientnetb4_notop.h5", "ebc24e6d6c33eaebbd558eafbeedf1ba"),
    "EfficientNetB5": ("keras-applications/efficientnetb5_notop.h5", "38879255a25d3c92d5e44e04ae6cec6f"),
    "EfficientNetB6": ("keras-applications/efficientnetb6_notop.h5", "9ecce42647a20130c1f39a5d4cb75743"),
    "EfficientNetB7": ("keras-applications/efficientnetb7_notop.h5", "cbcfe4450ddf6f3ad90b1b398090fe4a"),
    "EfficientNetV2B0": ("efficientnet_v2/efficientnetv2-b0_notop.h5", "893217f2bb855e2983157299931e43ff"),
    "EfficientNetV2B1": ("efficientnet_v2/efficientnetv2-b1_notop.h5", "0e80663031ca32d657f9caa404b6ec37"),
    "EfficientNetV2B2": ("efficientnet_v2/efficientnetv2-b2_notop.h5", "1dfe2e7a5d45b6632553a8961ea609eb"),
    "EfficientNetV2B3": ("efficientnet_v2/efficientnetv2-b3_notop.h5", "f6abf7b5849ac99a89b50dd3fd532856"),
    "EfficientNetV2L": ("efficientnet_v2/efficientnetv2-l_notop.h5", "b0b66b5c863aef5b46e8608fe1711615"),
    "EfficientNetV2M": ("efficientnet_v2/efficientnetv2-m_notop.h5", "1b8dc055df72dde80d614482840fe342"),
    "EfficientNetV2S": ("efficientnet_v2/efficientnetv2-s_notop.h5", "af0682fb74e8c54910f2d4393339c070"),
    "InceptionResNetV2": (f"inception_resnet_v2/inception_resnet_v2{_NOTOP}", "d19885ff4a710c122648d3b5c3b684e4"),
    "InceptionV3": (f"inception_v3/inception_v3{_NOTOP}", "bcbd6486424b2319ff4ef7d526e38f63"),
    "MobileNet": ("mobilenet/mobilenet_1_0_224_tf_no_top.h5", ""),
    "MobileNetV2": ("mobilenet_v2/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5", ""),
    "MobileNetV3Large": (
        "mobilenet_v3/weights_mobilenet_v3_large_224_1.0_float_no_top_v2.h5",
        "07fb09a5933dd0c8eaafa16978110389",
    ),
    "MobileNetV3Small": (
        "mobilenet_v3/weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5",
        "d3e8ec802a04aa4fc771ee12a9a9b836",
    ),
    "NASNetLarge": ("nasnet/NASNet-large-no-top.h5", "d81d89dc07e6e56530c4e77faddd61b5"),
    "NASNetMobile": ("nasnet/NASNet-mobile-no-top.h5", "1ed92395b5b598bdda52abe5c0dbfd63"),
    "ResNet101": (f"resnet/resnet101{_NOTOP}", "88cf7a10940856eca736dc7b7e228a21"),
    "ResNet101V2": (f"resnet/resnet101v2{_NOTOP}", "c0ed64b8031c3730f411d2eb4eea35b5"),
    "ResNet152": (f"resnet/resnet152{_NOTOP}", "ee4c566cf9a93f14d82f913c2dc6dd0c"),
    "ResNet152V2": (f"resnet/resnet152v2{_NOTOP}", "ed17cf2e0169df9d443503ef94b23b33"),
    "ResNet50": (f"resnet/resnet50{_NOTOP}", "4d473c1dd8becc155b73f8504c6f6626"),
    "ResNet50V2": (f"resnet/resnet50v2{_NOTOP}", "fac2f116257151a9d068a22e544a4917"),
    "VGG16": (f"vgg16/vgg16{_NOTOP}", "6d6bbae143d832006294945121d1f1fc"),
    "VGG19": (f"vgg19/vgg19{_NOTOP}", "253f8cb515780f3b799900260a226db6"),
    "Xception": (f"xception/xception{_NOTOP}", "b0042744bf5b25fce3cb969f33bebb97"),
}
#: Keras stores these under other names than they are downloaded by.
_STORED = {"NASNet-large-no-top.h5": "nasnet_large_no_top.h5", "NASNet-mobile-no-top.h5": "nasnet_mobile_no_top.h5"}


def list_names() -> list[str]:
    """Return the names of all networks, as study files have them."""
    return [f"{PREFIX}{name}" for name in FILES]


def find_application(name: str) -> Architecture:
    """Return the network of keras.applications with that name, which begins with `keras:`.

    Raises:
        UnknownNameError: it has none of that name.
    """
    application = name.removeprefix(PREFIX)
    if application not in FILES:
        raise UnknownNameError(
            f"keras.applications has no network {application!r}{did_you_mean(name, list_names())} "
            f"It has {', '.join(FILES)}; write {PREFIX} before the name."
        )
    family, match = next((one, found) for one in FAMILIES if (found := re.fullmatch(one.pattern, application)))
    path, file_hash = FILES[application]
    file = path.rpartition("/")[2]
    return Architecture(
        name=name,
        title=f"{application} of keras.applications",
        source="keras.applications",
        minimum_size=family.minimum_size,
        preprocessing=PREPROCESSING[family.preprocessing][2],
        defaults={"dropout": family.dropout, "learning_rate": family.learning_rate},
        cut_points={"last-block": tuple(stage.format(size=match[1].lower()) for stage in family.last_block)},
        build=functools.partial(_build, application, family.preprocessing),
        has_batch_norm=family.has_batch_norm,
        imagenet=ImageNetWeights(_STORED.get(file, file), _address(path), file_hash),
    )


def _address(path: str) -> str:
    """Return the address of a file; those of EfficientNet are elsewhere."""
    elsewhere = "keras-applications/"
    return f"{_SITE.removesuffix(f'tensorflow/{elsewhere}')}{path}" if path.startswith(elsewhere) else f"{_SITE}{path}"


def _build(
    application: str, preprocessing: str, image_size: int, classes: int, dropout: float, auxiliary_dropout: float
) -> Outputs:
    """Build the network; it has no auxiliary heads."""
    import keras
    from keras import layers

    inputs = layers.Input((image_size, image_size, 3), name="image")
    made = getattr(keras.applications, application)(
        include_top=False, weights=None, input_shape=(image_size, image_size, 3)
    )
    name_of = name_layers(made)

    def copy(layer: keras.Operation) -> keras.Operation:
        config = layer.get_config()
        return type(layer).from_config({**config, "name": name_of.get(layer.name, layer.name)})

    def call(layer: keras.Operation, *arguments: Any, **named: Any) -> Any:
        if isinstance(layer, layers.Rescaling | layers.Normalization):
            return arguments[0]
        if arguments[0] is inputs:
            arguments = (_preprocess(inputs, preprocessing), *arguments[1:])
        return layer(*arguments, **named)

    backbone = keras.models.clone_model(made, input_tensors=inputs, clone_function=copy, call_function=call)
    return Outputs(inputs, pooled_head(backbone.output, dropout, classes))


def _preprocess(images: keras.KerasTensor, preprocessing: str) -> keras.KerasTensor:
    import keras

    scale, offset, _ = PREPROCESSING[preprocessing]
    x = keras.layers.Rescaling(list(scale), list(offset), name="preprocess_normalise")(images)
    return keras.ops.flip(x, axis=-1) if preprocessing == "caffe" else x  # RGB -> BGR


def name_layers(model: keras.Model) -> dict[str, str]:
    """Return the names of a network's layers by those that Keras gave them."""
    from keras.src.utils.naming import to_snake_case

    names: dict[str, str] = {}
    numbers: dict[str, int] = {}
    numbered = []
    own = ""  # the last name, or from the end the next one, that is not a kind and a number
    for layer in reversed(model.layers):
        kind = to_snake_case(type(layer).__name__)
        if re.fullmatch(rf"{kind}(_\d+)?", layer.name):
            numbered.append((layer, kind, own))
        else:
            own = layer.name
            names[layer.name] = re.sub(r"^(.+?)_(reduce_)?(\d+)$", _put_first, own) if _is_cell(model) else own
    last = next((layer.name for layer in reversed(model.layers) if layer.name in names), "")
    for layer, kind, after in reversed(numbered):
        base = f"{names.get(after or last, '')}_{kind}".lstrip("_")
        numbers[base] = numbers.get(base, 0) + 1
        names[layer.name] = f"{base}_{numbers[base]}"
    return names


def _is_cell(model: keras.Model) -> bool:
    return model.name.lower().startswith("nasnet")


def _put_first(match: re.Match[str]) -> str:
    return f"{'reduce' if match[2] else 'cell'}{match[3]}_{match[1]}"
