//! Results, goals, and how they are shown: tables, a file, and the last line.

use serde_json::{Value, json};

use crate::bench::{Bench, results_folder};
use crate::load::Sample;
use crate::machine::Machine;
use crate::options::{Mode, Options};
use crate::process::Spent;
use crate::stats::Series;
use crate::{Done, Failure, growth, rows};

/// What a ratio must be.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    AtLeast(f64),
    /// At least `goal`, which is missed by far (docs/performance.md says why) and so would guard nothing: the guard's goal is what is
    /// `reached`.
    Missed {
        goal: f64,
        reached: f64,
    },
    AtMost(f64),
    /// No further from 1 than this.
    Flat(f64),
}

impl Goal {
    /// The goal that counts in this mode.
    fn of(self, mode: Mode) -> Self {
        match self {
            Self::Missed { reached, .. } if mode == Mode::Guard => Self::AtLeast(reached),
            Self::AtLeast(_) | Self::Missed { .. } | Self::AtMost(_) | Self::Flat(_) => self,
        }
    }

    /// Whether a ratio meets the goal, or misses it by no more than the slack allows.
    fn is_met(self, ratio: f64, slack: f64) -> bool {
        match self {
            Self::AtLeast(goal) | Self::Missed { goal, .. } => ratio >= goal * slack,
            Self::AtMost(goal) => ratio <= goal / slack,
            Self::Flat(goal) => (ratio - 1.0).abs() <= goal / slack,
        }
    }

    fn shown(self) -> String {
        match self {
            Self::AtLeast(goal) | Self::Missed { goal, .. } => format!("≥ {goal:.2}"),
            Self::AtMost(goal) => format!("≤ {goal:.2}"),
            Self::Flat(goal) => format!("1 ± {goal:.2}"),
        }
    }
}

/// A measure with a goal.
#[derive(Clone, Debug)]
pub struct Spec {
    pub name: String,
    pub unit: &'static str,
    pub goal: Goal,
    /// What ours is compared with.
    pub against: &'static str,
}

struct Measure {
    spec: Spec,
    ours: Series,
    other: Series,
    ratios: Series,
    spent: Vec<Spent>,
    failure: Option<String>,
}

pub struct Board {
    mode: Mode,
    slack: f64,
    measures: Vec<Measure>,
}

impl Board {
    pub fn new(options: &Options) -> Self {
        Self { mode: options.mode, slack: options.slack, measures: Vec::new() }
    }

    /// Takes a round's pair.
    pub fn record(&mut self, spec: &Spec, ours: Sample, other: Sample) {
        let measure = self.measure(spec);
        measure.ours.push(ours.value);
        measure.other.push(other.value);
        measure.ratios.push(ours.value / other.value);
        measure.spent.push(ours.spent);
        let ratio = ours.value / other.value;
        eprintln!("  {}: {} against {} {}, ratio {ratio:.2}", spec.name, number(ours.value), number(other.value), spec.unit);
    }

    /// A row that couldn't be measured has missed its goal.
    pub fn fail(&mut self, key: &str, error: Failure) {
        eprintln!("  {key} failed: {error}");
        let spec = Spec { name: key.to_owned(), unit: "", goal: Goal::AtLeast(1.0), against: "" };
        self.measure(&spec).failure = Some(error.to_string());
    }

    fn measure(&mut self, spec: &Spec) -> &mut Measure {
        let at = match self.measures.iter().position(|measure| measure.spec.name == spec.name) {
            Some(at) => at,
            None => {
                self.measures.push(Measure {
                    spec: Spec { goal: spec.goal.of(self.mode), ..spec.clone() },
                    ours: Series::default(),
                    other: Series::default(),
                    ratios: Series::default(),
                    spent: Vec::new(),
                    failure: None,
                });
                self.measures.len() - 1
            }
        };
        &mut self.measures[at]
    }

