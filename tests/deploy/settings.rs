//! local.env.example, held against the options that the code declares; and who else sets some, for the other modules.

use std::collections::BTreeMap;

use chat_service::app::check::CheckArgs;
use chat_service::app::connect::ConnectArgs;
use chat_service::app::token::TokenArgs;
use chat_service::config::ServeArgs;
use clap::{Args, Command};

/// What libraries read by themselves.
pub const OF_LIBRARIES: [&str; 2] = ["PGPASSFILE", "SSL_CERT_FILE"];

/// A command's variables, and the default of each that has one.
fn variables<A: Args>() -> BTreeMap<String, Option<String>> {
    let command = A::augment_args(Command::new("any"));
    let variables = command.get_arguments().filter_map(|argument| {
        let name = argument.get_env()?.to_str()?.to_owned();
        let default: Vec<_> = argument.get_default_values().iter().map(|value| value.to_string_lossy().into_owned()).collect();
        Some((name, Some(default.join(",")).filter(|default| !default.is_empty())))
    });
    variables.collect()
}

/// Every command's variables. Where commands differ in a default the server's counts.
pub fn declared() -> BTreeMap<String, Option<String>> {
    let mut declared = variables::<ConnectArgs>();
    declared.extend(variables::<CheckArgs>());
    declared.extend(variables::<TokenArgs>());
    declared.extend(variables::<ServeArgs>());
    declared
}

/// Fails where `serve` doesn't take these values of its variables.
pub fn accepted<'a>(variables: impl IntoIterator<Item = (&'a str, &'a str)>) {
    let command = ServeArgs::augment_args(Command::new("serve"));
    let mut flags = Vec::new();
    for (name, value) in variables {
        let option = command.get_arguments().find(|argument| argument.get_env().is_some_and(|env| env == name));
        let option = option.and_then(|option| option.get_long()).unwrap_or_else(|| panic!("{name} is no variable of serve"));
        flags.extend([format!("--{option}"), value.to_owned()]);
    }
    accepted_flags(flags.iter().map(String::as_str));
}

/// The same by flags.
pub fn accepted_flags<'a>(flags: impl IntoIterator<Item = &'a str>) {
    let command = ServeArgs::augment_args(Command::new("serve"));
    command.try_get_matches_from(std::iter::once("serve").chain(flags)).unwrap_or_else(|error| panic!("{error}"));
}

/// A variable of the example.
struct Listed {
    /// Without `#`.
    set: bool,
    value: String,
    /// The line above.
    above: String,
}

fn listed() -> BTreeMap<String, Listed> {
    let text = std::fs::read_to_string("local.env.example").unwrap();
    let (mut listed, mut above) = (BTreeMap::new(), "");
    for line in text.lines() {
        let (set, rest) = line.strip_prefix('#').map_or((true, line), |rest| (false, rest));
        if let Some((name, value)) = rest.split_once('=')
            && !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')
        {
            let variable = Listed { set, value: value.trim_matches('\'').to_owned(), above: above.to_owned() };
            assert!(listed.insert(name.to_owned(), variable).is_none(), "{name} stands there twice");
        }
        above = line;
    }
    listed
}

#[test]
fn local_env_example_has_every_variable_with_its_default() {
    let (declared, listed) = (declared(), listed());
    for (name, default) in &declared {
        let variable = listed.get(name).unwrap_or_else(|| panic!("local.env.example lacks {name}"));
        match default {
            Some(default) => assert!(variable.set && variable.value == *default, "{name} is {default} by default"),
            None => assert!(!variable.set, "{name} has no default: it must stand behind #"),
        }
    }
    for (name, variable) in &listed {
        let of_libraries = OF_LIBRARIES.contains(&name.as_str());
        assert!(declared.contains_key(name) || of_libraries, "{name} is no variable of any command");
        assert!(!of_libraries || !variable.set, "{name} has no default: it must stand behind #");
        assert!(variable.above.starts_with("# "), "{name} has no comment above it");
    }
    assert!(OF_LIBRARIES.iter().all(|name| listed.contains_key(*name)));
}
