//! Results on stdout.

use std::io::Write;

use anyhow::Result;
use assay_evals::Summary;
use assay_report::terminal::summary_table;

/// Prints a summary as the nested tree of summary.json, or as a table.
pub(crate) fn print_summary(summary: &Summary, json: bool) -> Result<()> {
    let mut out = std::io::stdout();
    if json {
        let text = serde_json::to_string_pretty(&summary.to_value()?)?;
        writeln!(out, "{text}")?;
    } else {
        write!(out, "{}", summary_table(summary))?;
    }
    Ok(())
}
