"""Study files, and the messages about their mistakes."""

from __future__ import annotations

import datetime
import re
from pathlib import Path

import pytest
from mistakes import check_mistake, complaint, written

from cnnstudy.config import yaml_text
from cnnstudy.config.factors import Choices, Range
from cnnstudy.config.find import SHIPPED_STUDIES
from cnnstudy.config.load import load_study
from cnnstudy.config.schema import Budget, Confirm, StudyConfig
from cnnstudy.config.strategies import SearchConfig
from cnnstudy.errors import ConfigError

STUDY = """\
name: probe
data:
  name: digits
  classes: [0, 1, 2, 3, 4]
  images_per_class: 40
  validation: 0.2
  test: 0.2
  bad_images: refuse
image_size: 64
architectures: [alexnet, vgg16, googlenet]
factors:
  batch_size: [8, 16, 32]
  dropout: {low: 0.1, high: 0.7}
  transfer: [scratch, fine-tune]
training:
  epochs: 4
  optimizer: sgd
  weight_decay: 0.01
  momentum: 0.9
  early_stopping: 2
weights:
  default:
    source: pretrain
    data: {name: digits, classes: [5, 6]}
    epochs: 2
    batch_size: 16
strategy:
  kind: search
  sampler: tpe
  pruner: median
  startup_trials: 2
  start_with: [{transfer: scratch}]
objective:
  metric: val/loss
budget:
  trials: 9
seed: 3
"""

SOURCE = """\
    source: pretrain
    data: {name: digits, classes: [5, 6]}
    epochs: 2
    batch_size: 16"""


def changed(old: str, new: str) -> str:
    assert STUDY.count(old) == 1, f"{old!r} is not once in the study"
    return STUDY.replace(old, new)


