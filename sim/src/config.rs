//! What the simulator plays: configuration in code, and the same from `CANN_SIM_*` variables for the shared library.

use std::path::PathBuf;

use ascend_sys::{FunctionId, Release};

use crate::fault::{FaultScript, FaultScriptError};
use crate::soc::{SOCS, Soc};

/// What a finding leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Mode {
    /// A finding is an error at the call or at the next synchronisation. Fresh device memory holds `0xFF` bytes (not a
    /// number in every float type), so that uninitialised rows show.
    Strict,
    /// A finding is logged; the simulator goes on as hardware would, as far as known.
    #[default]
    Lenient,
}

/// CANN releases the simulator can play.
pub const RELEASES: &[Release] = &[Release::new(8, 5, 0), Release::new(9, 0, 0), Release::new(9, 1, 0)];

/// Most devices one simulator may have: 16 logical devices are a full A3 server.
pub(crate) const MAX_DEVICES: u32 = 16;

/// Configuration of one simulator.
#[derive(Clone, Debug)]
pub struct Config {
    /// What `aclrtGetSocName` says; one of [`SOCS`]. Default `Ascend910_9391`.
    pub soc: String,
    /// Logical devices, 1 to 16. Default 2: the two dies of one 910C package.
    pub devices: u32,
    /// Device memory in bytes, as printed on the package; `None` is what the SoC has. One part in 23 of it is
    /// reserved, so that 64 GiB show as the 61.2 GiB that `aclrtGetMemInfo` reports on A3.
    pub hbm: Option<u64>,
    /// CANN release: 8.5.0, 9.0.0 or 9.1.0 (default).
    pub release: Release,
    /// Threads for operators; 0 (default) takes the process-wide pool.
    pub threads: usize,
    /// What a finding leads to. Default lenient.
    pub mode: Mode,
    /// Failures to inject.
    pub faults: FaultScript,
    /// File that gets the trace as JSON lines.
    pub trace_file: Option<PathBuf>,
    /// Trace records kept in memory, the newest; 0 keeps none. Default 4096.
    pub trace_capacity: usize,
    /// Seed of the stream scheduler: every task first sleeps a pseudo-random fraction of a millisecond, so that
    /// orders between streams that no event enforces come out differently from seed to seed.
    pub seed: Option<u64>,
    /// Functions the table lacks, beyond those newer than the release.
    pub absent: Vec<FunctionId>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            soc: "Ascend910_9391".to_owned(),
            devices: 2,
            hbm: None,
            release: Release::new(9, 1, 0),
            threads: 0,
            mode: Mode::default(),
            faults: FaultScript::default(),
            trace_file: None,
            trace_capacity: 4096,
            seed: None,
            absent: Vec::new(),
        }
    }
}

/// A setting that is not legal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A value that no rule allows.
    #[error("{setting} is {value:?}; legal: {legal}")]
    Illegal {
        /// Variable or field.
        setting: &'static str,
        /// What it holds.
        value: String,
        /// What it may hold.
        legal: String,
    },
    /// A fault script that does not parse.
    #[error("{setting}: {source}")]
    Faults {
        /// Variable.
        setting: &'static str,
        /// What is wrong with it.
        source: FaultScriptError,
    },
}

fn illegal(setting: &'static str, value: impl ToString, legal: impl Into<String>) -> ConfigError {
    ConfigError::Illegal { setting, value: value.to_string(), legal: legal.into() }
}

