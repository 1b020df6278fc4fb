"""Tests that scripts/check leaves to CI, because they take most of the time: further cases of what other tests show."""

from __future__ import annotations

from collections import Counter

import pytest

#: File below tests/ -> its tests, or single cases of them, that scripts/check runs; the others are thorough.
KEPT: dict[str, tuple[str, ...]] = {
    "analysis/test_coverage.py": (),
    "analysis/test_ranges.py": (),
    "execution/test_equality.py": (),
    "faults/test_checkpoint_kills.py": (),
    "faults/test_environments.py": (
        "test_a_file_on_the_path_that_hides_a_module_is_named[keras.py]",
        "test_a_path_of_installed_packages_is_none_of_these",
    ),
    "faults/test_full_disk.py": (),
    "faults/test_kills.py": (),
    "faults/test_places.py": (),
    "faults/test_secrets.py": ("test_a_traceback", "test_the_search_finds_what_is_there"),
    "faults/test_tracking_trouble.py": (),
    "faults/test_twins.py": (),
    "results/pages/test_page_in_a_browser.py": (),
    "results/test_agreement.py": (),
    "results/test_models_serving.py": (),
    "study/test_confirmation.py": (
        "test_the_best_two_run_again_in_pairs_and_the_better_mean_is_champion",
        "test_the_test_split_is_opened_once_with_time_and_hash",
        "test_stopped_anywhere_it_goes_on_to_the_same[3]",
        "test_what_can_not_be_confirmed",
    ),
    "study/test_resume_mutations.py": ("test_weights_that_were_replaced_are_refused",),
    "study/test_reproduce.py": ("test_the_same_comes_out_and_nothing_is_recorded",),
    "study/test_resume_code.py": ("test_other_code_is_refused_with_what_changed_and_the_ways_out",),
    "tracking/test_outbox.py": (
        "test_one_failure_is_nobodys_news",
        "test_training_goes_on_while_the_store_is_down",
        "test_records_can_be_given_up",
    ),
    "tracking/test_ui_server.py": (),
    "training/test_checkpoints.py": ("test_a_trial_goes_on_to_the_last_bit[two phases]",),
    "training/test_compiled.py": ("test_what_is_compiled_serves_every_rate_and_batch[alexnet]",),
    "training/test_features.py": ("test_a_trial_on_features_equals_one_on_images[alexnet-frozen-none]",),
    "training/test_micro_batches.py": ("test_an_update_in_parts_is_that_of_the_batch[alexnet]",),
    "training/test_mistakes_gradcam.py": (),
    "training/test_normalised.py": ("test_statistics_are_no_trained_parameters[last-block]",),
    "training/test_shared_epochs.py": (
        "test_shared_epochs_are_those_that_would_have_been_trained[the head's phase, dropout]",
    ),
    "training/test_speed.py": (),
    "training/test_updates_class_weights.py": (),
    "training/test_updates_optimizers.py": (),
    "training/test_updates_precision.py": ("test_the_scale_grows_after_many_finite_updates",),
    "training/test_updates_several.py": (),
    "training/test_updates_smoothing.py": (),
    "training/test_xla.py": (),
}

#: File below tests/ -> its tests of which scripts/check runs the first case and every fifth after it.
THINNED: dict[str, tuple[str, ...]] = {
    "analysis/test_curves.py": (
        "test_a_gap_of_the_train_loss_alone_is_no_effect_however_coarse_the_epochs",
        "test_what_a_batch_size_adds_at_the_same_train_loss_is_found",
    ),
    "cli/test_errors.py": ("test_a_mistake_in_a_command",),
    "data/test_hostile.py": ("test_archives", "test_folders"),
    "faults/test_damaged_cache.py": ("test_nothing_trains_on_damaged_images",),
    "results/test_mistakes.py": ("test_what_the_trial_was_asked_can_not_be_read",),
    "results/test_models.py": ("test_a_model_by_its_name_in_the_record",),
    "results/test_models_export.py": ("test_another_program_gets_the_same",),
    "study/test_resume_command.py": ("test_a_stopped_run_and_a_stopped_confirm",),
    "study/test_run.py": ("test_a_trial_that_fails_is_tried_once_more", "test_another_try_goes_on_from_the_checkpoint"),
    "system/test_code_version.py": ("test_an_edit_that_matters_is_told", "test_a_harmless_edit_is_no_difference"),
    "training/test_trial.py": (
        "test_each_mode_trains_its_layers_and_no_other",
        "test_every_training_image_is_seen_once_an_epoch",
    ),
    "training/test_trainer_prefetch.py": ("test_a_trial_is_the_same_with_batches_ahead",),
}


def mark_thorough(items: list[pytest.Item]) -> None:
    """Mark the tests of KEPT's files except those that are kept, and four of five cases of those in THINNED."""
    cases: Counter[tuple[str, str]] = Counter()
    for item in items:
        path, name = item.path.as_posix().rpartition("/tests/")[2], item.name.partition("[")[0]
        dropped = path in KEPT and not {item.name, name} & set(KEPT[path])
        if name in THINNED.get(path, ()):
            dropped = dropped or cases[path, name] % 5 != 0
            cases[path, name] += 1
        if dropped:
            item.add_marker(pytest.mark.thorough)
