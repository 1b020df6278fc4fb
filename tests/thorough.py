"""Tests that `python -m pytest` leaves out, as they take most of the time: further cases of what other tests show."""

from __future__ import annotations

from collections import Counter

import pytest

#: File below tests/ -> its tests, or single cases of them, that `python -m pytest` runs; the others are thorough.
KEPT: dict[str, tuple[str, ...]] = {
    "analysis/test_coverage.py": (),
    "analysis/test_ranges.py": (),
    "execution/test_equality.py": (),
    "execution/test_ray_cluster.py": (),
    "execution/test_ray_study.py": (),
    "faults/test_checkpoint_kills.py": (),
    "faults/test_command_kills.py": (),
    "faults/test_edits_in_mlflow.py": (
        "test_an_experiment_that_is_renamed",
        "test_the_run_of_a_trial_under_way_is_deleted",
        "test_the_studys_own_run_is_deleted_and_restored",
        "test_the_tag_of_the_driver_is_edited[{]",
    ),
    "faults/test_environments.py": (
        "test_a_file_on_the_path_that_hides_a_module_is_named[keras.py]",
        "test_a_path_of_installed_packages_is_none_of_these",
    ),
    "faults/test_full_disk.py": (),
    "faults/test_kills.py": (),
    "faults/test_lost_readers.py": (),
    "faults/test_moved_projects.py": (),
    "faults/test_places.py": (),
    "faults/test_records_without_a_place.py": ("test_a_database_that_is_gone[replaced by an empty one]",),
    "faults/test_secrets.py": ("test_a_traceback", "test_the_search_finds_what_is_there"),
    "faults/test_silent_servers.py": ("test_a_store_that_does_not_list_its_files_is_not_asked_for_them",),
    "faults/test_stopped_processes.py": (
        "test_a_worker_that_stands_still_for_too_long_is_ended_and_its_trial_runs_again",
    ),
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
    "study/test_doctor_advice.py": (
        "test_following_the_advice_helps[a table is missing]",
        "test_following_the_advice_helps[all files are gone]",
        "test_following_the_advice_helps[the champion's alias was deleted]",
        "test_a_newer_schema_is_not_to_be_upgraded",
        "test_so_is_a_newer_schema_of_a_database_server[0584bdc529eb-False]",
        "test_so_is_a_newer_schema_of_a_database_server[abcdef012345-True]",
    ),
    "study/test_looks.py": (
        "test_it_stops_when_the_answer_is_clear_and_says_so_everywhere",
        "test_interrupted_anywhere_it_ends_as_the_whole[16]",
        "test_the_number_of_looks_is_fixed_and_the_precision_is_not",
    ),
    "study/test_resume_mutations.py": ("test_weights_that_were_replaced_are_refused",),
    "study/test_reproduce.py": ("test_the_same_comes_out_and_nothing_is_recorded",),
    "study/test_resume_code.py": ("test_other_code_is_refused_with_what_changed_and_the_ways_out",),
    "test_scripts_docs.py": (),
    "tracking/test_outbox.py": (
        "test_one_failure_is_nobodys_news",
        "test_training_goes_on_while_the_store_is_down",
        "test_records_can_be_given_up",
    ),
    "tracking/test_ui_server.py": (),
    "training/test_checkpoints.py": (),
    "training/test_compiled.py": ("test_what_is_compiled_serves_every_rate_and_batch[alexnet]",),
    "training/test_features.py": ("test_a_trial_on_features_equals_one_on_images[alexnet-frozen-none]",),
    "training/test_micro_batches.py": ("test_an_update_in_parts_is_that_of_the_batch[alexnet]",),
    "training/test_mistakes_gradcam.py": (),
    "training/test_normalised.py": (
        "test_parameters_are_those_that_the_optimiser_sees[fine-tune-None]",
        "test_a_batch_is_split_where_statistics_are_frozen[frozen-True]",
        "test_what_drops_branches_is_off_below_the_first_layer_that_trains",
    ),
    "training/test_depth.py": (
        "test_a_stage_is_not_taken_for_one_with_a_longer_number",
        "test_features_below_the_stage_give_the_same_numbers[alexnet]",
        "test_shared_epochs_are_those_of_the_same_rates",
        "test_stages_unfreeze_from_the_last_one_down",
    ),
    "training/test_replicas.py": ("test_two_devices_train_as_one[first]",),
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

#: File below tests/ -> its tests that are thorough: the longest of those near which others stand.
LEFT_OUT: dict[str, tuple[str, ...]] = {
    "analysis/test_causes.py": (
        "test_networks_are_compared_with_each_other",
        "test_transfer_is_said_to_be_that_of_the_source_weights_that_all_seeds_share",
    ),
    "analysis/test_comparison.py": (
        "test_code_and_packages_that_differ",
        "test_networks_of_one_study_are_said",
        "test_tables_have_a_cell_under_each_heading",
        "test_two_seeds_and_mixed_effects_do_not_differ",
    ),
    "analysis/test_configurations.py": (
        "test_a_small_class_makes_no_verdict_false",
        "test_false_verdicts_are_rare_and_intervals_cover",
    ),
    "analysis/test_power.py": ("test_four_in_five_studies_find_that_difference",),
    "cli/test_api.py": (
        "test_ctrl_c_leaves_the_program_and_the_record",
        "test_the_same_call_runs_nothing_again",
        "test_values_of_numpy_are_numbers",
        "test_without_a_champion_the_model_is_that_of_the_first_trial",
    ),
    "cli/test_features.py": ("test_a_study_of_photos",),
    "cli/test_start.py": (
        "test_what_was_interrupted_goes_on_with_the_same_command",
        "test_when_the_time_is_over_what_is_there_is_analysed",
    ),
    "data/test_hostile.py": ("test_a_command_says_it_and_exits",),
    "execution/test_local.py": (
        "test_a_job_that_is_started_ahead_is_dropped_for_another",
        "test_a_job_that_is_started_ahead_outlives_its_worker",
        "test_a_worker_that_cannot_even_say_where_it_hangs",
        "test_a_worker_that_grows_is_replaced_between_jobs",
        "test_each_kind_of_job_has_its_own_measure",
        "test_what_another_worker_says_stays_in_order_when_one_is_stopped",
    ),
    "execution/test_worker.py": ("test_threads_and_determinism_are_set_whoever_imported_tensorflow",),
    "results/pages/test_study_page.py": (
        "test_a_search_over_three_networks",
        "test_a_store_that_lets_nobody_delete_keeps_them",
        "test_figures_never_bring_tags_along",
        "test_nothing_was_learnt",
        "test_training_recall_that_was_not_recorded_is_said",
    ),
    "results/test_models_export.py": ("test_the_command_exports_a_model_that_the_other_command_takes",),
    "results/test_models_predict.py": ("test_the_command_predicts_what_it_can",),
    "results/test_network_summary.py": ("test_a_terminal_of_80_shows_each_row_whole",),
    "results/test_terminal_comparison.py": (
        "test_a_confirmation_that_cannot_be_read",
        "test_text_of_others_is_no_markup",
    ),
    "study/test_doctor.py": ("test_the_command_says_by_its_exit_code",),
    "study/test_dry_run.py": ("test_a_factorial_measures_what_it_is_compared_with",),
    "study/test_run.py": (
        "test_a_factorial_may_share_one_draw",
        "test_a_factorial_of_two_networks_with_source_weights",
        "test_a_factorial_that_was_begun_with_one_draw_goes_on_with_it",
        "test_a_quiet_factorial_measures_nothing",
        "test_a_study_that_was_begun_elsewhere_is_taken_over_when_asked",
        "test_a_tracking_server_that_breaks_ends_the_call_and_the_next_goes_on",
        "test_a_trial_that_fails_for_good_leaves_none",
        "test_a_try_that_was_interrupted_is_no_try",
        "test_how_long_an_epoch_may_take_is_the_files_to_say",
        "test_however_a_call_ends_the_study_is_free",
        "test_other_source_weights_of_one_seed_are_refused",
        "test_pretraining_that_fails_ends_the_study",
        "test_seeds_that_need_no_source_weights_pretrain_none",
        "test_source_data_is_prepared_once_for_all_networks",
        "test_source_weights_belong_to_their_image_size",
        "test_the_effects_of_an_ended_study_wait_for_a_locked_store",
        "test_what_a_dead_driver_left_is_repaired",
        "test_what_failed_runs_again_when_that_is_asked_for",
        "test_what_is_missing_of_the_seeds_that_are_left_is_run",
        "test_where_the_store_stays_locked_the_study_is_whole_all_the_same",
    ),
    "system/test_code_version.py": (
        "test_a_network_may_lie_in_another_folder",
        "test_modules_may_be_merged",
        "test_modules_may_be_renamed",
    ),
    "test_benchmarks.py": ("test_every_script_says_what_it_takes",),
    "test_security.py": ("test_the_server_and_its_children_are_told_so",),
    "training/test_linear_head.py": (
        "test_it_is_the_optimum_of_its_penalty",
        "test_other_trials_are_as_if_no_probe_had_run",
        "test_its_speed_is_measured",
        "test_the_choice_is_about_as_good_as_any_on_new_images",
    ),
    "test_wheel.py": ("test_a_shipped_study_runs_in_an_empty_folder",),
    "training/test_served_model.py": ("test_pixels_are_taken_as_before",),
    "training/test_trial.py": (
        "test_after_its_last_epoch_a_trial_is_finished_whatever_it_is_told",
        "test_dropout_holds_the_running_accuracy_below_the_clean_one",
        "test_every_batch_size_and_epoch_sees_the_same_images",
        "test_shuffled_labels_can_only_be_memorised",
        "test_the_best_epoch_keeps_the_limits_of_the_study",
        "test_weights_that_do_not_come_back_are_noticed",
    ),
    "training/test_verdict.py": ("test_false_verdicts_are_rare",),
}

#: File below tests/ -> its tests of which `python -m pytest` runs the first case and every fifth after it.
THINNED: dict[str, tuple[str, ...]] = {
    "analysis/test_curves.py": (
        "test_a_gap_of_the_train_loss_alone_is_no_effect_however_coarse_the_epochs",
        "test_what_a_batch_size_adds_at_the_same_train_loss_is_found",
    ),
    "cli/test_errors.py": ("test_a_mistake_in_a_command",),
    "data/test_hostile.py": ("test_archives", "test_folders"),
    "faults/test_damaged_cache.py": ("test_nothing_trains_on_damaged_images",),
    "analysis/test_leaderboard_pareto.py": ("test_as_by_comparing_every_pair",),
    "data/test_decoder_pool.py": ("test_exif_orientation",),
    "training/test_graph_dense.py": ("test_outputs_and_gradients_are_the_layers",),
    "results/test_mistakes.py": ("test_what_the_trial_was_asked_can_not_be_read",),
    "results/test_models.py": ("test_a_model_by_its_name_in_the_record",),
    "results/test_models_export.py": ("test_another_program_gets_the_same",),
    "study/test_resume_command.py": ("test_a_stopped_run_and_a_stopped_confirm",),
    "study/test_run.py": ("test_a_trial_that_fails_is_tried_once_more", "test_another_try_goes_on_from_the_checkpoint"),
    "system/test_code_version.py": ("test_an_edit_that_matters_is_told", "test_a_harmless_edit_is_no_difference"),
    "training/test_linear_head.py": ("test_a_trial_like_any_other",),
    "training/test_trial.py": (
        "test_each_mode_trains_its_layers_and_no_other",
        "test_every_training_image_is_seen_once_an_epoch",
    ),
    "training/test_trainer_prefetch.py": ("test_a_trial_is_the_same_with_batches_ahead",),
}


def mark_thorough(items: list[pytest.Item]) -> None:
    """Mark the tests of KEPT's files except those that are kept, those LEFT_OUT, and four of five cases of THINNED."""
    cases: Counter[tuple[str, str]] = Counter()
    for item in items:
        path, name = item.path.as_posix().rpartition("/tests/")[2], item.name.partition("[")[0]
        dropped = path in KEPT and not {item.name, name} & set(KEPT[path])
        dropped = dropped or name in LEFT_OUT.get(path, ())
        if name in THINNED.get(path, ()):
            dropped = dropped or cases[path, name] % 5 != 0
            cases[path, name] += 1
        if dropped:
            item.add_marker(pytest.mark.thorough)
