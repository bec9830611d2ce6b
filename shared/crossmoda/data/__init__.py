"""Data on disk: DICOM series, data lists, validation, splitting, inputs of an inference, writing of results."""

from crossmoda.data.datalist import (
    SECTIONS,
    label_map,
    label_map_or_exit,
    load_datalist,
    load_datalist_or_exit,
    merges_parts,
    part_map,
    part_map_or_exit,
    read_sections,
    replace_images,
    replace_images_or_exit,
    split_cases,
    split_cases_or_exit,
    write_datalist,
)
from crossmoda.data.dicom import convert_series, is_series, read_series
from crossmoda.data.inputs import case_name, input_items, input_items_or_exit, refuse_doubles, site_of
from crossmoda.data.multi_view import pool_views, pool_views_or_exit
from crossmoda.data.probabilities import SaveProbabilitiesd, read_probabilities, save_probabilities
from crossmoda.data.releases import find_by_patterns, find_release
from crossmoda.data.sampling import CaseSampler
from crossmoda.data.validation import (
    Header,
    check_item,
    check_same_grid,
    find_faults,
    item_faults,
    read_header,
    read_label,
    read_volume,
    same_grid,
)
from crossmoda.data.writing import SaveNiftid, replacing, save_nifti, write_text

__all__ = [
    "SECTIONS",
    "CaseSampler",
    "Header",
    "SaveNiftid",
    "SaveProbabilitiesd",
    "case_name",
    "check_item",
    "check_same_grid",
    "convert_series",
    "find_by_patterns",
    "find_faults",
    "find_release",
    "input_items",
    "input_items_or_exit",
    "is_series",
    "item_faults",
    "label_map",
    "label_map_or_exit",
    "load_datalist",
    "load_datalist_or_exit",
    "merges_parts",
    "part_map",
    "part_map_or_exit",
    "pool_views",
    "pool_views_or_exit",
    "read_header",
    "read_label",
    "read_probabilities",
    "read_sections",
    "read_series",
    "read_volume",
    "refuse_doubles",
    "replace_images",
    "replace_images_or_exit",
    "replacing",
    "same_grid",
    "save_nifti",
    "save_probabilities",
    "site_of",
    "split_cases",
    "split_cases_or_exit",
    "write_datalist",
    "write_text",
]
