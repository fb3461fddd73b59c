//! One update of a player: gradients of its parameters from the gradients of its scalars, computed
//! micro-batch by micro-batch.

use std::ops::Range;

use assay_critic::player::{Player, TokenScalars};
use assay_lm::gradients::Gradients;
use assay_lm::packed::{
    Group, MicroBatch, PackedBatch, RowLimits, micro_batches, rows, whole_group_batches,
};
use candle_core::Tensor;

use crate::TrainError;
use crate::execution::Execution;
use crate::ranks::{self, Collective};

/// The scalars that a loss's gradient at a completion's scalars depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The completion's own scalars.
    Completion,
    /// The scalars of all completions of its group.
    Group,
}

/// How an update is executed, and the reach of its loss.
#[derive(Clone, Copy)]
pub struct UpdatePasses<'c> {
    /// How passes are executed.
    pub execution: Execution<'c>,
    /// Which scalars a gradient of the loss depends on.
    pub reach: Reach,
}

/// What a loss returns: a report, and dL/ds of every scalar.
pub struct LossGradients<R> {
    /// A value that is returned to the caller.
    pub report: R,
    /// One list per completion, one f32 per token.
    pub gradients: TokenScalars,
}

/// One forward and backward pass over an update.
///
/// `loss` receives the scalars of all completions and a range of completions. Its gradients for
/// that range are used; scalars outside of the range's [`Reach`] may still be 0. The last call has
/// all scalars and the range of all completions. Its report is returned, and its gradients must
/// equal those used before.
///
/// An update is split into micro-batches of [`Execution::training_rows`] rows, which the ranks
/// share. The backward pass of a micro-batch follows its forward pass directly. A group whose
/// completions the loss compares is split only if it exceeds the token budget; a separate pass then
/// computes its scalars first. The split changes the result by the rounding of a sum; the number of
/// ranks does not change it. After a failed allocation, [`Execution::backoff`] repeats the whole
/// update, including the calls of `loss`.
///
/// # Errors
/// An error of `loss`. [`TrainError::EmptyUpdate`] for an update without completion tokens.
/// [`TrainError::MissingGradient`] names a trainable parameter without gradient.
/// [`TrainError::LossReach`] names a completion whose gradient depends on scalars outside of
/// `reach`.
pub fn update<R>(
    player: &dyn Player,
    groups: &[Group],
    passes: UpdatePasses<'_>,
    mut loss: impl FnMut(&[Vec<f32>], Range<usize>) -> Result<LossGradients<R>, TrainError>,
) -> Result<(R, Gradients), TrainError> {
    let UpdatePasses { execution, reach } = passes;
    let mut completions = groups.iter().flat_map(|g| &g.completions);
    if completions.all(Vec::is_empty) {
        return Err(TrainError::EmptyUpdate);
    }
    let at_once = execution.training_rows(player.body().0).min(rows(groups));
    let (report, gradients) = execution.attempt(at_once, |execution| {
        let cut = RowLimits {
            micro_batch: execution.training_rows(player.body().0),
            token_budget: execution.budget.tokens,
        };
        let units = units(groups, cut, reach);
        let update = Update {
            player,
            execution,
            units: &units,
        };
        update.run(&mut loss)
    })?;
    check_coverage(player, &gradients)?;
    Ok((report, gradients))
}

/// Micro-batches whose gradients depend only on their own scalars: one, or all of a group that is
/// split.
type Unit = Vec<MicroBatch>;

fn units(groups: &[Group], limits: RowLimits, reach: Reach) -> Vec<Unit> {
    match reach {
        Reach::Completion => micro_batches(groups, limits.micro_batch)
            .into_iter()
            .map(|part| vec![part])
            .collect(),
        Reach::Group => whole_group_batches(groups, limits),
    }
}

fn completions(unit: &Unit) -> impl Iterator<Item = &Vec<u32>> {
    unit.iter()
        .flat_map(|part| &part.groups)
        .flat_map(|group| &group.completions)
}

/// A loss's gradients of all scalars.
type GradientsOfLoss<'l> = dyn FnMut(&[Vec<f32>]) -> Result<TokenScalars, TrainError> + 'l;

/// An update during its execution.
struct Update<'u> {
    player: &'u dyn Player,
    execution: Execution<'u>,
    units: &'u [Unit],
}

/// A unit and its range of the update's completions.
struct UnitRange<'u> {
    unit: &'u Unit,
    completions: Range<usize>,
}

/// The values computed so far in an update.
struct Known {
    /// Scalars of every completion; 0 if not computed yet.
    scalars: TokenScalars,
    /// The gradients that were used; empty if none were used yet.
    gradients: TokenScalars,
}

