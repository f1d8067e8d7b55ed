//! Holds the README against the code: its tables say what the code does, and its examples compile.
//!
//! Owns nothing. The doc tests of the README hang on [`Readme`].

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(test)]
mod tests {
    use crate::{
        config::defaults,
        telemetry::{
            labels::{Label, Outcome},
            names,
        },
    };

    const README: &str = include_str!("../README.md");

    /// The rows of the table under `heading`, each cell without its blanks and backticks.
    fn rows(heading: &str) -> Vec<Vec<String>> {
        let section = README.split("\n## ").find(|part| part.starts_with(heading));
        let section = section.unwrap_or_else(|| panic!("no section `{heading}`"));
        let lines = section.lines().skip_while(|line| !line.starts_with('|'));
        lines
            .take_while(|line| line.starts_with('|'))
            .skip(2)
            .map(|line| {
                let cells = line.trim_matches('|').split('|');
                cells.map(|cell| cell.trim().to_owned()).collect()
            })
            .collect()
    }

    fn code(text: &str) -> String {
        format!("`{text}`")
    }

    #[test]
    fn the_table_of_defaults_is_that_of_the_code() {
        let code: Vec<_> = defaults::table()
            .into_iter()
            .map(|(setting, default, legal)| vec![code(setting), default, legal])
            .collect();
        let readme: Vec<_> = rows("Defaults")
            .iter()
            .map(|row| row[..3].to_vec())
            .collect();
        assert_eq!(readme, code);
        assert!(rows("Defaults").iter().all(|row| !row[3].is_empty()));
    }

    #[test]
    fn the_table_of_metrics_is_that_of_the_code() {
        let code: Vec<_> = names::ALL
            .iter()
            .map(|(name, kind, unit, help)| [&*code(name), kind, unit, help].map(str::to_owned))
            .collect();
        assert_eq!(rows("Metrics"), code);
    }

    #[test]
    fn the_table_of_errors_has_every_kind_once() {
        let mut kinds: Vec<_> = Outcome::TEXT
            .iter()
            .skip(1)
            .map(|kind| code(kind))
            .collect();
        let mut readme: Vec<_> = rows("Errors").iter().map(|row| row[0].clone()).collect();
        kinds.sort_unstable();
        readme.sort_unstable();
        assert_eq!(readme, kinds);
    }
}
