//! The one error type of this crate. Every variant names the rule that was broken and what would be legal.

/// Why a kernel refused its arguments. A refused call has written nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// A slice does not have the length that the shapes ask for.
    #[error("{what}: length {actual}, must be {expected}")]
    Length {
        /// Which argument.
        what: &'static str,
        /// The length that the other arguments imply.
        expected: usize,
        /// The length that was given.
        actual: usize,
    },
    /// An axis does not have the size that the other arguments ask for.
    #[error("{what}: size {actual}, must be {expected}")]
    Dim {
        /// Which argument and axis.
        what: &'static str,
        /// The size that the other arguments imply.
        expected: usize,
        /// The size that was given.
        actual: usize,
    },
    /// A slice or an axis is not a multiple of what it is divided into.
    #[error("{what}: {value} is not a multiple of {of}")]
    NotMultiple {
        /// Which quantity.
        what: &'static str,
        /// Its value.
        value: usize,
        /// What it must be a multiple of (0 divides nothing).
        of: usize,
    },
    /// A scalar parameter is outside its range.
    #[error("{what} is {value}, must be in {min}..={max}")]
    Range {
        /// Which parameter.
        what: &'static str,
        /// Its value.
        value: usize,
        /// The least legal value.
        min: usize,
        /// The greatest legal value (less than `min` where no value is legal).
        max: usize,
    },
    /// A strided view reaches past the end of its slice.
    #[error("{what}: the view spans {needed} elements, its slice has {len}")]
    OutOfBounds {
        /// Which view.
        what: &'static str,
        /// Elements from the first to the last one that the view reaches.
        needed: usize,
        /// Elements in the slice.
        len: usize,
    },
    /// A shape or its strides do not fit the address space, or row numbers do not fit 32 bits.
    #[error("{what}: too large to be addressed")]
    TooLarge {
        /// Which argument.
        what: &'static str,
    },
    /// Two indices of a writable view share an element. Legal views have, in order of stride, each stride at least as large as
    /// the span of the axes below it.
    #[error("{what}: strides {strides:?} of shape {shape:?} make elements overlap; a written view must not")]
    Overlap {
        /// Which view.
        what: &'static str,
        /// Shape of the view.
        shape: Vec<usize>,
        /// Strides of the view, in elements.
        strides: Vec<usize>,
    },
    /// Shapes that do not broadcast together: aligned at the last axis, sizes must be equal or 1.
    #[error("shapes {left:?} and {right:?} do not broadcast: aligned at the last axis, sizes must be equal or 1")]
    Broadcast {
        /// One shape.
        left: Vec<usize>,
        /// The other shape.
        right: Vec<usize>,
    },
    /// The output of an elementwise kernel does not have the broadcast shape of its inputs.
    #[error("the output has shape {actual:?}, the inputs broadcast to {expected:?}")]
    OutputShape {
        /// The broadcast shape.
        expected: Vec<usize>,
        /// The output's shape.
        actual: Vec<usize>,
    },
    /// A value of a group list is negative.
    #[error("group list: entry {entry} is {value}, must not be negative")]
    GroupNegative {
        /// Index of the entry.
        entry: usize,
        /// Its value.
        value: i64,
    },
    /// A cumulative group list decreases.
    #[error("group list of cumulative sums: entry {entry} is {value} after {previous}, must not decrease")]
    GroupDecreasing {
        /// Index of the entry.
        entry: usize,
        /// The entry before it.
        previous: i64,
        /// Its value.
        value: i64,
    },
    /// A group list asks for more rows than there are.
    #[error("group list: entry {entry} ends at row {end}, there are {rows} rows")]
    GroupRows {
        /// Index of the first entry that does not fit.
        entry: usize,
        /// Row where it ends.
        end: i128,
        /// Rows of the matrix.
        rows: usize,
    },
    /// A key-value group list names an expert that does not exist.
    #[error("group list of pairs: row {row} names expert {expert}, there are {experts}")]
    GroupExpert {
        /// Row of the list.
        row: usize,
        /// The expert it names.
        expert: i64,
        /// Number of experts.
        experts: usize,
    },
    /// A key-value group list names an expert twice.
    #[error("group list of pairs: row {row} names expert {expert} again; each expert may have one non-empty row")]
    GroupRepeated {
        /// Row of the list that repeats.
        row: usize,
        /// The expert it names.
        expert: usize,
    },
    /// A key-value group list has a non-empty row after an empty one.
    #[error("group list of pairs: row {row} is not empty but follows an empty row; non-empty rows come first")]
    GroupOrder {
        /// The non-empty row.
        row: usize,
    },
    /// Groups given to a grouped kernel overlap or are not in ascending order of rows.
    #[error("group {group} starts at row {start}, before row {previous_end} where the group before it ends")]
    GroupOverlap {
        /// Index of the group.
        group: usize,
        /// Its first row.
        start: usize,
        /// End of the group before it.
        previous_end: usize,
    },
    /// A slot points to a row that does not exist.
    #[error("slot {slot} points to row {row}, legal are 0..{rows}{}", and_minus_one(.minus_one))]
    RowIndex {
        /// Position in the index array.
        slot: usize,
        /// The row it names.
        row: i32,
        /// Rows that exist.
        rows: usize,
        /// Whether -1 (nothing there) is legal too.
        minus_one: bool,
    },
    /// An index names a place that does not exist.
    #[error("index {position} is {index}, legal are -{size}..{size}")]
    Index {
        /// Position in the array of indices.
        position: usize,
        /// The place it names.
        index: i64,
        /// Size of the axis.
        size: usize,
    },
    /// A slot names an expert that does not exist.
    #[error("slot {slot} names expert {expert}, there are {experts}")]
    ExpertId {
        /// Position in the array of expert ids.
        slot: usize,
        /// The expert it names.
        expert: i32,
        /// Number of experts.
        experts: usize,
    },
    /// A token of a routing map does not have the experts that the number of rows asks for.
    #[error("token {token} has {chosen} experts in the routing map, must have {top_k}")]
    Chosen {
        /// Row of the map.
        token: usize,
        /// Experts marked in it.
        chosen: usize,
        /// Experts that each token must have.
        top_k: usize,
    },
    /// A number that is to be held in 4 bits is not in their range.
    #[error("value {position} is {value}, int4 holds -8..=7")]
    Int4 {
        /// Position in the array of values.
        position: usize,
        /// The value.
        value: i32,
    },
    /// A value that must be a number is NaN or infinite.
    #[error("{what}: value {position} is no finite number")]
    NotFinite {
        /// Which argument.
        what: &'static str,
        /// Position in it.
        position: usize,
    },
    /// A row of a table of expert instances counts fewer than one or more than the table has places for.
    #[error("expert {expert} has {count} instances, legal are 1..={most}")]
    Instances {
        /// Row of the table.
        expert: usize,
        /// The count it starts with.
        count: i32,
        /// Places after the count.
        most: usize,
    },
}

