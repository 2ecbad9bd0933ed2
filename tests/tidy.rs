//! Style as a test: what a program can check of it, over every Rust file of the workspace.
//!
//! What the compiler, rustfmt and clippy check already is not repeated here.

use std::fs;
use std::path::{Path, PathBuf};

/// The layers of the main crate and their modules, from the top down. A module may name modules of
/// its own layer and of the layers below it. A folder stands for all its files but those that are
/// listed themselves.
const LAYERS: [(&str, &[&str]); 6] = [
    ("entry", &["main", "lib", "cli", "demo"]),
    (
        "control",
        &[
            "config",
            "server",
            "signals",
            "admin",
            "fleet",
            "health/active",
            "stats/store",
        ],
    ),
    ("worker", &["worker"]),
    (
        "path",
        &[
            "listener",
            "tcp",
            "http1/session",
            "http1/exchange",
            "http1/gateway",
            "http1/request",
            "http1/response",
            "http1/simulation",
            "proxy_protocol/receive",
            "upstream",
            "relay",
        ],
    ),
    (
        "rules",
        &[
            "http1",
            "proxy_protocol",
            "balance",
            "clients",
            "health",
            "stats",
        ],
    ),
    ("machine", &["io", "limits"]),
];

/// The only home of unsafe code.
const UNSAFE_HOME: &str = "src/io/";
/// What follows the word where it is no mere word.
const UNSAFE_FORMS: [&str; 5] = [" {", " fn", " impl", " trait", " extern"];
const COLUMNS_MAX: usize = 100;
/// Lines of a file before its tests.
const LINES_MAX: usize = 500;
/// Macros and marks of unfinished work; the marks in halves, so that this file has none.
const UNFINISHED_MACROS: [&str; 3] = ["dbg", "todo", "unimplemented"];
const UNFINISHED_MARKS: [&str; 3] = [
    concat!("FIX", "ME"),
    concat!("TO", "DO"),
    concat!("X", "XX"),
];

#[test]
fn the_workspace_is_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = files(root, ".rs");
    assert!(
        files.len() > 2,
        "the files of the workspace were not found under {}",
        root.display()
    );
    let faults: Vec<String> = files.iter().flat_map(|path| faults(root, path)).collect();
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

#[test]
fn scripts_are_no_wider_than_code() {
    let scripts = files(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts"),
        ".sh",
    );
    assert!(!scripts.is_empty(), "the scripts were not found");
    for path in scripts {
        let text = fs::read_to_string(&path).expect("the file is text");
        for (index, line) in text.lines().enumerate() {
            let columns = line.chars().count();
            let place = format!("{}:{}", path.display(), index + 1);
            assert!(columns <= COLUMNS_MAX, "{place}: {columns} columns");
        }
    }
}

/// Every file below `folder` whose name ends so, but for what cargo builds and what is hidden.
fn files(folder: &Path, end: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("the folder can be read") {
        let path = entry.expect("the folder can be read").path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            found.extend(files(&path, end));
        } else if name.ends_with(end) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// What is wrong in one file, each as `file:line: what`.
fn faults(root: &Path, path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).expect("the file is text");
    let name = path.strip_prefix(root).unwrap_or(path).to_string_lossy();
    let mut faults: Vec<String> = file_faults(&name, &text)
        .map(|fault| format!("{name}:1: {fault}"))
        .collect();
    for (index, line) in text.lines().enumerate() {
        for fault in line_faults(&name, line) {
            faults.push(format!("{name}:{}: {fault}", index + 1));
        }
    }
    faults
}

/// What is wrong with a file as a whole.
fn file_faults(name: &str, text: &str) -> impl Iterator<Item = String> {
    let is_code = |line: &&str| line.trim() != "#[cfg(test)]";
    let lines = text.lines().take_while(is_code).count();
    let has_layer = module(name).is_none_or(|module| layer(&module).is_some());
    let head = "the first line does not say what the file is (`//!`)";
    let long = format!("{lines} lines before the tests, {LINES_MAX} at most");
    let layerless = "the module has no layer; give it one in tests/tidy.rs";
    let faults = [
        (!text.starts_with("//!")).then(|| head.to_owned()),
        (lines > LINES_MAX).then_some(long),
        (!has_layer).then(|| layerless.to_owned()),
    ];
    faults.into_iter().flatten()
}

/// What is wrong with one line.
fn line_faults(name: &str, line: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let columns = line.chars().count();
    if columns > COLUMNS_MAX {
        faults.push(format!("{columns} columns, {COLUMNS_MAX} at most"));
    }
    if line.ends_with(char::is_whitespace) {
        faults.push("white space at the end".to_owned());
    }
    if line.contains('\t') {
        faults.push("a tab".to_owned());
    }
    faults.extend(unfinished(line).map(|mark| format!("unfinished: {mark}")));
    if is_unsafe(code(line)) && !name.starts_with(UNSAFE_HOME) {
        faults.push(format!("unsafe code outside {UNSAFE_HOME}"));
    }
    if let Some(module) = module(name) {
        faults.extend(upward_imports(&module, code(line)));
    }
    faults
}

