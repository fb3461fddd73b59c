//! Packed batches: the unit of work of every forward pass.
//!
//! A batch is a flat list of tokens without padding. A group's prompt appears once, and so does
//! each prefix that completions of the group share, so the rows of a group form a tree. A
//! completion attends to its prompt and to itself, and its positions continue from the prompt. This
//! module decides the order of rows, which row predicts which token, and how an update is split
//! into micro-batches of whole completions. Attention itself is in `assay-ops`.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use assay_ops::{AttentionLayout, Branch, GroupSpans};

use crate::LmError;

/// One prompt and the completions that share it, as token ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Group {
    /// The rendered prompt; never empty.
    pub prompt: Vec<u32>,
    /// Completions, end-of-turn token included; each may be empty.
    pub completions: Vec<Vec<u32>>,
}

impl Group {
    /// Maximum number of rows of this group in a packed batch: the prompt once and each completion
    /// once. Completions with a common prefix take fewer.
    pub fn rows(&self) -> usize {
        self.prompt.len() + self.completions.iter().map(Vec::len).sum::<usize>()
    }
}

/// Maximum number of rows of some groups in one packed batch.
pub fn rows(groups: &[Group]) -> usize {
    groups.iter().map(Group::rows).sum()
}

/// A completion and the prompt it answers, as token ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PromptedCompletion<'t> {
    /// The rendered prompt.
    pub prompt: &'t [u32],
    /// The completion, end-of-turn token included.
    pub completion: &'t [u32],
}

/// Completions grouped by prompt, so that a prompt is computed once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PromptGroups {
    groups: Vec<Group>,
    /// For each group, the indices of its completions in the original list.
    places: Vec<Vec<usize>>,
}

impl PromptGroups {
    /// Groups completions by prompt, in the order in which the prompts first appear.
    ///
    /// Leaves out completions that no model can read: without tokens, without a prompt, or with
    /// more than `max_positions` tokens including the prompt.
    pub fn new<'t>(
        completions: impl IntoIterator<Item = PromptedCompletion<'t>>,
        max_positions: usize,
    ) -> Self {
        let mut all = Self::default();
        let mut known: HashMap<&[u32], usize> = HashMap::new();
        for (place, PromptedCompletion { prompt, completion }) in
            completions.into_iter().enumerate()
        {
            let empty = prompt.is_empty() || completion.is_empty();
            if empty || prompt.len() + completion.len() > max_positions {
                continue;
            }
            let group = *known.entry(prompt).or_insert_with(|| {
                all.groups.push(Group {
                    prompt: prompt.to_vec(),
                    completions: Vec::new(),
                });
                all.places.push(Vec::new());
                all.groups.len() - 1
            });
            all.groups[group].completions.push(completion.to_vec());
            all.places[group].push(place);
        }
        all
    }

    /// Rows of all groups in one batch: each prompt once.
    pub fn rows(&self) -> usize {
        rows(&self.groups)
    }

    /// Micro-batches of at most `token_budget` rows, see [`micro_batches`]: their groups, and for
    /// each completion its index in the original list.
    pub fn micro_batches(
        &self,
        token_budget: usize,
    ) -> impl Iterator<Item = (Vec<Group>, Vec<usize>)> {
        let parts = micro_batches(&self.groups, token_budget).into_iter();
        parts.map(|part| {
            let place = |&(group, index): &(usize, usize)| self.places[group][index];
            (part.groups, part.origin.iter().map(place).collect())
        })
    }
}

/// The position of a completion in a packed batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompletionSpan {
    /// Index of its group in the batch.
    pub group: usize,
    /// Index of the completion in its group.
    pub index: usize,
    /// The row of each token. The first rows may be shared with an earlier completion.
    pub rows: Vec<u32>,
    /// The prompt's last row: its hidden state predicts the completion's first token.
    pub prompt_last_row: u32,
}

impl CompletionSpan {
    /// The row whose hidden state predicts each token of the completion, in order.
    ///
    /// Token 0 is predicted by the prompt's last row, token t by the row of token t-1.
    pub fn prediction_rows(&self) -> impl Iterator<Item = u32> + '_ {
        std::iter::once(self.prompt_last_row)
            .chain(self.rows.iter().copied())
            .take(self.rows.len())
    }
}

/// A packed batch: tokens, positions, attention spans.
///
/// # Shapes
/// `tokens` and `positions` have one entry per row, `[T]`. Rows are, group after group: the prompt,
/// then of each completion the tokens that it does not share with an earlier one.
#[derive(Clone, Debug)]
pub struct PackedBatch {
    /// Token id of each row.
    pub tokens: Arc<[u32]>,
    /// Position of each row, continuing from the prompt within each completion.
    pub positions: Arc<[u32]>,
    /// Which rows attend to which.
    pub layout: Arc<AttentionLayout>,
    /// Completions in group order.
    pub completions: Vec<CompletionSpan>,
    /// Rows of each group's prompt.
    pub prompts: Vec<Range<usize>>,
}

