"""The public surface: a change here is a change for users."""

from __future__ import annotations

import importlib

import pytest

SURFACE = {
    "studentfloat": [
        *("Format", "QuantizedTensor", "Scheme", "__version__", "compare", "fake_quantize"),
        *("get_format", "quantize_model", "resolve_format"),
    ],
    "studentfloat.formats": [
        *("CATALOG", "PUBLISHED_ELEVEN", "Format", "IntegerGrid", "additive_powers_of_two"),
        *("block_optimal", "e2m1_b", "e2m1_i", "format_from_toml", "format_to_toml"),
        *("get_format", "integer", "lloyd_max", "load_format", "minifloat", "normal_float"),
        *("power_density", "quantile_format", "resolve_format", "save_format", "student_float"),
        *("CODES", "AnyFormat", "ByteSum", "Convolution", "DrawnTable", "E8Lattice", "Points"),
        *("Table", "Trellis", "VectorFormat", "code_from_toml", "code_to_toml", "distortion"),
        *("fit_points", "get_code", "get_trellis", "get_vectors", "resolve_code"),
        "shannon_bound",
    ],
    "studentfloat.quantize": [
        *("ROW", "SCALE_DTYPES", "SCALE_RULES", "TENSOR", "QuantizedTensor", "Scheme"),
        *("GPTQOptions", "GPTQResult", "InputScale", "LowRank", "Offsets", "Outliers"),
        *("QuantizedWeight", "gptq"),
        *("METHOD_STEPS", "Method", "parse_method"),
        *("block_scales", "fake_quantize", "pack_codes", "quantize", "unpack_codes"),
    ],
    "studentfloat.kernels": [
        *("PackedMatrix", "instruction_set", "instruction_sets", "use_instruction_set"),
    ],
    "studentfloat.models": [
        *("LoadedModel", "ModelKind", "ModelSource", "Trust", "WeightKind", "WeightSite"),
        *("Calibration", "CalibrationWindows", "ModelQuantizer", "QuantizedBlock"),
        *("QuantizedModel", "calibrate_checkpoint", "quantize_model"),
        *("ActivationScheme", "KVCacheReport", "KVCacheScheme", "calibrate_ranges"),
        *("integer_linear", "quantized_activations", "quantized_kv_cache"),
        *("PackedCheckpoint", "dequantize_checkpoint", "merge_parts", "quantize_checkpoint"),
        "verify_checkpoint",
        *("cache_directory", "find_model", "load_model", "walk_weights"),
    ],
    "studentfloat.models.exchange": ["EXPORTS", "Export", "export_model", "import_model"],
    "studentfloat.evaluate": [
        *("EvaluationText", "OriginalOutputs", "WindowScores", "cut_windows", "load_text"),
        *("mean_and_error", "paired_differences", "ranks", "score_windows"),
    ],
    "studentfloat.evaluate.tasks": [
        *("TASKS", "LoadedTasks", "StudentFloatLM", "TaskOptions", "load_tasks"),
        *("evaluate_model", "paired_task_differences", "score_tasks"),
    ],
    "studentfloat.progress": ["Progress", "silent"],
    "studentfloat.profile": [
        *("ActivationSettings", "DeriveOptions", "ProfileSettings", "derive_formats"),
        *("merge_profiles", "profile_model", "profile_models", "read_profile"),
    ],
    "studentfloat.study": [
        *("DEFAULT_FORMATS", "CompareOptions", "HardwareOptions", "compare"),
        *("hardware_is_installed", "read_study"),
    ],
    "studentfloat.report": [
        *("Figure", "comparison_page", "comparison_rows", "print_comparison"),
        *("print_profiles", "profile_page", "save_figures", "study_figures", "study_page"),
        "summary_rows",
    ],
}


@pytest.mark.parametrize("package", SURFACE)
def test_surface(package: str) -> None:
    module = importlib.import_module(package)
    assert sorted(module.__all__) == sorted(SURFACE[package])
    for name in SURFACE[package]:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError):
        _ = module.no_such_name
