"""VGG16 from keras.applications, with the head Flatten-Dropout-1024-Dropout-1024.

Source: Simonyan, Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition (ICLR 2015), table 1,
column D; the convolutions and their ImageNet weights are those of keras.applications. 14,714,688 parameters in the
convolutions, 41,460,549 in all with 5 classes at 224 pixels.
"""

from __future__ import annotations

from cnnstudy.architectures import Architecture, ImageNetWeights, Outputs, dense_head

#: ImageNet's mean red, green and blue, subtracted from images as its weights expect (keras.applications, mode "caffe").
IMAGENET_MEANS = (123.68, 116.779, 103.939)
HEAD_UNITS = (1024, 1024)


def build(image_size: int, classes: int, dropout: float, auxiliary_dropout: float) -> Outputs:
    """Build the network; it has no auxiliary heads."""
    import keras
    from keras import layers

    inputs = layers.Input((image_size, image_size, 3), name="image")
    x = layers.Rescaling(1.0, offset=[-mean for mean in IMAGENET_MEANS], name="preprocess_center")(inputs)
    x = keras.ops.flip(x, axis=-1)  # RGB -> BGR
    # its layers are named block1_conv1 .. block5_pool
    x = keras.applications.VGG16(include_top=False, weights=None, input_tensor=x).output  # [b, 7, 7, 512]
    return Outputs(inputs, dense_head(x, HEAD_UNITS, dropout, classes))


ARCHITECTURE = Architecture(
    name="vgg16",
    title="VGG16",
    source="Simonyan & Zisserman 2015",
    minimum_size=32,
    preprocessing="BGR minus (103.939, 116.779, 123.68)",
    defaults={"dropout": 0.5, "learning_rate": 1e-4},
    cut_points={"last-block": ("block5",)},
    build=build,
    imagenet=ImageNetWeights(
        file_name="vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
        url="https://storage.googleapis.com/tensorflow/keras-applications/vgg16/"
        "vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5",
        file_hash="6d6bbae143d832006294945121d1f1fc",
    ),
)
