"""Train one trial in a worker process. Of all rooms, only this one and `execution` import TensorFlow directly.

Comes in: a TrialSpec. Goes out: an EpochRecord after each epoch, and a TrialResult with a folder of files.

trial           run one trial: set up, train, measure, save
phases          run the phases of a trial (head, then fine-tuning): resume, checkpoint, stop
trainer         run epochs: updates, then clean metrics; keep the best epoch's weights
updates         update the weights: optimisers, loss scaling, compiled steps
compiled        compiled networks and updates, reused from trial to trial
graph           run a network between any two of its tensors, with dropout rates that can be set
keras_internals undocumented parts of Keras and TensorFlow that training relies on, checked at the start
replicas        divide batches among several devices
micro_batches   split batches that do not fit into memory
augmentation    flips, rotations, zoom and contrast
transfer        choose which layers train in which phase
linear_head     fit the head of a probe, a logistic regression on frozen features
weights         initialise, load, save and hash weights
weight_files    read weights of PyTorch and Keras from files of any type, and run nothing in them
weight_import   check that they are a network's, and write them for study files
weight_verification  compare networks with torchvision's, on weights that were imported
devices         GPU or CPU, precision, XLA
features        outputs of frozen layers: computed once, shared by all trials
feature_tables  write them with labels for other programs
checkpoints     save and load the state from which a killed trial resumes
shared_epochs   first epochs that several trials have in common, trained once
cross_fit       metrics of the best epoch that its choice does not flatter
metrics         compute accuracies, confusion matrices and per-image correctness from logits
image_tables    which part each image is in, and what the network says of it
verdict         overfit, underfit, fit, not learning or cannot tell, with the tests behind it
speed           measure how fast a network trains
model_files     find the parts of a saved model; write its card
model_package   save the model with its preprocessing as an MLflow model
served_model    its pyfunc, stored with it: photos or pixels in, probabilities out
predict         apply a saved model to image files
export          export a saved model as SavedModel, ONNX or Keras file
mistakes        a trial's mistakes, with Grad-CAM, beside similar training images
lookalikes      pictures that are more alike to a network than by chance
test_split      evaluate models on the test images, which no training sees

May import: errors, names, records, system, data, architectures.
"""
