//! Settings as text: what URL parameters and environment variables have in common.
//!
//! Owns [`Settings`] (each knob, given or not), the small parsers for durations and sizes, and reading the environment.
//! Promises: setter, URL parameter and variable of one knob carry one name; text that cannot be read is a fault that names it.
//! Leaves ranges and contradictions to [`builder`](super::builder): there is one gate. Fails with faults, never with a panic.

use std::{ffi::OsString, time::Duration};

use crate::ReadFrom;

/// The knobs that text can set, in the order of the README.
pub(super) const KNOBS: [&str; 8] = [
    "call_timeout",
    "max_in_flight",
    "name",
    "detect_within",
    "stall_after",
    "connect_timeout",
    "max_buffered_bytes",
    "read_from",
];

/// What was said of each knob; `None` where nothing was.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Settings {
    pub(super) call_timeout: Option<Duration>,
    pub(super) max_in_flight: Option<usize>,
    pub(super) name: Option<String>,
    pub(super) detect_within: Option<Duration>,
    pub(super) stall_after: Option<Duration>,
    pub(super) connect_timeout: Option<Duration>,
    pub(super) max_buffered_bytes: Option<usize>,
    pub(super) read_from: Option<ReadFrom>,
}

impl Settings {
    /// Reads `text` into the knob. `label` is what the user wrote it under; a fault names it.
    pub(super) fn set(&mut self, knob: &str, label: &str, text: &str) -> Result<(), String> {
        match knob {
            "call_timeout" => self.call_timeout = Some(duration(label, text)?),
            "max_in_flight" => self.max_in_flight = Some(count(label, text)?),
            "name" => self.name = Some(text.to_owned()),
            "detect_within" => self.detect_within = Some(duration(label, text)?),
            "stall_after" => self.stall_after = Some(duration(label, text)?),
            "connect_timeout" => self.connect_timeout = Some(duration(label, text)?),
            "max_buffered_bytes" => self.max_buffered_bytes = Some(bytes(label, text)?),
            "read_from" => self.read_from = Some(read_from(label, text)?),
            _ => {
                return Err(format!(
                    "{label}: unknown; legal here: {}",
                    KNOBS.join(", ")
                ));
            }
        }
        Ok(())
    }

    /// These settings, and `other` where they say nothing.
    pub(super) fn or(self, other: Self) -> Self {
        Self {
            call_timeout: self.call_timeout.or(other.call_timeout),
            max_in_flight: self.max_in_flight.or(other.max_in_flight),
            name: self.name.or(other.name),
            detect_within: self.detect_within.or(other.detect_within),
            stall_after: self.stall_after.or(other.stall_after),
            connect_timeout: self.connect_timeout.or(other.connect_timeout),
            max_buffered_bytes: self.max_buffered_bytes.or(other.max_buffered_bytes),
            read_from: self.read_from.or(other.read_from),
        }
    }
}

fn read_from(label: &str, text: &str) -> Result<ReadFrom, String> {
    match text {
        "primary" => Ok(ReadFrom::Primary),
        "prefer_replica" => Ok(ReadFrom::PreferReplica),
        "replica" => Ok(ReadFrom::Replica),
        other => Err(format!(
            "{label}: `{}` given; legal: primary, prefer_replica, replica",
            shorten(other)
        )),
    }
}

/// What the environment says: the URL, the settings, and what is wrong with either.
#[derive(Debug, Default)]
pub(super) struct Environment {
    pub(super) url: Option<String>,
    pub(super) settings: Settings,
    pub(super) faults: Vec<String>,
}

impl Environment {
    /// Reads the variables that start with `prefix`.
    pub(super) fn read(
        prefix: &str,
        variables: impl Iterator<Item = (OsString, OsString)>,
    ) -> Self {
        let mut found = Self::default();
        if prefix.is_empty() {
            let fault = "prefix: empty; legal: a word that sets our variables apart, `REDIS_`";
            found.faults.push(fault.to_owned());
            return found;
        }
        for (name, value) in variables {
            let Some(name) = name.to_str() else { continue };
            if let Some(rest) = name.strip_prefix(prefix) {
                found.take(name, rest, value);
            }
        }
        if found.url.is_none() {
            let fault = format!("{prefix}URL: missing; legal: a URL, `redis://host:6379/0`");
            found.faults.push(fault);
        }
        found
    }

