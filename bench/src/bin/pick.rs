//! `pick`: the time and the fairness of a pick, ours beside older designs. See
//! [`fastlb_bench::pick`].

use clap::Parser;
use clap::builder::RangedU64ValueParser;
use fastlb_bench::pick::{self, Cursor, Design, GlobalLock, Ours, TwoLists};

/// What a pick costs and how fair it is, ours beside three older designs, as a table in Markdown.
#[derive(Parser)]
struct Flags {
    /// Sizes of the fleets.
    #[arg(long, value_name = "COUNTS", value_delimiter = ',', default_values_t = [3, 100, 10_000],
          value_parser = at_least_one())]
    backends: Vec<usize>,
    /// How many threads pick at once.
    #[arg(long, value_name = "COUNTS", value_delimiter = ',', default_values_t = [1, 2, 4],
          value_parser = at_least_one())]
    threads: Vec<usize>,
    /// Picks of each thread in a round: so many that the threads really run at once.
    #[arg(long, value_name = "N", default_value_t = 2_000_000, value_parser = at_least_one())]
    picks: usize,
    /// Rounds, of which the median counts.
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = at_least_one())]
    rounds: usize,
}

/// Of nothing there is no time and no share.
fn at_least_one() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..)
}

fn main() {
    let flags = Flags::parse();
    let times = flags.threads.iter();
    let times = times.map(|count| format!("ns, {count} threads"));
    let deviations = flags.threads.iter();
    let deviations = deviations.map(|count| format!("deviation, {count} threads"));
    let columns: Vec<String> = times.chain(deviations).collect();
    println!("| design | backends | up | {} |", columns.join(" | "));
    println!("|---|---:|---:|{}", "---:|".repeat(columns.len()));
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
        let deviation = |&threads| pick::deviation_percent(design, threads, up);
        let times = self.threads.iter().map(time).map(nanoseconds);
        let deviations = self.threads.iter().map(deviation).map(percent);
        let columns: Vec<String> = times.chain(deviations).collect();
        let (count, columns) = (up.len(), columns.join(" | "));
        println!("| {name} | {count} | {alive} | {columns} |");
    }
}

fn nanoseconds(time: f64) -> String {
    format!("{time:.1}")
}

fn percent(deviation: f64) -> String {
    format!("{deviation:.0} %")
}
