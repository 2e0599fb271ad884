//! What the system knows of this process: memory, processor time, files. On Linux, from `/proc`; elsewhere only when it began.

use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use super::text::Text;

/// Ticks of the processor in a second, as `/proc` counts them: 100 on every Linux of today.
const TICKS_PER_SECOND: f64 = 100.0;

/// When the process began, as near as it could note it itself.
static BEGAN: OnceLock<SystemTime> = OnceLock::new();

/// Notes that the process begins. What the system knows of that is told instead, where it may be read: systemd's `ProcSubset=pid` hides it.
pub fn begin() {
    BEGAN.get_or_init(SystemTime::now);
}

/// Writes what is known; a system that doesn't tell is passed over.
pub fn render(out: &mut Text) {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/self/{name}")).unwrap_or_default();
    if let Some(bytes) = resident_bytes(&read("status")) {
        out.gauge("process_resident_memory_bytes", "Resident memory size in bytes.", bytes);
    }
    let stat = Stat::parse(&read("stat"));
    if let Some(stat) = &stat {
        out.begin("process_cpu_seconds_total", "counter", "Total user and system CPU time spent in seconds.");
        out.sample("process_cpu_seconds_total", &[], stat.cpu_seconds);
        out.gauge("process_threads", "Number of threads.", stat.threads);
    }
    let boot = boot_seconds(&std::fs::read_to_string("/proc/stat").unwrap_or_default());
    if let Some(seconds) = start_seconds(boot, stat.as_ref(), BEGAN.get()) {
        out.gauge("process_start_time_seconds", "Start time of the process since unix epoch in seconds.", seconds);
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        // The look itself holds one.
        out.gauge("process_open_fds", "Number of open file descriptors.", files.count().saturating_sub(1));
    }
    if let Some(files) = files_max(&read("limits")) {
        out.gauge("process_max_fds", "Maximum number of open file descriptors.", files);
    }
}

fn resident_bytes(status: &str) -> Option<u64> {
    let kib: u64 = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

fn files_max(limits: &str) -> Option<u64> {
    limits.lines().find_map(|line| line.strip_prefix("Max open files"))?.split_whitespace().next()?.parse().ok()
}

fn boot_seconds(stat: &str) -> Option<f64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

/// As the system knows it, else as it was noted.
fn start_seconds(boot: Option<f64>, stat: Option<&Stat>, noted: Option<&SystemTime>) -> Option<f64> {
    let known = boot.zip(stat).map(|(boot, stat)| boot + stat.started_seconds);
    known.or_else(|| Some(noted?.duration_since(UNIX_EPOCH).ok()?.as_secs_f64()))
}

struct Stat {
    cpu_seconds: f64,
    threads: u64,
    /// After the system's start.
    started_seconds: f64,
}

impl Stat {
    fn parse(stat: &str) -> Option<Self> {
        // The second field is the program's name in brackets, which may hold anything.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        // Numbered as in proc(5), whose first field behind the brackets is the third.
        let ticks = |number: usize| fields.get(number - 3)?.parse::<f64>().ok();
        Some(Self {
            cpu_seconds: (ticks(14)? + ticks(15)?) / TICKS_PER_SECOND,
            threads: fields.get(20 - 3)?.parse().ok()?,
            started_seconds: ticks(22)? / TICKS_PER_SECOND,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_read_by_its_fields() {
        let stat = Stat::parse("7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 9 0 12345 1 2 3").unwrap();
        assert_eq!((stat.cpu_seconds, stat.threads, stat.started_seconds), (2.0, 9, 123.45));
        assert_eq!(resident_bytes("VmPeak:\t 9 kB\nVmRSS:\t    2048 kB\n"), Some(2 * 1024 * 1024));
        assert_eq!(files_max("Max cpu time  unlimited\nMax open files            1024                 4096  files\n"), Some(1024));
        assert_eq!(boot_seconds("cpu 1 2\nbtime 1700000000\n"), Some(1_700_000_000.0));
        assert!(Stat::parse("").is_none() && resident_bytes("").is_none());
    }

    #[test]
    fn when_the_process_began_is_told_where_the_systems_start_is_hidden_too() {
        let stat = Stat { cpu_seconds: 0.0, threads: 1, started_seconds: 50.0 };
        let noted = UNIX_EPOCH + std::time::Duration::from_secs(1151);
        assert_eq!(start_seconds(Some(1100.0), Some(&stat), Some(&noted)), Some(1150.0));
        assert_eq!(start_seconds(None, Some(&stat), Some(&noted)), Some(1151.0));
        assert_eq!(start_seconds(None, None, Some(&noted)), Some(1151.0));
        assert_eq!(start_seconds(None, Some(&stat), None), None);
    }
}
