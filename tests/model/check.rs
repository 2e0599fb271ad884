//! How properties are run: how often, from which seeds, and what a failure says.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::fmt::Debug;
use std::ops::Range;

use proptest::arbitrary::any;
use proptest::strategy::Strategy;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use tokio::runtime::{Builder, Runtime};

/// What a check says: nothing, or what is wrong.
pub type Checked<T = ()> = Result<T, String>;

/// Tries to make a failing case smaller.
const SHRINKS_MAX: u32 = 256;

/// A run that is decided by two numbers, so that it can be told and run again.
#[derive(Clone, Copy, Debug)]
pub struct Script {
    pub seed: u64,
    pub steps: usize,
}

/// Runs a property on `cases` values; the variable MODEL_CASES multiplies them for a soak.
pub fn property<S: Strategy>(cases: u32, strategy: &S, test: impl Fn(S::Value) -> Checked) {
    let factor = std::env::var("MODEL_CASES").map_or(1, |factor| factor.parse::<u32>().expect("MODEL_CASES is a number"));
    let cases = cases.saturating_mul(factor);
    let config = Config { cases, failure_persistence: None, max_shrink_iters: SHRINKS_MAX, ..Config::default() };
    if let Err(failure) = TestRunner::new(config).run(strategy, |value| test(value).map_err(TestCaseError::fail)) {
        panic!("{failure}");
    }
}

/// Runs a property on scripts. With MODEL_REPLAY=seed/steps, as a failure prints them, it runs that one alone.
pub fn scripts(cases: u32, steps: Range<usize>, test: impl Fn(Script) -> Checked) {
    let told = |script: Script| test(script).map_err(|why| format!("{why}; again: MODEL_REPLAY={}/{}", script.seed, script.steps));
    if let Ok(replay) = std::env::var("MODEL_REPLAY") {
        let script = replay.split_once('/').and_then(|(seed, steps)| Some(Script { seed: seed.parse().ok()?, steps: steps.parse().ok()? }));
        told(script.expect("MODEL_REPLAY is seed/steps")).unwrap_or_else(|why| panic!("{why}"));
        return;
    }
    // Fewer steps of the same seed are a smaller case; another seed is just another case.
    let strategy = (any::<u64>().no_shrink(), steps).prop_map(|(seed, steps)| Script { seed, steps });
    property(cases, &strategy, told);
}

/// One thread, and a clock that jumps to the next timer when nothing else is left to do: pauses cost no time.
pub fn paused_runtime() -> Runtime {
    Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

pub fn ensure(holds: bool, why: impl FnOnce() -> String) -> Checked {
    if holds { Ok(()) } else { Err(why()) }
}

pub fn equal<T: PartialEq + Debug>(found: &T, expected: &T, what: &str) -> Checked {
    ensure(found == expected, || format!("{what}: found {found:?}, expected {expected:?}"))
}
