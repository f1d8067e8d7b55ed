//! Holds the documentation of every public item against the house rules: an example that runs, errors by kind, cancel safety.
//!
//! Owns nothing. What is public is what is plainly `pub` in the source: the lint `unreachable_pub` sees to it. Leaves *whether* there is
//! documentation to the lint `missing_docs`, and that examples work to the doc tests.

use std::{fs, path::Path};

/// What only a server can answer: its example is compiled and does not run.
const NEED_A_SERVER: &[&str] = &[
    "Client",
    "ClusterGuard",
    "RedisConnector",
    "ResilienceLayer",
];

/// A public item as the source has it.
struct Item {
    /// Its file, for the reader of a failure.
    file: String,
    docs: String,
    /// Up to its body.
    signature: String,
    /// Inside an `impl`: its type has the example.
    is_method: bool,
}

impl Item {
    /// The first word after one of these keywords.
    fn named(&self, keywords: &[&str]) -> Option<&str> {
        let mut words = self
            .signature
            .split(|c: char| !c.is_alphanumeric() && c != '_');
        words.find(|word| keywords.contains(word))?;
        words.next()
    }

    fn type_name(&self) -> Option<&str> {
        self.named(&["struct", "enum", "trait", "type"])
    }

    fn says(&self, what: &str) -> bool {
        self.docs.to_lowercase().contains(what)
    }

    fn returns(&self, what: &str) -> bool {
        let (_, returned) = self.signature.split_once("->").unwrap_or(("", ""));
        returned.contains(what)
    }

    fn name(&self) -> String {
        let name = self
            .type_name()
            .or_else(|| self.named(&["fn"]))
            .unwrap_or("?");
        format!("{} · {name}", self.file)
    }
}

/// The source, file by file, without its tests.
fn sources(folder: &Path, found: &mut Vec<(String, String)>) {
    for file in fs::read_dir(folder).expect("a folder of sources").flatten() {
        let path = file.path();
        let name = path.display().to_string();
        if path.is_dir() {
            sources(&path, found);
        } else if !name.ends_with("fuzz.rs") {
            let text = fs::read_to_string(&path).expect("a source");
            let end = text.find("#[cfg(test)]\nmod tests {");
            let file = name
                .rsplit_once("src/")
                .map_or(name.clone(), |(_, file)| file.into());
            found.push((file, text[..end.unwrap_or(text.len())].to_owned()));
        }
    }
}

pub(crate) fn all_sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
    sources(Path::new(folder), &mut found);
    found
}

/// The public types and functions of one file.
fn items(file: &str, text: &str) -> Vec<Item> {
    let (mut items, mut docs, mut attribute) = (Vec::new(), String::new(), false);
    let mut lines = text.lines();
    let mut in_macro = false;
    while let Some(line) = lines.next() {
        let bare = line.trim_start();
        in_macro |= line == "pin_project! {";
        in_macro &= line != "}";
        if let Some(doc) = bare.strip_prefix("///") {
            docs += doc;
            docs.push('\n');
        } else if attribute || bare.starts_with("#[") {
            attribute = !bare.ends_with(']');
        } else {
            let words: Vec<&str> = bare.split(' ').take(3).collect();
            if let [
                "pub",
                "struct" | "enum" | "trait" | "type" | "fn" | "async",
                _,
            ] = *words
            {
                let mut signature = bare.to_owned();
                while !signature.contains(['{', ';']) {
                    signature += lines.next().expect("a body");
                }
                items.push(Item {
                    file: file.to_owned(),
                    docs: docs.clone(),
                    signature,
                    is_method: line.starts_with(' ') && !in_macro,
                });
            }
            docs.clear();
        }
    }
    items
}

fn all_items() -> Vec<Item> {
    let sources = all_sources();
    let all: Vec<Item> = sources
        .iter()
        .flat_map(|(file, text)| items(file, text))
        .collect();
    // A scan that finds nothing would prove nothing.
    assert!(all.len() > 200, "{} public items", all.len());
    all
}

/// How the code blocks of a documentation begin.
fn blocks(docs: &str) -> Vec<&str> {
    let fences = docs
        .lines()
        .filter_map(|line| line.trim().strip_prefix("```"));
    fences.step_by(2).collect()
}

#[test]
fn each_public_type_and_free_function_has_an_example_that_runs() {
    let mut compiled_only = Vec::new();
    for item in all_items().iter().filter(|item| !item.is_method) {
        let blocks = blocks(&item.docs);
        assert!(!blocks.is_empty(), "{}: no example", item.name());
        if blocks.contains(&"") {
            continue;
        }
        assert!(blocks.contains(&"no_run"), "{}: {blocks:?}", item.name());
        compiled_only.extend(item.type_name().map(str::to_owned));
    }
    compiled_only.sort_unstable();
    assert_eq!(compiled_only, NEED_A_SERVER);
}

#[test]
fn each_public_function_that_can_fail_says_how() {
    for item in all_items().iter().filter(|item| item.returns("Result<")) {
        assert!(item.says("# errors"), "{}", item.name());
    }
}

#[test]
fn each_public_function_that_waits_says_what_a_drop_leaves() {
    let all = all_items();
    let waiting = all
        .iter()
        .filter(|item| item.signature.starts_with("pub async") || item.returns("Future"));
    assert!(waiting.clone().count() >= 4);
    for item in waiting {
        assert!(item.says("cancel safety"), "{}", item.name());
    }
}

/// A service's errors and what becomes of its calls when they are dropped stand with its type: its methods are the trait's.
#[test]
fn each_public_service_connection_and_future_says_how_it_fails_and_what_a_drop_leaves() {
    let sources = all_sources();
    let text: String = sources.iter().map(|(_, text)| text.as_str()).collect();
    let mut checked = 0;
    for item in all_items().iter().filter(|item| !item.is_method) {
        let Some(name) = item.type_name() else {
            continue;
        };
        let does = |what: &str| {
            let ends = ['<', ' ', '\n'];
            ends.iter()
                .any(|end| text.contains(&format!("{what} for {name}{end}")))
        };
        let calls = [
            "Service<Request>",
            "Service<Q>",
            "ConnectionLike",
            " Future",
        ];
        if calls.into_iter().any(does) {
            assert!(item.says("errors"), "{}: errors", item.name());
            assert!(item.says("cancel safe"), "{}: cancel safety", item.name());
            checked += 1;
        }
    }
    assert!(checked >= 26, "{checked} services and futures");
}
