//! Settings: durations, addresses of databases, flags.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chat_service::app::token;
use chat_service::config::duration::parse_duration;
use chat_service::config::{Config, DatabaseArgs, ServeArgs, Store};
use chat_service::interceptor::token::{Check, Demands, Key, Verifier};
use clap::Parser;
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any};
use proptest::prop_oneof;
use proptest::sample::select;

use crate::check::{Checked, ensure, equal, paused_runtime, property};

const SECRET: &str = "a secret of the tests, long enough for HS256";
const DEVELOPMENT_SECRET: &str = "development-only-secret-of-the-tests-long-enough";
/// Whatever shows this shows a password.
const PASSWORD: &str = "HUNTERTWO";

fn texts(values: &'static [&'static str]) -> impl Strategy<Value = String> {
    select(values).prop_map(str::to_owned)
}

/// What a duration says, by hand.
fn plain_duration(text: &str) -> Option<Duration> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(unit_at);
    let millis_each: u128 = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60 * 1_000,
        "h" => 60 * 60 * 1_000,
        "d" => 24 * 60 * 60 * 1_000,
        _ => return None,
    };
    let millis = digits.parse::<u64>().ok().map(u128::from)? * millis_each;
    u64::try_from(millis).ok().map(Duration::from_millis)
}

#[test]
fn durations_are_what_they_say_or_refused() {
    let written = ("[0-9]{0,21}", texts(&["ms", "s", "", "m", "h", "d", "w", "S", " s", "µs", ".5s"]));
    let written = written.prop_map(|(number, unit)| number + &unit);
    property(512, &prop_oneof![4 => written, 1 => any::<String>()], |text| {
        equal(&parse_duration(&text).ok(), &plain_duration(&text), &text)
    });
}

fn database_url() -> impl Strategy<Value = String> {
    let schemes = texts(&[
        "postgres://",
        "postgresql://",
        "sqlite:",
        "sqlite://",
        "sqlite:///",
        "sqlite::",
        "postgres:/",
        "postgre://",
        "Postgres://",
        "mysql://",
        "",
    ]);
    let rests = prop_oneof![texts(&["localhost/chat", "h:5432/d?sslmode=require", "/var/chat.db", "", ":memory:"]), any::<String>()];
    prop_oneof![
        4 => (schemes, any::<bool>(), rests).prop_map(|(scheme, secret, rest)| {
            let user = if secret { format!("user:{PASSWORD}@") } else { String::new() };
            format!("{scheme}{user}{rest}")
        }),
        1 => any::<String>(),
    ]
}

#[test]
fn database_urls_are_one_of_two_kinds_or_refused_and_keep_their_password() {
    property(512, &database_url(), |url| {
        match Store::of(&DatabaseArgs { database_url: url.clone().into(), migrate: true, database_wait: Duration::ZERO }) {
            Ok(Store::Postgres(kept)) => {
                ensure(url.starts_with("postgres://") || url.starts_with("postgresql://"), || format!("{url} counts as PostgreSQL's"))?;
                equal(kept.expose(), &url, "the address")?;
                let shown = format!("{:?}", Store::Postgres(kept));
                ensure(!shown.contains(PASSWORD), || shown.clone())
            }
            Ok(Store::Sqlite(path)) => {
                ensure(url.starts_with("sqlite:") && url.ends_with(&*path.to_string_lossy()), || {
                    format!("{url} counts as the file {path:?}")
                })?;
                // A name that begins with a colon is SQLite's word for a database in memory.
                ensure(path != Path::new("") && !path.to_string_lossy().starts_with(':'), || format!("{url} counts as the file {path:?}"))
            }
            Err(error) => {
                let shown = format!("{error} {error:?}");
                ensure(!shown.contains(PASSWORD) && shown.contains("DATABASE_URL"), || shown.clone())?;
                ensure(!url.starts_with("postgres://") && !url.starts_with("sqlite:x"), || format!("{url} was refused"))
            }
        }
    });
}

#[derive(Parser)]
struct Serve {
    #[command(flatten)]
    args: ServeArgs,
}

const ADDRESSES: &[&str] =
    &["127.0.0.1:0", "[::1]:1", "0.0.0.0:50051", "10.1.2.3:65535", "localhost:1", "127.0.0.1", "127.0.0.1:65536", ""];
const DURATIONS: &[&str] =
    &["0", "0s", "1ms", "9ms", "10ms", "2s", "1h", "61m", "7d", "106751991167d", "18446744073709551615ms", "-1s", ""];