# Each: what stands in the file, what to put there (`#!` marks the line that the message must name), the dotted key, and
# what the message must say: what was given, and what is allowed.
MISTAKES = [
    # the top
    ("name: probe", "nmae: x #!\nname: probe", "nmae", ["unknown key; did you mean 'name'?", "image_size"]),
    ("seed: 3", "xyzzy: 3 #!", "xyzzy", ["unknown key. The keys here are name, data, image_size,"]),
    ("seed: 3", "3: 3 #!", "3", ["unknown key."]),
    # name
    ("name: probe", "name: 5 #!", "name", ["must be text", "not 5."]),
    ("name: probe", "name: [a] #!", "name", ["must be text", "not ['a']."]),
    ("name: probe", "name: #!", "name", ["must be text", "not nothing."]),
    ("name: probe", "name: a/b #!", "name", ["'a/b'", "letters, digits, '.', '_' and '-'"]),
    ("name: probe", "name: .hidden #!", "name", ["'.hidden'", "starts with a letter or digit"]),
    ("name: probe", "name: " + "n" * 101 + " #!", "name", ["1 to 100"]),
    ("name: probe", "name: 'a\\n' #!", "name", ["letters"]),
    # data
    (
        "data:\n  name: digits\n  classes: [0, 1, 2, 3, 4]",
        "data: #!\n  classes: [0, 1]",
        "data.name",
        ["is missing", "digits, "],
    ),
    (
        "  name: digits\n  classes",
        "  name: digit #!\n  classes",
        "data.name",
        ["unknown data set 'digit'; did you mean 'digits'?", "flowers"],
    ),
    (
        "  name: digits\n  classes",
        "  name: zzz #!\n  classes",
        "data.name",
        ["unknown data set 'zzz'. The data sets are", "digits"],
    ),
    ("  name: digits\n  classes", "  name: 3 #!\n  classes", "data.name", ["digits"]),
    (
        "  validation: 0.2",
        "  validatoin: 0.2 #!",
        "data.validatoin",
        ["unknown key; did you mean 'validation'?", "classes"],
    ),
    ("  validation: 0.2", "  validation: 1 #!", "data.validation", ["less than 1", "not 1."]),
    ("  validation: 0.2", "  validation: 0 #!", "data.validation", ["greater than 0", "not 0."]),
    ("  validation: 0.2", "  validation: .nan #!", "data.validation", ["number", "not nan."]),
    ("  validation: 0.2", "  validation: a fifth #!", "data.validation", ["must be a number", "not 'a fifth'."]),
    ("  test: 0.2", "  test: -0.1 #!", "data.test", ["greater than 0", "not -0.1."]),
    ("  test: 0.2", "  test: [0.1] #!", "data.test", ["must be a number", "not [0.1]."]),
    ("data:\n", "data: #!\n", "data", None),
    (
        "  images_per_class: 40",
        "  images_per_class: 3 #!",
        "data.images_per_class",
        ["greater than or equal to 4", "not 3."],
    ),
    (
        "  images_per_class: 40",
        "  images_per_class: 4.5 #!",
        "data.images_per_class",
        ["must be a whole number", "not 4.5."],
    ),
    (
        "  images_per_class: 40",
        "  images_per_class: many #!",
        "data.images_per_class",
        ["must be a whole number", "not 'many'."],
    ),
    (
        "  bad_images: refuse",
        "  bad_images: ignore #!",
        "data.bad_images",
        ["must be 'refuse' or 'skip'", "not 'ignore'."],
    ),
    ("  bad_images: refuse", "  copies: apart #!", "data.copies", ["must be 'together' or 'ignore'", "not 'apart'."]),
    ("  bad_images: refuse", "  copies: false #!", "data.copies", ["must be 'together' or 'ignore'", "not false."]),
    ("  bad_images: refuse", "  groups: 3 #!", "data.groups", ["must hold keys of its own"]),
    ("  bad_images: refuse", "  groups: {folder: 0} #!", "data.groups.folder", ["not 0."]),
    ("  bad_images: refuse", "  groups: {} #!", "data.groups", ["must hold one key"]),
    ("  bad_images: refuse", "  bad_images: false #!", "data.bad_images", ["must be 'refuse' or 'skip'", "not false."]),
    ("  classes: [0, 1, 2, 3, 4]", "  classes: [0] #!", "data.classes", ["at least 2", "not [0]."]),
    ("  classes: [0, 1, 2, 3, 4]", "  classes: [0, 1, 1] #!", "data.classes", ["[0, 1, 1]", "once"]),
    (
        "  classes: [0, 1, 2, 3, 4]",
        "  classes:\n  - 0\n  - 10 #!",
        "data.classes.1",
        ["less than or equal to 9", "not 10."],
    ),
    ("  classes: [0, 1, 2, 3, 4]", "  classes: 5 #!", "data.classes", ["must be a list", "not 5."]),
    # image_size
    ("image_size: 64", "image_size: 63 #!", "image_size", ["is 63; alexnet takes images of 64 to 1024 pixels."]),
    ("image_size: 64", "image_size: 1025 #!", "image_size", ["is 1025; vgg16 takes images of 32 to 1024"]),
    ("image_size: 64", "image_size: big #!", "image_size", ["must be a whole number", "not 'big'."]),
    ("image_size: 64", "image_size: true #!", "image_size", ["must be a whole number", "not true."]),
    ("image_size: 64", "image_size: [64] #!", "image_size", ["must be a whole number", "not [64]."]),
    ("image_size: 64", "image_size: {alexnet: 64, vgg16: 32} #!", "image_size", ["googlenet"]),
    (
        "image_size: 64",
        "image_size:\n  alexnet: 64\n  vgg16: 31 #!\n  googlenet: 32",
        "image_size.vgg16",
        ["32 to 1024", "is 31;"],
    ),
    (
        "image_size: 64",
        "image_size:\n  alexnet: 64\n  vgg16: x #!\n  googlenet: 32",
        "image_size.vgg16",
        ["whole number", "'x'."],
    ),
    (
        "image_size: 64",
        "image_size:\n  alexnet: 64\n  vgg: 32 #!\n  vgg16: 32\n  googlenet: 32",
        "image_size.vgg",
        ["did you mean 'vgg16'?"],
    ),
    # architectures
    ("architectures: [alexnet, vgg16, googlenet]", "architectures: [] #!", "architectures", ["at least 1", "not []."]),
    (
        "architectures: [alexnet, vgg16, googlenet]",
        "architectures: alexnet #!",
        "architectures",
        ["must be a list", "not 'alexnet'."],
    ),
    (
        "architectures: [alexnet, vgg16, googlenet]",
        "architectures:\n- alexnet\n- vgg15 #!",
        "architectures.1",
        ["unknown architecture 'vgg15'; did you mean 'vgg16'?", "googlenet"],
    ),
    (
        "architectures: [alexnet, vgg16, googlenet]",
        "architectures:\n- alexnet\n- alexnet #!",
        "architectures.1",
        ["alexnet is listed twice", "once"],
    ),
    (
        "architectures: [alexnet, vgg16, googlenet]",
        "architectures:\n- 3 #!",
        "architectures.0",
        ["must be text", "not 3."],
    ),
    # factors
    (
        "  batch_size: [8, 16, 32]",
        "  batchsize: 8 #!",
        "factors.batchsize",
        ["unknown factor 'batchsize'; did you mean 'batch_size'?", "augmentation"],
    ),
    (
        "  batch_size: [8, 16, 32]",
        "  batch_size: .inf #!",
        "factors.batch_size",
        ["inf is out of range", "from 1 to 8192."],
    ),
    ("  batch_size: [8, 16, 32]", "  batch_size: [8, 8] #!", "factors.batch_size", ["8 is listed twice", "once"]),
    (
        "  batch_size: [8, 16, 32]",
        "  batch_size: 1e-4 #!",
        "factors.batch_size",
        ["0.0001 is out of range", "whole numbers"],
    ),
    (
        "  batch_size: [8, 16, 32]",
        "  batch_size: #!",
        "factors.batch_size",
        ["nothing is not a number", "whole numbers"],
    ),
    (
        "  batch_size: [8, 16, 32]",
        "  batch_size:\n    alexnet: 8\n    vgg16: 0 #!",
        "factors.batch_size.vgg16",
        ["0 is out of range", "from 1 to 8192."],
    ),
    (
        "  batch_size: [8, 16, 32]",
        "  batch_size:\n    alexnet: 8\n    vgg61: 8 #!",
        "factors.batch_size.vgg61",
        ["did you mean 'vgg16'?"],
    ),
    (
        "  dropout: {low: 0.1, high: 0.7}",
        "  dropout: {low: 0.1, hihg: 0.7} #!",
        "factors.dropout",
        ["unknown key 'hihg'", "did you mean 'high'?"],
    ),
    (
        "  dropout: {low: 0.1, high: 0.7}",
        "  dropout: {low: 0.7, high: 0.1} #!",
        "factors.dropout",
        ["low (0.7) must be below high (0.1)."],
    ),
    (
        "  dropout: {low: 0.1, high: 0.7}",
        "  dropout: lots #!",
        "factors.dropout",
        ["'lots' is not a number", "0 to 0.95"],
    ),
    (
        "  transfer: [scratch, fine-tune]",
        "  transfer: [scratch, finetune] #!",
        "factors.transfer",
        ["'finetune' is not a level", "did you mean 'fine-tune'?", "two-phase"],
    ),
    (
        "  transfer: [scratch, fine-tune]",
        "  transfer: {low: 0, high: 1} #!",
        "factors.transfer",
        ["takes no range", "frozen"],
    ),
    (
        "  transfer: [scratch, fine-tune]",
        "  transfer: scratch\n  backbone_learning_rate_multiplier: 0.5 #!",
        "factors.backbone_learning_rate_multiplier",
        ["is active in no trial", "{from: STAGE}, fine-tune, two-phase and probe-then-fine-tune."],
    ),
    (
        "  transfer: [scratch, fine-tune]",
        "  transfer: frozen\n  auxiliary_weight: 0.5 #!",
        "factors.auxiliary_weight",
        ["is active in no trial", "networks with auxiliary heads"],
    ),
    (
        "  transfer: [scratch, fine-tune]",
        "  auxiliary_weight: 0\n  auxiliary_dropout: 0.5 #!",
        "factors.auxiliary_dropout",
        ["is active in no trial", "active and not 0."],
    ),
    (
        "  transfer: [scratch, fine-tune]",
        "  transfer: fine-tune\n  batch_norm: trained #!",
        "factors.batch_norm",
        ["acts on BatchNormalization, which alexnet does not have."],
    ),
    # training
    ("training:\n", "training: #!\n", "training", None),
    ("  epochs: 4", "  epoch: 4 #!", "training.epoch", ["unknown key; did you mean 'epochs'?", "head_epochs"]),
    ("  epochs: 4", "  epochs: 0 #!", "training.epochs", ["greater than or equal to 1", "not 0."]),
    ("  epochs: 4", "  epochs: 10001 #!", "training.epochs", ["less than or equal to 10000", "not 10001."]),
    ("  epochs: 4", "  epochs: true #!", "training.epochs", ["must be a whole number", "not true."]),
    ("  epochs: 4", "  epochs: '4' #!", "training.epochs", ["must be a whole number", "not '4'."]),
    ("  epochs: 4", "  epochs: {alexnet: 2, vgg16: 2} #!", "training.epochs", ["googlenet"]),
    (
        "  epochs: 4",
        "  epochs:\n    alexnet: 2\n    vgg16: 2.5 #!\n    googlenet: 2",
        "training.epochs.vgg16",
        ["whole number", "not 2.5."],
    ),
    (
        "  epochs: 4",
        "  epochs:\n    alexnet: 2\n    vgg16: 2\n    googlenet: 2\n    resnet: 2 #!",
        "training.epochs.resnet",
        ["not among this study's architectures"],
    ),
    (
        "  optimizer: sgd",
        "  optimizer: SGD #!",
        "training.optimizer",
        ["'adam', 'adamw', 'sgd' or 'rmsprop'", "not 'SGD'."],
    ),
    ("  optimizer: sgd", "  optimizer: 1 #!", "training.optimizer", ["'adam', 'adamw', 'sgd' or 'rmsprop'", "not 1."]),
    (
        "  weight_decay: 0.01",
        "  weight_decay: -1 #!",
        "training.weight_decay",
        ["greater than or equal to 0", "not -1."],
    ),
    (
        "  weight_decay: 0.01",
        "  weight_decay: 1.5 #!",
        "training.weight_decay",
        ["less than or equal to 1", "not 1.5."],
    ),
    ("  weight_decay: 0.01", "  weight_decay: false #!", "training.weight_decay", ["must be a number", "not false."]),
    ("  momentum: 0.9", "  momentum: 1 #!", "training.momentum", ["less than 1", "not 1."]),
    (
        "  momentum: 0.9",
        "  momentum: 0.9\n  deterministic: true\n  xla: true #!",
        "training.xla",
        ["can't be combined with deterministic", "leave it out"],
    ),
    ("  momentum: 0.9", "  momentum: .inf #!", "training.momentum", ["must be a number", "not inf."]),
    (
        "  optimizer: sgd\n  weight_decay: 0.01\n  momentum: 0.9",
        "  optimizer: adam\n  momentum: 0.9 #!",
        "training.momentum",
        ["adam has no momentum", "sgd and rmsprop"],
    ),
    (
        "  early_stopping: 2",
        "  early_stopping: 0 #!",
        "training.early_stopping",
        ["greater than or equal to 1", "not 0."],
    ),
    (
        "  early_stopping: 2",
        "  early_stopping: true #!",
        "training.early_stopping",
        ["must be a whole number", "not true."],
    ),
    ("  early_stopping: 2", "  head_epochs: 0 #!", "training.head_epochs", ["greater than or equal to 1", "not 0."]),
    ("  early_stopping: 2", "  head_epochs: 1.5 #!", "training.head_epochs", ["must be a whole number", "not 1.5."]),
    ("  early_stopping: 2", "  head_epochs: 2 #!", "training.head_epochs", ["two-phase", "does not use"]),
    ("  early_stopping: 2", "  updates: 0 #!", "training.updates", ["greater than or equal to 1", "not 0."]),
    ("  early_stopping: 2", "  updates: 1.5 #!", "training.updates", ["must be a whole number", "not 1.5."]),
    ("  early_stopping: 2", "  until_train_loss: 0 #!", "training.until_train_loss", ["greater than 0", "not 0."]),
    ("  early_stopping: 2", "  until_train_loss: low #!", "training.until_train_loss", ["a number", "not 'low'."]),
    ("  early_stopping: 2", "  keep_models: 2 #!", "training.keep_models", ["not 2."]),
    ("  early_stopping: 2", "  keep_models: some #!", "training.keep_models", ["not 'some'."]),
    ("  early_stopping: 2", "  deterministic: 1 #!", "training.deterministic", ["not 1."]),
    ("  early_stopping: 2", "  deterministic: very #!", "training.deterministic", ["not 'very'."]),
    ("  early_stopping: 2", "  checkpoints: 1 #!", "training.checkpoints", ["true, false or 'every-epoch'", "not 1."]),
    ("  early_stopping: 2", "  checkpoints: often #!", "training.checkpoints", ["'every-epoch'", "not 'often'."]),
    ("  early_stopping: 2", "  share_epochs: 1 #!", "training.share_epochs", ["not 1."]),
    ("  early_stopping: 2", "  share_epochs: often #!", "training.share_epochs", ["not 'often'."]),
    ("  early_stopping: 2", "  precision: float16 #!", "training.precision", ["'mixed_float16'", "not 'float16'."]),
    ("  early_stopping: 2", "  precision: 16 #!", "training.precision", ["'auto', 'float32'", "not 16."]),
    ("  early_stopping: 2", "  xla: fast #!", "training.xla", ["auto, true or false", "not 'fast'."]),
    ("  early_stopping: 2", "  xla: 1 #!", "training.xla", ["auto, true or false", "not 1."]),
    ("  early_stopping: 2", "  timeout: 0 #!", "training.timeout", ["greater than 0", "not 0."]),
    ("  early_stopping: 2", "  timeout: long #!", "training.timeout", ["must be a number", "not 'long'."]),
    (
        "  early_stopping: 2",
        "  equal_failures: 0 #!",
        "training.equal_failures",
        ["greater than or equal to 1", "not 0."],
    ),
    ("  early_stopping: 2", "  equal_failures: 2.5 #!", "training.equal_failures", ["a whole number", "not 2.5."]),
    # weights
    ("  default:\n", "  vgg: #!\n", "weights.vgg", ["neither `default` nor", "alexnet, vgg16, googlenet"]),
    ("  default:\n", "  3: #!\n", "weights.3", ["must be text"]),
    (
        "    source: pretrain",
        "    sorce: pretrain #!",
        "weights.default.sorce",
        ["unknown key; did you mean 'source'?", "batch_size"],
    ),
    (
        "    source: pretrain",
        "    source: pretrained #!",
        "weights.default.source",
        ["'pretrain', 'imagenet', 'file' or 'random'", "not 'pretrained'."],
    ),
    ("    source: pretrain", "    source: #!", "weights.default.source", ["'pretrain', 'imagenet'", "not nothing."]),
    (
        "    data: {name: digits, classes: [5, 6]}",
        "    data: {name: digits, class: [5, 6]} #!",
        "weights.default.data.class",
        ["did you mean 'classes'?"],
    ),
    (
        "    data: {name: digits, classes: [5, 6]}",
        "    data: {classes: [5, 6]} #!",
        "weights.default.data.name",
        ["is missing", "digits"],
    ),
    (
        "    data: {name: digits, classes: [5, 6]}",
        "    data: {name: digit} #!",
        "weights.default.data.name",
        ["did you mean 'digits'?"],
    ),
    (
        "    data: {name: digits, classes: [5, 6]}",
        "    data: digits #!",
        "weights.default.data.name",
        ["is missing", "digits"],
    ),
    (
        "    data: {name: digits, classes: [5, 6]}",
        "    data: {name: digits, classes: [0, 1, 2, 3, 4], images_per_class: 40, validation: 0.2, test: 0.2} #!",
        "weights.default.data",
        ["the study's own data", "other images"],
    ),
    ("    epochs: 2", "    epochs: 0 #!", "weights.default.epochs", ["greater than or equal to 1", "not 0."]),
    ("    epochs: 2", "    epochs: two #!", "weights.default.epochs", ["must be a whole number", "not 'two'."]),
    ("    epochs: 2", "    epochs: #!", "weights.default.epochs", ["is missing", "source pretrain needs it."]),
    (
        "    batch_size: 16",
        "    batch_size: 0 #!",
        "weights.default.batch_size",
        ["greater than or equal to 1", "not 0."],
    ),
    (
        "    batch_size: 16",
        "    batch_size: [16] #!",
        "weights.default.batch_size",
        ["must be a whole number", "not [16]."],
    ),
    (
        "    batch_size: 16",
        "    file: x.h5 #!",
        "weights.default.file",
        ["does not belong to source pretrain", "batch_size, data, draws, epochs."],
    ),
    (
        "    batch_size: 16",
        "    draws: each-seed #!",
        "weights.default.draws",
        ["is for a factorial", "must start from the same source weights"],
    ),
    ("    batch_size: 16", "    draws: two #!", "weights.default.draws", ["'each-seed' or 'one'", "not 'two'."]),
    (
        SOURCE,
        "    source: file\n    file: no/such.h5 #!",
        "weights.default.file",
        ["there is no file /", "/no/such.h5; give", "path"],
    ),
    (
        SOURCE,
        "    source: file\n    file: ~no-such-user/x.h5 #!",
        "weights.default.file",
        ["there is no file ~no-such-user/x.h5 (looked for /"],
    ),
    (
        SOURCE,
        "    source: file\n    file: 5 #!",
        "weights.default.file",
        ["must be the path of a file", "not 5."],
    ),
    (
        f"  default:\n{SOURCE}",
        "  default: #!\n    source: file",
        "weights.default.file",
        ["is missing", "source file needs it."],
    ),
    (
        SOURCE,
        "    source: imagenet #!",
        "weights.default.source",
        ["no imagenet weights for alexnet", "only for vgg16 and networks of keras.applications", "pretrain or file"],
    ),
    (
        f"  default:\n{SOURCE}",
        "  default: {source: random}\n  googlenet:\n    source: imagenet #!",
        "weights.googlenet.source",
        ["no imagenet weights for googlenet"],
    ),
    (
        f"  default:\n{SOURCE}",
        "  default:\n    source: random\n    epochs: 2 #!",
        "weights.default.epochs",
        ["does not belong to source random", "no other key"],
    ),
    # strategy
    ("  kind: search", "  kind: searching #!", "strategy.kind", ["must be", "'search'", "not 'searching'."]),
    ("  kind: search", "  kind: true #!", "strategy.kind", ["must be", "'search'", "not true."]),
    ("  sampler: tpe", "  sampelr: tpe #!", "strategy.sampelr", ["unknown key; did you mean 'sampler'?", "start_with"]),
    ("  sampler: tpe", "  sampler: sobol #!", "strategy.sampler", ["'tpe', 'random', 'qmc' or 'grid'", "not 'sobol'."]),
    ("  sampler: tpe", "  sampler: [tpe] #!", "strategy.sampler", ["'tpe', 'random', 'qmc' or 'grid'", "not ['tpe']."]),
    ("  pruner: median", "  pruner: mean #!", "strategy.pruner", ["'hyperband', 'median' or 'none'", "not 'mean'."]),
    ("  pruner: median", "  pruner: #!", "strategy.pruner", ["'hyperband', 'median' or 'none'", "not nothing."]),
    (
        "  startup_trials: 2",
        "  startup_trials: 0 #!",
        "strategy.startup_trials",
        ["greater than or equal to 1", "not 0."],
    ),
    (
        "  startup_trials: 2",
        "  startup_trials: x #!",
        "strategy.startup_trials",
        ["must be a whole number", "not 'x'."],
    ),
    (
        "  start_with: [{transfer: scratch}]",
        "  start_with: {transfer: scratch} #!",
        "strategy.start_with",
        ["must be a list", "not {"],
    ),
    (
        "  start_with: [{transfer: scratch}]",
        "  start_with:\n  - {}\n  - scratch #!",
        "strategy.start_with.1",
        ["must hold factors", "{transfer: scratch}"],
    ),
    (
        "  start_with: [{transfer: scratch}]",
        "  start_with:\n  - {transfr: scratch} #!",
        "strategy.start_with.0.transfr",
        ["unknown factor 'transfr'; did you mean 'transfer'?"],
    ),
    (
        "  start_with: [{transfer: scratch}]",
        "  start_with:\n  - {learning_rate: 0.1} #!",
        "strategy.start_with.0.learning_rate",
        ["not among the study's factors."],
    ),
    (
        "  start_with: [{transfer: scratch}]",
        "  start_with:\n  - {transfer: frozen} #!",
        "strategy.start_with.0.transfer",
        ["'frozen' is not among its levels", "'fine-tune'"],
    ),
    (
        "  start_with: [{transfer: scratch}]",
        "  start_with:\n  - {batch_size: 9} #!",
        "strategy.start_with.0.batch_size",
        ["9 is not among its levels [8, 16, 32]."],
    ),
    (
        "  start_with: [{transfer: scratch}]",
        "  start_with:\n  - {batch_size: true} #!",
        "strategy.start_with.0.batch_size",
        ["true is not a number"],
    ),
    (
        "  start_with: [{transfer: scratch}]",
        "  start_with:\n  - {batch_size: [8]} #!",
        "strategy.start_with.0.batch_size",
        ["one level here, not several."],
    ),
    (
        "  start_with: [{transfer: scratch}]",
        "  start_with:\n  - {dropout: 0.8} #!",
        "strategy.start_with.0.dropout",
        ["0.8 is not within its range 0.1 to 0.7."],
    ),
    (
        "  start_with: [{transfer: scratch}]",
        "  start_with: [{}, {}, {}, {}] #!",
        "strategy.start_with",
        ["more trials than the 3 that alexnet gets"],
    ),
    # objective
    ("  metric: val/loss", "  metrics: val/loss #!", "objective.metrics", ["unknown key; did you mean 'metric'?"]),
    (
        "  metric: val/loss",
        "  metric: test/loss #!",
        "objective.metric",
        ["'val/accuracy', 'val/balanced_accuracy', 'val/macro_f1' or 'val/loss'", "not 'test/loss'."],
    ),
    (
        "  metric: val/loss",
        "  metric: 1 #!",
        "objective.metric",
        ["'val/accuracy', 'val/balanced_accuracy', 'val/macro_f1' or 'val/loss'", "not 1."],
    ),
    ("objective:\n  metric: val/loss", "objective: val/loss #!", "objective", ["must hold keys", "not 'val/loss'."]),
    (
        "  metric: val/loss",
        "  metric: gap/accuracy #!",
        "objective.metric",
        ["'gap/accuracy' alone is smallest if a network learns nothing", "objective.maximum_gap"],
    ),
    (
        "  metric: val/loss",
        "  metric: val/loss\n  maximum_gap: 10 #!",
        "objective.maximum_gap",
        ["less than 1", "not 10."],
    ),
    (
        "  metric: val/loss",
        "  metric: val/loss\n  maximum_gap: -0.1 #!",
        "objective.maximum_gap",
        ["greater than or equal to 0", "not -0.1."],
    ),
    (
        "  metric: val/loss",
        "  metric: val/loss\n  minimum_accuracy: 60 #!",
        "objective.minimum_accuracy",
        ["less than 1", "not 60."],
    ),
    (
        "  metric: val/loss",
        "  metric: val/loss\n  minimum_accuracy: half #!",
        "objective.minimum_accuracy",
        ["must be a number", "not 'half'."],
    ),
    ("  metric: val/loss", "  goals: [accuracy] #!", "objective.goals", ["at least 2"]),
    (
        "  metric: val/loss",
        "  goals: [accuracy, gap, cost] #!",
        "objective.goals.2",
        ["'accuracy', 'loss', 'gap', 'seconds' or 'parameters'", "not 'cost'."],
    ),
    # question
    ("seed: 3", "question: gap #!", "question", ["must hold keys", "not 'gap'."]),
    ("seed: 3", "question: {outcom: gap} #!", "question.outcom", ["unknown key; did you mean 'outcome'?"]),
    ("seed: 3", "question: {outcome: loss} #!", "question.outcome", ["'gap', 'accuracy'", "not 'loss'."]),
    (
        "seed: 3",
        "question: {factors: [dropuot]} #!",
        "question.factors.0",
        ["does not vary", "did you mean 'dropout'?"],
    ),
    ("seed: 3", "question: {factors: [dropout, dropout]} #!", "question.factors.1", ["is listed twice"]),
    ("seed: 3", "question: {outcome: 1} #!", "question.outcome", ["'gap', 'accuracy'", "not 1."]),
    ("seed: 3", "question: {factors: []} #!", "question.factors", ["at least 1"]),
    # confirm
    ("seed: 3", "execution: ray #!", "execution", ["must hold keys", "not 'ray'."]),
    ("seed: 3", "execution: {on: rya} #!", "execution.on", ["'rya' is no place to run trials; give local"]),
    ("seed: 3", "execution: {slots: 0} #!", "execution.slots", ["must be greater than or equal to 1, not 0."]),
    ("seed: 3", "confirm: 3 #!", "confirm", ["must hold keys", "not 3."]),
    ("seed: 3", "confirm: {topp: 3} #!", "confirm.topp", ["unknown key; did you mean 'top'?"]),
    ("seed: 3", "confirm: {top: 0} #!", "confirm.top", ["greater than or equal to 1", "not 0."]),
    ("seed: 3", "confirm: {top: a} #!", "confirm.top", ["must be a whole number", "not 'a'."]),
    ("seed: 3", "confirm: {seeds: 1} #!", "confirm.seeds", ["greater than or equal to 2", "not 1."]),
    ("seed: 3", "confirm: {seeds: 101} #!", "confirm.seeds", ["less than or equal to 100", "not 101."]),
    ("seed: 3", "confirm: {most_seeds: 201} #!", "confirm.most_seeds", ["less than or equal to 200", "not 201."]),
    (
        "seed: 3",
        "confirm: {seeds: 5, most_seeds: 4} #!",
        "confirm.most_seeds",
        ["is 4, fewer than the 5 seeds of every candidate"],
    ),
    # budget
    ("  trials: 9", "  trails: 9 #!", "budget.trails", ["unknown key; did you mean 'trials'?"]),
    ("  trials: 9", "  trials: 0 #!", "budget.trials", ["greater than or equal to 1", "not 0."]),
    ("  trials: 9", "  trials: 100001 #!", "budget.trials", ["less than or equal to 100000", "not 100001."]),
    ("  trials: 9", "  trials: 2.5 #!", "budget.trials", ["must be a whole number", "not 2.5."]),
    ("  trials: 9", "  trials: 2 #!", "budget.trials", ["2 trials for 3 networks", "at least one"]),
    ("budget:\n  trials: 9", "budget: 9 #!", "budget", ["must hold keys", "not 9."]),
    # seed
    ("seed: 3", "seed: -1 #!", "seed", ["greater than or equal to 0", "not -1."]),
    ("seed: 3", "seed: 2147483648 #!", "seed", ["less than 2147483648", "not 2147483648."]),
    ("seed: 3", "seed: false #!", "seed", ["must be a whole number", "not false."]),
    ("seed: 3", "seed: #!", "seed", ["must be a whole number", "not nothing."]),
]


