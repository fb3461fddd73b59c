//! One update of a player: gradients of its parameters from the gradients of its scalars, micro-batch after micro-batch.

use std::ops::Range;

use assay_lm::gradients::Gradients;
use assay_lm::packed::{
    Group, GroupLimits, MicroBatch, PackedBatch, micro_batches, whole_group_batches,
};
use candle_core::Tensor;

use super::{Passes, Player, TokenScalars, rows};
use crate::IrlError;
use crate::parallel::{self, Collective};

/// What a loss's gradient at a completion's scalars depends on, beside what is known before any pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The completion's own scalars.
    Completion,
    /// The scalars of all completions of its group.
    Group,
}

/// One forward and backward pass over an update.
///
/// `loss` gets the scalars of all completions and a range of them, and returns what it reports and the gradient of each scalar;
/// of the gradients those of the range are used, and scalars outside of its [`Reach`] may still be 0. It is asked last about
/// all completions with all scalars known, which gives the report and has to give the same gradients.
///
/// An update is cut into micro-batches of [`Passes::training_rows`] rows, which the ranks share; each is passed forward and
/// back at once. A group that the loss compares within is cut only where it exceeds the token budget alone: its scalars are then
/// gathered by a pass of their own. The result depends on the cut by the rounding of a sum, and on the ranks not at all. Where
/// memory is refused, all of it is done again as [`Passes::relief`] says, `loss` included.
///
/// # Errors
/// Whatever `loss` returns; [`IrlError::EmptyUpdate`] without a completion token; [`IrlError::MissingGradient`] names a
/// trainable parameter that received none; [`IrlError::LossReach`] a completion whose gradient depends on more than `reach` says.
pub fn update<R>(
    player: &dyn Player,
    groups: &[Group],
    (passes, reach): (Passes<'_>, Reach),
    mut loss: impl FnMut(&[Vec<f32>], Range<usize>) -> Result<(R, TokenScalars), IrlError>,
) -> Result<(R, Gradients), IrlError> {
    let mut completions = groups.iter().flat_map(|g| &g.completions);
    if completions.all(Vec::is_empty) {
        return Err(IrlError::EmptyUpdate);
    }
    let at_once = passes.training_rows(player.body().0).min(rows(groups));
    let (report, gradients) = passes.attempt(at_once, |passes| {
        let rows = passes.training_rows(player.body().0);
        let units = units(groups, passes, (rows, reach));
        let update = Update {
            player,
            passes,
            units: &units,
        };
        update.pass_and_pull(&mut loss)
    })?;
    check_coverage(player, &gradients)?;
    Ok((report, gradients))
}

/// Micro-batches whose gradients can be had from their own scalars: one, or all those of a group that is cut.
type Unit = Vec<MicroBatch>;

fn units(groups: &[Group], passes: Passes<'_>, (rows, reach): (usize, Reach)) -> Vec<Unit> {
    match reach {
        Reach::Completion => micro_batches(groups, rows)
            .into_iter()
            .map(|part| vec![part])
            .collect(),
        Reach::Group => whole_group_batches(
            groups,
            GroupLimits {
                rows,
                token_budget: passes.token_budget,
            },
        ),
    }
}

fn completions(unit: &Unit) -> impl Iterator<Item = &Vec<u32>> {
    unit.iter()
        .flat_map(|part| &part.groups)
        .flat_map(|group| &group.completions)
}

/// A loss's gradients of all scalars.
type GradientsOfLoss<'l> = dyn FnMut(&[Vec<f32>]) -> Result<TokenScalars, IrlError> + 'l;

/// An update as it is passed through a player.
struct Update<'u> {
    player: &'u dyn Player,
    passes: Passes<'u>,
    units: &'u [Unit],
}

/// What is known of an update on the way.
struct Known {
    /// Scalars of every completion; 0 where they are not known.
    scalars: TokenScalars,
    /// The gradients that were used; empty where none was yet.
    gradients: TokenScalars,
}

impl Update<'_> {
    fn pass_and_pull<R>(
        &self,
        loss: &mut impl FnMut(&[Vec<f32>], Range<usize>) -> Result<(R, TokenScalars), IrlError>,
    ) -> Result<(R, Gradients), IrlError> {
        let ranks = self.passes.ranks;
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
                        let (said, gradients) = loss(scalars, part.clone())?;
                        report = (part.len() == count).then_some(said);
                        Ok(gradients)
                    };
                    let mut gradients = total.begin(ranks, unit);
                    own = self
                        .pull_unit((unit, &part), &mut known, &mut loss, &mut gradients)
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
                let scalars = parallel::gathered(ranks, &lengths, Ok(own_scalars))?;
                let (report, gradients) = loss(&scalars, 0..count)?;
                known.check(&gradients)?;
                report
            }
        };
        Ok((report, total.gradients(self.player)?))
    }

    /// Adds the gradients of the parameters from the completions of one unit, `part` of all.
    fn pull_unit(
        &self,
        (unit, part): (&Unit, &Range<usize>),
        known: &mut Known,
        loss: &mut GradientsOfLoss<'_>,
        gradients: &mut Gradients,
    ) -> Result<(), IrlError> {
        let (player, kept_bytes) = (self.player, self.passes.kept_bytes);
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
    /// Refuses a loss whose gradients changed when all scalars were known.
    fn check(&self, gradients: &[Vec<f32>]) -> Result<(), IrlError> {
        let bits = |row: &Vec<f32>| row.iter().map(|g| g.to_bits()).collect::<Vec<_>>();
        let mut pairs = self.gradients.iter().zip(gradients);
        match pairs.position(|(used, now)| !used.is_empty() && bits(used) != bits(now)) {
            Some(completion) => Err(IrlError::LossReach { completion }),
            None => Ok(()),
        }
    }
}

/// Gradients summed unit after unit.
#[derive(Default)]
struct Total {
    /// In a process that is alone.
    own: Gradients,
    /// Of several ranks: those of every parameter in order, then how many units reached each.
    values: Vec<f32>,
}

impl Total {
    /// Where a unit's gradients are added: a process that is alone adds a single micro-batch's to the sum in place.
    fn begin(&mut self, ranks: &dyn Collective, unit: &Unit) -> Gradients {
        match (ranks.size(), unit.len()) {
            (1, 1) => std::mem::take(&mut self.own),
            _ => Gradients::default(),
        }
    }

    /// Adds what each rank's unit gave, in rank order.
    fn add(
        &mut self,
        player: &dyn Player,
        ranks: &dyn Collective,
        own: Result<Gradients, IrlError>,
    ) -> Result<(), IrlError> {
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
        let flat = parallel::agree(ranks, flat)?;
        self.values.resize(flat.len(), 0.0);
        ranks.accumulate(&mut self.values, &flat)
    }

    /// By parameter again; none for one that no unit reached.
    fn gradients(self, player: &dyn Player) -> Result<Gradients, IrlError> {
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

fn check_coverage(player: &dyn Player, gradients: &Gradients) -> Result<(), IrlError> {
    for (name, var) in player.parameters() {
        if gradients.get(&var).is_none() {
            return Err(IrlError::MissingGradient { parameter: name });
        }
    }
    Ok(())
}
