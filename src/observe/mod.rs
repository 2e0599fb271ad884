//! What the rooms tell of themselves while they work: numbers, whose work it is, and the steps of a traced request. Every room may use it,
//! and it uses none.
//!
//! - [`metrics`]: every number by its name; one place says what there is.
//! - [`kinds`]: counters, gauges and histograms: atomics that are there before anyone counts, so that counting looks nothing up.
//! - [`methods`]: the calls that are told apart; everything else is `other`, whatever clients make up.
//! - [`text`]: the text that Prometheus reads.
//! - [`process`]: what the system knows of this process.
//! - [`request`]: whose work is done, for the lines of the log.
//! - [`trace`]: spans. Where nothing is traced they cost the look at one flag.

pub mod kinds;
pub mod methods;
pub mod metrics;
pub mod process;
pub mod request;
pub mod text;
pub mod trace;