impl Update<'_> {
    fn run<R>(
        &self,
        loss: &mut impl FnMut(&[Vec<f32>], Range<usize>) -> Result<LossGradients<R>, TrainError>,
    ) -> Result<(R, Gradients), TrainError> {
        let ranks = self.execution.ranks;
        let zeros = self
            .units
            .iter()
            .flat_map(completions)
            .map(|ids| vec![0.0; ids.len()]);
        let scalars: TokenScalars = zeros.collect();
        let count = scalars.len();
        let mut known = Known {
            scalars,
            gradients: vec![Vec::new(); count],
        };
        let (mut total, mut report) = (Total::default(), None);
        let (mut start, mut own_scalars) = (0, TokenScalars::new());
        for round in self.units.chunks(ranks.size()) {
            let mut own = Ok(Gradients::default());
            for (rank, unit) in round.iter().enumerate() {
                let part = start..start + completions(unit).count();
                start = part.end;
                if rank == ranks.rank() {
                    let mut loss = |scalars: &[Vec<f32>]| {
                        let value = loss(scalars, part.clone())?;
                        report = (part.len() == count).then_some(value.report);
                        Ok(value.gradients)
                    };
                    let mut gradients = total.begin(ranks, unit);
                    let own_unit = UnitRange {
                        unit,
                        completions: part.clone(),
                    };
                    own = self
                        .add_unit(own_unit, &mut known, &mut loss, &mut gradients)
                        .map(|()| gradients);
                    own_scalars.extend_from_slice(&known.scalars[part]);
                }
            }
            total.add(self.player, ranks, own)?;
        }
        let report = match report {
            Some(report) if ranks.size() == 1 => report,
            _ => {
                let lengths = self
                    .units
                    .iter()
                    .map(|unit| completions(unit).map(Vec::len).collect());
                let lengths: Vec<Vec<usize>> = lengths.collect();
                let scalars = ranks::gathered(ranks, &lengths, Ok(own_scalars))?;
                let value = loss(&scalars, 0..count)?;
                known.check(&value.gradients)?;
                value.report
            }
        };
        Ok((report, total.gradients(self.player)?))
    }

    /// Adds the gradients of the parameters from the completions of one unit.
    fn add_unit(
        &self,
        UnitRange {
            unit,
            completions: part,
        }: UnitRange<'_>,
        known: &mut Known,
        loss: &mut GradientsOfLoss<'_>,
        gradients: &mut Gradients,
    ) -> Result<(), TrainError> {
        let (player, kept_bytes) = (self.player, self.execution.budget.kept_bytes);
        let mut recorded = None;
        let mut next = part.start;
        for micro_batch in unit {
            let batch = PackedBatch::new(&micro_batch.groups)?;
            let scalars = if unit.len() == 1 {
                let (scalars, recording) = player.forward(&batch, kept_bytes)?;
                recorded = Some(recording);
                scalars
            } else {
                player.infer(&batch)?
            };
            for row in scalars {
                known.scalars[next] = row;
                next += 1;
            }
        }
        let mut all = loss(&known.scalars)?;
        next = part.start;
        for micro_batch in unit {
            let batch = PackedBatch::new(&micro_batch.groups)?;
            let rows = next..next + micro_batch.origin.len();
            next = rows.end;
            let recording = match recorded.take() {
                Some(recording) => recording,
                None => player.forward(&batch, kept_bytes)?.1,
            };
            player.backward(&batch, recording, &all[rows.clone()], gradients)?;
            for row in rows {
                known.gradients[row] = std::mem::take(&mut all[row]);
            }
        }
        Ok(())
    }
}

impl Known {
    /// Fails if the gradients changed once all scalars were known.
    fn check(&self, gradients: &[Vec<f32>]) -> Result<(), TrainError> {
        let bits = |row: &Vec<f32>| row.iter().map(|g| g.to_bits()).collect::<Vec<_>>();
        let mut pairs = self.gradients.iter().zip(gradients);
        match pairs.position(|(used, now)| !used.is_empty() && bits(used) != bits(now)) {
            Some(completion) => Err(TrainError::LossReach { completion }),
            None => Ok(()),
        }
    }
}

/// Gradients summed unit after unit.
#[derive(Default)]
struct Total {
    /// With a single rank: the gradients.
    own: Gradients,
    /// With several ranks: the gradients of every parameter in order, then the number of units that
    /// reached each.
    values: Vec<f32>,
}

impl Total {
    /// The buffer for a unit's gradients. With a single rank, those of a single micro-batch are
    /// added to the sum in place.
    fn begin(&mut self, ranks: &dyn Collective, unit: &Unit) -> Gradients {
        match (ranks.size(), unit.len()) {
            (1, 1) => std::mem::take(&mut self.own),
            _ => Gradients::default(),
        }
    }

    /// Adds the gradients of each rank's unit, in rank order.
    fn add(
        &mut self,
        player: &dyn Player,
        ranks: &dyn Collective,
        own: Result<Gradients, TrainError>,
    ) -> Result<(), TrainError> {
        if ranks.size() == 1 {
            return Ok(self.own.add_all(own?)?);
        }
        let flat = own.and_then(|own| {
            let (mut values, mut reached) = (Vec::new(), Vec::new());
            for (_, var) in player.parameters() {
                let gradient = own.get(&var);
                reached.push(f32::from(u8::from(gradient.is_some())));
                match gradient {
                    Some(gradient) => values.extend(gradient.flatten_all()?.to_vec1::<f32>()?),
                    None => values.resize(values.len() + var.elem_count(), 0.0),
                }
            }
            values.append(&mut reached);
            Ok(values)
        });
        let flat = ranks::agree(ranks, flat)?;
        self.values.resize(flat.len(), 0.0);
        ranks.accumulate(&mut self.values, &flat)
    }

    /// The sums by parameter, without parameters that no unit reached.
    fn gradients(self, player: &dyn Player) -> Result<Gradients, TrainError> {
        let parameters = player.parameters();
        let mut gradients = self.own;
        let count = self.values.len().saturating_sub(parameters.len());
        let (mut rest, reached) = self.values.split_at(count);
        for ((_, var), &reached) in parameters.iter().zip(reached) {
            let (own, later) = rest.split_at(var.elem_count());
            rest = later;
            if reached > 0.0 {
                let gradient = Tensor::from_slice(own, var.shape(), var.device())?;
                gradients.add(var.as_tensor().id(), gradient)?;
            }
        }
        Ok(gradients)
    }
}

fn check_coverage(player: &dyn Player, gradients: &Gradients) -> Result<(), TrainError> {
    for (name, var) in player.parameters() {
        if gradients.get(&var).is_none() {
            return Err(TrainError::MissingGradient { parameter: name });
        }
    }
    Ok(())
}
