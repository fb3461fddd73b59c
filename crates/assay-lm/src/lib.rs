//! assay-lm.
