//! The cluster suite: three real nodes on one PostgreSQL and one Redis, or a Redis Cluster of three, with the delivery checker's clients
//! spread over the nodes, while things break.
//!
//! `make test-cluster` runs it. A name in the arguments runs the faults and promises that hold it; CLUSTER_ROUNDS repeats each fault that
//! often. A fault that did not bite fails the run, as does any count but sent and acknowledged that is not 0. Latencies and times to heal
//! are printed and not judged.

#[path = "../common/mod.rs"]
mod common;
#[path = "../harness/mod.rs"]
mod harness;
mod nginx;
mod programs;
mod promises;
mod proxied;
mod redis;
mod scripts;
mod stage;
mod table;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::process::ExitCode;
use std::time::Instant;

use chat_service::app::check::moments;
use harness::checker::SLOW_READER;
use stage::{Door, Stage, Variant};
use table::Row;
use tokio::runtime::Runtime;

type Script = for<'a> fn(&'a mut Stage) -> Pin<Box<dyn Future<Output = u64> + 'a>>;
type Promise = for<'a> fn(&'a mut Stage) -> Pin<Box<dyn Future<Output = String> + 'a>>;

struct Fault {
    name: &'static str,
    variant: Variant,
    door: Door,
    play: Script,
}

impl Fault {
    fn full_name(&self) -> String {
        let door = match self.door {
            Door::Nodes => "",
            Door::Nginx => ", behind nginx",
        };
        format!("{} on {}{door}", self.name, self.variant.name())
    }
}

const fn direct(name: &'static str, play: Script) -> Fault {
    Fault { name, variant: Variant::Redis, door: Door::Nodes, play }
}

const fn behind_nginx(name: &'static str, play: Script) -> Fault {
    Fault { name, variant: Variant::Redis, door: Door::Nginx, play }
}

const fn on_cluster(name: &'static str, play: Script) -> Fault {
    Fault { name, variant: Variant::RedisCluster, door: Door::Nodes, play }
}

const NO_FAULT: &str = "none";

const FAULTS: &[Fault] = &[
    direct(NO_FAULT, |stage| Box::pin(scripts::nothing(stage))),
    direct("node killed (kill -9)", |stage| Box::pin(scripts::node_killed(stage))),
    direct("node frozen (SIGSTOP)", |stage| Box::pin(scripts::node_frozen(stage))),
    direct("rolling restart", |stage| Box::pin(scripts::rolling_restart(stage))),
    direct("Redis killed (kill -9), restarted", |stage| Box::pin(scripts::redis_killed(stage))),
    direct("Redis frozen (SIGSTOP)", |stage| Box::pin(scripts::redis_frozen(stage))),
    direct("FLUSHALL", |stage| Box::pin(scripts::redis_flushed(stage))),
    direct("Redis connections cut", |stage| Box::pin(scripts::redis_cut(stage))),
    direct("Redis messages dropped", |stage| Box::pin(scripts::messages_dropped(stage))),
    direct("Redis answers swallowed, then reset", |stage| Box::pin(scripts::redis_swallowed(stage))),
    direct("one node's Redis connections stalled", |stage| Box::pin(scripts::one_node_stalled(stage))),
    direct("PostgreSQL killed (kill -9), restarted", |stage| Box::pin(scripts::postgres_killed(stage))),
    behind_nginx(NO_FAULT, |stage| Box::pin(scripts::nothing(stage))),
    behind_nginx("node killed (kill -9)", |stage| Box::pin(scripts::node_killed(stage))),
    behind_nginx("rolling restart", |stage| Box::pin(scripts::rolling_restart(stage))),
    on_cluster(NO_FAULT, |stage| Box::pin(scripts::nothing(stage))),
    on_cluster("master killed (kill -9), restarted", |stage| Box::pin(scripts::master_killed(stage))),
];

/// On one Redis, each; those with nginx are left out where there is none.
const PROMISES: &[(&str, bool, Promise)] = &[
    ("removal and deletion end streams on every node, with Redis", false, |stage| Box::pin(promises::with_redis(stage))),
    ("a removal whose announcement is lost", false, |stage| Box::pin(promises::announcement_lost(stage))),
    ("a removal without Redis", false, |stage| Box::pin(promises::without_redis(stage))),
    ("nginx: nodes limit by the client's address", true, |stage| Box::pin(proxied::client_address(stage))),
    ("nginx: idle streams live", true, |stage| Box::pin(proxied::idle_streams(stage))),
    ("nginx: REST and WebSocket pass", true, |stage| Box::pin(proxied::http(stage))),
];

/// The stage as the last fault left it; set anew for another variant, and behind a failure.
struct Stages {
    current: Option<(Variant, Stage)>,
}

