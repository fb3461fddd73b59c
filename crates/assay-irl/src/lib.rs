//! assay-irl.