    fn take(&mut self, name: &str, rest: &str, value: OsString) {
        let knob = KNOBS
            .into_iter()
            .find(|knob| knob.to_ascii_uppercase() == rest);
        if rest != "URL" && knob.is_none() {
            self.faults.extend(near(name, rest));
            return;
        }
        // The value is not shown: it may be the URL, password and all.
        let Ok(value) = value.into_string() else {
            self.faults.push(format!("{name}: not valid UTF-8"));
            return;
        };
        match knob {
            Some(knob) => self
                .faults
                .extend(self.settings.set(knob, name, &value).err()),
            None => self.url = Some(value),
        }
    }
}

/// The fault of a variable that looks like a misspelt one of ours. Any other stranger is let be: Kubernetes itself puts
/// `REDIS_PORT` and `REDIS_SERVICE_HOST` into every pod that lives beside a service called `redis`.
fn near(name: &str, rest: &str) -> Option<String> {
    KNOBS
        .into_iter()
        .map(str::to_ascii_uppercase)
        // A short word is near to too many others.
        .filter(|knob| knob.len() >= 8)
        .find(|knob| distance(knob, rest) <= 2 || rest.strip_suffix("_MS") == Some(knob.as_str()))
        .map(|knob| {
            let prefix = name.strip_suffix(rest).unwrap_or_default();
            format!(
                "{name}: unknown; did you mean {prefix}{knob}? (units go into the value: `250ms`)"
            )
        })
}

/// How many single letters differ (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.bytes().enumerate() {
        let mut next = vec![i + 1];
        for ((b, pair), left) in other.bytes().zip(row.windows(2)).zip(0..) {
            if let ([diagonal, above], Some(before)) = (pair, next.get(left)) {
                let cost = usize::from(a != b);
                next.push((diagonal + cost).min(above + 1).min(before + 1));
            }
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

/// `250ms`, `2s`, `1m`, `1h`: a whole number and its unit.
fn duration(label: &str, text: &str) -> Result<Duration, String> {
    let (number, unit) = split(text);
    let millis_per_unit: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => 0,
    };
    number
        .parse::<u64>()
        .ok()
        .filter(|_| millis_per_unit > 0)
        .and_then(|number| number.checked_mul(millis_per_unit))
        .map(Duration::from_millis)
        .ok_or_else(|| {
            format!(
                "{label}: `{}` given; legal: a whole number and a unit, `250ms`, `2s`, `1m`, `1h`",
                shorten(text)
            )
        })
}

/// `1048576`, `512KiB`, `64MiB`, `1GiB`.
fn bytes(label: &str, text: &str) -> Result<usize, String> {
    let (number, unit) = split(text);
    let factor: usize = match unit {
        "" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => 0,
    };
    number
        .parse::<usize>()
        .ok()
        .filter(|_| factor > 0)
        .and_then(|number| number.checked_mul(factor))
        .ok_or_else(|| {
            format!(
                "{label}: `{}` given; legal: bytes as a whole number, `1048576`, `512KiB`, `64MiB`",
                shorten(text)
            )
        })
}

fn count(label: &str, text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| {
        format!(
            "{label}: `{}` given; legal: a whole number, `1024`",
            shorten(text)
        )
    })
}

fn split(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    text.split_at(end)
}