const NUMBERS: &[&str] = &["0", "1", "128", "4294967295", "4294967296", "18446744073709551615", "-1", "1.5", ""];
const TRUTHS: &[&str] = &["true", "false", "yes", "1", ""];
const FLAGS: &[&str] = &[
    "--listen",
    "--admin-listen",
    "--database-url",
    "--migrate",
    "--tls-cert",
    "--tls-key",
    "--insecure",
    "--auth-public-key",
    "--auth-issuer",
    "--auth-audience",
    "--auth-leeway",
    "--max-connections",
    "--max-streams-per-connection",
    "--sweep-interval",
    "--shutdown-timeout",
    "--reflection",
    "--log",
    "--log-format",
    "--nonsense",
    "--help",
    "-x",
    "",
];

fn flag() -> impl Strategy<Value = (String, String)> {
    prop_oneof![
        6 => (texts(&["--listen", "--admin-listen"]), texts(ADDRESSES)),
        8 => (texts(&["--sweep-interval", "--shutdown-timeout", "--auth-leeway"]), texts(DURATIONS)),
        4 => (texts(&["--max-connections", "--max-streams-per-connection"]), texts(NUMBERS)),
        2 => (texts(&["--migrate", "--insecure", "--reflection"]), texts(TRUTHS)),
        2 => (Just("--database-url".to_owned()), database_url()),
        1 => (texts(FLAGS), any::<String>()),
    ]
}

/// What holds of every configuration that a server starts with.
fn keeps_its_ranges(config: &Config, is_development: bool) -> Checked {
    let (sweep, leeway) = (config.args.sweep_interval, config.args.auth.auth_leeway);
    ensure(sweep >= Duration::from_millis(10), || format!("a sweep every {sweep:?}"))?;
    ensure(leeway <= Duration::from_secs(600), || format!("a leeway of {leeway:?}"))?;
    ensure(!is_development || config.args.listen.ip().is_loopback(), || "a development secret beyond loopback".into())?;
    equal(&config.development, &is_development, "whether it is for development")?;
    // The name of a file is no secret.
    let store = if matches!(config.store, Store::Sqlite(_)) { String::new() } else { format!("{:?}", config.store) };
    let shown = format!("{store} {:?}", config.key);
    ensure([PASSWORD, SECRET, DEVELOPMENT_SECRET, "97, 32, 115"].iter().all(|secret| !shown.contains(secret)), || shown.clone())?;
    // What is built from them doesn't panic.
    paused_runtime().block_on(async { tokio::time::interval(sweep).tick().await });
    let secret = if is_development { DEVELOPMENT_SECRET } else { SECRET };
    let demands = Demands { leeway_secs: leeway.as_secs(), ..Demands::default() };
    let verifier = Verifier::new(&Key::Secret(secret.into()), &demands).ok_or("no verifier")?;
    let token = token::sign(secret.as_bytes(), "alice", &[], Duration::from_secs(60), None, None).map_err(|error| error.to_string())?;
    let Check::Done(checked) = Arc::new(verifier).check(&token, "") else { return Err("a key of one's own asks nobody".into()) };
    ensure(checked.is_ok(), || format!("with a leeway of {leeway:?} a good token is refused"))
}

#[test]
fn what_a_server_starts_with_is_within_its_ranges() {
    let folder = tempfile::tempdir().unwrap();
    let secret = |name: &str, secret: &str| -> PathBuf {
        let path = folder.path().join(name);
        std::fs::write(&path, secret).unwrap();
        path
    };
    let (own, development) = (secret("own", SECRET), secret("development", DEVELOPMENT_SECRET));
    property(384, &(vec(flag(), 0..4), any::<bool>()), |(flags, is_development)| {
        // Each flag once: the last one counts.
        let flags: BTreeMap<String, String> = flags.into_iter().collect();
        let secret = if is_development { &development } else { &own };
        let flags = flags.iter().map(|(name, value)| format!("{name}={value}"));
        let command = ["serve".to_owned(), format!("--auth-secret={}", secret.display())].into_iter().chain(flags);
        let Ok(Serve { args }) = Serve::try_parse_from(command) else { return Ok(()) };
        match Config::of(args) {
            Ok(config) => keeps_its_ranges(&config, is_development),
            Err(error) => {
                let shown = format!("{error} {error:?}");
                ensure(!shown.contains(PASSWORD) && !shown.contains(secret_text(is_development)), || shown.clone())
            }
        }
    });
}

fn secret_text(is_development: bool) -> &'static str {
    if is_development { DEVELOPMENT_SECRET } else { SECRET }
}