impl PackedBatch {
    /// Packs groups into one flat batch.
    ///
    /// # Errors
    /// [`LmError::EmptyPrompt`] names the group whose prompt has no token.
    pub fn new(groups: &[Group]) -> Result<Self, LmError> {
        let mut rows = Rows::default();
        let mut completions = Vec::new();
        let mut prompts = Vec::with_capacity(groups.len());
        let mut spans = Vec::with_capacity(groups.len());
        for (group, tokens) in groups.iter().enumerate() {
            if tokens.prompt.is_empty() {
                return Err(LmError::EmptyPrompt { group });
            }
            let prompt = rows.prompt(&tokens.prompt);
            let prompt_last_row = prompt.end as u32 - 1;
            let mut branches = Vec::with_capacity(tokens.completions.len());
            for (index, completion) in tokens.completions.iter().enumerate() {
                let rows_before = rows.tokens.len();
                let path = rows.completion(&prompt, completion);
                branches.push(branch(&path, rows_before));
                completions.push(CompletionSpan {
                    group,
                    index,
                    rows: path,
                    prompt_last_row,
                });
            }
            prompts.push(prompt.clone());
            spans.push(GroupSpans {
                prompt,
                completions: branches,
            });
        }
        let layout = Arc::new(AttentionLayout::new(spans)?);
        Ok(Self {
            tokens: rows.tokens.into(),
            positions: rows.positions.into(),
            layout,
            completions,
            prompts,
        })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether the batch has no rows.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Rows that predict completion tokens and the tokens they predict, both `[N]`, completion
    /// after completion.
    pub fn predictions(&self) -> (Vec<u32>, Arc<[u32]>) {
        let rows = self
            .completions
            .iter()
            .flat_map(CompletionSpan::prediction_rows)
            .collect();
        let targets: Vec<u32> = self
            .completions
            .iter()
            .flat_map(|span| span.rows.iter().map(|&row| self.tokens[row as usize]))
            .collect();
        (rows, targets.into())
    }

    /// Rows of completion tokens, `[N]`, completion after completion.
    pub fn completion_rows(&self) -> Vec<u32> {
        self.completions
            .iter()
            .flat_map(|span| span.rows.iter().copied())
            .collect()
    }

    /// Splits a flat list `[N]` over completion tokens into one list per completion.
    pub fn split_by_completion(&self, flat: &[f32]) -> Vec<Vec<f32>> {
        let mut rest = flat;
        self.completions
            .iter()
            .map(|span| {
                let (head, tail) = rest.split_at(span.rows.len().min(rest.len()));
                rest = tail;
                head.to_vec()
            })
            .collect()
    }
}

/// Rows of a batch during packing.
#[derive(Default)]
struct Rows {
    tokens: Vec<u32>,
    positions: Vec<u32>,
    /// The row that continues a row by a token.
    next: HashMap<(u32, u32), u32>,
}

impl Rows {
    fn prompt(&mut self, ids: &[u32]) -> Range<usize> {
        let start = self.tokens.len();
        self.tokens.extend_from_slice(ids);
        self.positions.extend(0..ids.len() as u32);
        start..self.tokens.len()
    }

    /// The rows of a completion. From the first token on that no earlier completion has at this
    /// place, the rows are new.
    fn completion(&mut self, prompt: &Range<usize>, ids: &[u32]) -> Vec<u32> {
        let mut before = prompt.end as u32 - 1;
        let path = ids
            .iter()
            .zip(prompt.len() as u32..)
            .map(|(&id, position)| {
                let new = self.tokens.len() as u32;
                let row = *self.next.entry((before, id)).or_insert(new);
                if row == new {
                    self.tokens.push(id);
                    self.positions.push(position);
                }
                before = row;
                row
            });
        path.collect()
    }
}

/// The shared ranges of a path of rows, and its own rows: those from `first_own` on.
fn branch(path: &[u32], first_own: usize) -> Branch {
    let shared_len = path.partition_point(|&row| (row as usize) < first_own);
    let mut shared: Vec<Range<usize>> = Vec::new();
    for &row in &path[..shared_len] {
        let row = row as usize;
        match shared.last_mut() {
            Some(last) if last.end == row => last.end += 1,
            _ => shared.push(row..row + 1),
        }
    }
    let own = first_own..first_own + path.len() - shared_len;
    Branch { shared, own }
}

/// A part of an update that fits the token budget.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MicroBatch {
    /// Groups with the completions of this part; a prompt reappears in each part that has
    /// completions of it.
    pub groups: Vec<Group>,
    /// For each completion, in batch order: (group, completion) in the update.
    pub origin: Vec<(usize, usize)>,
}

