//! Group lists: how a device tensor says which rows belong to which expert. Decoding only; CANN does not check them.
//!
//! Source: ops-transformer 9.1.0, gmm/grouped_matmul (groupListType 0, 1, 2).

use std::ops::Range;

use crate::error::{self, KernelError};

/// How a group list is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GroupListKind {
    /// `[experts]`: the row after the last one of each expert; does not decrease (groupListType 0).
    Cumsum,
    /// `[experts]`: rows of each expert (groupListType 1).
    Count,
    /// `[experts, 2]`: pairs of expert and number of rows, in the order of the rows; pairs with no rows come last
    /// (groupListType 2).
    KeyValue,
}

/// The rows of one expert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// The expert.
    pub expert: usize,
    /// Its rows; not empty where [`decode`] made it.
    pub rows: Range<usize>,
}

/// Reads a group list: the non-empty groups in ascending order of rows. Rows after the last group belong to nobody.
///
/// - `values` host `i64 [experts]`, or `[experts, 2]` for [`GroupListKind::KeyValue`].
/// - `experts` number of experts; `rows` rows of the matrix that is divided.
///
/// # Errors
/// [`KernelError::Length`], [`KernelError::GroupNegative`], [`KernelError::GroupDecreasing`], [`KernelError::GroupRows`]; for
/// pairs also [`KernelError::GroupExpert`], [`KernelError::GroupRepeated`], [`KernelError::GroupOrder`].
pub fn decode(kind: GroupListKind, values: &[i64], experts: usize, rows: usize) -> Result<Vec<Group>, KernelError> {
    let per_expert = if kind == GroupListKind::KeyValue { 2 } else { 1 };
    error::length("group list", error::product("group list", &[experts, per_expert])?, values.len())?;
    match kind {
        GroupListKind::Cumsum => {
            let mut previous = 0;
            let counts = values.iter().enumerate().map(|(entry, &value)| {
                let count = match value {
                    _ if value < 0 => Err(KernelError::GroupNegative { entry, value }),
                    _ if value < previous => Err(KernelError::GroupDecreasing { entry, previous, value }),
                    _ => Ok((entry, value - previous)),
                };
                previous = value;
                count
            });
            place(counts, rows)
        }
        GroupListKind::Count => place(values.iter().enumerate().map(|(expert, &count)| Ok((expert, count))), rows),
        GroupListKind::KeyValue => {
            let mut seen = vec![false; experts];
            let mut ended = false;
            let counts = values.chunks_exact(2).enumerate().map(|(row, pair)| {
                let (expert, count) = (pair[0], pair[1]);
                let known = usize::try_from(expert).ok().filter(|expert| *expert < experts);
                let expert = known.ok_or(KernelError::GroupExpert { row, expert, experts })?;
                if count == 0 {
                    ended = true;
                } else if ended {
                    return Err(KernelError::GroupOrder { row });
                } else if std::mem::replace(&mut seen[expert], true) {
                    return Err(KernelError::GroupRepeated { row, expert });
                }
                Ok((expert, count))
            });
            place(counts, rows)
        }
    }
}

/// Lays groups out one after the other.
fn place(
    counts: impl Iterator<Item = Result<(usize, i64), KernelError>>,
    rows: usize,
) -> Result<Vec<Group>, KernelError> {
    let mut groups = Vec::new();
    let mut start = 0usize;
    for (entry, item) in counts.enumerate() {
        let (expert, count) = item?;
        if count < 0 {
            return Err(KernelError::GroupNegative { entry, value: count });
        }
        let end = start as i128 + i128::from(count);
        if end > rows as i128 {
            return Err(KernelError::GroupRows { entry, end, rows });
        }
        if count > 0 {
            groups.push(Group { expert, rows: start..end as usize });
            start = end as usize;
        }
    }
    Ok(groups)
}

#[cfg(test)]
mod tests {
    use super::*;
    use GroupListKind::*;

    fn group(expert: usize, rows: Range<usize>) -> Group {
        Group { expert, rows }
    }

    #[test]
    fn the_three_kinds_say_the_same() {
        let expected = vec![group(0, 0..1), group(2, 1..3)];
        assert_eq!(decode(Count, &[1, 0, 2], 3, 3), Ok(expected.clone()));
        assert_eq!(decode(Cumsum, &[1, 1, 3], 3, 3), Ok(expected.clone()));
        assert_eq!(decode(KeyValue, &[0, 1, 2, 2, 1, 0], 3, 3), Ok(expected));
        assert_eq!(decode(Count, &[1, 0, 1], 3, 3), Ok(vec![group(0, 0..1), group(2, 1..2)]));
        // Pairs may come in any order of experts, and their tail may be rows of zeros.
        assert_eq!(decode(KeyValue, &[2, 2, 0, 1, 0, 0], 3, 3), Ok(vec![group(2, 0..2), group(0, 2..3)]));
        assert_eq!(decode(Count, &[], 0, 3), Ok(vec![]));
    }

    #[test]
    fn wrong_lists_are_named() {
        assert_eq!(
            decode(Count, &[1, 2], 3, 9),
            Err(KernelError::Length { what: "group list", expected: 3, actual: 2 })
        );
        assert_eq!(decode(Count, &[1, -2], 2, 9), Err(KernelError::GroupNegative { entry: 1, value: -2 }));
        assert_eq!(decode(Cumsum, &[-1, 2], 2, 9), Err(KernelError::GroupNegative { entry: 0, value: -1 }));
        assert_eq!(
            decode(Cumsum, &[3, 2], 2, 9),
            Err(KernelError::GroupDecreasing { entry: 1, previous: 3, value: 2 })
        );
        assert_eq!(decode(Count, &[2, 2], 2, 3), Err(KernelError::GroupRows { entry: 1, end: 4, rows: 3 }));
        assert_eq!(
            decode(Count, &[i64::MAX, i64::MAX], 2, usize::MAX >> 1),
            Err(KernelError::GroupRows { entry: 1, end: 2 * i128::from(i64::MAX), rows: usize::MAX >> 1 })
        );
        assert_eq!(
            decode(KeyValue, &[2, 1, 0, 0], 2, 9),
            Err(KernelError::GroupExpert { row: 0, expert: 2, experts: 2 })
        );
        assert_eq!(
            decode(KeyValue, &[-1, 1, 0, 0], 2, 9),
            Err(KernelError::GroupExpert { row: 0, expert: -1, experts: 2 })
        );
        assert_eq!(decode(KeyValue, &[1, 1, 1, 1], 2, 9), Err(KernelError::GroupRepeated { row: 1, expert: 1 }));
        assert_eq!(decode(KeyValue, &[1, 0, 0, 1], 2, 9), Err(KernelError::GroupOrder { row: 1 }));
        assert_eq!(decode(KeyValue, &[1, -1, 0, 0], 2, 9), Err(KernelError::GroupNegative { entry: 0, value: -1 }));
    }
}
