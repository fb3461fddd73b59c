//! `assay select`: the accuracy of choosing among each problem's traces.

use anyhow::{Result, bail, ensure};
use assay_evals::selection::Selector;
use assay_evals::{EvalSettings, Summary};

use crate::args::SelectArgs;
use crate::commands::eval::{ensure_judged, read, settings};
use crate::output::print_summary;

/// Runs the command.
pub(crate) fn run(args: &SelectArgs) -> Result<()> {
    let wanted = args.selector.as_deref().map(Selector::parse).transpose()?;
    let settings = EvalSettings {
        group_by: args.among.into(),
        ..settings(&args.score, args.calibration.as_deref())?
    };
    let evaluation = read(&args.traces, settings, None)?.finish();
    ensure_judged(&evaluation, &args.traces)?;
    let mut summary = Summary::default();
    for (name, estimate) in evaluation.summary.iter() {
        let selector = name
            .strip_prefix("select.")
            .and_then(|rest| rest.split('.').next());
        let chosen = selector.is_some_and(|name| wanted.is_none_or(|one| one.name() == name));
        if chosen || wanted.is_none() && name.starts_with("budget.") {
            summary.insert(name, *estimate);
        }
    }
    let others = evaluation.summary.iter();
    if let (Some(selector), true) = (wanted, summary.is_empty())
        && others
            .into_iter()
            .any(|(name, _)| name.starts_with("select."))
    {
        bail!(
            "{} lacks the values that `{}` needs: rewards come from `assay score --reward`, log-probabilities from its \
             --policy, fitted weights from --calibration",
            args.traces.display(),
            selector.name()
        );
    }
    ensure!(
        !summary.is_empty(),
        "no problem has two or more traces to choose among; --among problem chooses among those of all generators"
    );
    print_summary(&summary, args.json)
}
