//! The native half of the Python package `assay`: arguments in, library calls, plain results out.
//!
//! The Python half (`assay/__init__.py`) has the types that users see. Work runs without the
//! interpreter's lock, and an error becomes `assay.AssayError` with the text that the command line
//! prints.

mod critic;
mod results;
mod traces;

use std::error::Error;
use std::ffi::OsString;

use pyo3::create_exception;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;

create_exception!(
    assay,
    AssayError,
    PyException,
    "What assay refuses, with the text that the command line prints."
);

/// An error as the exception that Python sees.
fn raised(error: impl Error + 'static) -> PyErr {
    AssayError::new_err(assay_cli::told(&error))
}

/// Runs a command line and returns its exit status.
#[pyfunction]
fn run_command(py: Python<'_>, arguments: Vec<OsString>) -> u8 {
    py.detach(|| assay_cli::run(arguments))
}

#[pymodule]
fn _assay(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("__version__", env!("CARGO_PKG_VERSION"))?;
    m.add("AssayError", m.py().get_type::<AssayError>())?;
    m.add_class::<critic::NativeCritic>()?;
    m.add_function(wrap_pyfunction!(run_command, m)?)?;
    m.add_function(wrap_pyfunction!(traces::evaluate, m)?)?;
    m.add_function(wrap_pyfunction!(traces::select, m)?)?;
    m.add_function(wrap_pyfunction!(traces::heatmap_text, m)?)?;
    m.add_function(wrap_pyfunction!(traces::heatmap_html, m)?)?;
    Ok(())
}
