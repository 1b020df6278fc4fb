"""ResNet 50 version 1.5, as in torchvision: 23,508,032 parameters below the head, and 53,120 moving statistics.

Source: He et al., Deep Residual Learning for Image Recognition (CVPR 2016), table 1. The paper has no dropout, and the
stride in a block's first 1x1 convolution, as keras.applications (`keras:ResNet50`).
"""

from __future__ import annotations

from cnnstudy.architectures._residual import BOTTLENECK, residual_network

#: (stage, filters of a block's first two convolutions, blocks, stride of the first block)   output at 224 pixels
TABLE = (
    ("conv2", 64, 3, 1),  # [b, 56, 56, 256]
    ("conv3", 128, 4, 2),  # [b, 28, 28, 512]
    ("conv4", 256, 6, 2),  # [b, 14, 14, 1024]
    ("conv5", 512, 3, 2),  # [b, 7, 7, 2048]
)

ARCHITECTURE = residual_network("resnet50", "ResNet 50", TABLE, BOTTLENECK)