impl Stages {
    async fn of(&mut self, variant: Variant) -> &mut Stage {
        if self.current.as_ref().is_none_or(|(current, _)| *current != variant) {
            self.close().await.expect("nodes end well");
            self.current = Some((variant, Stage::set(variant).await));
        }
        &mut self.current.as_mut().unwrap().1
    }

    async fn close(&mut self) -> Result<(), String> {
        match self.current.take() {
            Some((_, stage)) => stage.stop().await,
            None => Ok(()),
        }
    }
}

async fn play(fault: &'static Fault, stage: &mut Stage) -> Row {
    stage.begin_check(fault.door).await;
    let bit = (fault.play)(stage).await;
    let mut row = Row { bit: (fault.name != NO_FAULT).then_some(bit), ..Row::of(fault) };
    match stage.judge().await {
        Ok(outcome) => {
            row.counts = outcome.judged.counts;
            let moments = moments(&outcome.judged.history).unwrap().without(&[SLOW_READER]);
            row.latencies = moments.latencies().unwrap_or_default();
            row.healed = outcome.spans.iter().map(|(from, until)| moments.healed(*from, *until).0).max().unwrap_or_default();
            std::fs::remove_file(&outcome.judged.history).unwrap();
        }
        Err(error) => row.failure = Some(error),
    }
    if bit == 0 {
        row.failure.get_or_insert("the fault did not bite".into());
    }
    row
}

/// What a panic says, for the one fault or promise that it ends.
fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
        let said = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|said| (*said).to_owned()));
        said.unwrap_or_default()
    })
}

/// A stage that something failed on is not used again.
fn clear(stages: &mut Stages, runtime: &Runtime) {
    let stage = stages.current.take();
    runtime.block_on(async { drop(stage) });
}

fn main() -> ExitCode {
    chat_service::transport::tls::install_provider();
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let wants = |name: &str| wanted.is_empty() || wanted.iter().any(|wanted| name.contains(wanted.as_str()));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let has_nginx = nginx::program().is_some();
    let (mut stages, mut rows, mut failures, mut skipped) = (Stages { current: None }, Vec::new(), Vec::new(), Vec::new());
    let mut passed = 0;

    // One variant behind the other, so that each is set once.
    let (single, cluster): (Vec<&'static Fault>, Vec<&'static Fault>) =
        FAULTS.iter().filter(|fault| wants(&fault.full_name())).partition(|fault| fault.variant == Variant::Redis);
    let mut run_faults = |faults: Vec<&'static Fault>, stages: &mut Stages, skipped: &mut Vec<String>| {
        for fault in faults {
            if fault.door == Door::Nginx && !has_nginx {
                skipped.push(format!("{}: there is no nginx", fault.full_name()));
                continue;
            }
            let began = Instant::now();
            let played = caught(|| runtime.block_on(async { play(fault, stages.of(fault.variant).await).await }));
            let row = played.unwrap_or_else(|panic| Row { failure: Some(panic), ..Row::of(fault) });
            if row.failure.is_some() {
                clear(stages, &runtime);
            }
            let how = if row.failure.is_some() { "FAILED" } else { "ok" };
            println!("{}: {how}, {} s", fault.full_name(), began.elapsed().as_secs());
            rows.push(row);
        }
    };
    run_faults(single, &mut stages, &mut skipped);
    for (name, needs_nginx, keep) in PROMISES.iter().filter(|(name, ..)| wants(name)) {
        if *needs_nginx && !has_nginx {
            skipped.push(format!("{name}: there is no nginx"));
            continue;
        }
        match caught(|| runtime.block_on(async { keep(stages.of(Variant::Redis).await).await })) {
            Ok(measured) => {
                println!("{name}: ok, {measured}");
                passed += 1;
            }
            Err(failure) => {
                println!("{name}: FAILED");
                failures.push(format!("{name}: {failure}"));
                clear(&mut stages, &runtime);
            }
        }
    }
    run_faults(cluster, &mut stages, &mut skipped);
    if let Err(failure) = runtime.block_on(stages.close()) {
        failures.push(failure);
    }

    if !rows.is_empty() {
        table::print(&rows);
    }
    passed += rows.iter().filter(|row| row.failure.is_none()).count();
    failures.extend(rows.iter().filter_map(|row| Some(format!("{}: {}", row.fault.full_name(), row.failure.as_ref()?))));
    for failure in &failures {
        println!("failed: {failure}");
    }
    for skipped in &skipped {
        println!("skipped: {skipped}");
    }
    println!("cluster: {passed} passed, {} failed", failures.len());
    // Where nobody looks, what was left out counts as failed.
    let left_out = std::env::var("CI").is_ok_and(|ci| ci == "true") && !skipped.is_empty();
    if failures.is_empty() && passed > 0 && !left_out { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
