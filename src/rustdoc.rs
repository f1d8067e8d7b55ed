//! Holds the documentation of every public item against the house rules: an example that runs and uses each method, errors by kind, cancel safety.
//!
//! Owns nothing. What is public is what is plainly `pub` in the source: the lint `unreachable_pub` sees to it. Leaves *whether* there is
//! documentation to the lint `missing_docs`, and that examples work to the doc tests.

use std::{fs, path::Path};

/// A public item as the source has it.
struct Item {
    /// Its file, for the reader of a failure.
    file: String,
    docs: String,
    /// Up to its body.
    signature: String,
    /// The type in whose `impl` it stands, if it is a method.
    of: Option<String>,
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
        match &self.of {
            Some(of) => format!("{} · {of}::{name}", self.file),
            None => format!("{} · {name}", self.file),
        }
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

/// Whose `impl` begins with this line: the first word behind its parameters.
fn implementor(line: &str) -> String {
    let mut depth = 0;
    let parameters = |c: char| {
        depth += i32::from(c == '<') - i32::from(c == '>');
        depth > 0 || c == '>'
    };
    let named = line.trim_start_matches("impl");
    let named = named.trim_start_matches(parameters).trim_start();
    let end = named.find(|c: char| !c.is_alphanumeric());
    named[..end.unwrap_or(named.len())].to_owned()
}

/// The public types and functions of one file.
fn items(file: &str, text: &str) -> Vec<Item> {
    let (mut items, mut docs, mut attribute) = (Vec::new(), String::new(), false);
    let mut of = None;
    let mut lines = text.lines();
    let mut in_macro = false;
    while let Some(line) = lines.next() {
        let bare = line.trim_start();
        in_macro |= line == "pin_project! {";
        in_macro &= line != "}";
        if line.starts_with("impl") {
            of = Some(implementor(line));
        }
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
                    of: of.clone().filter(|_| line.starts_with(' ') && !in_macro),
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

/// What a reader sees of the examples in a documentation: nothing of what is hidden behind a `#`, and no blank.
pub(crate) fn examples(docs: &str) -> String {
    // Whether the block that is open runs.
    let mut block = None;
    let mut shown = String::new();
    for line in docs.lines().map(str::trim) {
        if let Some(tag) = line.strip_prefix("```") {
            block = block.is_none().then_some(tag.is_empty());
        } else if block == Some(true) && !matches!(line, "" | "#") && !line.starts_with("# ") {
            shown += line;
            shown.push('\n');
        }
    }
    shown
}

/// Whether something is called or named by this name, as a method or by its path.
fn uses(example: &str, name: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    example.match_indices(name).any(|(at, _)| {
        let (before, after) = (&example[..at], &example[at + name.len()..]);
        before.ends_with(['.', ':']) && !after.starts_with(is_word)
    })
}

#[test]
fn each_example_runs() {
    let sources = all_sources();
    let mut blocks = 0;
    for (file, text) in &sources {
        let lines = text.lines().map(str::trim_start);
        let docs = lines.filter_map(|line| {
            let doc = line.strip_prefix("///").or(line.strip_prefix("//!"));
            doc.and_then(|doc| doc.trim_start().strip_prefix("```"))
        });
        for (number, fence) in docs.enumerate() {
            let is_sound = matches!(fence, "" | "text") && (number % 2 == 0 || fence.is_empty());
            assert!(is_sound, "{file}: {fence}");
            blocks += 1;
        }
    }
    assert!(blocks > 150, "{blocks} fences");
}

#[test]
fn each_public_type_and_free_function_has_an_example() {
    for item in all_items().iter().filter(|item| item.of.is_none()) {
        assert!(
            !examples(&item.docs).is_empty(),
            "{}: no example",
            item.name()
        );
    }
}

/// The method of another type by whose documentation this one stands, where it says `See [...].` and nothing more.
fn elsewhere(docs: &str) -> Option<(&str, &str)> {
    let (of, name) = docs.trim().strip_prefix("See [`")?.split_once("::")?;
    Some((of, name.strip_suffix("`].")?))
}

#[test]
fn each_public_method_is_used_in_an_example_of_its_own_or_of_its_type() {
    let all = all_items();
    let shown: Vec<String> = all.iter().map(|item| examples(&item.docs)).collect();
    let mut unused = Vec::new();
    for item in &all {
        let (Some(of), Some(name)) = (item.of.as_deref(), item.named(&["fn"])) else {
            continue;
        };
        let (of, name) = elsewhere(&item.docs).unwrap_or((of, name));
        let is_of = |other: &Item| match &other.of {
            Some(other) => other == of,
            None => other.type_name() == Some(of),
        };
        let mut all = all.iter().zip(&shown);
        if !all.any(|(other, shown)| is_of(other) && uses(shown, name)) {
            unused.push(item.name());
        }
    }
    assert_eq!(unused, Vec::<String>::new());
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
    for item in all_items().iter().filter(|item| item.of.is_none()) {
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
