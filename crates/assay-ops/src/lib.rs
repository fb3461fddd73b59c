//! assay-ops.