@pytest.mark.parametrize(("old", "new", "key", "fragments"), [mistake for mistake in MISTAKES if mistake[3]])
def test_a_mistake_is_named_with_file_line_key_what_was_given_and_what_is_allowed(
    tmp_path: Path, old: str, new: str, key: str, fragments: list[str]
) -> None:
    check_mistake(tmp_path, changed(old, new), key, fragments)


def test_every_key_of_a_study_file_has_at_least_two_mistakes_above() -> None:
    named = [key for _, _, key, fragments in MISTAKES if fragments]
    groups = {"data", "factors", "training", "weights", "strategy", "objective", "question", "budget", "confirm"}
    for field in StudyConfig.model_fields:
        at_it = [key for key in named if key == field or key.startswith(f"{field}.")]
        assert len(at_it) >= 2, field
        # the keys of a factorial are in test_strategies
        model = {"strategy": SearchConfig, "budget": Budget, "confirm": Confirm}.get(
            field, StudyConfig.model_fields[field].annotation
        )
        if field in groups and hasattr(model, "model_fields"):
            for inner in model.model_fields:  # type: ignore[union-attr]
                assert len([key for key in named if key.startswith(f"{field}.{inner}")]) >= 2, f"{field}.{inner}"


@pytest.mark.parametrize("group", ["data", "training", "budget", "architectures", "name"])
def test_what_must_be_given(tmp_path: Path, group: str) -> None:
    text = re.sub(rf"^{group}:.*\n(  .*\n)*", "", STUDY, flags=re.MULTILINE)
    assert f"{tmp_path}/probe.yaml, {group}: is missing" in complaint(written(tmp_path, text))