impl Config {
    /// Reads `CANN_SIM_SOC`, `CANN_SIM_DEVICES`, `CANN_SIM_HBM` (bytes, or with suffix K, M, G), `CANN_SIM_RELEASE`,
    /// `CANN_SIM_THREADS`, `CANN_SIM_MODE` (`strict` or `lenient`), `CANN_SIM_FAULTS`, `CANN_SIM_TRACE` (a file) and
    /// `CANN_SIM_SEED`. What is unset or empty keeps its default.
    ///
    /// # Errors
    /// The first variable whose value is not legal, with what would be.
    pub fn from_env() -> Result<Self, ConfigError> {
        Self::from_lookup(|name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()))
    }

    fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, ConfigError> {
        let var = |name: &'static str| lookup(name).filter(|value| !value.is_empty()).map(|value| (name, value));
        let mut config = Self::default();
        if let Some((_, value)) = var("CANN_SIM_SOC") {
            config.soc = value;
        }
        if let Some((name, value)) = var("CANN_SIM_DEVICES") {
            config.devices = number(name, &value, &format!("a number from 1 to {MAX_DEVICES}"))?;
        }
        if let Some((name, value)) = var("CANN_SIM_HBM") {
            config.hbm = Some(bytes(name, &value)?);
        }
        if let Some((name, value)) = var("CANN_SIM_RELEASE") {
            let release = Release::parse(&value).filter(|release| RELEASES.contains(release));
            config.release = release.ok_or_else(|| illegal(name, &value, releases()))?;
        }
        if let Some((name, value)) = var("CANN_SIM_THREADS") {
            config.threads = number(name, &value, "a number of threads, 0 for all")?;
        }
        if let Some((name, value)) = var("CANN_SIM_MODE") {
            config.mode = match value.to_ascii_lowercase().as_str() {
                "strict" => Mode::Strict,
                "lenient" => Mode::Lenient,
                _ => return Err(illegal(name, value, "strict, lenient")),
            };
        }
        if let Some((name, value)) = var("CANN_SIM_FAULTS") {
            config.faults = value.parse().map_err(|source| ConfigError::Faults { setting: name, source })?;
        }
        config.trace_file = var("CANN_SIM_TRACE").map(|(_, value)| PathBuf::from(value));
        if let Some((name, value)) = var("CANN_SIM_SEED") {
            config.seed = Some(number(name, &value, "an unsigned 64-bit number")?);
        }
        config.check(|field| match field {
            "soc" => "CANN_SIM_SOC",
            "devices" => "CANN_SIM_DEVICES",
            "hbm" => "CANN_SIM_HBM",
            _ => "CANN_SIM_RELEASE",
        })?;
        Ok(config)
    }

    /// Holds the settings against what the simulator can play. `name` turns a field into the word of the message.
    pub(crate) fn check(&self, name: impl Fn(&'static str) -> &'static str) -> Result<&'static Soc, ConfigError> {
        let soc = Soc::find(&self.soc).ok_or_else(|| illegal(name("soc"), &self.soc, Soc::names()))?;
        if !(1..=MAX_DEVICES).contains(&self.devices) {
            return Err(illegal(name("devices"), self.devices, format!("1 to {MAX_DEVICES}")));
        }
        if !RELEASES.contains(&self.release) {
            return Err(illegal(name("release"), self.release, releases()));
        }
        if let Some(hbm) = self.hbm.filter(|hbm| !(HBM_MIN..=HBM_MAX).contains(hbm)) {
            return Err(illegal(name("hbm"), hbm, format!("{HBM_MIN} to {HBM_MAX} bytes")));
        }
        Ok(soc)
    }

    /// Bytes of device memory that programs see.
    pub(crate) fn usable_hbm(&self) -> u64 {
        let hbm = self.hbm.or_else(|| Soc::find(&self.soc).map(|soc| soc.hbm)).unwrap_or(SOCS[0].hbm);
        (hbm - hbm / 23) & !0xFFF
    }
}

const HBM_MIN: u64 = 1 << 20;
const HBM_MAX: u64 = 1 << 40;

fn releases() -> String {
    RELEASES.iter().map(Release::to_string).collect::<Vec<_>>().join(", ")
}

fn number<T: std::str::FromStr>(name: &'static str, value: &str, legal: &str) -> Result<T, ConfigError> {
    value.trim().parse().map_err(|_| illegal(name, value, legal))
}