/// The value as a fault shows it: long ones are cut.
pub(super) fn shorten(text: &str) -> String {
    let mut short: String = text.chars().take(40).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// A duration as a person writes it.
pub(super) fn show_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    if !duration.subsec_nanos().is_multiple_of(1_000_000) {
        return format!("{duration:?}");
    }
    for (unit, size) in [("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
        if millis > 0 && millis.is_multiple_of(size) {
            return format!("{}{unit}", millis / size);
        }
    }
    format!("{millis}ms")
}

/// A size as a person writes it.
pub(super) fn show_bytes(bytes: usize) -> String {
    for (unit, size) in [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if bytes > 0 && bytes.is_multiple_of(size) {
            return format!("{}{unit}", bytes / size);
        }
    }
    bytes.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(prefix: &str, variables: &[(&str, &str)]) -> Environment {
        Environment::read(prefix, variables.iter().map(|(k, v)| (k.into(), v.into())))
    }

    #[test]
    fn durations_and_sizes_are_read_as_they_are_shown() {
        for (text, millis) in [
            ("1ms", 1),
            ("250ms", 250),
            ("2s", 2000),
            ("1m", 60_000),
            ("1h", 3_600_000),
        ] {
            let read = duration("x", text).expect("legal");
            assert_eq!(read, Duration::from_millis(millis));
            assert_eq!(show_duration(read), text);
        }
        for (text, size) in [
            ("17", 17),
            ("3KiB", 3072),
            ("64MiB", 64 << 20),
            ("1GiB", 1 << 30),
        ] {
            let read = bytes("x", text).expect("legal");
            assert_eq!((read, show_bytes(read)), (size, text.to_owned()));
        }
        assert_eq!(show_duration(Duration::ZERO), "0ms");
        assert_eq!(show_duration(Duration::from_micros(1500)), "1.5ms");
    }

    #[test]
    fn text_without_a_unit_or_a_number_is_a_fault_that_names_the_field() {
        for text in [
            "",
            "250",
            "ms",
            "-1s",
            "1.5s",
            "1 s",
            "1d",
            "99999999999999999999s",
            "18446744073709551615h",
        ] {
            let fault = duration("REDIS_CALL_TIMEOUT", text).expect_err(text);
            assert!(
                fault.starts_with(&format!("REDIS_CALL_TIMEOUT: `{text}` given; legal: ")),
                "{fault}"
            );
        }
        for text in [
            "",
            "64MB",
            "MiB",
            "-1",
            "99999999999999999999",
            "99999999999GiB",
        ] {
            assert!(bytes("x", text).is_err(), "{text}");
        }
        assert!(count("x", "many").is_err());
    }

    #[test]
    fn the_environment_is_read_under_its_prefix() {
        let found = read(
            "CACHE_",
            &[
                ("CACHE_URL", "redis://h"),
                ("CACHE_CALL_TIMEOUT", "250ms"),
                ("CACHE_MAX_IN_FLIGHT", "7"),
                ("CACHE_NAME", "sessions"),
                ("CACHE_DETECT_WITHIN", "2s"),
                ("CACHE_STALL_AFTER", "100ms"),
                ("CACHE_CONNECT_TIMEOUT", "1s"),
                ("CACHE_MAX_BUFFERED_BYTES", "1MiB"),
                ("CACHE_READ_FROM", "prefer_replica"),
                ("REDIS_URL", "not ours"),
            ],
        );
        assert_eq!(found.faults, Vec::<String>::new());
        assert_eq!(found.url.as_deref(), Some("redis://h"));
        assert_eq!(
            found.settings,
            Settings {
                call_timeout: Some(Duration::from_millis(250)),
                max_in_flight: Some(7),
                name: Some("sessions".to_owned()),
                detect_within: Some(Duration::from_secs(2)),
                stall_after: Some(Duration::from_millis(100)),
                connect_timeout: Some(Duration::from_secs(1)),
                max_buffered_bytes: Some(1 << 20),
                read_from: Some(ReadFrom::PreferReplica),
            }
        );
    }

    #[test]
    fn a_misspelt_variable_is_a_fault_and_what_kubernetes_adds_is_not() {
        let found = read(
            "REDIS_",
            &[
                ("REDIS_URL", "redis://h"),
                ("REDIS_PORT", "tcp://10.0.0.1:6379"),
                ("REDIS_PORT_6379_TCP_ADDR", "10.0.0.1"),
                ("REDIS_SERVICE_HOST", "10.0.0.1"),
                ("REDIS_HOST", "h"),
                ("REDIS_CALL_TIMOUT", "1s"),
                ("REDIS_DETECT_WITHIN_MS", "1000"),
            ],
        );
        assert_eq!(found.faults.len(), 2, "{:?}", found.faults);
        assert!(found.faults[0].contains("did you mean REDIS_CALL_TIMEOUT?"));
        assert!(found.faults[1].contains("did you mean REDIS_DETECT_WITHIN?"));
    }

    #[test]
    fn a_missing_url_an_empty_prefix_and_bad_values_are_faults() {
        let found = read(
            "REDIS_",
            &[("REDIS_CALL_TIMEOUT", "soon"), ("REDIS_MAX_IN_FLIGHT", "")],
        );
        assert_eq!(found.faults.len(), 3, "{:?}", found.faults);
        assert!(found.faults[2].starts_with("REDIS_URL: missing"));
        assert!(read("", &[("URL", "redis://h")]).faults[0].starts_with("prefix: empty"));
    }

    #[cfg(unix)]
    #[test]
    fn a_value_that_is_not_text_is_a_fault_that_does_not_show_it() {
        use std::os::unix::ffi::OsStringExt;
        let value = OsString::from_vec(b"redis://:canary\xff@h".to_vec());
        let found = Environment::read("R_", [("R_URL".into(), value)].into_iter());
        assert_eq!(found.faults[0], "R_URL: not valid UTF-8");
    }
}
