"""One trial, in a worker. TensorFlow is imported here and in `architectures`, nowhere else.

Comes in: a TrialSpec. Goes out: an EpochRecord after each epoch and a TrialResult with a folder of files.

trial           the whole of it: set up, train, measure, package
phases          the phases of a trial (head, then fine-tuning): where they begin, what is kept, what ends them
trainer         epochs: updates, then clean metrics; the best epoch with its weights
updates         one update of the weights: optimisers, loss scaling, compiled steps
compiled        networks and their updates, kept from trial to trial
graph           a network between any two of its tensors, with dropout rates that can be set
keras_internals what of Keras and TensorFlow the fast path relies on, checked at the start
micro_batches   batches that do not fit into memory, in parts
augmentation    flips, rotations, zoom and contrast
transfer        which layers train in which phase
weights         initial weights and source weights: draw, read, write, assign
devices         what this process computes on
features        what frozen layers make of the images: computed once, shared by all trials
checkpoints     where a killed trial goes on from
shared_epochs   first epochs that several trials have in common, trained once
metrics         from logits to numbers: accuracies, confusion, per-image correctness
verdict         overfit, underfit, fit or not learning, with the test behind it
speed           how fast a network trains, measured
model_files     where the parts of a saved model lie
model_package   the model with its preprocessing as an MLflow model
predict         a saved model applied to image files
export          a saved model as SavedModel, ONNX or Keras file
mistakes        a trial's mistakes, with Grad-CAM, beside the training images that resemble them
test_split      models on the test images, which no training saw

May import: errors, names, records, system, data, architectures.
"""