/// Marks of unfinished work, in code and in comments.
fn unfinished(line: &str) -> impl Iterator<Item = String> {
    let macros = UNFINISHED_MACROS.map(|name| format!("{name}!"));
    let marks = UNFINISHED_MARKS.map(str::to_owned);
    macros
        .into_iter()
        .chain(marks)
        .filter(|mark| line.contains(mark.as_str()))
}

/// The line without its comment. Cuts inside strings too, which only makes the checks look less.
fn code(line: &str) -> &str {
    line.find("//").map_or(line, |comment| &line[..comment])
}

fn is_unsafe(code: &str) -> bool {
    let begins_unsafe_code = |rest: &str| UNSAFE_FORMS.iter().any(|form| rest.starts_with(form));
    code.split("unsafe").skip(1).any(begins_unsafe_code)
}

/// The module of a file of the main crate, as `http1/head`.
fn module(name: &str) -> Option<String> {
    let module = name.strip_prefix("src/")?.strip_suffix(".rs")?;
    Some(module.strip_suffix("/mod").unwrap_or(module).to_owned())
}

/// The layer of a module, counted from the top: that of the longest name in the table that leads
/// to it.
fn layer(module: &str) -> Option<usize> {
    let leads_to_it = |name: &&str| {
        module
            .strip_prefix(name)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let entries = LAYERS.iter().enumerate().flat_map(|(layer, (_, names))| {
        names
            .iter()
            .copied()
            .filter(leads_to_it)
            .map(move |name| (name.len(), layer))
    });
    entries.max().map(|(_, layer)| layer)
}

/// Imports of a module that stands above this one.
fn upward_imports(module: &str, code: &str) -> Vec<String> {
    let name = |layer: usize| LAYERS[layer].0;
    let mut faults = Vec::new();
    for import in imports(module, code) {
        let (Some(from), Some(to)) = (layer(module), layer(&import)) else {
            continue;
        };
        if to < from {
            let (from, to) = (name(from), name(to));
            faults.push(format!(
                "upward import: {from} may not name {import} ({to})"
            ));
        }
    }
    if code.contains("crate::{") {
        faults.push("name one module per `use`, so that its layer can be seen".to_owned());
    }
    faults
}

/// The modules that a line of `module` names by `crate::` or `super::`, as `http1/head`.
fn imports(module: &str, code: &str) -> Vec<String> {
    let parent = module.rsplit_once('/').map_or("", |(parent, _)| parent);
    let below = |base: &str, path: &str| {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let words = path
            .split("::")
            .map(|word| word.split(|c| !is_word(c)).next().unwrap_or(""));
        let words = words
            .take_while(|word| word.starts_with(char::is_lowercase))
            .take(2);
        let path: Vec<&str> = [base]
            .into_iter()
            .filter(|b| !b.is_empty())
            .chain(words)
            .collect();
        path.join("/")
    };
    let by = |word: &str, base: &str| {
        code.split(word)
            .skip(1)
            .map(|path| below(base, path))
            .collect::<Vec<_>>()
    };
    [by("crate::", ""), by("super::", parent)].concat()
}

#[test]
fn a_listed_file_has_its_own_layer() {
    let layer_name = |module| layer(module).map(|layer| LAYERS[layer].0);
    assert_eq!(layer_name("http1/session"), Some("path"));
    assert_eq!(layer_name("http1/head"), Some("rules"));
    assert_eq!(layer_name("io/uring/orphans"), Some("machine"));
    assert_eq!(layer_name("iota"), None);
}

#[test]
fn only_imports_from_above_are_faults() {
    let upward = |module, code| upward_imports(module, code).len();
    assert_eq!(upward("worker", "use crate::listener::Listener;"), 0);
    assert_eq!(upward("listener", "use crate::worker::Worker;"), 1);
    assert_eq!(upward("http1/head", "use super::session::Session;"), 1);
    assert_eq!(upward("http1/session", "use super::head::Head;"), 0);
    assert_eq!(upward("http1/head", "use super::Version;"), 0);
    assert_eq!(upward("balance", "fn f(fleet: &crate::fleet::Fleet) {}"), 1);
    assert_eq!(upward("config", "use crate::{cli, io};"), 1);
}

#[test]
fn unsafe_is_seen_in_code_alone() {
    assert!(is_unsafe(code(concat!(
        "let byte = unsafe",
        " { *place };"
    ))));
    assert!(!is_unsafe(code(
        "    // Without the check this would be unsafe { .. }."
    )));
    assert!(!is_unsafe(code("#![forbid(unsafe_code)]")));
}
