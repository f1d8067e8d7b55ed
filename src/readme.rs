//! Holds the README and the failure handbook against the code: what they name exists, their tables say what the code does, and the
//! README's examples are those of the documentation, which run.
//!
//! Owns nothing.

mod tests {
    use crate::{
        config::defaults,
        telemetry::{
            labels::{
                Answers, FenceOutcome, Label, LinkEnd, LinkState, Lookup, Outcome, PrimaryChange,
                ProbeOutcome, ReplayKind, Transition,
            },
            names,
        },
    };

    const README: &str = include_str!("../README.md");
    const HANDBOOK: &str = include_str!("../docs/failure-handbook.md");

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

    /// What is a guide without its hidden lines is in the documentation with them, for there it runs as it stands.
    #[test]
    fn each_example_of_the_readme_is_one_of_the_documentation() {
        let run: Vec<String> = crate::rustdoc::all_sources()
            .iter()
            .map(|(_, text)| {
                let lines = text.lines().map(str::trim_start);
                let docs =
                    lines.filter_map(|line| line.strip_prefix("//")?.strip_prefix(['/', '!']));
                crate::rustdoc::examples(&docs.collect::<Vec<_>>().join("\n"))
            })
            .collect();
        let blocks: Vec<&str> = README.split("\n```rust").skip(1).collect();
        assert!(blocks.len() >= 3);
        for block in blocks {
            let (block, _) = block.split_once("\n```").expect("an end of the block");
            let block = crate::rustdoc::examples(&format!("```{block}\n```"));
            assert!(
                !block.is_empty() && run.iter().any(|examples| examples.contains(&block)),
                "{block}"
            );
        }
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

    /// The words between backticks.
    fn quoted(text: &str) -> Vec<&str> {
        text.split('`').skip(1).step_by(2).collect()
    }

    #[test]
    fn each_page_of_the_handbook_is_held_by_a_test_that_exists() {
        let mut code = include_str!("cancellation.rs").to_owned();
        let mut folders = vec![std::path::PathBuf::from(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests"
        ))];
        while let Some(folder) = folders.pop() {
            for file in std::fs::read_dir(folder)
                .expect("a folder of tests")
                .flatten()
            {
                match file.path() {
                    path if path.is_dir() => folders.push(path),
                    path => code += &std::fs::read_to_string(path).unwrap_or_default(),
                }
            }
        }
        for page in HANDBOOK.split("\n## ").skip(1) {
            let title = page.lines().next().unwrap_or_default();
            let (_, proof) = page.split_once("**Proved by**").unwrap_or(("", ""));
            let named = quoted(proof);
            assert!(
                !named.is_empty() || page.contains("**not tested**"),
                "{title}"
            );
            for name in named.into_iter().filter(|name| !name.contains('/')) {
                assert!(
                    code.contains(&format!("fn {name}(")),
                    "{title}: no test {name}"
                );
            }
        }
    }

    /// `family{label="value"}` for each series of a family, without its prefix.
    fn series_of<L: Label>(family: &str) -> Vec<String> {
        let name = family.trim_start_matches("redis.holdfast.");
        let pairs = (0..L::TEXT.len()).flat_map(L::pairs);
        pairs
            .map(|(label, value)| format!("{name}{{{label}=\"{value}\"}}"))
            .collect()
    }

    fn all_series() -> Vec<String> {
        [
            series_of::<Outcome>(names::CALLS),
            series_of::<Transition>(names::BREAKER_TRANSITIONS),
            series_of::<LinkState>(names::LINKS),
            series_of::<LinkEnd>(names::LINK_ENDS),
            series_of::<Outcome>(names::DIALS),
            series_of::<ProbeOutcome>(names::PROBES),
            series_of::<FenceOutcome>(names::FENCES),
            series_of::<ReplayKind>(names::REPLAYS),
            series_of::<Lookup>(names::DNS_LOOKUPS),
            series_of::<Answers>(names::SENTINEL_ANSWERS),
            series_of::<PrimaryChange>(names::PRIMARY_CHANGES),
        ]
        .concat()
    }

    #[test]
    fn the_handbook_names_series_that_exist_and_every_family_and_kind() {
        let series = all_series();
        for word in quoted(HANDBOOK) {
            let Some((family, labels)) = word.split_once('{') else {
                continue;
            };
            if family.is_empty() {
                // `{error}`: what to log.
                continue;
            }
            for label in labels.trim_end_matches('}').split(',') {
                let named = format!("{family}{{{label}}}");
                assert!(series.contains(&named), "no series {named}");
            }
        }
        for (name, ..) in names::ALL {
            let Some(family) = name.strip_prefix("redis.holdfast.") else {
                continue;
            };
            let is_there = |word: &str| word == family || word.starts_with(&format!("{family}{{"));
            let speaks = quoted(HANDBOOK).into_iter().any(is_there);
            assert!(speaks, "no page speaks of {family}");
        }
        for kind in Outcome::TEXT {
            let is_failure = *kind != "ok";
            assert!(
                !is_failure || HANDBOOK.contains(&code(kind)),
                "no page speaks of {kind}"
            );
        }
    }

    #[test]
    fn the_handbook_quotes_what_the_code_says() {
        let (_, pages) = HANDBOOK.split_once("\n## ").expect("a page");
        let pages = pages.replace("**", "").replace('\n', " ");
        let words = pages.split('*').skip(1).step_by(2);
        let mut said = crate::rustdoc::all_sources();
        said.retain(|(file, _)| file != "readme.rs");
        let mut found = 0;
        // One word alone is emphasis.
        for phrase in words.filter(|phrase| phrase.contains(' ')) {
            let phrase = phrase.split_whitespace().collect::<Vec<_>>().join(" ");
            let phrase = phrase.trim_start_matches("circuit is open: ");
            if phrase == "…" {
                continue;
            }
            assert!(
                said.iter().any(|(_, text)| text.contains(phrase)),
                "nobody says *{phrase}*"
            );
            found += 1;
        }
        assert!(found >= 20, "{found} phrases");
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
