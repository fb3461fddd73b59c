//! assay-tasks.