/// Splits an update into micro-batches of at most `token_budget` rows.
///
/// Completions are never split; one that alone exceeds the budget gets its own micro-batch. A group
/// that fits a micro-batch is not split either, so its prompt is computed only once. The order is
/// kept, so concatenating the parts returns the update. Groups without completions are left out.
pub fn micro_batches(groups: &[Group], token_budget: usize) -> Vec<MicroBatch> {
    let mut parts = Vec::new();
    let mut current = MicroBatch::default();
    let mut rows = 0;
    for (group_index, group) in groups.iter().enumerate() {
        let mut open = false;
        let whole = group.rows();
        if whole <= token_budget && rows + whole > token_budget {
            parts.push(std::mem::take(&mut current));
            rows = 0;
        }
        for (index, completion) in group.completions.iter().enumerate() {
            let prompt_rows = if open { 0 } else { group.prompt.len() };
            if rows + prompt_rows + completion.len() > token_budget {
                parts.push(std::mem::take(&mut current));
                (rows, open) = (0, false);
            }
            if !open {
                current.groups.push(Group {
                    prompt: group.prompt.clone(),
                    completions: Vec::new(),
                });
                rows += group.prompt.len();
                open = true;
            }
            if let Some(last) = current.groups.last_mut() {
                last.completions.push(completion.clone());
            }
            current.origin.push((group_index, index));
            rows += completion.len();
        }
    }
    parts.push(current);
    parts.retain(|part| !part.origin.is_empty());
    parts
}

/// Row limits of a split that keeps groups whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowLimits {
    /// Maximum number of rows of several groups in one micro-batch.
    pub micro_batch: usize,
    /// Maximum number of rows of one group in one micro-batch.
    pub token_budget: usize,
}

/// Splits an update into lists of micro-batches such that each list has all completions of its
/// groups. A list is one micro-batch, of whole groups with at most [`RowLimits::micro_batch`] rows
/// together or of one group with up to [`RowLimits::token_budget`] rows, or several micro-batches
/// of a larger group.
pub fn whole_group_batches(groups: &[Group], limits: RowLimits) -> Vec<Vec<MicroBatch>> {
    let mut lists: Vec<Vec<MicroBatch>> = Vec::new();
    let mut filled = 0;
    for (index, group) in groups.iter().enumerate() {
        let mut parts = micro_batches(std::slice::from_ref(group), limits.token_budget);
        for origin in parts.iter_mut().flat_map(|part| &mut part.origin) {
            origin.0 = index;
        }
        filled += group.rows();
        match (
            lists.last_mut().map(Vec::as_mut_slice),
            parts.as_mut_slice(),
        ) {
            (_, []) => filled -= group.rows(),
            (Some([last]), [part]) if filled <= limits.micro_batch => last.append(part),
            _ => {
                filled = group.rows();
                lists.push(parts);
            }
        }
    }
    lists
}

