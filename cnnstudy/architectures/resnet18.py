"""ResNet 18, as in torchvision: 11,176,512 parameters below the head, 9,600 of them moving statistics.

Source: He et al., Deep Residual Learning for Image Recognition (CVPR 2016), table 1. The paper has no dropout.
"""

from __future__ import annotations

from cnnstudy.architectures._residual import BASIC, residual_network

#: (stage, filters, blocks, stride of the first block)   output at 224 pixels
TABLE = (
    ("conv2", 64, 2, 1),  # [b, 56, 56, 64]
    ("conv3", 128, 2, 2),  # [b, 28, 28, 128]
    ("conv4", 256, 2, 2),  # [b, 14, 14, 256]
    ("conv5", 512, 2, 2),  # [b, 7, 7, 512]
)

ARCHITECTURE = residual_network("resnet18", "ResNet 18", TABLE, BASIC)
