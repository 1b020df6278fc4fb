"""One trial, in a worker.

trial        the whole of it: images -> network -> transfer -> loop -> package
decoding     files and arrays -> pixels, in parallel; names the bad ones
images       the cache of decoded images; split, subsets, probe
weights      source weights: read, write, lay into a network
transfer     which layers train
optimizers   one line each
augmentation one entry each
loop         epochs: updates, then clean metrics
metrics      from logits to numbers
verdict      what a trial did, in a word, with the rule behind it
package      the model with its preprocessing as an MLflow model
"""
