"""One trial, in a worker.

trial        the whole of it: images -> network -> transfer -> loop -> package
pixels       one image file -> pixels, or why not
decoder      the process that does it, under limits
decoding     files and arrays -> pixels, in parallel; names the bad ones
contents     a digest of each image; which are copies of each other
splits       which images train, validate and test: class by class, by a hash
images       the cache of decoded images; subsets, probe
pieces       files that large contents go to in pieces
mapped       arrays on disk, mapped into memory
weights      source weights: read, write, lay into a network
transfer     which layers train
optimizers   one line each
keras_internals what training needs of Keras and TensorFlow that they do not document
augmentation one entry each
batches      which images make a batch, as they should and as tutorials have it
graph        a network between any two of its tensors, with dropout that can be set
dense        dense layers with a gradient that is as fast
compiled     networks and their updates, kept from trial to trial
micro_batches those that do not fit into memory, in parts
devices      what this process computes on
precision    updates in half precision, everything else in float32
updates      one update of the weights, compiled
prefetching  the next batch on its way to the GPU
features     what frozen layers make of the images: computed once, shared by all trials
checkpoints  files to go on from after a kill: where, when, whole or none
prefixes     beginnings of trials that other trials have too, trained once
loop         epochs: updates, then clean metrics
metrics      from logits to numbers
best_epoch   the best one so far, with its weights
resumption   what the rest of a trial depends on, into a checkpoint and out of it
course       the epochs of every phase: where they begin, what is kept, what ends them
milestones   where overfitting sets in, the gap at an equal fit
correctness  which images are right, packed
held_out     models on the test images, which no training saw
speed        how fast a network trains, measured
verdict      what a trial did, in a word, with the rule behind it
package      the model with its preprocessing as an MLflow model; loads it again
layout       where the parts of a saved model lie
inference    a saved model -> classes of image files
gradcam      where a network looks
gallery      a trial's mistakes beside the training images that are most alike
export       a saved model -> SavedModel, ONNX, Keras
"""
