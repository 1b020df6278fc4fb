"""Images: from a data set's files to the arrays that a trial trains on.

Comes in: the `data` key of a study file (DataOptions) and the files it points to. Goes out: PreparedImages, a cache
entry of decoded images with labels and keys, and from it the train, validation and probe images, cut into batches.
Only `training.test_split` opens the test split.

The path of one image file, in reading order:

    datasets/          each data set lists its images as SourceImages: a key, a label, and a file, bytes or pixels
      image_tree       from a folder or archive to classes and images, in
      layouts          one of three ways of reading its folders
      listing          finds the images in it, and counts what is passed over
      archives         reads the members of an archive into memory
      file_types       what a file is, by its first bytes
    images             prepare_images: the steps below, once per data set, into the cache
      duplicates       a digest of every image; warnings about identical copies
      copies           near-duplicates, found on thumbnails
      groups           images that stay together: copies, and those named by
      path_groups      patterns and levels of paths
      source_copies    copies among the images that source weights are pretrained on
      decoder_pool     decodes all images in parallel, in
      decoder_process  processes with limits on memory and time, each of which calls
      decode           one image's bytes -> upright RGB pixels at each size, or a BadImage; the contract in words
      prepare          the same in a few lines, for programs without cnnstudy
      part_counts      the images of each class in each part, and what a class lacks
    images             load_for_training: the cache entry -> train, validation and probe images
      splits           which images train and which validate
      grouped_splits   the same with whole groups
      description      what there is, in a few lines
      examination      what there is in full, for the command `data`: facts, copies, what may be wrong
      batches          which images form each batch

To add a data set, add a file to `datasets/`; it is found by its name.

May import: errors, names, records, system.
"""
