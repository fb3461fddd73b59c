//! assay-evals.
