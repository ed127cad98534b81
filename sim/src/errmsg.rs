//! Error text as `aclGetRecentErrMsg` gives it, and the refusal: a code with its text.
//!
//! CANN's anatomy: `EE1001: [PID: 17] 2026-01-31-12:00:00.000.000 text`, newest on top. Prefixes say the module: EH the
//! acl layer, EE the runtime, EL the driver, EZ operators. The words are this simulator's.

use ascend_sys::aclError;

/// Why a call is not carried out.
pub(crate) struct Refusal {
    pub(crate) code: aclError,
    /// Text that starts with a CANN error code, `EE1001: ...`.
    pub(crate) block: String,
}

impl Refusal {
    pub(crate) fn new(code: aclError, block: impl Into<String>) -> Self {
        Self { code, block: block.into() }
    }

    /// The acl layer's answer to a null pointer.
    pub(crate) fn null(parameter: &str) -> Self {
        Self::new(aclError::INVALID_PARAM, format!("EH0002: Null_Argument: {parameter} must not be a null pointer"))
    }

    /// The acl layer's answer to a value out of range.
    pub(crate) fn value(parameter: &str, value: impl std::fmt::Display, legal: &str) -> Self {
        Self::new(
            aclError::INVALID_PARAM,
            format!("EH0001: Invalid_Argument: {parameter} is {value}, expected {legal}"),
        )
    }

    /// The runtime's answer to a value out of range.
    pub(crate) fn runtime(code: aclError, parameter: &str, value: impl std::fmt::Display, legal: &str) -> Self {
        Self::new(code, format!("EE1001: Invalid_Argument: {parameter} is {value}, expected {legal}"))
    }

    /// The answer to what CANN has and the simulator has not.
    pub(crate) fn unsupported(what: impl std::fmt::Display) -> Self {
        Self::new(
            aclError::RT_FEATURE_NOT_SUPPORT,
            format!("EE1006: Not_Supported: {what} is not supported by the simulator"),
        )
    }
}

/// Blocks kept for one thread that never reads them.
const KEPT: usize = 64;

/// Error text of one thread.
#[derive(Default)]
pub(crate) struct Messages {
    blocks: Vec<String>,
}

impl Messages {
    pub(crate) fn push(&mut self, block: &str) {
        if self.blocks.len() == KEPT {
            self.blocks.remove(0);
        }
        self.blocks.push(stamp(block));
    }

    /// Everything since the last take, newest on top.
    pub(crate) fn take(&mut self) -> Option<String> {
        if self.blocks.is_empty() {
            return None;
        }
        self.blocks.reverse();
        Some(std::mem::take(&mut self.blocks).join("\n"))
    }
}

/// Puts process and time behind the code that the text starts with.
fn stamp(block: &str) -> String {
    let (code, text) = block.split_once(": ").unwrap_or(("EE9999", block));
    format!("{code}: [PID: {}] {} {text}", std::process::id(), now())
}

/// UTC as CANN writes it: `2026-01-31-12:00:00.000.000`.
fn now() -> String {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let (days, seconds) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let (milli, micro) = (since.subsec_millis(), since.subsec_micros() % 1000);
    format!("{year:04}-{month:02}-{day:02}-{hour:02}:{minute:02}:{second:02}.{milli:03}.{micro:03}")
}

/// Gregorian year, month and day of a day counted from 1970-01-01.
fn civil(days: u64) -> (u64, u64, u64) {
    // Years are counted from March, so that the leap day is the last of its year; 719468 days lead from 0000-03-01.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(11_016), (2000, 2, 29));
        assert_eq!(civil(20_819), (2027, 1, 1));
    }

    #[test]
    fn newest_on_top_and_reading_clears() {
        let mut messages = Messages::default();
        messages.push("EE1001: first");
        messages.push("EZ9999: second");
        let text = messages.take().unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("EZ9999: [PID: ") && lines[0].ends_with(" second"), "{text}");
        assert!(lines[1].starts_with("EE1001: [PID: ") && lines[1].ends_with(" first"), "{text}");
        assert_eq!(messages.take(), None);
    }
}