    /// Prints the tables, writes the file, and says whether every goal was met.
    pub fn finish(&self, bench: &Bench, machine: &Machine) -> Done<bool> {
        if self.measures.is_empty() {
            let rows = if bench.options.mode == Mode::Growth { &growth::KEYS[..] } else { &rows::KEYS[..] };
            return Err(format!("BENCH_ONLY names none of the rows: {}", rows.join(", ")).into());
        }
        println!("{}", self.table());
        println!("{}", self.table_of_cpu());
        let file = results_folder().join(bench.options.file());
        std::fs::write(&file, serde_json::to_vec_pretty(&self.json(bench, machine))?)?;
        println!("written to {}", file.display());
        let met = self.measures.iter().filter(|measure| measure.is_met(self.slack)).count();
        let missed = self.measures.len() - met;
        if bench.options.mode == Mode::Guard {
            println!("a goal counts as missed here where the ratio is under {0} × the goal, or over the goal ÷ {0}", self.slack);
        }
        println!("goals: {met} met, {missed} missed");
        Ok(missed == 0)
    }

    fn table(&self) -> String {
        let mut out =
            String::from("\n| measure | unit | ours | compared with | it | ratio | goal | |\n|---|---|--:|---|--:|--:|--:|---|\n");
        for measure in &self.measures {
            let Spec { name, unit, goal, against } = &measure.spec;
            if let Some(failure) = &measure.failure {
                out += &format!("| {name} | | | | | | | FAILED: {} |\n", failure.replace(['|', '\n'], " "));
                continue;
            }
            let verdict = if measure.is_met(self.slack) { "met" } else { "MISSED" };
            let (ours, other, ratio) = (range(&measure.ours), range(&measure.other), ratios(&measure.ratios));
            out += &format!("| {name} | {unit} | {ours} | {against} | {other} | {ratio} | {} | {verdict} |\n", goal.shown());
        }
        out
    }

    /// Who was busy: a core is 1.
    fn table_of_cpu(&self) -> String {
        let mut out = String::from("| cores busy while ours was measured | server | PostgreSQL | client |\n|---|--:|--:|--:|\n");
        for measure in &self.measures {
            let cores = |part: fn(&Spent) -> std::time::Duration| {
                let mut series = Series::default();
                for spent in measure.spent.iter().filter(|spent| !spent.time.is_zero()) {
                    series.push(part(spent).as_secs_f64() / spent.time.as_secs_f64());
                }
                series
            };
            let (server, database, client) = (cores(|spent| spent.server), cores(|spent| spent.database), cores(|spent| spent.client));
            if !server.values().is_empty() {
                let (server, database, client) = (server.median(), database.median(), client.median());
                out += &format!("| {} | {server:.2} | {database:.2} | {client:.2} |\n", measure.spec.name);
            }
        }
        out
    }

    fn json(&self, bench: &Bench, machine: &Machine) -> Value {
        let measures: Vec<Value> = self
            .measures
            .iter()
            .map(|measure| {
                json!({
                    "measure": measure.spec.name,
                    "unit": measure.spec.unit,
                    "compared_with": measure.spec.against,
                    "goal": measure.spec.goal.shown(),
                    "ours": measure.ours.values(),
                    "other": measure.other.values(),
                    "ratios": measure.ratios.values(),
                    "failure": measure.failure,
                    "met": measure.is_met(self.slack),
                })
            })
            .collect();
        let options = &bench.options;
        json!({
            "machine": machine.json(),
            "rounds": options.rounds,
            "seconds": options.time.as_secs_f64(),
            "client_threads": options.client_threads,
            "server_threads": options.server_threads,
            "server_log": options.log,
            "slack": self.slack,
            "measures": measures,
        })
    }
}

impl Measure {
    fn is_met(&self, slack: f64) -> bool {
        self.failure.is_none() && self.spec.goal.is_met(self.ratios.median(), slack)
    }
}

fn range(series: &Series) -> String {
    match series.values() {
        [] => String::new(),
        [one] => number(*one),
        _ => format!("{} [{}–{}]", number(series.median()), number(series.min()), number(series.max())),
    }
}

fn ratios(series: &Series) -> String {
    match series.values() {
        [] => String::new(),
        [one] => format!("{one:.2}"),
        _ => format!("{:.2} [{:.2}–{:.2}]", series.median(), series.min(), series.max()),
    }
}

/// Three digits at least.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