impl MicroBatch {
    fn append(&mut self, other: &mut Self) {
        self.groups.append(&mut other.groups);
        self.origin.append(&mut other.origin);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(micro_batch: usize, token_budget: usize) -> RowLimits {
        RowLimits {
            micro_batch,
            token_budget,
        }
    }

    fn group(prompt: usize, completions: &[usize]) -> Group {
        let ids = |n: usize| (0..n as u32).collect();
        Group {
            prompt: ids(prompt),
            completions: completions.iter().map(|&n| ids(n)).collect(),
        }
    }

    #[test]
    fn the_prompts_last_row_predicts_the_completion() {
        let batch = PackedBatch::new(&[group(3, &[2, 0, 1]), group(1, &[3])]).unwrap();
        // The third completion is a prefix of the first.
        assert_eq!(&*batch.positions, &[0, 1, 2, 3, 4, 0, 1, 2, 3]);
        let (rows, targets) = batch.predictions();
        assert_eq!(rows, [2, 3, 2, 5, 6, 7]);
        assert_eq!(&*targets, &[0, 1, 0, 0, 1, 2]);
        assert_eq!(batch.completion_rows(), [3, 4, 3, 6, 7, 8]);
        assert_eq!(
            batch.split_by_completion(&[1., 2., 3., 4., 5., 6.]),
            vec![vec![1., 2.], vec![], vec![3.], vec![4., 5., 6.]]
        );
    }

    #[test]
    fn shared_beginnings_are_packed_once() {
        let completions = vec![
            vec![4, 5, 6],
            vec![4, 5, 7, 8],
            vec![9],
            vec![4, 5, 7, 1],
            vec![4, 5, 6],
        ];
        let prompt = vec![4, 5];
        let group = Group {
            prompt,
            completions,
        };
        let batch = PackedBatch::new(&[group.clone(), group]).unwrap();
        assert_eq!(&batch.tokens[..9], &[4, 5, 4, 5, 6, 7, 8, 9, 1]);
        assert_eq!(&batch.positions[..9], &[0, 1, 2, 3, 4, 4, 5, 2, 5]);
        assert_eq!(batch.len(), 18);
        assert_eq!(batch.completions[3].rows, [2, 3, 5, 8]);
        assert_eq!(batch.completions[9].rows, [11, 12, 13]);
        let branches = &batch.layout.groups()[0].completions;
        assert_eq!(branches[1].shared, [2..4]);
        assert_eq!(
            (&branches[3].shared[..], &branches[3].own),
            (&[2..4, 5..6][..], &(8..9))
        );
        assert_eq!(
            (&branches[4].shared[..], &branches[4].own),
            (&[2..5][..], &(9..9))
        );
    }

    #[test]
    fn micro_batches_hold_whole_completions_and_lose_none() {
        let groups = [group(5, &[4, 4, 4]), group(2, &[50, 1]), group(9, &[])];
        for budget in [1, 9, 13, 14, 40, 1000] {
            let parts = micro_batches(&groups, budget);
            let origins: Vec<_> = parts.iter().flat_map(|part| part.origin.clone()).collect();
            assert_eq!(origins, [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]);
            for part in &parts {
                let rows: usize = part.groups.iter().map(Group::rows).sum();
                assert!(
                    rows <= budget || part.origin.len() == 1,
                    "{rows} rows for budget {budget}"
                );
            }
        }
        assert_eq!(micro_batches(&groups, 13).len(), 4);
    }

    #[test]
    fn groups_are_cut_only_where_needed() {
        let groups = [group(5, &[4, 4]), group(5, &[4, 4]), group(2, &[9, 9, 9])];
        let cut = |budget| {
            let parts = micro_batches(&groups, budget);
            parts
                .iter()
                .map(|part| part.origin.len())
                .collect::<Vec<_>>()
        };
        // 13, 13 and 29 rows: the second group would fit only in part, the third not at all.
        assert_eq!(cut(20), [2, 2, 2, 1]);
        assert_eq!(cut(26), [4, 2, 1]);
        assert_eq!(cut(55), [7]);
        let lists = |rows, budget| {
            let lists = whole_group_batches(&groups, limits(rows, budget));
            let count =
                |list: &Vec<MicroBatch>| list.iter().map(|part| part.origin.len()).collect();
            lists.iter().map(count).collect::<Vec<Vec<usize>>>()
        };
        assert_eq!(lists(26, 100), [vec![4], vec![3]]);
        assert_eq!(lists(1, 100), [vec![2], vec![2], vec![3]]);
        assert_eq!(lists(100, 100), [vec![7]]);
        assert_eq!(lists(26, 20), [vec![4], vec![2, 1]]);
        let last = &whole_group_batches(&groups, limits(26, 20))[1][1];
        assert_eq!(
            (last.groups[0].prompt.len(), &last.origin[..]),
            (2, &[(2, 2)][..])
        );
        assert!(whole_group_batches(&[group(3, &[])], limits(9, 9)).is_empty());
    }

    #[test]
    fn completions_of_one_prompt_form_one_group() {
        let completion = |prompt, completion| PromptedCompletion { prompt, completion };
        let completions: [PromptedCompletion<'_>; 6] = [
            completion(&[1, 2], &[5]),
            completion(&[3], &[6, 7]),
            completion(&[1, 2], &[]),
            completion(&[1, 2], &[8, 9]),
            completion(&[3], &[1, 1, 1, 1]),
            completion(&[], &[1]),
        ];
        let all = PromptGroups::new(completions, 4);
        assert_eq!(all.places, [vec![0, 3], vec![1]]);
        assert_eq!(all.groups[0].prompt, [1, 2]);
        assert_eq!(all.groups[0].completions, [vec![5], vec![8, 9]]);
        assert_eq!(all.groups[1].completions, [vec![6, 7]]);
        // Two and three completion tokens, and each prompt once.
        assert_eq!(all.rows(), 2 + 3 + 1 + 2);
        let cut = |budget| -> Vec<Vec<usize>> {
            all.micro_batches(budget)
                .map(|(_, places)| places)
                .collect()
        };
        assert_eq!(cut(8), [vec![0, 3, 1]]);
        assert_eq!(cut(5), [vec![0, 3], vec![1]]);
        assert_eq!(cut(1), [vec![0], vec![3], vec![1]]);
    }

    #[test]
    fn an_empty_prompt_is_refused() {
        assert!(matches!(
            PackedBatch::new(&[group(1, &[1]), group(0, &[1])]),
            Err(LmError::EmptyPrompt { group: 1 })
        ));
    }
}