fn and_minus_one(legal: &bool) -> &'static str {
    if *legal { " and -1" } else { "" }
}

/// `Err(Length)` unless `actual == expected`.
pub(crate) fn length(what: &'static str, expected: usize, actual: usize) -> Result<(), KernelError> {
    if actual == expected { Ok(()) } else { Err(KernelError::Length { what, expected, actual }) }
}

/// `Err(Dim)` unless `actual == expected`.
pub(crate) fn dim(what: &'static str, expected: usize, actual: usize) -> Result<(), KernelError> {
    if actual == expected { Ok(()) } else { Err(KernelError::Dim { what, expected, actual }) }
}

/// `Err(Range)` unless `min <= value <= max`.
pub(crate) fn range(what: &'static str, value: usize, min: usize, max: usize) -> Result<(), KernelError> {
    if (min..=max).contains(&value) { Ok(()) } else { Err(KernelError::Range { what, value, min, max }) }
}

/// `value / of`, or `Err(NotMultiple)` when it is not whole. 0 / 0 is 0.
pub(crate) fn divide(what: &'static str, value: usize, of: usize) -> Result<usize, KernelError> {
    if value.is_multiple_of(of) {
        Ok(value.checked_div(of).unwrap_or(0))
    } else {
        Err(KernelError::NotMultiple { what, value, of })
    }
}

/// Product of sizes, or `Err(TooLarge)`.
pub(crate) fn product(what: &'static str, sizes: &[usize]) -> Result<usize, KernelError> {
    if sizes.contains(&0) {
        return Ok(0);
    }
    sizes.iter().try_fold(1usize, |all, &size| all.checked_mul(size)).ok_or(KernelError::TooLarge { what })
}