fn bytes(name: &'static str, value: &str) -> Result<u64, ConfigError> {
    let text = value.trim();
    let (digits, shift) = match text.chars().last().map(|c| c.to_ascii_uppercase()) {
        Some('K') => (&text[..text.len() - 1], 10),
        Some('M') => (&text[..text.len() - 1], 20),
        Some('G') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let count: Option<u64> = digits.trim().parse().ok();
    count
        .and_then(|count| count.checked_mul(1 << shift))
        .ok_or_else(|| illegal(name, value, "bytes, or a number with suffix K, M or G"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::from_lookup(|name| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn unset_and_empty_variables_keep_the_defaults() {
        let config = read(&[("CANN_SIM_SOC", ""), ("CANN_SIM_HBM", "")]).unwrap();
        assert_eq!(config.soc, "Ascend910_9391");
        assert_eq!((config.devices, config.hbm, config.threads, config.seed), (2, None, 0, None));
        assert_eq!(config.release, Release::new(9, 1, 0));
        assert_eq!(config.mode, Mode::Lenient);
        let gib = config.usable_hbm() as f64 / f64::from(1 << 30);
        assert!((61.0..61.4).contains(&gib), "{gib}");
    }

    #[test]
    fn every_variable_is_read() {
        let config = read(&[
            ("CANN_SIM_SOC", "Ascend910B4"),
            ("CANN_SIM_DEVICES", "4"),
            ("CANN_SIM_HBM", "3g"),
            ("CANN_SIM_RELEASE", "8.5.0"),
            ("CANN_SIM_THREADS", "3"),
            ("CANN_SIM_MODE", "STRICT"),
            ("CANN_SIM_FAULTS", "aclrtMalloc@3=207001"),
            ("CANN_SIM_TRACE", "trace.jsonl"),
            ("CANN_SIM_SEED", "42"),
        ])
        .unwrap();
        assert_eq!((config.soc.as_str(), config.devices, config.hbm), ("Ascend910B4", 4, Some(3 << 30)));
        assert_eq!((config.release, config.threads, config.mode), (Release::new(8, 5, 0), 3, Mode::Strict));
        assert!(!config.faults.is_empty());
        assert_eq!((config.trace_file, config.seed), (Some(PathBuf::from("trace.jsonl")), Some(42)));
    }

    #[test]
    fn an_error_names_the_variable_the_value_and_what_is_legal() {
        let cases = [
            ("CANN_SIM_SOC", "Ascend310P", "Ascend910_9391"),
            ("CANN_SIM_DEVICES", "17", "1 to 16"),
            ("CANN_SIM_DEVICES", "two", "1 to 16"),
            ("CANN_SIM_HBM", "12T", "suffix K, M or G"),
            ("CANN_SIM_HBM", "18446744073709551615G", "suffix K, M or G"),
            ("CANN_SIM_HBM", "é", "suffix K, M or G"),
            ("CANN_SIM_HBM", "1K", "1048576"),
            ("CANN_SIM_RELEASE", "8.1.RC1", "8.5.0, 9.0.0, 9.1.0"),
            ("CANN_SIM_RELEASE", "newest", "8.5.0, 9.0.0, 9.1.0"),
            ("CANN_SIM_THREADS", "-1", "0 for all"),
            ("CANN_SIM_MODE", "loose", "strict, lenient"),
            ("CANN_SIM_SEED", "x", "64-bit"),
        ];
        for (name, value, legal) in cases {
            let message = read(&[(name, value)]).unwrap_err().to_string();
            assert!(message.contains(name) && message.contains(legal), "{name}={value}: {message}");
            assert!(message.contains(value.trim_end_matches(char::is_alphabetic)), "{message}");
        }
        let message = read(&[("CANN_SIM_FAULTS", "nonsense")]).unwrap_err().to_string();
        assert!(message.starts_with("CANN_SIM_FAULTS: "), "{message}");
    }
}
