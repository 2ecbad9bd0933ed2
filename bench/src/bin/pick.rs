//! `pick`: the time and the fairness of a pick, ours beside older designs. See
//! [`fastlb_bench::pick`].

use clap::Parser;
use fastlb_bench::pick::{self, Cursor, Design, GlobalLock, Ours, TwoLists};

/// What a pick costs and how fair it is, ours beside three older designs, as a table in Markdown.
#[derive(Parser)]
struct Flags {
    /// Sizes of the fleets.
    #[arg(long, value_name = "COUNTS", value_delimiter = ',', default_values_t = [3, 100, 10_000])]
    backends: Vec<usize>,
    /// How many threads pick at once.
    #[arg(long, value_name = "COUNTS", value_delimiter = ',', default_values_t = [1, 2, 4])]
    threads: Vec<usize>,
    /// Picks of each thread in a round.
    #[arg(long, value_name = "N", default_value_t = 200_000)]
    picks: usize,
    /// Rounds, of which the median counts.
    #[arg(long, value_name = "N", default_value_t = 15)]
    rounds: usize,
}

fn main() {
    let flags = Flags::parse();
    let times = flags.threads.iter();
    let times: Vec<String> = times.map(|count| format!("ns, {count} threads")).collect();
    println!(
        "| design | backends | up | {} | deviation |",
        times.join(" | ")
    );
    println!("|---|---:|---:|{}---:|", "---:|".repeat(times.len()));
    for &backends in &flags.backends {
        for mostly_dead in [false, true] {
            let up = pick::fleet(backends, mostly_dead);
            flags.row("one lock", &GlobalLock::new(&up), &up);
            flags.row("cursor that scans", &Cursor::new(&up), &up);
            flags.row("two lists, lock", &TwoLists::new(&up), &up);
            flags.row("fastlb", &Ours::new(&up), &up);
        }
    }
}

impl Flags {
    fn row(&self, name: &str, design: &impl Design, up: &[bool]) {
        let alive = up.iter().filter(|&&up| up).count();
        let time = |&threads| pick::time_per_pick(design, threads, self.picks, self.rounds);
        let times: Vec<String> = self.threads.iter().map(time).map(nanoseconds).collect();
        let deviation = pick::deviation_percent(design, up);
        let (count, times) = (up.len(), times.join(" | "));
        println!("| {name} | {count} | {alive} | {times} | {deviation:.0} % |");
    }
}

fn nanoseconds(time: f64) -> String {
    format!("{time:.1}")
}