@pytest.mark.parametrize(
    ("old", "key", "line"),
    [("  epochs: 4\n", "training.epochs", 15), ("    epochs: 2\n", "weights.default.epochs", 22)],
)
def test_a_missing_key_is_reported_at_the_group_that_lacks_it(tmp_path: Path, old: str, key: str, line: int) -> None:
    path = written(tmp_path, changed(old, ""))
    assert f"{path}, line {line}, {key}: is missing" in complaint(path)


@pytest.mark.parametrize("group", ["data", "factors", "training", "weights", "strategy", "objective", "budget"])
@pytest.mark.parametrize("given", ["5", "[a]", "", "text"])
def test_a_group_that_holds_no_keys(tmp_path: Path, group: str, given: str) -> None:
    text, count = re.subn(rf"^{group}:.*\n(  .*\n)*", f"{group}: {given}\n", STUDY, flags=re.MULTILINE)
    assert count == 1
    path = written(tmp_path, text)
    line = text.splitlines().index(f"{group}: {given}") + 1
    found = complaint(path)
    assert found.startswith(f"{path}, line {line}, {group}")
    assert "must hold" in found or "is missing; it names the data set" in found


# ---- combinations


@pytest.mark.parametrize(
    ("changes", "key", "fragments"),
    [
        (["data.validation=0.6", "data.test=0.35"], "data", ["validation (0.6) and test (0.35)", "a tenth"]),
        (["weights={}"], "factors.transfer", ["fine-tune start from source weights", "none for alexnet", "random"]),
        (["weights={}"], "factors.transfer", ["for example `weights: {vgg16: {source: imagenet}}`."]),
        (["weights={vgg16: {source: imagenet}}"], "factors.transfer", ["gives none for alexnet", "none for googlenet"]),
        (
            ["weights={vgg16: {source: imagenet}}"],
            "factors.transfer",
            ["for example, add `alexnet: {source: file, file: PATH}` to `weights`."],
        ),
        (
            ["factors.transfer=[two-phase]", "training.epochs=1", "strategy.pruner=none"],
            "training.epochs",
            ["two-phase trains alexnet's head for 1", "one more"],
        ),
        (
            ["factors.transfer=[two-phase]", "training.head_epochs=4"],
            "training.head_epochs",
            ["head for 4 epochs", "its 4"],
        ),
        (["training.head_epochs=1"], "training.head_epochs", ["is for transfer two-phase"]),
        (["training.epochs=1"], "strategy.pruner", ["prune trials of one epoch", "use none"]),
        (["factors.transfer=[probe, frozen]"], "strategy.pruner", ["a probe ends with its first", "leave probe out"]),
        (["factors.transfer=[probe]", "factors.dropout=0.5"], "factors.dropout", ["every transfer mode but probe"]),
        (
            ["factors.transfer=[two-phase]", "factors.unfreeze=gradual"],
            "factors.unfreeze",
            ["is active in no trial of this study: it is active with transfer last-block, {from: STAGE}"],
        ),
        (
            ["strategy.sampler=grid", "strategy.start_with=[]"],
            "factors.dropout",
            ["is a range, and a grid needs lists", "another sampler"],
        ),
        (["strategy.sampler=grid", "factors.dropout=0.5"], "strategy.start_with", ["can't be combined with a grid"]),
        (
            ["strategy.sampler=grid", "factors.dropout=0.5", "strategy.start_with=[]", "budget.trials=19"],
            "budget.trials",
            ["alexnet's grid has 6 points, fewer than its 7 trials", "at most 6"],
        ),
        (
            ["factors.dropout={low: 0.1, high: 0.5, step: 0.2}", "strategy.start_with=[{dropout: 0.2}]"],
            "strategy.start_with.0.dropout",
            ["0.2 is not within its range 0.1 to 0.5 in steps of 0.2."],
        ),
        (
            ["factors.dropout={alexnet: 0.5}", "strategy.start_with=[{dropout: 0.5}]"],
            "strategy.start_with.0.dropout",
            ["not among the study's factors"],
        ),
        (["factors.dropout={alexnet: 0.5, vgg: 0.5}"], "factors.dropout.vgg", ["did you mean 'vgg16'?"]),
        (
            ["architectures=[alexnet]", "factors.auxiliary_weight=0.3"],
            "factors.auxiliary_weight",
            ["is active in no trial"],
        ),
        (["training.optimizer=adamw"], "training.momentum", ["adamw has no momentum"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_keys_that_do_not_go_together(tmp_path: Path, changes: list[str], key: str, fragments: list[str]) -> None:
    found = complaint(written(tmp_path, STUDY), *changes)
    assert re.search(rf"(^|, |--set ){re.escape(key)}: ", found, flags=re.MULTILINE), found
    assert [fragment for fragment in fragments if fragment not in found] == [], found
    assert found.endswith((".", "?"))


@pytest.mark.parametrize(
    "changes",
    [
        ["training.optimizer=rmsprop"],
        ["factors.transfer=[two-phase]", "training.head_epochs=3", "strategy.start_with=[]"],
        ["training.epochs=1", "strategy.pruner=none"],
        ["training.epochs={alexnet: 1, vgg16: 2, googlenet: 1}"],
        ["strategy.sampler=grid", "factors.dropout=0.5", "strategy.start_with=[]", "budget.trials=18"],
        ["factors.dropout={alexnet: 0.5}"],
        ["factors.auxiliary_weight=0.3"],
        ["weights={}", "factors.transfer=scratch", "strategy.start_with=[]"],
        ["weights={default: {source: random}, vgg16: {source: imagenet}}"],
        ["image_size={alexnet: 64, vgg16: 32, googlenet: 1024}"],
        ["strategy.start_with=[{}, {}, {}]"],
        ["factors.dropout={low: 0.1, high: 0.5, step: 0.2}", "strategy.start_with=[{dropout: 0.3}]"],
    ],
    ids=" ".join,
)
def test_what_goes_together(tmp_path: Path, changes: list[str]) -> None:
    load_study(written(tmp_path, STUDY), changes)


def test_a_grid_too_large_to_lay_out_is_refused_at_once(tmp_path: Path) -> None:
    levels = ", ".join(str(number / 100) for number in range(1, 91))
    many = [f"factors.{name}=[{levels}]" for name in ("dropout", "learning_rate", "data_fraction")]
    path = written(tmp_path, STUDY)
    found = complaint(path, *many, "strategy.sampler=grid", "strategy.start_with=[]")
    assert f"alexnet's lists have {90**3 * 6:,} combinations, and a grid takes at most 100,000" in found
    assert "--set strategy.sampler: " in found
    load_study(path, many)  # and a search over as many is none the slower


def test_all_problems_of_a_file_are_listed(tmp_path: Path) -> None:
    text = changed("seed: 3", "seed: -1\nsede: 1\nbudegt: 2")
    for old, new in (
        ("  epochs: 4", "  epochs: 0\n  epcohs: 4"),
        ("[8, 16, 32]", "0"),
        ("{low: 0.1, high: 0.7}", "2"),
        ("[alexnet, vgg16, googlenet]", "[alexnt, vgg15]"),
        ("    source: pretrain", "    source: file"),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    path = written(tmp_path, text)
    lines = complaint(path).splitlines()
    keys = sorted(re.fullmatch(rf"{re.escape(path)}, line \d+, ([\w.]+): .*", line)[1] for line in lines)  # type: ignore[index]
    assert keys == sorted(
        [
            *("architectures.0", "architectures.1", "budegt", "factors.batch_size", "factors.dropout", "seed", "sede"),
            *("training.epcohs", "training.epochs"),
            *(f"weights.default.{key}" for key in ("batch_size", "data", "epochs", "file")),
        ]
    )


def test_all_problems_of_combinations_are_listed(tmp_path: Path) -> None:
    text = changed("  optimizer: sgd", "  optimizer: adam").replace("image_size: 64", "image_size: 40")
    found = complaint(written(tmp_path, text), "training.epochs=1", "strategy.start_with=[{batch_size: 9}]")
    assert [re.split(": ", line)[0].split(", ")[-1] for line in found.splitlines()] == [
        "image_size",
        "training.momentum",
        "strategy.pruner",
        "--set strategy.start_with.0.batch_size",
    ]


def test_problems_are_listed_by_line_and_those_of_the_command_line_last(tmp_path: Path) -> None:
    text = changed("image_size: 64", "image_sizes: 64").replace("  epochs: 4", "  epochs: 0")
    text = re.sub(r"^budget:\n.*\n", "", text, flags=re.MULTILINE).replace("seed: 3", "seed: -3\nsede: 4")
    found = complaint(written(tmp_path, text), "objective.metric=val/gap").splitlines()
    assert [re.split(": ", line)[0].split(", ")[-1] for line in found] == [
        *("budget", "image_sizes", "training.epochs", "seed", "sede"),
        "--set objective.metric",
    ]


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("  epochs: 4", "  epoch: 4", "training.epoch"),
        ("    epochs: 2", "    epcohs: 2", "weights.default.epcohs"),
        ("budget:", "budegt:", "budegt"),
        ("name: probe", "nmae: probe", "nmae"),
        ("training:", "trainings:", "trainings"),
    ],
)
def test_a_misspelt_key_is_one_problem(tmp_path: Path, old: str, new: str, key: str) -> None:
    (line,) = complaint(written(tmp_path, changed(old, new))).splitlines()
    assert f", {key}: unknown key; did you mean " in line


@pytest.mark.parametrize(
    ("name", "content", "source", "fragments"),
    [
        (
            "w.h5",
            b"<html>",
            "imagenet",
            ["is not an HDF5 file: it begins with b'<html>'. Expected is vgg16_weights_tf_"],
        ),
        ("w.h5", b"", "imagenet", ["it is empty", "from https://storage.googleapis.com/", "leave `file` out"]),
        ("w.h5", b"PK\3\4", "file", ["is not an HDF5 file", "the layers of vgg16 by name", "model.keras"]),
        ("w.keras", b"\x89HDF\r\n\x1a\n", "file", ["is not a .keras file"]),
        ("w.npz", b"text", "file", ["is not a .npz file"]),
        ("w.pt", b"PK\3\4", "file", ["is not of a type that holds weights (.h5, .keras, .npz)"]),
    ],
)
def test_a_file_that_cannot_hold_weights(
    tmp_path: Path, name: str, content: bytes, source: str, fragments: list[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    given = f"weights.vgg16={{source: {source}, file: {tmp_path / name}}}"
    found = complaint(written(tmp_path, STUDY), given)
    assert found.startswith(f"--set weights.vgg16.file: {tmp_path / name} ")
    assert [fragment for fragment in fragments if fragment not in found] == [], found


@pytest.mark.parametrize(
    ("name", "content"), [("w.h5", b"\x89HDF\r\n\x1a\n"), ("w.h5", b"-" * 512 + b"\x89HDF\r\n\x1a\n"), ("w.npz", b"PK")]
)
def test_a_file_that_may_hold_weights(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    load_study(written(tmp_path, STUDY), [f"weights.vgg16={{source: file, file: {tmp_path / name}}}"])


# ---- --set


@pytest.mark.parametrize(
    ("override", "start", "fragments"),
    [
        ("training.epochs=0", "--set training.epochs: ", ["greater than or equal to 1", "not 0."]),
        ("training.epochs={alexnet: x}", "--set training.epochs.alexnet: ", ["whole number", "not 'x'."]),
        ("trainin.epochs=1", "--set trainin: ", ["unknown key; did you mean 'training'?"]),
        ("training.epoch=1", "--set training.epoch: ", ["unknown key; did you mean 'epochs'?"]),
        ("seed=", "--set seed: ", ["whole number", "not nothing."]),
        ("data=digits", "--set data.name: ", ["is missing", "digits"]),
        ("factors.dropout=2", "--set factors.dropout: ", ["2 is out of range", "0 to 0.95."]),
        ("architectures=[alexnet, vg16]", "--set architectures.1: ", ["did you mean 'vgg16'?"]),
        ("budget.trials=1", "--set budget.trials: ", ["1 trials for 3 networks"]),
        ("image_size=20", "--set image_size: ", ["alexnet takes images of 64"]),
        ("epochs", "--set 'epochs' ", ["is not key=value", "--set training.epochs=5."]),
        ("=3", "--set '=3' ", ["is not key=value"]),
        ("training..epochs=3", "--set 'training..epochs=3' ", ["is not key=value"]),
        (
            "image_size.alexnet=64",
            "--set image_size.alexnet=64: ",
            ["'image_size' holds no keys of its own", "'alexnet'"],
        ),
        ("data.classes.0=1", "--set data.classes.0=1: ", ["'classes' holds no keys of its own", "'0'"]),
        ("factors.dropout={low: 0.1", "--set factors.dropout={low: 0.1: ", ["this is not YAML."]),
        ("name=2024-13-45", "--set name=2024-13-45: ", ["can't be read", "quotes"]),
        ("name=!!python/object:os.system x", "--set name=", ["!!python/object:os.system", "remove it"]),
    ],
)
def test_a_mistake_in_set_is_named_as_one(tmp_path: Path, override: str, start: str, fragments: list[str]) -> None:
    found = complaint(written(tmp_path, STUDY), override)
    assert found.startswith(start), found
    assert "probe.yaml" not in found.splitlines()[0]
    assert [fragment for fragment in fragments if fragment not in found] == [], found
    assert found.endswith((".", "?"))


def test_set_overrides_the_file_and_the_last_one_wins(tmp_path: Path) -> None:
    path = written(tmp_path, STUDY)
    overrides = ["training.epochs=7", "factors.dropout=[0.1, 0.2]", "seed=1", "seed=2", "weights.vgg16.source=imagenet"]
    loaded = load_study(path, overrides)
    assert loaded.config.training.epochs == 7
    assert loaded.config.factors["dropout"] == Choices((0.1, 0.2))
    assert loaded.config.seed == 2
    assert loaded.config.weights["vgg16"].source == "imagenet"
    assert loaded.config.training.optimizer == "sgd"
    assert (loaded.text, loaded.overrides, loaded.path) == (STUDY, tuple(overrides), Path(path))


NAMES = ("1.10", "1.1", "001", "1", "1e3", "0x1F", "1_000", "no", "true", "null", "~", "2024-13-45", ".5", "1:20", "<<")


@pytest.mark.parametrize("name", ["classes", "ignore_folders"])
@pytest.mark.parametrize(
    ("form", "by_set"),
    [
        ("{name}: [{}]", False),
        ("{name}: [{}]", True),
        ("{name}: &names [{}]", False),
        ("{name}:\n  - {}", False),
    ],
)
def test_names_of_folders_are_the_text_in_the_file(form: str, by_set: bool, name: str, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    listed = form.format(("\n  - " if "- {}" in form else ", ").join(NAMES), name=name)
    data = f"data:\n  name: folder\n  path: {tmp_path / 'photos'}\n"
    without = changed(STUDY[STUDY.index("data:") : STUDY.index("image_size:")], data)
    if by_set:
        key, _, value = listed.partition(": ")
        loaded = load_study(written(tmp_path, without), [f"data.{key}={value}"])
    else:
        loaded = load_study(written(tmp_path, without.replace(data, f"{data}  {listed}\n")))
    assert loaded.config.data.model_dump()[name] == NAMES


def test_a_list_that_is_repeated_as_classes_stays_numbers_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    text = changed(STUDY[STUDY.index("data:") : STUDY.index("image_size:")], "")
    text = text.replace("dropout: {low: 0.1, high: 0.7}", "dropout: &same [0.10, 0.5]")
    text += f"data: {{name: folder, path: {tmp_path / 'photos'}, classes: *same}}\n"
    loaded = load_study(written(tmp_path, text))
    assert loaded.config.data.model_dump()["classes"] == ("0.10", "0.5")
    assert loaded.config.factors["dropout"] == Choices((0.1, 0.5))


def test_set_may_make_a_group_that_the_file_lacks(tmp_path: Path) -> None:
    path = written(tmp_path, changed("objective:\n  metric: val/loss\n", ""))
    assert load_study(path, ["objective.metric=val/loss"]).config.objective.metric == "val/loss"


def test_what_an_option_gave_is_put_on_the_option(tmp_path: Path) -> None:
    path = written(tmp_path, changed("budget:\n  trials: 9", "budget: 3"))
    with pytest.raises(ConfigError, match=r"^--trials: 'budget' holds no keys of its own"):
        load_study(path, ["budget.trials=3"], {"budget.trials": "--trials"})


def test_of_many_problems_the_first_are_listed(tmp_path: Path) -> None:
    text = STUDY + "".join(f"foreign_{number}: 1\n" for number in range(30))
    *listed, rest = complaint(written(tmp_path, text)).splitlines()
    assert len(listed) == 20
    assert rest == "and 10 more"


def test_a_mistake_in_the_file_is_not_put_on_set(tmp_path: Path) -> None:
    found = complaint(written(tmp_path, changed("  epochs: 4", "  epochs: 0")), "training.optimizer=rmsprop")
    assert "line 16, training.epochs: " in found
    assert "--set" not in found


# ---- YAML


@pytest.mark.parametrize("number", ["1e-4", "1.0e-4", "1E-4", "0.0001", ".0001", "+1e-4"])
def test_a_number_is_a_number_with_and_without_a_dot(tmp_path: Path, number: str) -> None:
    path = written(tmp_path, changed("  batch_size: [8, 16, 32]", f"  learning_rate: {number}"))
    assert load_study(path).config.factors["learning_rate"] == Choices((0.0001,))
    assert load_study(path, [f"factors.learning_rate={number}"]).config.factors["learning_rate"] == Choices((0.0001,))


@pytest.mark.parametrize("word", ["no", "off", "y", "on"])
def test_words_that_older_yaml_takes_for_booleans_are_text(tmp_path: Path, word: str) -> None:
    assert load_study(written(tmp_path, changed("name: probe", f"name: {word}"))).config.name == word


def test_a_date_is_the_text_that_it_was(tmp_path: Path) -> None:
    today = datetime.date(2024, 1, 31).isoformat()
    assert load_study(written(tmp_path, changed("name: probe", f"name: {today}"))).config.name == today


@pytest.mark.parametrize(("old", "again"), [("seed: 3", "seed: 4"), ("  epochs: 4", "  epochs: 5")])
def test_a_key_that_stands_twice(tmp_path: Path, old: str, again: str) -> None:
    text = changed(old, f"{old}\n{again} #!")
    line = next(number for number, content in enumerate(text.splitlines(), 1) if content.endswith("#!"))
    found = complaint(written(tmp_path, text))
    key = old.strip().split(":")[0]
    assert found.startswith(f"{tmp_path}/probe.yaml, line {line}: ")
    assert f'duplicate key "{key}"' in found
    assert found.endswith("keep one.")
    assert "\n" not in found


@pytest.mark.parametrize(
    "value",
    [
        "!!python/object/apply:pathlib.Path.touch [harm]",
        "!!python/object/apply:os.system ['touch harm']",
        "!!python/name:os.system",
        "!!python/object/new:os.system ['touch harm']",
        "!secret text",
        "!include /etc/passwd",
    ],
)
def test_tags_do_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.chdir(tmp_path)
    found = complaint(written(tmp_path, changed("name: probe", f"name: {value}")))
    assert f"{value.split()[0]} has no meaning" in found
    assert f"{tmp_path}/probe.yaml" in found
    assert [file.name for file in tmp_path.iterdir()] == ["probe.yaml"]


def test_a_tagged_group_is_refused_and_a_plain_tag_is_not(tmp_path: Path) -> None:
    found = complaint(written(tmp_path, changed("training:\n", "training: !!python/object:x.Y\n")))
    assert "line 1" in found
    assert "!!python/object:x.Y has no meaning" in found
    assert load_study(written(tmp_path, changed("name: probe", "name: !!str 5"))).config.name == "5"


def test_anchors_and_merges_work(tmp_path: Path) -> None:
    text = changed(
        "  default:\n    source: pretrain", "  alexnet: &a {source: random}\n  default:\n    source: pretrain"
    ).replace("strategy:\n", "  vgg16: {<<: *a}\nstrategy:\n")
    found = load_study(written(tmp_path, text)).config
    assert found.weights["vgg16"] == found.weights["alexnet"]
    text = changed("{low: 0.1, high: 0.7}", "{low: &a 0.1, high: &a 0.7, log: &a true}")
    assert load_study(written(tmp_path, text)).config.factors["dropout"] == Range(0.1, 0.7, log=True)


@pytest.mark.parametrize(
    ("text", "fragment"),
    [
        ("", "holds no keys; a study file starts with `name: ...`."),
        ("# only a comment\n", "holds no keys"),
        ("- a\n- b\n", "holds no keys"),
        ("text\n", "holds no keys"),
        ("name: a: b\n", ", line 1: "),
        ("name: x\n\tseed: 1\n", ", line 2: "),
        ("name: [1, 2\n", "not YAML."),
        ("name: x\n---\nname: y\n", "not YAML."),
        ("name: x\0y\n", "not YAML"),
        ("name: *nobody\n", ", line 1: "),
        ("name: 2024-13-45\n", "can't be read"),
        ("seed: " + "9" * 5000, "can't be read"),
        ("[" * 700, "nested too deeply"),
        ("x: " + "{a: " * 3000, ", line 1: it is nested too deeply"),
        ("name: &a {b: *a}\n", "name"),
        (
            "\n".join(["a0: &a0 [x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10))]),
            "it has more than 10,000 values, counting those that aliases repeat",
        ),
        ("#" * 1_000_001, "has more than 1,000,000 bytes"),
    ],
)
def test_a_file_that_is_no_study(tmp_path: Path, text: str, fragment: str) -> None:
    found = complaint(written(tmp_path, text))
    assert f"{tmp_path}/probe.yaml" in found
    assert fragment in found
    assert found.endswith(".")
    assert len(found) < 2000


def test_a_list_of_classes_that_aliases_repeat_is_walked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once for each alias, a file of 47 kB took 95 s."""
    walked = []
    as_text = yaml_text._as_text
    monkeypatch.setattr(yaml_text, "_as_text", lambda node: walked.append(node) or as_text(node))
    text = "classes: &c [1.10, 2]\n" + "".join(f"k{n}: {{classes: *c}}\n" for n in range(50))
    complaint(written(tmp_path, text))
    assert len(walked) == 1


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "probe.yaml"
    path.write_bytes(STUDY.replace("seed: 3", "# gro\u00df\nseed: 3").encode("latin-1"))
    line = STUDY.splitlines().index("seed: 3") + 1
    assert f"{path}, line {line}: is not UTF-8 text" in complaint(str(path))
    path.write_text(STUDY, encoding="utf-16")
    assert "is not UTF-8 text" in complaint(str(path))


def test_a_byte_order_mark_and_windows_line_ends_do_not_matter(tmp_path: Path) -> None:
    path = tmp_path / "probe.yaml"
    path.write_bytes(("\ufeff" + STUDY.replace("\n", "\r\n")).encode())
    assert load_study(str(path)).config == load_study(written(tmp_path, STUDY, "plain.yaml")).config


# ---- which file


def test_a_study_is_found_by_path_and_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments").mkdir()
    written(tmp_path / "experiments", STUDY, "mine.yaml")
    assert load_study("mine").path == Path("experiments/mine.yaml")
    assert load_study("experiments/mine.yaml").config == load_study("mine").config
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_study("~/experiments/mine.yaml").config == load_study("mine").config
    assert load_study("tiny").path == SHIPPED_STUDIES / "tiny.yaml"
    found = complaint("mien")
    assert "there is no study file 'mien'; did you mean 'mine'?" in found
    assert "mine, " in found
    assert "tiny" in found


@pytest.mark.parametrize("name", ["", "no/such.yaml", "x" * 300, "~no-such-user/x.yaml", "a\0b", "xyzzy"])
def test_a_file_that_is_not_there(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = complaint(name)
    assert found.startswith("there is no study file '")
    assert found.endswith((".", "?"))


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("light", "light.yaml"),
        ("light.yml", "light.yaml"),
        ("ligth", "light.yaml"),
        ("sub/heavy", "sub/heavy.yml"),
        ("sub/heavi.yaml", "sub/heavy.yml"),
        ("./light", "light.yaml"),
    ],
)
def test_a_file_without_its_suffix_is_suggested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str, meant: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    written(tmp_path, STUDY, "light.yaml")
    written(tmp_path / "sub", STUDY, "heavy.yml")
    assert complaint(given).startswith(f"there is no study file {given!r}; did you mean {meant!r}? Give a path")


def test_a_folder_is_no_study_file(tmp_path: Path) -> None:
    assert complaint(str(tmp_path)).startswith(f"{tmp_path} is a folder; give a study file in it")
    (tmp_path / "cat").mkdir()
    advice = f"write `data: {{name: folder, path: {tmp_path}}}` into a study file"
    found = complaint(str(tmp_path))
    assert found.startswith(f"{tmp_path} is a folder, not a study file.")
    assert advice in found
    path = written(tmp_path, STUDY)
    assert complaint(str(tmp_path)) == f"{tmp_path} is a folder; give a study file in it: {path}."


def test_an_archive_of_images_is_no_study_file(tmp_path: Path) -> None:
    (tmp_path / "my photos.zip").write_bytes(b"PK\3\4")
    found = complaint(str(tmp_path / "my photos.zip"))
    assert "is an archive, not a study file." in found
    assert f'`data: {{name: folder, path: "{tmp_path}/my photos.zip"}}`' in found


@pytest.mark.parametrize("path", sorted(SHIPPED_STUDIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_studies_that_come_along_can_be_used(path: Path) -> None:
    assert load_study(str(path)).config.name == path.stem
