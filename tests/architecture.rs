//! Who may use whom: ARCHITECTURE.md's table, held against the sources.

use std::fs;
use std::path::Path;

/// Each room, the rooms it may use, and the crates it must not.
const ROOMS: [(&str, &[&str], &[&str]); 12] = [
    ("model", &[], &["tonic", "axum", "sqlx", "prost", "tokio"]),
    ("observe", &[], &["tonic", "axum", "sqlx", "prost"]),
    ("config", &["model"], &["tonic", "axum", "sqlx", "prost"]),
    ("repository", &["model"], &["tonic", "axum", "prost"]),
    ("broker", &["model", "client"], &["tonic", "axum", "sqlx", "prost"]),
    ("client", &["model", "pb"], &["axum", "sqlx"]),
    ("service", &["model", "repository", "broker"], &["tonic", "axum", "prost", "sqlx"]),
    ("ratelimiter", &["model", "client"], &["tonic", "axum", "sqlx", "prost"]),
    ("interceptor", &["model", "client", "converter", "ratelimiter"], &["sqlx"]),
    ("converter", &["model", "pb", "service"], &["axum", "sqlx"]),
    ("pb", &[], &["axum", "sqlx"]),
    ("transport", &["model", "broker", "service", "interceptor", "converter", "pb", "ratelimiter"], &["sqlx"]),
];

/// What every room may use.
const EVERYWHERE: &str = "observe";

fn sources(folder: &Path, out: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            sources(&entry, out);
        } else if entry.file_name().is_some_and(|name| name != "tests.rs") {
            let text = fs::read_to_string(&entry).unwrap();
            // Tests may use what they like.
            let code = text.split("#[cfg(test)]").next().unwrap().to_owned();
            out.push((entry.display().to_string(), code));
        }
    }
}

#[test]
fn rooms_use_only_what_the_table_allows() {
    let mut wrong = Vec::new();
    for (room, may_use, must_not) in ROOMS {
        let mut files = Vec::new();
        sources(&Path::new("src").join(room), &mut files);
        assert!(!files.is_empty(), "{room}");
        for (file, code) in files {
            let code: Vec<&str> = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
            for (other, _, _) in ROOMS.into_iter().chain([("app", &[][..], &[][..])]) {
                let used = code.iter().any(|line| line.contains(&format!("crate::{other}::")));
                if used && other != room && other != EVERYWHERE && !may_use.contains(&other) {
                    wrong.push(format!("{file} uses {other}"));
                }
            }
            for name in must_not {
                if code.iter().any(|line| line.contains(&format!("{name}::"))) {
                    wrong.push(format!("{file} uses the crate {name}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Every reason that a client may be told has its row.
#[test]
fn docs_clients_lists_every_reason() {
    let code = fs::read_to_string("src/converter/status.rs").unwrap();
    let code = code.split("#[cfg(test)]").next().unwrap();
    let listed = fs::read_to_string("docs/clients.md").unwrap();
    let listed: Vec<&str> = listed.split(|c: char| !c.is_ascii_uppercase() && c != '_' && !c.is_ascii_digit()).collect();
    let reasons = code
        .split('"')
        .skip(1)
        .step_by(2)
        .filter(|text| text.len() > 3 && text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_'));
    let missing: Vec<&str> = reasons.filter(|reason| !listed.contains(reason)).collect();
    assert!(missing.is_empty(), "docs/clients.md lacks {missing:?}");
}

/// What stands between a macro's brackets, from behind the first one on, by its commas.
fn arguments(code: &str) -> Vec<String> {
    let (mut out, mut depth, mut in_text, mut before) = (vec![String::new()], 0, false, ' ');
    for c in code.chars() {
        match c {
            '"' if before != '\\' => in_text = !in_text,
            '(' | '[' | '{' if !in_text => depth += 1,
            ')' | ']' | '}' if !in_text && depth == 0 => break,
            ')' | ']' | '}' if !in_text => depth -= 1,
            _ => {}
        }
        before = c;
        match out.last_mut() {
            Some(argument) if c != ',' || in_text || depth > 0 => argument.push(c),
            _ => out.push(String::new()),
        }
    }
    out.iter().map(|argument| argument.trim().to_owned()).filter(|argument| !argument.is_empty()).collect()
}

/// Every line of INFO and above has its row, and every field its name, those of DEBUG too.
#[test]
fn docs_logging_lists_every_line_and_every_field() {
    let mut files = Vec::new();
    sources(Path::new("src"), &mut files);
    let documented = fs::read_to_string("docs/logging.md").unwrap();
    let (mut missing, mut lines) = (Vec::new(), 0);
    for (file, code) in files {
        for level in ["error", "warn", "info", "debug"] {
            for (_, rest) in code.match_indices(&format!("tracing::{level}!(")).map(|(at, start)| code.split_at(at + start.len())) {
                let arguments = arguments(rest);
                let Some((message, fields)) = arguments.split_last() else { panic!("{file}: a line without a message") };
                let message = message.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
                let message = message.unwrap_or_else(|| panic!("{file}: a line's message is its last argument, a text: {arguments:?}"));
                let names = fields.iter().filter(|field| !field.starts_with("target:"));
                let names = names.map(|field| field.split(" =").next().unwrap().trim_start_matches(['%', '?']));
                let said = names.chain((level != "debug").then_some(message));
                missing.extend(said.filter(|text| !documented.contains(&format!("`{text}`"))).map(|text| format!("{file}: {text}")));
                lines += 1;
            }
        }
    }
    assert!(lines > 30, "the scan finds no lines any more: {lines}");
    assert!(missing.is_empty(), "docs/logging.md lacks {missing:#?}");
}

/// README.md, what stands beside it, and docs/.
fn documents() -> Vec<std::path::PathBuf> {
    let mut documents: Vec<std::path::PathBuf> =
        ["README.md", "ARCHITECTURE.md", "SECURITY.md", "CHANGELOG.md"].into_iter().map(Into::into).collect();
    documents.extend(fs::read_dir("docs").unwrap().map(|entry| entry.unwrap().path()));
    documents
}

/// The files that the documents name are there. The CHANGELOG tells of what was.
#[test]
fn paths_that_documents_name_are_there() {
    let (mut missing, mut named) = (Vec::new(), 0);
    for document in documents().into_iter().filter(|document| !document.ends_with("CHANGELOG.md")) {
        let text = fs::read_to_string(&document).unwrap();
        let quoted = text.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
        let words = quoted.flat_map(str::split_whitespace).map(|word| word.trim_end_matches([',', ';', ':', ')']));
        for path in words.filter(|word| ["tests/", "src/", "scripts/", "benches/"].iter().any(|folder| word.starts_with(folder))) {
            named += 1;
            if !path.contains(['…', '*', '<']) && !Path::new(path).exists() {
                missing.push(format!("{}: {path}", document.display()));
            }
        }
    }
    assert!(named > 30, "the scan finds no paths any more: {named}");
    assert!(missing.is_empty(), "{missing:#?}");
}

/// What the documents point to is there.
#[test]
fn links_between_documents_lead_somewhere() {
    let mut broken = Vec::new();
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = target.split('#').next().unwrap();
            let local = !target.is_empty() && !target.contains("://");
            if local && !document.parent().unwrap().join(target).exists() {
                broken.push(format!("{}: {target}", document.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}
