//! The fault suite: the delivery checker against a real server process while things break, on both stores.
//!
//! `make test-faults` runs it. A name in the arguments runs the faults that hold it; FAULT_ROUNDS repeats each fault that often.
//! A fault that did not bite fails the run, as does any count but sent and acknowledged that is not 0.

#[path = "../common/mod.rs"]
mod common;
#[path = "../harness/mod.rs"]
mod harness;
mod hostile;
mod overload;
mod scripts;
mod stage;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::process::ExitCode;

use chat_service::app::check::verify::Counts;
use common::On;
use stage::{Disk, Needs, Stage};

type Script = for<'a> fn(&'a mut Stage) -> Pin<Box<dyn Future<Output = u64> + 'a>>;

struct Fault {
    name: &'static str,
    stores: &'static [On],
    needs: Needs,
    play: Script,
}

const BOTH: &[On] = &[On::Sqlite, On::Postgres];
const SQLITE: &[On] = &[On::Sqlite];
const POSTGRES: &[On] = &[On::Postgres];
const NONE: Needs = Needs { small_disk_mib: None, back: false, flags: scripts::SHUTDOWN_FLAGS };
const BACK: Needs = Needs { back: true, ..NONE };

const FAULTS: &[Fault] = &[
    Fault { name: "server killed (kill -9)", stores: BOTH, needs: NONE, play: |stage| Box::pin(scripts::server_killed(stage)) },
    Fault { name: "server frozen (SIGSTOP)", stores: BOTH, needs: NONE, play: |stage| Box::pin(scripts::server_frozen(stage)) },
    Fault { name: "graceful stop under load", stores: BOTH, needs: NONE, play: |stage| Box::pin(scripts::graceful_stop(stage)) },
    Fault { name: "hostile clients, then a stop", stores: BOTH, needs: NONE, play: |stage| Box::pin(scripts::hostile_clients(stage)) },
    Fault { name: "client connections cut", stores: BOTH, needs: NONE, play: |stage| Box::pin(scripts::clients_cut(stage)) },
    Fault { name: "client connections delayed", stores: BOTH, needs: NONE, play: |stage| Box::pin(scripts::clients_delayed(stage)) },
    Fault { name: "client connections stalled", stores: BOTH, needs: NONE, play: |stage| Box::pin(scripts::clients_stalled(stage)) },
    Fault {
        name: "disk full",
        stores: SQLITE,
        needs: Needs { small_disk_mib: Some(24), ..NONE },
        play: |stage| Box::pin(scripts::disk_full(stage)),
    },
    Fault {
        name: "disk full",
        stores: POSTGRES,
        needs: Needs { small_disk_mib: Some(160), ..NONE },
        play: |stage| Box::pin(scripts::disk_full(stage)),
    },
    Fault { name: "PostgreSQL killed (kill -9)", stores: POSTGRES, needs: NONE, play: |stage| Box::pin(scripts::postgres_killed(stage)) },
    Fault {
        name: "pg_terminate_backend",
        stores: POSTGRES,
        needs: NONE,
        play: |stage| Box::pin(scripts::postgres_connections_ended(stage)),
    },
    Fault { name: "commits' answers cut", stores: POSTGRES, needs: BACK, play: |stage| Box::pin(scripts::commits_unknown(stage)) },
    Fault { name: "PostgreSQL connections cut", stores: POSTGRES, needs: BACK, play: |stage| Box::pin(scripts::postgres_cut(stage)) },
    Fault {
        name: "PostgreSQL connections delayed",
        stores: POSTGRES,
        needs: BACK,
        play: |stage| Box::pin(scripts::postgres_delayed(stage)),
    },
    Fault {
        name: "PostgreSQL connections stalled",
        stores: POSTGRES,
        needs: BACK,
        play: |stage| Box::pin(scripts::postgres_stalled(stage)),
    },
];

struct Row {
    fault: &'static str,
    on: On,
    bit: u64,
    counts: Counts,
    failure: Option<String>,
}

async fn play(fault: &Fault, on: On) -> Row {
    let mut stage = Stage::set(on, fault.needs).await;
    stage.begin_check().await;
    let bit = (fault.play)(&mut stage).await;
    let (counts, mut failure) = match stage.judge().await {
        Ok(counts) => (counts, None),
        Err(error) => (Counts::default(), Some(error)),
    };
    if bit == 0 {
        failure.get_or_insert("the fault did not bite".into());
    }
    if stage.server.stop().await.code() != Some(0) {
        failure.get_or_insert("the server did not end well".into());
    }
    Row { fault: fault.name, on, bit, counts, failure }
}

fn main() -> ExitCode {
    chat_service::transport::tls::install_provider();
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let can_fill_disks = runtime.block_on(Disk::can_be_made());
    let (mut rows, mut skipped) = (Vec::new(), Vec::new());
    for fault in FAULTS.iter().filter(|fault| wanted.is_empty() || wanted.iter().any(|wanted| fault.name.contains(wanted))) {
        for on in fault.stores {
            if fault.needs.small_disk_mib.is_some() && !can_fill_disks {
                skipped.push(format!("{} on {on:?}: only root on Linux can mount a small disk", fault.name));
                continue;
            }
            let began = std::time::Instant::now();
            // A script that panics fails its row, not the others.
            let played = catch_unwind(AssertUnwindSafe(|| runtime.block_on(play(fault, *on))));
            let row = played.unwrap_or_else(|panic| {
                let said = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|said| (*said).to_owned()));
                Row { fault: fault.name, on: *on, bit: 0, counts: Counts::default(), failure: Some(said.unwrap_or_default()) }
            });
            let how = if row.failure.is_some() { "FAILED" } else { "ok" };
            println!("{} on {on:?}: {how}, {} s", fault.name, began.elapsed().as_secs());
            rows.push(row);
        }
    }
    if !rows.is_empty() {
        print_table(&rows);
    }
    let mut overloads = Vec::new();
    if wanted.is_empty() || wanted.iter().any(|wanted| wanted == "overload") {
        for on in BOTH {
            if let Err(failure) = runtime.block_on(overload::run(*on)) {
                println!("overload on {on:?} failed: {failure}");
                overloads.push(false);
            } else {
                overloads.push(true);
            }
        }
    }
    for row in &rows {
        if let Some(failure) = &row.failure {
            println!("{} on {:?} failed: {failure}", row.fault, row.on);
        }
    }
    for skipped in &skipped {
        println!("skipped: {skipped}");
    }
    let all: Vec<bool> = rows.iter().map(|row| row.failure.is_none()).chain(overloads).collect();
    let failed = all.iter().filter(|passed| !**passed).count();
    println!("faults: {} passed, {failed} failed", all.len() - failed);
    // Where nobody looks, what was left out counts as failed.
    let left_out = std::env::var("CI").is_ok_and(|ci| ci == "true") && !skipped.is_empty();
    if failed == 0 && !all.is_empty() && !left_out { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print_table(rows: &[Row]) {
    println!("\n| fault | store | bit | sent | acked | refused | reconnects | lost | duplicated | reordered | holes | phantoms |");
    println!("|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    for Row { fault, on, bit, counts, .. } in rows {
        let Counts { sent, acked, rejected, reconnects, lost, duplicated, reordered, holes, phantoms, .. } = counts;
        let store = match on {
            On::Sqlite => "SQLite",
            On::Postgres => "PostgreSQL",
        };
        println!(
            "| {fault} | {store} | {bit} | {sent} | {acked} | {rejected} | {reconnects} | {lost} | {duplicated} | {reordered} | {holes} | {phantoms} |"
        );
    }
    println!();
}
