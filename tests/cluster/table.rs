//! What the suite prints.

use std::time::Duration;

use chat_service::app::check::latency::{Latencies, Spread};
use chat_service::app::check::verify::Counts;

use crate::Fault;
use crate::stage::Door;

pub struct Row {
    pub fault: &'static Fault,
    /// `None`: there was no fault.
    pub bit: Option<u64>,
    pub counts: Counts,
    pub latencies: Latencies,
    pub healed: Duration,
    pub failure: Option<String>,
}

impl Row {
    pub fn of(fault: &'static Fault) -> Self {
        let (counts, latencies, healed) = (Counts::default(), Latencies::default(), Duration::ZERO);
        Self { fault, bit: None, counts, latencies, healed, failure: None }
    }
}

const LEGEND: &str = "\
bit: how often the fault took effect. refused: sends answered UNAVAILABLE, sent again with the same id.
heal: the longest time from an acknowledgement to the last reader's delivery, of the messages acknowledged while the fault was there;
  it holds the pauses of readers that the check disconnects at random, as the row without a fault shows. One reader that stops reading
  on purpose is left out.
same, cross: delivery latency in ms, p50 / p99, from the sender's first attempt to readers that had joined before it, where both were
  connected to the same node, or to two. Behind nginx the check can't tell the nodes apart: all of it stands under same.";

pub fn print(rows: &[Row]) {
    println!(
        "\n| fault | variant | bit | sent | acked | refused | reconnects | lost | duplicated | reordered | holes | phantoms | heal | same | cross |"
    );
    println!("|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|");
    for row in rows {
        let Counts { sent, acked, rejected, reconnects, lost, duplicated, reordered, holes, phantoms, .. } = row.counts;
        let bit = row.bit.map_or("–".to_owned(), |bit| bit.to_string());
        let door = if row.fault.door == Door::Nginx { ", nginx" } else { "" };
        println!(
            "| {} | {}{door} | {bit} | {sent} | {acked} | {rejected} | {reconnects} | {lost} | {duplicated} | {reordered} | {holes} | {phantoms} | {:.2} s | {} | {} |",
            row.fault.name,
            row.fault.variant.name(),
            row.healed.as_secs_f64(),
            shown(row.latencies.same_node),
            shown(row.latencies.across_nodes),
        );
    }
    println!("\n{LEGEND}\n");
}

fn shown(spread: Option<Spread>) -> String {
    let millis = |time: Duration| time.as_secs_f64() * 1e3;
    spread.map_or("–".to_owned(), |spread| format!("{:.1} / {:.1}", millis(spread.p50), millis(spread.p99)))
}
